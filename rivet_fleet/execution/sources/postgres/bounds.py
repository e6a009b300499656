"""What one answer that libpq reads may cost: bytes and time.

libpq keeps what it is sent until an answer is complete. How much that is, the kernel knows (Linux:
``TCP_INFO``); a socket of this machine's file system is not counted. The rows of a page do not pass
here: they are bounded where they are decoded.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from pathlib import Path

import psycopg

LOGIN_BYTES_MAX = 1024 * 1024
"""Of everything up to the first statement."""
ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""Of one answer about the server, a table or a key: what is larger is not one."""
HELD_BYTES_MAX = 256 * 1024 * 1024
"""What this process may grow by meanwhile: small messages are kept as large objects."""
_TCP_INFO_BYTES = 136
_RECEIVED = struct.Struct("=128xQ")
"""``tcpi_bytes_received`` (linux/tcp.h)."""
_LATE_LOOKS_MAX = 64
_HELD_EVERY_BYTES = 256 * 1024


class Bounds:
    """The allowance of one answer on one socket."""

    def __init__(self, fd: int, within_s: float | None, bytes_max: int | None = None) -> None:
        self.fd = fd
        self.ends_s = None if within_s is None else time.monotonic() + within_s
        """When (monotonic) the answer must be complete; None: whenever."""
        self._bytes_max = ANSWER_BYTES_MAX if bytes_max is None else bytes_max
        self._late_left = _LATE_LOOKS_MAX
        self._before_bytes: int | None = None
        self.received_bytes = 0
        """Of the answer, when it was last looked at; the first block left out."""
        self._held_before_bytes = 0
        self._looked_at_bytes = 0

    def check(self) -> None:
        """Bytes have come. Raises psycopg's DataError when they are more than an answer has, and
        OperationalError when its end is long due."""
        received = received_bytes(self.fd) or 0
        if self._before_bytes is None:
            # The first look is behind the first block, which a receive buffer bounds.
            self._before_bytes = received
        grown = self.received_bytes = received - self._before_bytes
        if grown > self._bytes_max:
            raise psycopg.DataError("the server's answer is larger than any may be")
        if grown - self._looked_at_bytes > _HELD_EVERY_BYTES:
            self._looked_at_bytes = grown
            held = held_bytes()
            self._held_before_bytes = self._held_before_bytes or held
            if held - self._held_before_bytes > HELD_BYTES_MAX:
                raise psycopg.DataError("the server's answer takes more memory than any may take")
        if self.late:
            # This process may have been stopped: what is there already may still be taken. Not
            # for ever: it may be a flood.
            self._late_left -= 1
            if self._late_left < 0:
                raise psycopg.OperationalError(
                    "the server did not bring its answer to an end in time"
                )

    @property
    def late(self) -> bool:
        """True when the answer should have ended."""
        return self.ends_s is not None and time.monotonic() >= self.ends_s


def received_bytes(fd: int) -> int | None:
    """Bytes that came over a TCP connection so far; None where nobody counts."""
    if not hasattr(socket, "TCP_INFO"):
        return None
    with contextlib.suppress(OSError, struct.error), socket.socket(fileno=os.dup(fd)) as link:
        info = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        received: int = _RECEIVED.unpack(info)[0]
        return received
    return None


def held_bytes() -> int:
    """The memory that this process holds; 0 where nobody says (not Linux)."""
    with contextlib.suppress(OSError):
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE")
    return 0
