"""Error numbers of MySQL and MariaDB, and what each means for a worker. No I/O.

MySQL: "Server Error Message Reference", "Client Error Message Reference"; MariaDB: "MariaDB Error
Codes". Both agree below 1900 except where noted.
"""

from __future__ import annotations

from dataclasses import dataclass

from rivet_fleet.errors import (
    RelationLocked,
    RetryClass,
    SourceBusy,
    SourceError,
    SourceRefused,
    SourceUnavailable,
    StatementTimeout,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorClass:
    """What one error number means for a worker."""

    error: type[SourceError]
    retry: RetryClass
    extra_delay_s: float = 0.0


_GONE = ErrorClass(error=SourceUnavailable, retry=RetryClass.RECONNECT)
_RESTARTING = ErrorClass(error=SourceUnavailable, retry=RetryClass.RECONNECT, extra_delay_s=15.0)
_CLOSED = ErrorClass(error=SourceUnavailable, retry=RetryClass.RECONNECT, extra_delay_s=5.0)
"""Shut by somebody who means to open it again: a fail-over, a rotated password, a maintenance."""
_FULL = ErrorClass(error=SourceBusy, retry=RetryClass.RECONNECT, extra_delay_s=15.0)
_REFUSED = ErrorClass(error=SourceRefused, retry=RetryClass.PERMANENT)
_TIMED_OUT = ErrorClass(error=StatementTimeout, retry=RetryClass.TRANSIENT)
_CONFLICT = ErrorClass(error=SourceBusy, retry=RetryClass.TRANSIENT, extra_delay_s=1.0)
_BUSY = ErrorClass(error=SourceBusy, retry=RetryClass.TRANSIENT)
_LOCKED = ErrorClass(error=RelationLocked, retry=RetryClass.TRANSIENT)
_RESOURCES = ErrorClass(error=SourceBusy, retry=RetryClass.TRANSIENT, extra_delay_s=5.0)
ERRNOS: dict[int, ErrorClass] = {
    1016: _RESOURCES,  # the table's file could not be opened: too many are open
    1020: _CONFLICT,  # MariaDB, innodb_snapshot_isolation: the row changed since the last read
    1021: _RESOURCES,  # disk full
    1023: _RESOURCES,  # a file could not be closed: its disk is full, or away
    1024: _RESOURCES,  # a file could not be read
    1026: _RESOURCES,  # a temporary file could not be written
    1028: _RESOURCES,  # a sort was given up
    1030: _RESOURCES,  # the storage engine's own error: no space for a temporary table, mostly
    1037: _RESOURCES,  # out of memory
    1038: _RESOURCES,  # out of sort memory
    1040: _FULL,  # too many connections
    1041: _RESOURCES,  # out of resources
    1042: _GONE,  # the host's name could not be looked up
    1043: _GONE,  # bad handshake
    1047: _RESTARTING,  # Galera: the node is not ready for use
    1053: _RESTARTING,  # server shutdown in progress
    1077: _RESTARTING,
    1079: _RESTARTING,
    1080: _GONE,  # forcing close of thread
    1105: _RESOURCES,  # no number of its own: a proxy or a cluster without a backend, mostly
    1114: _RESOURCES,  # a temporary table is full: others fill its disk, too
    1129: _FULL,  # this host is blocked for failed handshakes, until FLUSH HOSTS
    1135: _FULL,  # no thread could be made for the connection
    1152: _GONE,  # aborted connection
    1154: _GONE,  # a read error from the connection
    1155: _GONE,
    1156: _GONE,  # packets out of order
    1157: _GONE,  # a packet that could not be uncompressed
    1158: _GONE,  # got an error reading communication packets
    1159: _GONE,
    1160: _GONE,
    1161: _GONE,
    1184: _GONE,
    1203: _FULL,  # max_user_connections
    1205: _LOCKED,  # lock wait timeout: our reads wait for metadata locks alone
    1206: _RESOURCES,  # lock table full
    1213: _CONFLICT,  # deadlock
    1226: _FULL,  # a per-hour limit of the user
    1257: _RESOURCES,  # no memory to uncompress a value
    1290: _REFUSED,  # an option forbids it: reading meets only those that stay
    1297: _RESOURCES,  # NDB: a temporary error of the cluster
    1317: _TIMED_OUT,  # query execution was interrupted: somebody's KILL QUERY
    1412: _BUSY,  # table definition has changed, please retry transaction
    1429: _GONE,  # a federated or Galera node is not there
    1461: _RESOURCES,  # max_prepared_stmt_count: some client leaves statements behind
    1587: _RESOURCES,  # too many open files
    1613: _CONFLICT,  # a distributed transaction took too long
    1614: _CONFLICT,
    1615: _BUSY,  # a prepared statement must be prepared again: its table was changed
    1637: _RESOURCES,  # too many concurrent transactions
    1689: _BUSY,  # a wait for a lock was given up for an exclusive one
    1836: _CLOSED,  # read-only mode, as a fail-over sets it
    1874: _CLOSED,  # InnoDB is in read-only mode
    1927: _GONE,  # MariaDB: connection was killed
    1969: _TIMED_OUT,  # MariaDB: max_statement_time
    1999: _GONE,  # a managed proxy has no backend just now
    2002: _GONE,
    2003: _GONE,
    2005: _GONE,
    2006: _GONE,
    2012: _GONE,
    2013: _GONE,
    2014: _GONE,  # commands out of sync: the connection is of no use any more
    2055: _GONE,
    3015: _RESOURCES,  # out of memory in the storage engine
    3024: _TIMED_OUT,  # MySQL: max_execution_time
    3032: _CLOSED,  # MySQL: offline mode
    3058: _CONFLICT,  # a deadlock of user-level locks, of the query's own
    3100: _CLOSED,  # MySQL: group replication could not begin the transaction
    3101: _CONFLICT,  # MySQL: group replication rolled it back
    3118: _CLOSED,  # MySQL: the account is locked
    3168: _RESTARTING,  # MySQL: the server is not available yet
    3169: _GONE,  # MySQL: session was killed
    3572: _BUSY,  # MySQL: a lock could not be had at once
    3675: _RESOURCES,  # MySQL: disk full, and it does not wait
    3781: _CLOSED,  # MySQL: a new primary applies what the old one left
    3782: _CLOSED,
    3783: _CLOSED,  # MySQL: the member left its group while we waited
    3796: _CLOSED,  # MySQL: the member is not in its group, so cannot promise consistency
    3797: _CONFLICT,  # MySQL: it waited too long for what the group committed before
    3798: _CONFLICT,
    3799: _CLOSED,
    3950: _RESOURCES,  # MySQL: out of memory
    3955: _CLOSED,  # MySQL: the account is blocked for failed logins, for a time
    3985: _RESOURCES,  # MySQL: no memory for a metadata lock
    4031: _GONE,  # MySQL: disconnected by the server because of inactivity
    4081: _FULL,  # MySQL: the memory of all connections is used up
    4082: _FULL,
    4150: _CLOSED,  # MariaDB: the account is blocked for failed logins, until somebody lifts it
    4151: _CLOSED,  # MariaDB: the account is locked
    9001: _GONE,  # ProxySQL: no backend within its connect timeout
    9002: _GONE,
    9004: _GONE,  # ProxySQL: the backend went offline
    9005: _GONE,  # ProxySQL: the backend lags too far behind
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
they are refusals to whoever plans; see ``border.maybe_swapped``."""

_WITHOUT_NUMBER = ErrorClass(error=SourceUnavailable, retry=RetryClass.RECONNECT)


def classify(errno: int) -> ErrorClass:
    """The class of an error number. 0 is what PyMySQL says of a connection that is closed."""
    if errno == 0:
        return _WITHOUT_NUMBER
    return ERRNOS.get(errno, _REFUSED)
