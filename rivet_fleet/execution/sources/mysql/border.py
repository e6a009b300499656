"""Where PyMySQL's exceptions stop: everything beyond raises only ``rivet_fleet.errors``."""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import pymysql
from pymysql.constants import ER

from rivet_fleet.contracts.foreign import NOTHING_SAID, as_foreseen
from rivet_fleet.contracts.url import DatabaseUrl
from rivet_fleet.errors import RetryClass, SourceBusy, SourceError, SourceUnavailable
from rivet_fleet.execution.engines.session import (
    CONFLICT,
    FULL,
    GONE,
    LOCKED,
    REFUSED,
    RESOURCES,
    RESTARTING,
    TIMED_OUT,
    ErrorClass,
    Told,
    cannot_connect,
    translated,
)
from rivet_fleet.execution.sources.mysql.dialect import ALIAS

# ------------------------------------------------------------------------------------------
# Error numbers of MySQL and MariaDB, and what each means for a worker. No I/O.
#
# MySQL: "Server Error Message Reference", "Client Error Message Reference"; MariaDB: "MariaDB
# Error Codes". Both agree below 1900 except where noted.


_CLOSED = ErrorClass(error=SourceUnavailable, retry=RetryClass.RECONNECT, extra_delay_s=5.0)
"""Shut by somebody who means to open it again: a fail-over, a rotated password, a maintenance."""
_BUSY = ErrorClass(error=SourceBusy, retry=RetryClass.TRANSIENT)
ERRNOS: dict[int, ErrorClass] = {
    1016: RESOURCES,  # the table's file could not be opened: too many are open
    1020: CONFLICT,  # MariaDB, innodb_snapshot_isolation: the row changed since the last read
    1021: RESOURCES,  # disk full
    1023: RESOURCES,  # a file could not be closed: its disk is full, or away
    1024: RESOURCES,  # a file could not be read
    1026: RESOURCES,  # a temporary file could not be written
    1028: RESOURCES,  # a sort was given up
    1030: RESOURCES,  # the storage engine's own error: no space for a temporary table, mostly
    1037: RESOURCES,  # out of memory
    1038: RESOURCES,  # out of sort memory
    1040: FULL,  # too many connections
    1041: RESOURCES,  # out of resources
    1042: GONE,  # the host's name could not be looked up
    1043: GONE,  # bad handshake
    1047: RESTARTING,  # Galera: the node is not ready for use
    1053: RESTARTING,  # server shutdown in progress
    1077: RESTARTING,
    1079: RESTARTING,
    1080: GONE,  # forcing close of thread
    1105: RESOURCES,  # no number of its own: a proxy or a cluster without a backend, mostly
    1114: RESOURCES,  # a temporary table is full: others fill its disk, too
    1129: FULL,  # this host is blocked for failed handshakes, until FLUSH HOSTS
    1135: FULL,  # no thread could be made for the connection
    1152: GONE,  # aborted connection
    1154: GONE,  # a read error from the connection
    1155: GONE,
    1156: GONE,  # packets out of order
    1157: GONE,  # a packet that could not be uncompressed
    1158: GONE,  # got an error reading communication packets
    1159: GONE,
    1160: GONE,
    1161: GONE,
    1184: GONE,
    1203: FULL,  # max_user_connections
    1205: LOCKED,  # lock wait timeout: our reads wait for metadata locks alone
    1206: RESOURCES,  # lock table full
    1213: CONFLICT,  # deadlock
    1226: FULL,  # a per-hour limit of the user
    1257: RESOURCES,  # no memory to uncompress a value
    1290: REFUSED,  # an option forbids it: reading meets only those that stay
    1297: RESOURCES,  # NDB: a temporary error of the cluster
    1317: TIMED_OUT,  # query execution was interrupted: somebody's KILL QUERY
    1412: _BUSY,  # table definition has changed, please retry transaction
    1429: GONE,  # a federated or Galera node is not there
    1461: RESOURCES,  # max_prepared_stmt_count: some client leaves statements behind
    1587: RESOURCES,  # too many open files
    1613: CONFLICT,  # a distributed transaction took too long
    1614: CONFLICT,
    1615: _BUSY,  # a prepared statement must be prepared again: its table was changed
    1637: RESOURCES,  # too many concurrent transactions
    1689: _BUSY,  # a wait for a lock was given up for an exclusive one
    1836: _CLOSED,  # read-only mode, as a fail-over sets it
    1874: _CLOSED,  # InnoDB is in read-only mode
    1927: GONE,  # MariaDB: connection was killed
    1969: TIMED_OUT,  # MariaDB: max_statement_time
    1999: GONE,  # a managed proxy has no backend just now
    2002: GONE,
    2003: GONE,
    2005: GONE,
    2006: GONE,
    2012: GONE,
    2013: GONE,
    2014: GONE,  # commands out of sync: the connection is of no use any more
    2055: GONE,
    3015: RESOURCES,  # out of memory in the storage engine
    3024: TIMED_OUT,  # MySQL: max_execution_time
    3032: _CLOSED,  # MySQL: offline mode
    3058: CONFLICT,  # a deadlock of user-level locks, of the query's own
    3100: _CLOSED,  # MySQL: group replication could not begin the transaction
    3101: CONFLICT,  # MySQL: group replication rolled it back
    3118: _CLOSED,  # MySQL: the account is locked
    3168: RESTARTING,  # MySQL: the server is not available yet
    3169: GONE,  # MySQL: session was killed
    3572: _BUSY,  # MySQL: a lock could not be had at once
    3675: RESOURCES,  # MySQL: disk full, and it does not wait
    3781: _CLOSED,  # MySQL: a new primary applies what the old one left
    3782: _CLOSED,
    3783: _CLOSED,  # MySQL: the member left its group while we waited
    3796: _CLOSED,  # MySQL: the member is not in its group, so cannot promise consistency
    3797: CONFLICT,  # MySQL: it waited too long for what the group committed before
    3798: CONFLICT,
    3799: _CLOSED,
    3950: RESOURCES,  # MySQL: out of memory
    3955: _CLOSED,  # MySQL: the account is blocked for failed logins, for a time
    3985: RESOURCES,  # MySQL: no memory for a metadata lock
    4031: GONE,  # MySQL: disconnected by the server because of inactivity
    4081: FULL,  # MySQL: the memory of all connections is used up
    4082: FULL,
    4150: _CLOSED,  # MariaDB: the account is blocked for failed logins, until somebody lifts it
    4151: _CLOSED,  # MariaDB: the account is locked
    9001: GONE,  # ProxySQL: no backend within its connect timeout
    9002: GONE,
    9004: GONE,  # ProxySQL: the backend went offline
    9005: GONE,  # ProxySQL: the backend lags too far behind
}
"""What is not listed is refused for good: a retry would meet the same answer. Looked through for
what a reader can meet and what passes by itself: every message of MySQL 9 and MariaDB 10.11."""

SWAPPED = frozenset(
    (
        1146,  # no such table: between the two RENAMEs of a swap
        1176,  # no such index: another table has the name now, or the key has another name
        1356,  # a view whose table is not there
        1814,  # the table's space is discarded, until another is imported
        1932,  # the dictionary has the table, the engine has not
    )
)
"""What a chunk that was planned meets while a table is exchanged. A wrong name says the same, so
they are refusals to whoever plans; see ``maybe_swapped``."""


def classify(errno: int) -> ErrorClass:
    """The class of an error number. 0 is what PyMySQL says of a connection that is closed."""
    if errno == 0:
        return GONE
    return ERRNOS.get(errno, REFUSED)


CLIENT_ERRNOS = range(2000, 3000)
"""Errors the client finds itself: after them the connection is not in step any more."""

_HINTS: dict[int, str] = {
    1044: "the user may not use this database: GRANT SELECT ON the database TO the user",
    1045: "check the user name and the password (`password_env`, `url_env` or `url_file`), and "
    "that the server lets this user in from this host",
    1049: "check the database name in the source's URL",
    1054: "check the column's spelling",
    1060: "give each column of the query its own name with AS; case does not tell them apart",
    1064: "the `query:` is not valid SQL for this server",
    1142: "the user needs SELECT on the table: GRANT SELECT ON … TO the user",
    1143: "the user needs SELECT on every column that is read",
    1146: "check the name's database and spelling",
    1690: "a value of the query is out of its type's range; a zero TIMESTAMP is, too, where the "
    "server's time zone is not UTC and its mode has NO_ZERO_DATE: leave it out with WHERE, or "
    "read it as text with CAST(… AS CHAR)",
    1698: "this user is only let in by the server machine's own login; give it a password",
    1792: "exports read only; the query tries to write",
    1969: "the statement ran into its limit; raise `statement_timeout_s` (of a read by one "
    "statement: `whole_read_timeout_s`), or make chunks smaller, or check that the key has an "
    "index",
    1129: "the server refuses this host after failed connections: FLUSH HOSTS lifts that",
    1176: "the table has no index of that name any more: plan the export again",
    1461: "the server's max_prepared_stmt_count is used up: some client leaves statements behind",
    2003: "is the server running, and is it listening on that host and port?",
    2026: "check `tls.mode` and the certificate",
    2059: "the server asks for a way of logging in that is not supported, or needs TLS: check "
    "`tls.mode` and the user's authentication plugin",
    2020: "no honest server answers so: is the right one at that address?",
    2061: "verify the server (`tls.mode: verify-full`, or `verify-ca` with its `ca_file`); without "
    "TLS give its own key (`tls.server_public_key_file`); `tls.allow_cleartext_password` "
    "allows clear-text methods over verified links, and hashed ones over encrypted links",
    2068: "no honest server asks for a file: check who answers at that address",
    1040: "the server has no free connection; lower the number of workers",
    1203: "the user has too many connections; lower the number of workers",
}
_HINTS[2027] = _HINTS[2020]
_HINTS[3024] = _HINTS[1969]
_LOCKED = (
    "the account is locked, or blocked for failed logins: ALTER USER … ACCOUNT UNLOCK lifts that"
)
_HINTS |= dict.fromkeys((3118, 3955, 4150, 4151), _LOCKED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a connection last asked its server: an error of the server's own has it as ``asked``.
    The driver's, with numbers that a server may send, too, has none."""

    text: str = ""
    rows: bool = True
    """False while the server has not begun to read: it prepares."""


@contextlib.contextmanager
def mysql_errors(url: DatabaseUrl, doing: str, *, subject: str = "the query") -> Iterator[None]:
    """Turn any PyMySQL error inside the block into ours, by its number, without secrets.

    ``doing`` completes the sentence "… while <doing>"; ``subject`` is what the server knows by
    our alias alone
    """
    try:
        yield
    except pymysql.MySQLError as error:
        raise translate(error, url, doing, subject=subject) from None


SWAPPED_CODES = frozenset(f"MYSQL_{errno}" for errno in SWAPPED)


def translate(
    error: pymysql.MySQLError, url: DatabaseUrl, doing: str, *, subject: str = "the query"
) -> SourceError:
    """Our error for one of PyMySQL's: class and retry by the table of error numbers."""
    errno, said = told(error)
    said = said.replace(f"'{ALIAS}'", f"'{subject}'").replace(f"'{ALIAS}.", "'")
    kept = None
    asked: Asked | None = getattr(error, "asked", None)
    if asked is not None or errno not in (0, *CLIENT_ERRNOS):
        known = (subject, *subject.split("."), *doing.split(), url.user or "", url.database or "")
        kept = _without_values(errno, said, asked or Asked(), known)
    return translated(_meant(errno, said, kept=kept), url, doing)


def translate_connect(error: Exception, url: DatabaseUrl) -> SourceError:
    """Our error for a connection that could not be made: PyMySQL's, or of the TLS library."""
    errno, said = told(error)
    cause = getattr(error, "original_exception", error)
    if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError):
        errno, said = 2013, f"TLS: {cause}"  # the link broke: nobody refused anything
    elif isinstance(cause, ssl.SSLError):
        errno, said = 2026, f"TLS: {cause}"
    elif isinstance(error, UnicodeError | ValueError | RuntimeError):
        errno = 2059
    return cannot_connect(_meant(errno, said), url)


def _meant(errno: int, said: str, *, kept: str | None = None) -> Told:
    return Told(
        said=said,
        means=classify(errno),
        number=str(errno) if errno else "",
        code=f"MYSQL_{errno}" if errno else None,
        hint=_HINTS.get(errno),
        kept=kept,
    )


def told(error: Exception) -> tuple[int, str]:
    """(error number, text) of an exception; number 0 where PyMySQL made it up without one."""
    match error.args:
        case (int(errno), text, *_):
            return errno, str(text)
        case _:
            return 0, str(error)


def refused(error: pymysql.MySQLError) -> bool:
    """True for the server's own no: asked again, it would say the same."""
    errno, _ = told(error)
    return classify(errno).retry is RetryClass.PERMANENT and errno not in CLIENT_ERRNOS


# ------------------------------------------------------------------------------------------
# What is told of an error. A server says of a row whatever the SQL it runs makes of it, under any
# number: SIGNAL sets MYSQL_ERRNO as it likes. So its words are kept while it has seen no row (it
# prepares a statement), and else where they are one of the sentences below, in whose holes stay
# words of the statement alone.

_SENTENCES = (
    "Query execution was interrupted (max_statement_time exceeded)",
    "Query execution was interrupted, maximum statement execution time exceeded",
    "Query execution was interrupted",
    "Query was interrupted: %s",
    "Lock wait timeout exceeded; try restarting transaction",
    "Deadlock found when trying to get lock; try restarting transaction",
    "The total number of locks exceeds the lock table size",
    "Record has changed since last read in table %s",
    "Table definition has changed, please retry transaction",
    "Prepared statement needs to be re-prepared",
    "Can't create more than max_prepared_stmt_count statements (current value: %s)",
    "Connection was killed",
    "Server shutdown in progress",
    "Normal shutdown",
    "Too many connections",
    "The client was disconnected by the server because of inactivity%s",
    "Out of memory%s",
    "Out of sort memory%s",
    "Out of resources when opening file %s",
    "Disk full (%s); waiting for someone to free some space%s",
    "Got error %s from storage engine %s",
    "Got error %s from storage engine",
    "Error writing file %s (%s)",
    "Error reading file %s (%s)",
    "Can't open file: %s",
    "Sort aborted: %s",
    "Sort aborted",
    "The table %s is full",
    "WSREP has not yet prepared node for application use",
    "Server is running in %s mode%s",
    "The MySQL server is running with the %s option so it cannot execute this statement",
    "The MariaDB server is running with the %s option so it cannot execute this statement",
    "Cannot execute statement in a READ ONLY transaction",
    "Table %s doesn't exist in engine",
    "Table %s doesn't exist",
    "Key %s doesn't exist in table %s",
    "Tablespace has been discarded for table %s",
    "View %s references invalid table(s) or column(s) or function(s) or definer/invoker of view "
    "lack rights to use them",
    "Unknown column %s in %s",
    "Unknown table %s in %s",
    "Unknown database %s",
    "Unknown system variable %s",
    "Unknown or incorrect time zone: %s",
    "Column %s in %s is ambiguous",
    "Duplicate column name %s",
    "FUNCTION %s does not exist",
    "PROCEDURE %s does not exist",
    "%s command denied to user %s for table %s",
    "%s command denied to user %s for column %s in table %s",
    "%s command denied to user %s for routine %s",
    "Access denied for user %s",
    "Access denied; you need %s",
    "The user specified as a definer (%s) does not exist",
    "You have an error in your SQL syntax; check the manual %s",
    "Subquery returns more than 1 row",
    "Division by 0",
    "%s value is out of range in %s",
    "Out of range value for column %s",
    "Data too long for column %s",
    "Data truncated for column %s",
    "Incorrect %s value: %s for function %s",
    "Incorrect %s value: %s for column %s",
    "Incorrect %s value: %s",
    "Truncated incorrect %s value: %s",
    "Duplicate entry %s",
    "XPATH syntax error: %s",
    "Invalid XML text%s",
    "Invalid JSON text%s",
    "Syntax error in JSON %s",
    "Cannot convert string %s from %s to %s",
    "Invalid %s character string: %s",
    "Illegal mix of collations %s",
    "Got error %s from regexp",
    "Regex error %s",
    "Result of %s was larger than max_allowed_packet (%s) - truncated",
)
"""Fixed sentences of both servers. Servers: share/errmsg-utf8.txt, sql/share/errmsg.txt."""
_KNOWN = frozenset(
    (
        *("SELECT", "SHOW", "EXECUTE", "SELECT, SHOW VIEW", "field list", "where clause"),
        *("order clause", "group statement", "having clause", "on clause", "WHERE", "FROM", "ON"),
        *("INTEGER", "DECIMAL", "DOUBLE", "BIGINT", "BIGINT UNSIGNED", "datetime", "date", "time"),
        *("SMALLINT", "INT", "double", "decimal", "integer", "string", "utf8mb4", "utf8mb3"),
    )
)
_WORD = re.compile(r"`(?:[^`]|``)+`|[^\s`'\"(),;=<>.]+")


def _without_values(errno: int, said: str, asked: Asked, known: Collection[str]) -> str | None:
    """What may be told of an error that may be about a row; None when it is about none."""
    if not asked.rows:
        return None
    words = {word.strip("`").replace("``", "`") for word in _WORD.findall(asked.text)}
    kept = as_foreseen(said, _SENTENCES, {*_KNOWN, *words, *known})
    if kept is None:
        kept = f"{_CONDITIONS[errno]}; {NOTHING_SAID}" if errno in _CONDITIONS else NOTHING_SAID
    return None if kept == said else kept


_CONDITIONS = {
    number: name.replace("_", " ").lower()
    for name, number in vars(ER).items()
    if isinstance(number, int) and not name.startswith("ERROR_")
}
"""What MySQL's own list of numbers calls them."""
