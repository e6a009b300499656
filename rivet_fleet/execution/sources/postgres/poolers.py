"""What may stand between us and the server: a pooler lends its server sessions to many clients.

Nothing we set outlives our transaction, so a pooler in session or transaction mode needs no
other treatment. It is told to the user, because its limits are others than the server's. What it
says itself comes without a state of its own (all of it is 08P01), so its words decide.
"""

from __future__ import annotations

from dataclasses import dataclass

from rivet_fleet.contracts.listing import NoteKind, SourceNote
from rivet_fleet.errors import RetryClass, SourceBusy, SourceRefused
from rivet_fleet.execution.sources.postgres.dialect import ErrorClass

POOLED = (
    "the connection goes through a pooler: its pool must hold as many server connections as "
    "there are workers, or they wait for one another"
)

POOLER = SourceNote(
    kind=NoteKind.POOLER,
    what="the connection goes through a pooler",
    why="its limit of connections is another one than the server's; a page that fails "
    "cannot be asked what it does",
    hint="let the pool hold at least as many server connections as there are workers",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolerWord:
    """What one saying of a pooler means for a worker."""

    said: str
    means: ErrorClass
    hint: str


_REFUSED = ErrorClass(error=SourceRefused, retry=RetryClass.PERMANENT)
_FULL = ErrorClass(error=SourceBusy, retry=RetryClass.TRANSIENT, extra_delay_s=2.0)

POOLER_WORDS = (
    PoolerWord(
        said="statement pooling mode",
        means=_REFUSED,
        hint="the pooler is in statement mode, which allows no transaction; give this database "
        "`pool_mode=transaction` in its configuration, or connect to the server itself",
    ),
    PoolerWord(
        said="query_wait_timeout",
        means=_FULL,
        hint="no server connection became free within the pooler's query_wait_timeout: use fewer "
        "workers, or raise its pool size",
    ),
    PoolerWord(
        said="max_client_conn",
        means=_FULL,
        hint="the pooler takes no further client: use fewer workers, or raise its max_client_conn",
    ),
    PoolerWord(
        said="no such database",
        means=_REFUSED,
        hint="the pooler does not know this database: check the name in the source's URL",
    ),
    PoolerWord(
        said="no such user",
        means=_REFUSED,
        hint="the pooler does not know this user: check the name in the source's URL",
    ),
    PoolerWord(
        said="unsupported startup parameter",
        means=_REFUSED,
        hint="take the option out of the source's URL, or let the pooler ignore it "
        "(ignore_startup_parameters)",
    ),
)


def pooler_word(message: str) -> PoolerWord | None:
    """What a pooler says with this message; None when it is not a pooler's."""
    return next((word for word in POOLER_WORDS if word.said in message), None)


def is_pooled(*backend_pids: int) -> bool:
    """True when the pids a session was told, by the protocol and by the server, differ: that of
    the handshake is a pooler's own word, and so are two servers behind one connection. Pure."""
    return len(set(backend_pids)) > 1
