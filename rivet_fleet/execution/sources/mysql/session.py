"""One connection, whose settings are ours for as long as they are needed and no longer.

On a direct connection they are made once: they end with the session, however it ends. Behind a
multiplexer the session is borrowed: there every use is one read-only transaction, which pins the
server session, and the settings are changed and restored inside it; when we die in between, the
proxy throws a session with an open transaction away.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pymysql

from rivet_fleet.contracts.url import CAREFUL, DatabaseUrl, Login
from rivet_fleet.errors import ConfigError
from rivet_fleet.execution.engines.session import (
    ASK_MAX_S,
    EngineSession,
    Liveness,
    Settings,
    no_statement,
    whole,
)
from rivet_fleet.execution.sources.mysql import catalog
from rivet_fleet.execution.sources.mysql.border import (
    CLIENT_ERRNOS,
    mysql_errors,
    told,
    translate_connect,
)
from rivet_fleet.execution.sources.mysql.dialect import DEFAULT_PORT, quote_text
from rivet_fleet.execution.sources.mysql.liveness import (
    LOGIN_BYTES_MAX,
    WatchedConnection,
    ask,
    well_formed,
)
from rivet_fleet.execution.sources.mysql.querysession import Own, question, sealed

# ------------------------------------------------------------------------------------------
# What stands between us and the server: it decides whether a session's settings are ours.
#
# A multiplexer lends one server session to many clients, so that a setting may leak to others,
# and theirs to us. Detection only warns and makes the session careful; it never fails.

_PROXYSQL_ASKS = "PROXYSQL INTERNAL SESSION"
_ASK_SERVER = "SELECT VERSION(), @@version_comment, CONNECTION_ID()"
_ASK_AGAIN = "SELECT CONNECTION_ID()"
_ASK_PROXY_VERSION = "SELECT @@proxy_version"


class Proxy(Enum):
    """Who answers our connection."""

    DIRECT = "direct"
    PROXYSQL = "ProxySQL"
    MAXSCALE = "MaxScale"
    MULTIPLEXED = "a multiplexer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Which server it is, and what stands before it."""

    mariadb: bool
    version: tuple[int, ...]
    version_text: str
    proxy: Proxy = Proxy.DIRECT
    session: Own = ()
    """What decides the meaning of SQL in a session as this server gives it."""

    def at_least(self, *, mariadb: tuple[int, ...], mysql: tuple[int, ...]) -> bool:
        """True for this version of its own line, or a later one."""
        return self.version >= (mariadb if self.mariadb else mysql)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a plan should say about the proxy."""
        if self.proxy is Proxy.DIRECT:
            return ()
        return (
            f"the connection goes through {self.proxy.value}: every statement runs in a "
            "transaction of its own with settings that are restored after it, and a server that "
            "is silent cannot be asked what it does",
        )


def parse_version(text: str) -> tuple[int, ...]:
    """``10.11.19-MariaDB-…`` → (10, 11, 19); MariaDB's replication prefix ``5.5.5-`` is none."""
    numbers = text.removeprefix("5.5.5-").split("-", 1)[0].split(".")
    return tuple(whole(number) for number in numbers if number.isdecimal())


def judge(
    *, comment: str, version_text: str, proxysql: bool, proxy_version: bool, ids: tuple[int, ...]
) -> Proxy:
    """Who it is, from what was answered; the surest sign first. Pure.

    ``ids`` are the connection's numbers: by the handshake, then as often as they were asked for.
    """
    said = f"{comment} {version_text}".lower()
    if proxysql or "proxysql" in said:
        return Proxy.PROXYSQL
    if "maxscale" in said:
        return Proxy.MAXSCALE
    if proxy_version or len(set(ids)) > 1:
        return Proxy.MULTIPLEXED
    return Proxy.DIRECT


def look(connection: WatchedConnection) -> Server:
    """Ask a fresh connection who answers. Raises PyMySQL's errors when it breaks."""
    row = _row(connection, _ASK_SERVER)
    again = _row(connection, _ASK_AGAIN)
    version_text, comment, first_id = (*(row or ()), "", "", 0)[:3]
    version_text, comment = str(version_text), str(comment)
    proxy = judge(
        comment=comment,
        version_text=f"{version_text} {connection.greeting}",
        proxysql=_row(connection, _PROXYSQL_ASKS) is not None,
        proxy_version=_row(connection, _ASK_PROXY_VERSION) is not None,
        ids=(connection.own_id, *(whole(str(one)) for one in (first_id, *(again or (0,))))),
    )
    own = _row(connection, question(shared=proxy is not Proxy.DIRECT))
    return Server(
        mariadb="mariadb" in f"{version_text} {comment}".lower(),
        version=parse_version(version_text),
        version_text=version_text,
        proxy=proxy,
        session=() if own is None else sealed(own),
    )


def _row(connection: WatchedConnection, sql: str) -> tuple[object, ...] | None:
    """The first row, None when the server does not understand the question."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchone()
    except pymysql.MySQLError:
        if not connection.open:
            raise
        return None


CONNECT_TIMEOUT_S = 15
WRITE_TIMEOUT_S = 30
_KEY_BYTES_MAX = 16 * 1024
_TLS_MODES = ("disable", "prefer", "require", "verify-ca", "verify-full")
_TLS_NAMES = {"disabled": "disable", "preferred": "prefer", "required": "require"} | {
    "verify_ca": "verify-ca",
    "verify_identity": "verify-full",
}
"""How MySQL's own tools spell them, in a URL's ``ssl-mode``."""
_OWN_TRANSACTIONS = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY"
"""Whatever the server's default is: a SELECT at SERIALIZABLE locks the rows it reads."""


class Session(EngineSession[WatchedConnection, WatchedConnection]):
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
        super().__init__(url, answer_bytes_max=answer_bytes_max)
        self._parameters = {
            **_parameters(url, tls_mode, tls_ca_file, application_name),
            "login": login,
            "server_public_key": _server_key(login),
        }
        self._server: Server | None = None
        self._made: dict[str, str] = {}

    @property
    def server(self) -> Server:
        """Which server it is; asked once, on the first connection."""
        if self._server is None:
            _ = self.connection
        assert self._server is not None
        return self._server

    def _connect(self) -> WatchedConnection:
        self._made = {}
        try:
            connection = self._dial(CONNECT_TIMEOUT_S)
            connection.answer_bytes_max, connection.times = LOGIN_BYTES_MAX, self.times
            if self._server is None:
                with well_formed():
                    self._server = look(connection)
            if self._server.proxy is Proxy.DIRECT:
                with connection.cursor() as cursor:
                    cursor.execute(_OWN_TRANSACTIONS)
                own_id = connection.own_id
                connection.liveness = lambda: self._ask(own_id)
            connection.answer_bytes_max = self._answer_bytes_max
        except (pymysql.MySQLError, ssl.SSLError, ValueError, RuntimeError) as error:
            raise translate_connect(error, self.url) from None
        return connection

    def _dial(self, timeout_s: float) -> WatchedConnection:
        return WatchedConnection(**{**self._parameters, "connect_timeout": timeout_s})

    def _ask(self, thread_id: int) -> Liveness:
        return ask(lambda: self._dial(ASK_MAX_S), thread_id)

    @contextlib.contextmanager
    def reading(
        self,
        settings: Settings,
        *,
        doing: str,
        timeout_s: float,
        subject: str = "the query",
        snapshot: bool = False,
    ) -> Iterator[WatchedConnection]:
        """The connection, read-only and with these settings, for one or a few statements; with
        ``snapshot`` all of them see the same rows of transactional tables.

        After an error of the server the connection is still of use; after any other exception
        it is closed, so the next use starts afresh. Raises SourceError by error number.
        ``timeout_s`` is the statement limit (0: none); ``subject`` is what is read, in messages.
        """
        with (
            self._use(doing=doing, timeout_s=timeout_s, subject=subject) as connection,
            self._in_step(),
        ):
            if self.server.proxy is Proxy.DIRECT:
                self._make(connection, settings)
                with _one_snapshot(connection) if snapshot else contextlib.nullcontext():
                    yield connection
            else:
                with _borrowed(connection, settings, snapshot=snapshot):
                    yield connection

    def rows(
        self, at: WatchedConnection, sql: str, values: Sequence[object] = ()
    ) -> tuple[tuple[Any, ...], ...]:
        """Every row of a small answer. Raises PyMySQL's errors."""
        return catalog.rows(at, sql, values)

    def _errors(self, doing: str, subject: str) -> contextlib.AbstractContextManager[None]:
        return mysql_errors(self.url, doing, subject=subject)

    def limit(self, settings: Settings) -> None:
        """Change some settings of the use that goes on; they end with what they would end with."""
        connection = self.connection
        if self.server.proxy is Proxy.DIRECT:
            self._make(connection, settings)
        else:
            _set(connection, dict(settings))

    def _make(self, connection: WatchedConnection, settings: Settings) -> None:
        """Set what is not set yet; it ends with the session."""
        wanted = {name: value for name, value in settings if self._made.get(name) != value}
        if wanted:
            _set(connection, wanted)
            self._made |= wanted

    @contextlib.contextmanager
    def _in_step(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            errno = told(error)[0] if isinstance(error, pymysql.MySQLError) else 0
            if errno == 0 or errno in CLIENT_ERRNOS:
                self.close()
            raise


_SNAPSHOT = (
    # For the next transaction alone: a consistent snapshot lasts at this level only.
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
)


@contextlib.contextmanager
def _one_snapshot(connection: WatchedConnection) -> Iterator[None]:
    """A transaction whose statements all see the same rows. However it ends, it is over."""
    with connection.cursor() as cursor:
        for sql in _SNAPSHOT:
            cursor.execute(sql)
    try:
        yield
    except pymysql.MySQLError as error:
        if connection.open and told(error)[0] not in CLIENT_ERRNOS:
            connection.rollback()
        raise
    connection.commit()


@contextlib.contextmanager
def _borrowed(
    connection: WatchedConnection, settings: Settings, *, snapshot: bool = False
) -> Iterator[None]:
    """A read-only transaction that leaves the server session as it found it."""
    with connection.cursor() as cursor:
        with no_statement(connection):
            for sql in _SNAPSHOT if snapshot else ("START TRANSACTION READ ONLY",):
                cursor.execute(sql)
        found: tuple[Any, ...] = ()
        if settings:
            cursor.execute("SELECT " + ", ".join(f"@@SESSION.{name}" for name, _ in settings))
            found = cursor.fetchone() or ()
    with well_formed():
        before = {name: _as_sql(value) for (name, _), value in zip(settings, found, strict=True)}
    try:
        _set(connection, dict(settings))
        yield
    except pymysql.MySQLError as error:
        if connection.open and told(error)[0] not in CLIENT_ERRNOS:
            _set(connection, before)
            connection.rollback()
        raise
    _set(connection, before)
    connection.commit()


def _set(connection: WatchedConnection, values: dict[str, str]) -> None:
    if values:
        with connection.cursor() as cursor:
            cursor.execute(
                "SET " + ", ".join(f"SESSION {name} = {value}" for name, value in values.items())
            )


def _as_sql(value: Any) -> str:
    return quote_text(value) if isinstance(value, str) else str(value)


# ---------------------------------------------------------------- connecting


def _parameters(
    url: DatabaseUrl, tls_mode: str | None, tls_ca_file: str | None, application_name: str
) -> dict[str, Any]:
    """PyMySQL's parameters. ``tls.mode`` wins over the URL's ``ssl-mode``.

    Raises ConfigError for an unknown mode or option, and for a file that is no authority.
    """
    options = {name.replace("_", "-").lower(): value for name, value in url.options}
    mode = _tls_mode(tls_mode or options.pop("ssl-mode", None))
    options.pop("ssl-mode", None)
    ca_file = tls_ca_file or options.pop("ssl-ca", None)
    options.pop("ssl-ca", None)
    socket_file = options.pop("unix-socket", None) or (url.host if url.host[:1] == "/" else None)
    charset = options.pop("charset", "utf8mb4")
    if charset.lower() not in ("utf8mb4", "utf8", "utf8mb3"):
        raise ConfigError(
            f"charset={charset} in the source's URL cannot be honoured",
            hint="remove it: text always travels as UTF-8",
        )
    if url.more_hosts:
        raise ConfigError(
            "the source's URL names several hosts, and this engine's clients connect to one",
            hint="name one host, or a proxy that knows them all",
        )
    if options:
        raise ConfigError(
            f"option {', '.join(sorted(options))} in the source's URL is not known",
            hint="known: ssl-mode, ssl-ca, unix-socket",
        )
    return {
        "host": url.host or "127.0.0.1",
        "port": url.port or DEFAULT_PORT,
        "unix_socket": socket_file,
        "user": url.user,
        # Bytes: PyMySQL would write text as latin1.
        "password": (url.password or "").encode(),
        "database": url.database or None,
        "charset": "utf8mb4",
        "program_name": application_name,
        "write_timeout": WRITE_TIMEOUT_S,
        "autocommit": True,
        "local_infile": False,
        "own_authority": ca_file is not None,
        **_tls(mode, ca_file),
    }


def _server_key(login: Login) -> bytes | None:
    """The server's RSA key as the file has it. Raises ConfigError."""
    if login.server_key_file is None:
        return None
    try:
        key = Path(login.server_key_file).read_bytes()
    except OSError as error:
        said = error.strerror or error
        raise ConfigError(f"tls.server_public_key_file {login.server_key_file}: {said}") from None
    if b"-----BEGIN PUBLIC KEY-----" not in key or len(key) > _KEY_BYTES_MAX:
        raise ConfigError(
            f"tls.server_public_key_file {login.server_key_file} is no public key",
            hint="it is the server's public_key.pem, which SHOW STATUS LIKE "
            "'Caching_sha2_password_rsa_public_key' shows, too",
        )
    return key


def _tls_mode(mode: str | None) -> str:
    name = (mode or "prefer").lower()
    name = _TLS_NAMES.get(name, name)
    if name not in _TLS_MODES:
        raise ConfigError(f"tls.mode {mode!r}: expected one of {', '.join(_TLS_MODES)}")
    return name


def _tls(mode: str, ca_file: str | None) -> dict[str, Any]:
    if mode == "disable":
        return {"ssl_disabled": True}
    if mode == "prefer":
        return {}  # PyMySQL encrypts where the server can, and checks no certificate.
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConfigError(f"tls.ca_file {ca_file}: {error.strerror or error}") from None
    # The certificates these servers make for themselves are not strict enough for Python 3.13.
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", ssl.VerifyFlags(0))
    context.check_hostname = mode == "verify-full"
    if mode == "require":
        context.verify_mode = ssl.CERT_NONE
    return {"ssl": context}
