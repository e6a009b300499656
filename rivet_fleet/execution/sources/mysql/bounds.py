"""What one answer of a server may cost: bytes, packets, columns and time.

PyMySQL reads whatever it is sent. Rows of a page do not pass here: they are bounded where they are
decoded, and a page's columns in ``wire``.
"""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Iterator

import pymysql
from pymysql.constants import CR

LOGIN_BYTES_MAX = 256 * 1024
"""Of a greeting, a certificate's exchange excepted, and everything to the end of the login."""
ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""Of one answer about the server, a table or a key: what is larger is not one."""
COLUMNS_MAX = 4096
_PACKET_BYTES_MIN = 64
"""What a packet counts at least: an object of Python's is made of it, however small it is."""
_LATE_LOOKS_MAX = 64
_MALFORMED = (AssertionError, AttributeError, LookupError, TypeError, ValueError, struct.error)
"""What PyMySQL stumbles into when a packet is not what it should be."""


class Bounds:
    """What is left of the current answer's allowance. One per connection."""

    def __init__(self) -> None:
        self.ends_s: float | None = None
        """When (monotonic) the answer must be complete; None: whenever."""
        self._bytes_max = self._bytes_left = self._columns_left = self._late_left = 0

    def begin(self, bytes_max: int, within_s: float | None) -> None:
        """A new answer is expected."""
        self._bytes_max = self._bytes_left = bytes_max
        self._columns_left = COLUMNS_MAX
        self._late_left = _LATE_LOOKS_MAX
        self.ends_s = None if within_s is None else time.monotonic() + within_s

    @property
    def charged_bytes(self) -> int:
        """What the answer has taken of its allowance so far."""
        return self._bytes_max - max(0, self._bytes_left)

    def charge(self, count: int) -> None:
        """``count`` bytes are about to be read. Raises OperationalError 2020 before they are."""
        self._bytes_left -= max(count, _PACKET_BYTES_MIN)
        if self._bytes_left < 0:
            raise pymysql.OperationalError(
                CR.CR_NET_PACKET_TOO_LARGE, "the server's answer is larger than any may be"
            )

    def may_be_late(self) -> bool:
        """Behind the answer's end: what is there already may still be taken, for this process may
        have been stopped meanwhile. Not for ever: it may be a flood."""
        self._late_left -= 1
        return self._late_left >= 0

    def column(self) -> None:
        """One more column is about to be described. Raises OperationalError 2020."""
        self._columns_left -= 1
        if self._columns_left < 0:
            raise pymysql.OperationalError(
                CR.CR_NET_PACKET_TOO_LARGE, f"an answer of more than {COLUMNS_MAX} columns"
            )


@contextlib.contextmanager
def well_formed() -> Iterator[None]:
    """Inside, PyMySQL reads what a server sent: whatever it stumbles into there is error 2027, a
    request to upload a file of ours error 2068."""
    try:
        yield
    except UnicodeEncodeError:
        raise  # ours: a name that cannot be sent
    except _MALFORMED as error:
        raise pymysql.OperationalError(
            CR.CR_MALFORMED_PACKET, f"a packet that is not MySQL's ({type(error).__name__})"
        ) from None
    except RuntimeError as error:
        if "LOAD_LOCAL" not in str(error):
            raise
        raise pymysql.OperationalError(
            CR.CR_LOAD_DATA_LOCAL_INFILE_REJECTED,
            "the server asked for a file of this machine; it was not sent",
        ) from None
