"""What a source says about itself as a whole: which relations there are, and what server it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rivet_fleet.contracts.keys import RelationName


class RelationKind(Enum):
    """What a name stands for. Only tables hold rows that are nowhere else."""

    TABLE = "table"
    PARTITIONED = "partitioned"
    VIEW = "view"
    MATERIALIZED_VIEW = "materialized_view"
    FOREIGN = "foreign"

    @property
    def own_rows(self) -> bool:
        """True for what is no second sight of other relations' rows."""
        return self in (RelationKind.TABLE, RelationKind.PARTITIONED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRelation:
    """One relation of the catalogue. ``from_item`` is the name as SQL text, quoted.

    ``row_estimate`` and ``size_bytes`` are the catalogue's, None when it has none. ``missing``
    says which privilege is missing, as SQL that would give it; None when it may be read.
    ``inherits_from``: its rows are read with that table already.
    """

    name: RelationName
    kind: RelationKind
    from_item: str
    row_estimate: int | None = None
    size_bytes: int | None = None
    missing: str | None = None
    inherits_from: RelationName | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Every relation that is not the server's own; partitions are their parent's.

    ``default_schema`` is where an unqualified name is looked for, None when nowhere.
    """

    default_schema: str | None
    relations: tuple[ListedRelation, ...]


class NoteKind(Enum):
    """What an engine may have to say about a server or a relation."""

    POOLER = "pooler"
    """Something stands between us and the server."""
    REPLICA = "replica"
    """The server repeats another one's changes."""
    OLD_VERSION = "old_version"
    """The server is older than what something needs."""
    UNCHECKED_TEXT = "unchecked_text"
    """The database never checked that its text is text."""
    POWERFUL_USER = "powerful_user"
    """The user may do more than read."""
    HIDDEN_ROWS = "hidden_rows"
    """The user may see only some of a relation's rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceNote:
    """One thing worth knowing, why it matters, and what would change it."""

    kind: NoteKind
    what: str
    why: str
    hint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """One server as it presents itself to our user now.

    ``connections_max`` is what this user may open at most, ``connections_used`` how many clients
    there are, ours included; None when the user may not see it. ``tls`` names the protocol
    version of our own link, None when it is not encrypted.
    """

    engine: str
    version: str
    user: str
    database: str
    tls: str | None
    now_s: float
    connections_max: int | None = None
    connections_used: int | None = None
    notes: tuple[SourceNote, ...] = ()
