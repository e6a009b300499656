"""A rogue PostgreSQL: an ordinary server up to one phase of a session, and there it sends what it
likes. Formats: PostgreSQL manual, "Message Formats".
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.rogue.tcp import Gone, Peer, RogueServer

SSL_REQUEST, GSS_REQUEST = 80877103, 80877104
SIGNATURE = b"PGCOPY\n\xff\r\n\0" + struct.pack(">II", 0, 0)
NOTICE = b"SNOTICE\0VNOTICE\0C00000\0M" + b"x" * 100 + b"\0\0"


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack(">I", len(body) + 4) + body


def auth(code: int, more: bytes = b"") -> bytes:
    return message(b"R", struct.pack(">I", code) + more)


def status(name: bytes, value: bytes) -> bytes:
    return message(b"S", name + b"\0" + value + b"\0")


def done(tag: bytes) -> bytes:
    return message(b"C", tag + b"\0")


def ready(state: bytes = b"I") -> bytes:
    return message(b"Z", state)


def error(text: bytes, code: bytes = b"XX000") -> bytes:
    return message(b"E", b"SERROR\0VERROR\0C" + code + b"\0M" + text + b"\0\0")


def header(name: bytes = b"a", oid: int = 23, form: int = 0) -> bytes:
    """``form``: 0 text, 1 binary."""
    column = name + b"\0" + struct.pack(">IhIhih", 0, 0, oid, -1, -1, form)
    return message(b"T", struct.pack(">H", 1) + column)


def row(value: bytes, count: int = 1) -> bytes:
    cell = struct.pack(">I", len(value)) + value
    return message(b"D", struct.pack(">H", count) + cell * count)


COPY_BEGINS = message(b"H", b"\x01\0\x01\0\x01")
COPY_ROW = struct.pack(">HIq", 1, 8, 42)
COPY_ENDS = message(b"d", b"\xff\xff") + message(b"c")
STARTED = b"".join(
    (
        status(b"server_version", b"18.0"),
        status(b"server_encoding", b"UTF8"),
        status(b"client_encoding", b"UTF8"),
        status(b"standard_conforming_strings", b"on"),
        message(b"K", struct.pack(">II", 7, 99)),
        ready(),
    )
)

Act = Callable[[Peer], None]

PHASES = (
    *("encryption", "login", "start", "introduction", "round_trip", "set_up", "answer", "end"),
    *("copy", "rows", "copy_end"),
)
"""Where a session can be when the server stops being one: asked for TLS; who logs in; behind the
login; the first statement; an empty one; a transaction's beginning; a question's answer; its end;
a page's beginning, in its rows, and behind them."""


@dataclass
class Script:
    """An ordinary session until ``phase``, where ``act`` is played."""

    phase: str
    act: Act
    login: Act | None = None
    server: RogueServer | None = field(default=None, repr=False)

    def __call__(self, peer: Peer) -> None:
        while True:
            (length,) = struct.unpack(">I", peer.take(4))
            body = peer.take(length - 4)
            (code,) = struct.unpack(">I", body[:4])
            if code not in (SSL_REQUEST, GSS_REQUEST):
                break
            self._at(peer, "encryption")
            peer.say(b"N")
        self._at(peer, "login")
        if self.login is not None:
            self.login(peer)
        peer.say(auth(0))
        self._at(peer, "start")
        peer.say(STARTED)
        while True:
            kind = peer.take(1)
            (length,) = struct.unpack(">I", peer.take(4))
            body = peer.take(length - 4)
            if kind == b"X":
                raise Gone
            if kind == b"Q":
                self._query(peer, body.rstrip(b"\0"))

    def _query(self, peer: Peer, sql: bytes) -> None:
        settings = done(b"SET") * sql.count(b"SET LOCAL")
        if b"COPY" in sql:
            self._at(peer, "copy")
            peer.say(done(b"BEGIN") + settings + COPY_BEGINS + message(b"d", SIGNATURE))
            self._at(peer, "rows")
            peer.say(message(b"d", COPY_ROW) + COPY_ENDS)
            self._at(peer, "copy_end")
            peer.say(done(b"COPY 1") + done(b"COMMIT") + ready())
        elif b"pg_backend_pid" in sql:
            self._at(peer, "introduction")
            rows = header() + row(b"7") + done(b"SELECT 1")
            peer.say(done(b"BEGIN") + rows + done(b"COMMIT") + ready())
        elif sql == b"":
            self._at(peer, "round_trip")
            peer.say(message(b"I") + ready())
        elif sql.startswith(b"BEGIN"):
            self._at(peer, "set_up")
            peer.say(done(b"BEGIN") + settings + ready(b"T"))
        elif sql in (b"COMMIT", b"ROLLBACK"):
            self._at(peer, "end")
            peer.say(done(sql) + ready())
        else:
            self._at(peer, "answer")
            peer.say(header() + row(b"42") + done(b"SELECT 1") + ready(b"T"))

    def _at(self, peer: Peer, phase: str) -> None:
        if phase == self.phase:
            if self.server is not None:
                self.server.sprung.set()
            self.act(peer)


# ---------------------------------------------------------------- messages


def _said(data: bytes) -> Act:
    """These bytes, and nothing more."""

    def act(peer: Peer) -> None:
        peer.say(data)
        peer.silence()

    return act


def _end(peer: Peer) -> None:
    raise Gone


def _error_then_end(peer: Peer) -> None:
    peer.say(error(b"boom \x1b]0;OWNED\x07 \xff\xfe"))
    raise Gone


_COPY = COPY_BEGINS + message(b"d", SIGNATURE)
MESSAGES: dict[str, Act] = {
    "silence": lambda peer: peer.silence(),
    "half a message, then silence": _said(message(b"D", b"x" * 100)[:50]),
    "a trickle": lambda peer: peer.trickle(message(b"N", b"x" * 20_000), 0.02),
    "end": _end,
    "reset": lambda peer: peer.reset(),
    "notices without end": lambda peer: peer.flood(message(b"N", NOTICE)),
    "settings without end": lambda peer: peer.flood(status(b"a", b"b")),
    "notifications without end": lambda peer: peer.flood(message(b"A", b"\0\0\0\7a\0b\0")),
    "errors without end": lambda peer: peer.flood(error(b"again")),
    "an error of 15 MB": _said(error(b"boom\x1b]0;OWNED\x07" + b"y" * 15_000_000) + ready(b"E")),
    "an error with escapes, then end": _error_then_end,
    "an error without its code": _said(message(b"E", b"Mno\0\0") + ready()),
    "an error of nothing": _said(message(b"E", b"\0") + ready()),
    "4 GB announced, without end": lambda peer: peer.flood(b"\0" * 1000, b"D\xff\xff\xff\xff"),
    "2 GB announced, without end": lambda peer: peer.flood(b"\0" * 1000, b"D\x7f\xff\xff\xff"),
    "4 GB of rows, without end": lambda peer: peer.flood(b"\0" * 1000, b"d\xff\xff\xff\xff"),
    "4 GB of a header, without end": lambda peer: peer.flood(
        b"\0" * 1000, COPY_BEGINS + b"d\xff\xff\xff\xff" + SIGNATURE[:10]
    ),
    "a length of nothing": _said(b"D\0\0\0\0"),
    "an unknown type": _said(message(b"\x01", b"abc") + ready()),
    "another protocol, without end": lambda peer: peer.flood(b"HTTP/1.1 400 Bad Request\r\n"),
    "two copies": _said(_COPY + _COPY + COPY_ENDS + done(b"COPY 1") + ready()),
    "rows asked of us": _said(message(b"G", b"\0\0\1\0\0") + ready()),
    "copied rows without a copy": _said(message(b"d", SIGNATURE + COPY_ROW) + ready()),
    "a row wider than declared": _said(header() + row(b"1", 3) + done(b"SELECT 1") + ready(b"T")),
    "a row beyond its message": _said(header() + message(b"D", b"\0\1\x7f\xff\xff\xff") + ready()),
    "columns beyond any table": _said(message(b"T", b"\xff\xff") + ready()),
    "rows without end": lambda peer: peer.flood(row(b"4" * 50), header()),
    "text that is no UTF-8": _said(
        header(b"\xff", 25) + row(b"\xff\xfe") + done(b"SELECT 1") + ready(b"T")
    ),
    "a number that is none": _said(header() + row(b"abc") + done(b"SELECT 1") + ready(b"T")),
    "a list of lists": _said(header(b"a", 1009) + row(b"{{}}") + done(b"SELECT 1") + ready(b"T")),
    "another login": _said(auth(3)),
}
"""What a rogue server may send at any phase."""
