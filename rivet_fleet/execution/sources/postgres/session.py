"""One connection, used in short read-only transactions; nothing outlives a transaction.

Safe behind a transaction pooler (PgBouncer, pool size 1): there no prepared statements, settings by
SET LOCAL only, no start-up ``options``; not even our name, which a pooler would leave to the next
client that gives none. On a server session that is ours alone, the questions that are the same for
every chunk are prepared: planning one of them costs several times its answer.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from psycopg import Cursor

from rivet_fleet.contracts.url import CAREFUL, DatabaseUrl, Login
from rivet_fleet.errors import ConfigError, MalformedData
from rivet_fleet.execution.engines.session import (
    OTHER_ANSWER,
    EngineSession,
    Liveness,
    Settings,
    no_statement,
)
from rivet_fleet.execution.sources.postgres.border import (
    POOLED,
    is_pooled,
    postgres_errors,
    translate_connect,
)
from rivet_fleet.execution.sources.postgres.dialect import DEFAULT_PORT, OWN_PATH, quote_literal
from rivet_fleet.execution.sources.postgres.liveness import (
    LOGIN_BYTES_MAX,
    WatchedConnection,
    WatchedCursor,
    ask,
    in_own_level,
)
from rivet_fleet.execution.sources.postgres.querysession import (
    PLAIN_STRINGS,
    Own,
    ordered,
    question,
)

CONNECT_TIMEOUT_S = 15
_TIMED_ONE_BY_ONE = 130_000
"""The version since which each statement of a query has a time limit of its own."""
_ROUND_TRIP_KEPT_S = 30.0
_FIRST_ANSWER_S_MAX = 150.0
"""A pooler may let the first statement wait for a server connection: PgBouncer 120 s."""
# Not by a parameter of the connection: PgBouncer hands a client's application_name on to the next
# one that gives none.
_INTRODUCE = """
SELECT pg_catalog.pg_backend_pid(), b.pooled,
       pg_catalog.set_config('application_name', {name}, b.pooled),
       pg_catalog.set_config('standard_conforming_strings', 'on', b.pooled){limits}
FROM (SELECT pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.<>) {told}) AS b(pooled)
"""
"""Give our name to a server that is ours alone; behind a pooler it ends with the transaction. A
message is divided into strings before the first of its statements is done, so what strings are
cannot be set in the message itself.
"""
_UNHURRIED = ", pg_catalog.set_config('idle_session_timeout', '0', b.pooled)"
"""Between two statements we may encode for as long as we like: we end with our process."""
_UNHURRIED_SINCE = 140_000
_TRANSACTIONS_TIMED_SINCE = 170_000
_METHODS_CHOSEN = 160_000
"""The version of libpq since which it knows ``require_auth``."""
_NEVER = 2**31
_PREPARED_MAX = 16
"""Each keeps its plan in the server's memory, a few hundred kilobytes at most."""
_TLS_MODES = ("disable", "prefer", "require", "verify-ca", "verify-full")


class _OneStatement(WatchedCursor):
    """A cursor whose messages hold one statement each, by protocol. For what holds SQL of a user:
    a statement of it may have changed how the next one of its transaction is read."""

    def _execute_send(
        self, query: Any, *, force_extended: bool = False, binary: bool | None = None
    ) -> None:
        super()._execute_send(query, force_extended=True, binary=binary)


class Session(EngineSession[WatchedConnection, Cursor[tuple[Any, ...]]]):
    """One lazily opened connection to one database."""

    def __init__(
        self,
        url: DatabaseUrl,
        *,
        tls_mode: str | None,
        tls_ca_file: str | None,
        application_name: str,
        login: Login = CAREFUL,
        answer_bytes_max: int | None = None,
    ) -> None:
        """``answer_bytes_max``: of an answer that is not rows, where less than usual will do."""
        if tls_mode is not None and tls_mode not in _TLS_MODES:
            raise ConfigError(f"tls.mode {tls_mode!r}: expected one of {', '.join(_TLS_MODES)}")
        super().__init__(url, answer_bytes_max=answer_bytes_max)
        self._parameters = _parameters(url, tls_mode, tls_ca_file)
        self._parameters |= _careful(self._parameters, url, login)
        named = "application_name" in self._parameters
        self._name = None if named else quote_literal(application_name)
        self._pooled = False
        self._round_trip_s = 0.0
        self._measured_until_s = 0.0
        self._own: Own = ()
        self._plain_strings: str | None = None
        self.undoing = False
        """True while the SQL of a user is read: its transactions are rolled back. What it set for
        the session (``set_config``) would outlive a COMMIT: it could change how our next message is
        read, and behind a pooler it would be the next client's. Messages hold one statement."""

    def _connect(self) -> WatchedConnection:
        try:
            connection = WatchedConnection.connect(**self._parameters)
        except psycopg.Error as error:
            raise translate_connect(error, self.url) from None
        try:
            with postgres_errors(self.url, "connecting"):
                backend_pid = connection.info.backend_pid
                self._measured_until_s = 0.0
                self._own = ()
                self._plain_strings = connection.info.parameter_status(PLAIN_STRINGS)
                connection.answer_bytes_max = LOGIN_BYTES_MAX
                self._pooled = self._introduce(connection, backend_pid)
                connection.answer_bytes_max = self._answer_bytes_max
        except BaseException:
            connection.drop()
            raise
        connection.liveness = lambda: self._ask(backend_pid)
        connection.times = self.times
        if not self._pooled:
            # Only what asks for it by name: a page's statement is never the same again.
            connection.prepare_threshold, connection.prepared_max = _NEVER, _PREPARED_MAX
        return connection

    def _introduce(self, connection: WatchedConnection, told_pid: int) -> bool:
        """Say who we are, and learn whether a pooler stands between."""
        name = self._name or "pg_catalog.current_setting('application_name')"
        limits = _UNHURRIED if connection.info.server_version >= _UNHURRIED_SINCE else ""
        introduce = _INTRODUCE.format(name=name, told=told_pid, limits=limits)
        connection.silence_s_max = _FIRST_ANSWER_S_MAX
        begun = connection.execute(in_own_level(introduce))
        begun.nextset()
        own = begun.fetchone()
        return own is not None and is_pooled(told_pid, _pid(own))

    @property
    def pooled(self) -> bool:
        """True when a pooler stands between us and the server. Connects when needed."""
        return self.connection is not None and self._pooled

    @property
    def warnings(self) -> list[str]:
        """What a plan says of the way to the server."""
        return [POOLED] if self.pooled else []

    def _ask(self, backend_pid: int) -> Liveness:
        return ask(self._parameters, backend_pid)

    @property
    def server_version_num(self) -> int:
        """``server_version_num``, e.g. 180006."""
        return self.connection.info.server_version

    @property
    def server_version(self) -> str:
        """The version as the server writes it, e.g. ``18.6``."""
        return self.connection.info.parameter_status("server_version") or ""

    @property
    def own(self) -> Own:
        """What the server, the role, the database, the URL and the environment make of a session
        before anything is set in it. Asked once for each connection; never within a transaction.
        """
        connection = self.connection
        if not self._own:
            # Nothing but the path: another setting of ours would be the answer.
            settings = (("search_path", OWN_PATH), ("statement_timeout", f"{CONNECT_TIMEOUT_S}000"))
            doing = "asking for the session's own settings"
            with self.reading(settings, doing=doing, timeout_s=CONNECT_TIMEOUT_S) as cursor:
                found = cursor.execute(question(shared=self._pooled).encode()).fetchall()
            assert connection is self._connection
            self._own = ordered(_setting(row, self.url) for row in found)
        return self._own

    @property
    def plain_strings(self) -> str | None:
        """``standard_conforming_strings`` as a fresh session has it."""
        return self._plain_strings if self.connection is not None else None

    @property
    def encoding(self) -> str:
        """The server's encoding of this database, e.g. ``UTF8``."""
        return self.connection.info.parameter_status("server_encoding") or "UTF8"

    @property
    def text_unchecked(self) -> bool:
        """True when the database never checked that its text is text (SQL_ASCII)."""
        return self.encoding == "SQL_ASCII"

    def begin(self, settings: Settings, *, snapshot: bool = False) -> str:
        """What begins a transaction of ours, and sets what ends with it. Its level is ours: at
        SERIALIZABLE, which a role or a database may have for its default, our reading would fail
        the transactions of others. ``snapshot``: every statement in it sees one moment.
        """
        if self.server_version_num >= _TRANSACTIONS_TIMED_SINCE:
            # A limit of the role's: statements and idle moments in it have limits of ours.
            settings = (("transaction_timeout", "0"), *settings)
        local = "".join(f";SET LOCAL {name}={value}" for name, value in settings)
        level = "REPEATABLE READ" if snapshot else "READ COMMITTED"
        return f"BEGIN ISOLATION LEVEL {level} READ ONLY{local}"

    @property
    def ending(self) -> str:
        """What ends a transaction of ours. Most commit, though nothing was written: a server's
        count of rollbacks is watched."""
        return "ROLLBACK" if self.undoing else "COMMIT"

    @contextlib.contextmanager
    def reading(
        self, settings: Settings, *, doing: str, timeout_s: float, snapshot: bool = False
    ) -> Iterator[Cursor[tuple[Any, ...]]]:
        """One read-only transaction with settings that end with it; see ``begin``.

        On any error the connection is left clean or closed, so the next use starts afresh.
        Raises SourceError by SQLSTATE. ``timeout_s`` is the statement limit (0: none).
        """
        with self._use(doing=doing, timeout_s=timeout_s) as connection:
            if self._pooled and self._name is not None:
                settings = (*settings, ("application_name", self._name))
            try:
                with no_statement(connection):
                    connection.execute(self.begin(settings, snapshot=snapshot).encode())
                cursor = _OneStatement(connection) if self.undoing else connection.cursor()
                yield cursor
                connection.execute(self.ending.encode())
            except BaseException:
                self._undo(connection)
                raise

    def rows(
        self, at: Cursor[tuple[Any, ...]], sql: str, values: Sequence[object] = ()
    ) -> list[tuple[Any, ...]]:
        """Every row of a small answer. Raises psycopg's errors."""
        return at.execute(sql.encode(), values or None).fetchall()

    @contextlib.contextmanager
    def alone(self, *, doing: str, timeout_s: float) -> Iterator[None]:
        """For one query that begins and ends its own transaction. Raises as ``reading``."""
        with self._use(doing=doing, timeout_s=timeout_s):
            yield

    @property
    def stepwise(self) -> bool:
        """True when a transaction must be sent in steps. Behind a pooler, BEGIN alone waits for a
        server connection, which is not the statement's time; before PostgreSQL 13 a
        statement_timeout did not begin with a statement of the same message."""
        return self.pooled or self.server_version_num < _TIMED_ONE_BY_ONE

    def round_trip_s(self) -> float:
        """How long the way to the server and back takes, looked at now and then."""
        now_s = time.monotonic()
        if now_s >= self._measured_until_s:
            with self.alone(doing="measuring the way", timeout_s=CONNECT_TIMEOUT_S):
                began_s = time.monotonic()
                # Nothing: it needs no snapshot, at whatever level.
                self.connection.execute(b"")
                self._round_trip_s = time.monotonic() - began_s
            self._measured_until_s = now_s + _ROUND_TRIP_KEPT_S
        return self._round_trip_s

    def _errors(self, doing: str, subject: str) -> contextlib.AbstractContextManager[None]:
        return postgres_errors(self.url, doing)

    def _undo(self, connection: WatchedConnection) -> None:
        """Roll back, or drop a connection that cannot be rolled back."""
        try:
            if connection.closed or connection.broken:
                self.close()
            else:
                connection.rollback()
        except psycopg.Error:
            self.close()


def _pid(row: tuple[Any, ...]) -> int:
    """0, which is nobody's, for what is none: whatever answers so is not the server itself."""
    return row[0] if row and isinstance(row[0], int) else 0


def _setting(row: tuple[Any, ...], url: DatabaseUrl) -> tuple[str, str]:
    match row:
        case (str(name), str(value)):
            return name, value
        case _:
            said = f"{url.identity}: asked for its settings, it sent something else"
            raise MalformedData(said, code=OTHER_ANSWER)


def _careful(parameters: dict[str, Any], url: DatabaseUrl, login: Login) -> dict[str, Any]:
    """What keeps libpq from sending the password itself to whoever asks for it. Raises ConfigError.

    Over TLS with a verified certificate, and over a socket of this machine's file system, it is
    known who asks. What the URL says of ``require_auth`` wins.
    """
    if login.server_key_file is not None:
        raise ConfigError(
            "tls.server_public_key_file cannot be honoured by this engine",
            hint="its servers have no such key: remove it",
        )
    elsewhere = parameters.get("hostaddr") or "service" in parameters or url.more_hosts
    by_file = url.host[:1] in ("/", "@") and not elsewhere
    verified = by_file or parameters.get("sslmode") in ("verify-ca", "verify-full")
    given = "require_auth" in parameters or psycopg.pq.version() < _METHODS_CHOSEN
    return {} if login.cleartext or verified or given else {"require_auth": "!password"}


def _parameters(url: DatabaseUrl, tls_mode: str | None, tls_ca_file: str | None) -> dict[str, Any]:
    """libpq parameters. Options of the URL win over our defaults; ``tls.mode`` wins over all.

    Raises ConfigError for an option that cannot be honoured.
    """
    given = {name: value for name, value in url.options if value}
    encoding = given.pop("client_encoding", "UTF8")
    if encoding.upper().replace("-", "") not in ("UTF8", "AUTO"):
        raise ConfigError(
            f"client_encoding={encoding} in the source's URL cannot be honoured",
            hint="remove it: text always travels as UTF-8",
        )
    sslmode = given.get("sslmode", _TLS_MODES[0])
    if sslmode not in (*_TLS_MODES, "allow"):
        raise ConfigError(
            f"sslmode={sslmode} in the source's URL is no mode",
            hint=f"one of {', '.join(_TLS_MODES)}, or a tls: block",
        )
    if "replication" in given:
        raise ConfigError(
            "replication in the source's URL cannot be honoured: a replication connection reads "
            "no tables",
            hint="remove it",
        )
    parameters: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        # For a path that is gone: of a server that is there and silent another connection asks
        # (``liveness``).
        "keepalives_idle": 15,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
        **given,
        **url.place(DEFAULT_PORT),
    }
    if tls_mode is not None:
        parameters["sslmode"] = tls_mode
    if tls_ca_file is not None:
        parameters["sslrootcert"] = tls_ca_file
    return {
        **parameters,
        "client_encoding": "UTF8",
        "autocommit": True,
        "prepare_threshold": None,
    }
