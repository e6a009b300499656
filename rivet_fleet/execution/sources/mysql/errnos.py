"""Error numbers of MySQL and MariaDB, and what each means for a worker. No I/O.

MySQL: "Server Error Message Reference", "Client Error Message Reference"; MariaDB: "MariaDB Error
Codes". Both agree below 1900 except where noted.
"""

from __future__ import annotations

from dataclasses import dataclass

from rivet_fleet.errors import (
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
_FULL = ErrorClass(error=SourceBusy, retry=RetryClass.RECONNECT, extra_delay_s=15.0)
_REFUSED = ErrorClass(error=SourceRefused, retry=RetryClass.PERMANENT)
_TIMED_OUT = ErrorClass(error=StatementTimeout, retry=RetryClass.TRANSIENT)
_CONFLICT = ErrorClass(error=SourceBusy, retry=RetryClass.TRANSIENT, extra_delay_s=1.0)
_BUSY = ErrorClass(error=SourceBusy, retry=RetryClass.TRANSIENT)
_RESOURCES = ErrorClass(error=SourceBusy, retry=RetryClass.TRANSIENT, extra_delay_s=5.0)

ERRNOS: dict[int, ErrorClass] = {
    1021: _RESOURCES,  # disk full
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
    1152: _GONE,  # aborted connection
    1158: _GONE,  # got an error reading communication packets
    1159: _GONE,
    1160: _GONE,
    1161: _GONE,
    1184: _GONE,
    1203: _FULL,  # max_user_connections
    1205: _BUSY,  # lock wait timeout
    1206: _RESOURCES,  # lock table full
    1213: _CONFLICT,  # deadlock
    1226: _FULL,  # a per-hour limit of the user
    1290: _REFUSED,
    1317: _TIMED_OUT,  # query execution was interrupted: somebody's KILL QUERY
    1412: _BUSY,  # table definition has changed, please retry transaction
    1429: _GONE,  # a federated or Galera node is not there
    1614: _CONFLICT,
    1637: _RESOURCES,
    1927: _GONE,  # MariaDB: connection was killed
    1969: _TIMED_OUT,  # MariaDB: max_statement_time
    2002: _GONE,
    2003: _GONE,
    2005: _GONE,
    2006: _GONE,
    2012: _GONE,
    2013: _GONE,
    2014: _GONE,  # commands out of sync: the connection is of no use any more
    2055: _GONE,
    3024: _TIMED_OUT,  # MySQL: max_execution_time
    3169: _GONE,  # MySQL: session was killed
    3572: _BUSY,  # MySQL: a lock could not be had at once
    4031: _GONE,  # MySQL: disconnected by the server because of inactivity
    9001: _GONE,  # ProxySQL: no backend within its connect timeout
    9002: _GONE,
}
"""What is not listed is refused for good: a retry would meet the same answer."""

_WITHOUT_NUMBER = ErrorClass(error=SourceUnavailable, retry=RetryClass.RECONNECT)


def classify(errno: int) -> ErrorClass:
    """The class of an error number. 0 is what PyMySQL says of a connection that is closed."""
    if errno == 0:
        return _WITHOUT_NUMBER
    return ERRNOS.get(errno, _REFUSED)
