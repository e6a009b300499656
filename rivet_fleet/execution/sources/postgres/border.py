"""Where psycopg's exceptions stop: everything beyond raises only ``rivet_fleet.errors``."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import psycopg

from rivet_fleet.contracts.facts import NoteKind, SourceNote
from rivet_fleet.contracts.url import DatabaseUrl
from rivet_fleet.errors import MalformedData, RetryClass, SourceBusy, SourceError
from rivet_fleet.execution.engines.session import (
    GONE,
    OTHER_ANSWER,
    REFUSED,
    RESTARTING,
    ErrorClass,
    Told,
    cannot_connect,
    clean,
    translated,
)
from rivet_fleet.execution.sources.postgres.dialect import classify
from rivet_fleet.execution.sources.postgres.heaps import broken_seal
from rivet_fleet.execution.sources.postgres.sentences import without_values

# ------------------------------------------------------------------------------------------
# What may stand between us and the server: a pooler lends its server sessions to many clients.
#
# Nothing we set outlives our transaction, so a pooler in session or transaction mode needs no
# other treatment. It is told to the user, because its limits are others than the server's. What
# it says itself comes without a state of its own (all of it is 08P01), so its words decide.

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


_POOLER_FULL = ErrorClass(error=SourceBusy, retry=RetryClass.TRANSIENT, extra_delay_s=2.0)

POOLER_WORDS = (
    PoolerWord(
        said="statement pooling mode",
        means=REFUSED,
        hint="the pooler is in statement mode, which allows no transaction; give this database "
        "`pool_mode=transaction` in its configuration, or connect to the server itself",
    ),
    PoolerWord(
        said="query_wait_timeout",
        means=_POOLER_FULL,
        hint="no server connection became free within the pooler's query_wait_timeout: use fewer "
        "workers, or raise its pool size",
    ),
    PoolerWord(
        said="max_client_conn",
        means=_POOLER_FULL,
        hint="the pooler takes no further client: use fewer workers, or raise its max_client_conn",
    ),
    PoolerWord(
        said="no such database",
        means=REFUSED,
        hint="the pooler does not know this database: check the name in the source's URL",
    ),
    PoolerWord(
        said="no such user",
        means=REFUSED,
        hint="the pooler does not know this user: check the name in the source's URL",
    ),
    PoolerWord(
        said="unsupported startup parameter",
        means=REFUSED,
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


_HINTS: dict[str, str] = {
    "57014": "the statement ran into its limit, which is ours (for pages `statement_timeout_s`), "
    "or somebody cancelled it; raise it, make chunks smaller, or check that the key has an index",
    "55P03": "another session holds a lock on the table, or waits for one (VACUUM FULL, ALTER "
    "TABLE, LOCK TABLE), for longer than we wait (pages: `lock_timeout_s`): it can be read once "
    "that has ended; pg_locks says whose it is",
    "42501": "the user needs USAGE on the schema and SELECT on the table: "
    "GRANT USAGE ON SCHEMA …, GRANT SELECT ON … TO the user",
    "42P01": "check the name's schema and spelling; names are case-sensitive here",
    "42703": "check the column's spelling; names are case-sensitive here",
    "42601": "the `query:` is not valid SQL for this server",
    "25006": "exports read only; the query tries to write",
    "08006": "the connection was lost on its way: a firewall, a proxy or a restart",
    "25P03": "idle_in_transaction_session_timeout of the server ended the connection; a pooler may "
    "have kept it from us",
    "25P04": "transaction_timeout of the role, the database or the server ended it, though this "
    "program sets it to 0: ALTER ROLE … SET transaction_timeout = 0; a smaller "
    "`target_statement_ms` makes pages shorter",
    "57P05": "idle_session_timeout of the role, the database or the server ended the connection: "
    "ALTER ROLE … SET idle_session_timeout = 0",
    "53300": "the server has no free connection; lower the number of workers",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectWord:
    """What one saying of a server or of libpq means when no connection could be made."""

    said: re.Pattern[str]
    means: ErrorClass
    hint: str | None = None


def _word(said: str, means: ErrorClass, hint: str | None = None) -> ConnectWord:
    return ConnectWord(said=re.compile(said), means=means, hint=hint)


_FULL = classify("53300")
_LOGIN = "check the user name and the password (`password_env`, `url_env` or `url_file`)"
_TLS = "check `tls.mode` and the certificate"
_OPTION = "take the option out of the source's URL, or correct its value"
CONNECT_WORDS: tuple[ConnectWord, ...] = (
    # The server's own, the most particular first: several attempts (with and without TLS, one for
    # each address) stand in one message, and what came of the one that went furthest counts.
    _word(
        "too many connections for role",
        _FULL,
        "the user's CONNECTION LIMIT is reached; use "
        "fewer workers, or ALTER ROLE … CONNECTION LIMIT",
    ),
    _word(
        "too many connections for database",
        _FULL,
        "the database's CONNECTION LIMIT is reached; "
        "use fewer workers, or ALTER DATABASE … CONNECTION LIMIT",
    ),
    _word(
        "too many connections|too many clients|connection slots are reserved",
        _FULL,
        _HINTS["53300"],
    ),
    _word("database system is (starting|shutting|in recovery|not yet)", RESTARTING),
    _word("database system is not accepting", RESTARTING, "is it a standby without hot_standby?"),
    _word(
        "password authentication failed|empty password|no password supplied|SCRAM auth",
        REFUSED,
        _LOGIN,
    ),
    _word(
        "(Peer|Ident) authentication failed",
        REFUSED,
        "the server asks the operating system who "
        "you are: connect by TCP with a password, or let pg_hba.conf map the user",
    ),
    _word(
        "requires a valid client certificate|certificate authentication failed",
        REFUSED,
        "the server asks for a client certificate: `sslcert` and `sslkey` in the source's URL",
    ),
    _word(
        "requirement .*server requested a cleartext password",
        REFUSED,
        "the server asks for the password itself over a link where nobody verified who asks; it "
        "was not sent: `tls.mode: verify-full` verifies the server, and "
        "`tls.allow_cleartext_password` sends it anyway (a `require_auth` in the URL comes first)",
    ),
    _word(
        "authentication method requirement",
        REFUSED,
        "the server asks for another way of "
        "logging in than `require_auth` in the source's URL allows",
    ),
    _word(
        "channel binding",
        REFUSED,
        "`channel_binding` in the source's URL asks for more than "
        "the server or the connection can do",
    ),
    _word(
        "host rejected|pg_hba.conf",
        REFUSED,
        "the server's pg_hba.conf does not let this user into this database from this host, or "
        "only with TLS (`tls.mode`)",
    ),
    _word("authentication", REFUSED, _LOGIN),
    _word('role "" does not exist', REFUSED, "check the user name in the source's URL"),
    _word("is not permitted to log in", REFUSED, "ALTER ROLE … LOGIN, or use another user"),
    _word('database "" does not exist', REFUSED, "check the database name in the source's URL"),
    _word("permission denied for database", REFUSED, "GRANT CONNECT ON DATABASE … TO the user"),
    _word("not currently accepting connections", REFUSED, "the database has ALLOW_CONNECTIONS off"),
    _word("invalid database", REFUSED, "a DROP DATABASE was interrupted: this database is lost"),
    _word(
        "SSL connection is required|Tenant or user not found",
        REFUSED,
        "check `tls.mode` and the user name",
    ),
    _word(
        "unrecognized configuration parameter|permission denied to set parameter|"
        "cannot be changed|invalid value for parameter|command-line argument",
        REFUSED,
        _OPTION,
    ),
    # libpq's own.
    _word(
        "server does not support SSL|SSL was required",
        REFUSED,
        "the server has no TLS: `tls.mode: disable` reads without it",
    ),
    _word("does not support GSSAPI|GSSAPI", REFUSED, "check `gssencmode` in the source's URL"),
    _word(
        "certificate for .* does not match|host name must be specified",
        REFUSED,
        "the server's certificate is another host's: write the name it holds into the URL, or "
        "`tls: {mode: verify-ca}`",
    ),
    _word(
        "root certificate|private key|certificate file",
        REFUSED,
        "check `tls.ca_file`, and `sslcert` and `sslkey` in the source's URL",
    ),
    _word("SSL SYSCALL", GONE, _HINTS["08006"]),
    _word("certificate|SSL error|sslmode|tlsv1|alert", REFUSED, _TLS),
    _word(
        "invalid (connection option|\\S+ value|value for|port|integer)|could not match",
        REFUSED,
        _OPTION,
    ),
    _word(
        "read-only|hot standby mode",
        GONE,
        "no host of the URL is what `target_session_attrs` asks for",
    ),
    _word("translate host name|resolve host|Name or service", GONE, "check the host name"),
    _word(
        "Connection refused|Is the server running",
        GONE,
        "is the server running, and is it listening on that host and port?",
    ),
    _word(
        "timeout expired|timed out|No route to host|unreachable",
        GONE,
        "does a firewall stand between, and is it the right host and port?",
    ),
    _word(
        "than any may (be|take)",
        REFUSED,
        "no honest server answers so: is the right one at that address?",
    ),
    _word(
        "invalid response to SSL|expected authentication request",
        GONE,
        "is it PostgreSQL that is listening on that port?",
    ),
)
"""A failed start-up carries no SQLSTATE in libpq, only text: the one place where text decides. In
this order; names are left out first (a database may be called anything). What is not listed is
taken for unavailable and tried again. Server: postmaster.c, postinit.c, auth.c, guc.c; libpq:
fe-connect.c, fe-auth.c, fe-secure-openssl.c."""
_NAMES = re.compile(r"\"[^\"]*\"|(?<=host )'[^']*'")


def connect_word(message: str) -> ConnectWord | None:
    """What a failed connection attempt says; None for what nobody foresaw."""
    plain = _NAMES.sub('""', message)
    return next((word for word in CONNECT_WORDS if word.said.search(plain)), None)


def classify_connect(message: str) -> ErrorClass:
    """The class of a failed connection attempt, by its message."""
    word = connect_word(message)
    return GONE if word is None else word.means


@contextlib.contextmanager
def postgres_errors(url: DatabaseUrl, doing: str) -> Iterator[None]:
    """Turn any psycopg error inside the block into ours, by SQLSTATE, without secrets.

    ``doing`` completes the sentence "… while <doing>".
    """
    try:
        yield
    except psycopg.Error as error:
        raise broken_seal(error) or translate(error, url, doing) from None
    except UnicodeDecodeError as error:
        # We asked for UTF-8, and the server answered that it sends it.
        raise MalformedData(
            f"{url.identity}: text that is no UTF-8 ({error.reason}, while {doing})",
            code=OTHER_ANSWER,
        ) from None


SWAPPED = frozenset(("SQLSTATE_42P01",))
"""What a chunk meets while the name of its table stands for nothing; see ``maybe_swapped``."""


def translate(
    error: psycopg.Error, url: DatabaseUrl, doing: str, *, rows: bool = True
) -> SourceError:
    """Our error for one of psycopg's: class and retry by the dialect's table. ``rows``: False where
    nothing was asked yet that a row could have a part in."""
    known = (*doing.split(), url.user or "", url.database or "")
    told = _told(error, url, known)
    return translated(told if rows else replace(told, kept=None), url, doing)


def _told(error: psycopg.Error, url: DatabaseUrl, known: Collection[str]) -> Told:
    said, sqlstate = str(error), error.sqlstate
    if sqlstate in (None, "08P01") and (word := pooler_word(clean(said, url))) is not None:
        # With a state a function may have raised it: then it is told by the word alone.
        kept = None if sqlstate is None or said.strip() == word.said else f"… {word.said} …"
        return Told(said=said, means=word.means, hint=word.hint, kept=kept)
    if sqlstate is None:
        return Told(said=said, means=_without_sqlstate(error))
    said, kept = without_values(sqlstate, error, known)
    return Told(
        said=said,
        means=classify(sqlstate),
        number=sqlstate,
        code=f"SQLSTATE_{sqlstate}",
        hint=_HINTS.get(sqlstate),
        kept=kept,
    )


def translate_connect(error: psycopg.Error, url: DatabaseUrl) -> SourceError:
    """Our error for a connection that could not be made: ``connected`` is False."""
    if error.sqlstate is not None:
        ours = translate(error, url, "connecting", rows=False)
        ours.connected = False
        return ours
    said = clean(str(error), url)
    word = pooler_word(said) or connect_word(said)
    found = GONE if word is None else word.means
    if isinstance(error, psycopg.ProgrammingError) and not isinstance(word, PoolerWord):
        found = REFUSED  # libpq did not even try
    return cannot_connect(
        Told(said=str(error), means=found, hint=None if word is None else word.hint), url
    )


def _without_sqlstate(error: psycopg.Error) -> ErrorClass:
    """Errors psycopg makes itself: the connection broke, or the call was wrong."""
    broke = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return GONE if broke else REFUSED
