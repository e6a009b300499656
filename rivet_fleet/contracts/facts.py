"""What was found out of relations and of their server: the planner sees nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import Enum

from rivet_fleet.contracts.basis import BasisFact
from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.contracts.keys import KeyTuple, RelationName
from rivet_fleet.contracts.proof import ChangeReading

WALKED = "walk"
"""The provenance of boundaries that are exact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFacts:
    """One column as the source describes it. ``type`` is None when we cannot carry it."""

    name: str
    native_type: str
    type: ColumnType | None
    nullable: bool
    wire_type: str = ""
    comment: str | None = None
    unsupported_reason: str | None = None
    cast_refused: bool = False
    """The source knows the type, and was asked for a cast of it that it does not have."""
    cast_hint: str | None = None
    """The cast that would make an unsupported column exportable, e.g. ``text``."""
    avg_width_bytes: int | None = None
    cast: str | None = None
    """The override the source applied by itself, because ``unsupported_cast`` asked for it."""
    set_on_update: bool | None = False
    """True when the server itself sets it anew with every update of a row, as its definition or a
    trigger that names it says; None when some trigger runs before updates, and nobody knows."""
    charset: str | None = None
    """The character set its text is stored in, where each column may have one of its own."""
    collation: str | None = None
    """What orders and compares its text; None where it has none or the source does not say."""
    order: TypeKind | None = None
    """Of a column without a type: what its values are ordered as all the same."""
    uncast: ColumnFacts | None = None
    """The column without its override: an override changes what is sent, not how the source
    compares it."""

    @property
    def compared(self) -> TypeKind | None:
        """What the source compares, orders and marks it as, whatever is sent of it; None where its
        text does not stand for its place in that order."""
        own = self.uncast or self
        return own.order if own.type is None else own.type.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFacts:
    """One index. Only unique, valid, ready, non-partial, expression-free ones can be keys."""

    name: str
    columns: tuple[str, ...]
    unique: bool
    primary: bool = False
    valid: bool = True
    ready: bool = True
    partial: bool = False
    expression: bool = False
    ordered: bool = True
    """True when the access method can return rows in key order (PostgreSQL: btree)."""
    obstacle: str | None = None
    """Why its values cannot be compared as a key's must be, although it is ordered; or why it is
    not unique, although it is declared so."""


def leading_index(indexes: tuple[IndexFacts, ...], columns: tuple[str, ...]) -> str | None:
    """An index that returns all rows in the order of these columns, the shortest first."""
    fitting = [
        index
        for index in indexes
        if index.columns[: len(columns)] == columns
        and index.valid
        and index.ready
        and index.ordered
        and not index.partial
        and not index.expression
    ]
    best = min(fitting, key=lambda index: (len(index.columns), not index.primary), default=None)
    return best.name if best else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbedDensity:
    """Rows that were counted among so many values of a whole-number key, all over its span."""

    rows: int
    keys: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFacts:
    """Samples of one candidate key, in the server's own order, strictly increasing.

    ``boundaries`` come from the source's statistics or an index sample, never from
    span ÷ n; they are estimates of row quantiles, evenly spaced in rows. ``minimum`` and
    ``maximum`` are what the server says now; None for an empty relation.
    """

    columns: tuple[str, ...]
    minimum: KeyTuple | None
    maximum: KeyTuple | None
    boundaries: tuple[KeyTuple, ...]
    provenance: str
    """``histogram``, ``sample``, ``walk`` (exactly every ``FactsRequest.walk_rows`` rows) or
    ``none``."""
    has_nulls: bool = False
    unique: bool = True
    probed: ProbedDensity | None = None
    """Only when it was asked for, and worth it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhysicalRelation:
    """One heap: the table itself, or a leaf partition or inheritance child."""

    name: RelationName
    blocks: int
    row_estimate: int | None
    identity: str | None = None
    """What the engine knows it by: whoever rewrites, swaps or reloads it gives it another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCapabilities:
    """What an engine at this version can do. Ask these, never the engine's name."""

    keyset: bool
    composite_keyset: bool
    block_ranges: bool
    parallel_wide_rows: bool = True
    """False where several ranges of wide rows at once cost the server too much (§5.11)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedQuery:
    """A query with every column of one of its table's keys among its own: ``sql``. ``added``: name
    and native type of those that the query itself does not return."""

    columns: tuple[str, ...]
    sql: str
    added: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryTable:
    """The one table whose rows a query's are (ADR 0028). ``columns``: those of its keys, as the
    table has them; ``queries``: one for each key; ``basis``: what a plan by such a key rests on
    besides."""

    relation: RelationName
    columns: tuple[ColumnFacts, ...]
    queries: tuple[KeyedQuery, ...]
    basis: tuple[BasisFact, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFacts:
    """Everything the planner may know about one export's source.

    ``relation`` is None for a ``query:`` export; then there are no heaps, and indexes and keys only
    with ``table``; ``row_estimate`` comes from the server's plan, if at all.
    """

    engine: str
    server_version: str
    capabilities: SourceCapabilities
    relation: RelationName | None
    columns: tuple[ColumnFacts, ...]
    indexes: tuple[IndexFacts, ...] = ()
    keys: tuple[KeyFacts, ...] = ()
    heaps: tuple[PhysicalRelation, ...] = ()
    rights_apart: str | None = None
    """Why no heap may be read under its own name: its rights or policies are not the relation's,
    and those are what the user asked for. None: both come to the same."""
    row_estimate: int | None = None
    row_estimate_provenance: str = "none"
    row_width_bytes: int | None = None
    warnings: tuple[str, ...] = ()
    basis: tuple[BasisFact, ...] = ()
    """Everything a plan of it may rest on beside its columns (ADR 0018)."""
    session: tuple[tuple[str, str], ...] = ()
    """The session variables under which a query was described; see ``ReadPlan.session``."""
    changes: ChangeReading | None = None
    """How the relation's counters stood before anything else was asked."""
    table: QueryTable | None = None
    """Of a query whose rows are one table's; then ``indexes`` and ``keys`` are those of it that
    hold for the query's rows."""
    undivided: str = ""
    """Why a query's rows are not taken for one table's: the end of a sentence about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FactsRequest:
    """What the planner wants to know about one export, before it decides.

    ``key_columns`` is the user's choice (``chunk_column``, ``chunk_by_key``), else empty: then
    the source describes every index that can be a key. ``boundaries_max`` bounds the samples;
    ``chunks`` says how many chunks are asked for, ``chunk_rows`` how many rows each is to hold.
    """

    export_name: str
    relation: RelationName | None
    query: str | None
    key_columns: tuple[str, ...] = ()
    casts: tuple[tuple[str, str], ...] = ()
    """``columns:`` overrides that change what the server sends: (column, override)."""
    unsupported_cast: str | None = None
    """The override to apply to every column that cannot be carried; ``ColumnFacts.cast`` says
    where it was."""
    boundaries_max: int = 1000
    chunks: int | None = None
    chunk_rows: int | None = None
    probe_density: bool = False
    """Count rows in windows of a whole-number key, where the catalogue's number is doubtful."""
    walk_rows: int | None = None
    """Walk the key's index and give every so many rows a boundary, exactly."""

    def boundaries_wanted(self, rows: int | None) -> int:
        """How many the cuts of about ``rows`` rows take, for a source that pays for each."""
        if self.chunks is not None:
            return min(self.boundaries_max, self.chunks - 1)
        if self.chunk_rows is None or rows is None:
            return self.boundaries_max
        # An estimate, which a probe may still correct upwards.
        return min(self.boundaries_max, 2 * rows // self.chunk_rows)


# ------------------------------------------------------------------------------------------
# What a source says about itself as a whole: which relations there are, and what server it is.


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


# ------------------------------------------------------------------------------------------
# One number of a column, over some of its rows (``contracts.aggregates``).


class Measure(Enum):
    """One number of a column. Values stand in reports."""

    NULLS = "nulls"
    LEAST = "min"
    MOST = "max"
    SUM = "sum"
    BYTES = "bytes"
    """The lengths of all values together: of text in UTF-8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One measure of one column."""

    column: ColumnSpec
    measure: Measure


_DIGITS_MAX = 400
"""No measure of what is exported is as long; to write out a longer power of ten may take hours."""


def number_of(said: object) -> Decimal | None:
    """A measure as a server says it: a number, or the text of one. Raises ValueError."""
    text = said.decode("ascii", "replace") if isinstance(said, bytes) else str(said)
    if said is None:
        return None
    try:
        number = Decimal(text[: _DIGITS_MAX + 1])
    except InvalidOperation:
        raise ValueError("what is no number") from None
    if len(text) > _DIGITS_MAX or (number and number.is_finite() and not _short(number)):
        raise ValueError("a number that is too long")
    return number


def _short(number: Decimal) -> bool:
    return abs(number.adjusted()) < _DIGITS_MAX
