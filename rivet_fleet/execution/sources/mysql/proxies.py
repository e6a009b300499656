"""What stands between us and the server: it decides whether a session's settings are ours.

A multiplexer lends one server session to many clients, so that a setting may leak to others, and
theirs to us. Detection only warns and makes the session careful; it never fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import pymysql

from rivet_fleet.execution.sources.mysql.liveness import WatchedConnection
from rivet_fleet.execution.sources.mysql.querysession import Own, question, sealed

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
    return tuple(int(number) for number in numbers if number.isdecimal())


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
        ids=(connection.own_id, *(int(str(one)) for one in (first_id, *(again or (0,))))),
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
