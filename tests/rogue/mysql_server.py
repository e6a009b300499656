"""A rogue MySQL: an ordinary server up to one phase of a session, and there it sends what it likes.

Formats: MySQL internals manual, "Connection Phase" and "Command Phase".
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.rogue.tcp import Gone, Peer, RogueServer

SALT = b"abcdefgh" + b"ijklmnopqrst"
OK = b"\0\0\0\x02\0\0\0"
OK_MORE = b"\0\0\0\x0a\0\0\0"
EOF = b"\xfe\0\0\x02\0"
WIDEST = 0xFFFFFF
_SSL = 0x800
_CAPABILITIES = 0x1 | 0x4 | 0x8 | 0x80 | 0x200 | 0x2000 | 0x8000 | 0x80000 | 0x100000 | 0x200000


class Wire:
    """Packets over one peer; the number of the next one is kept as both sides count."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.number = 0

    def say(self, *payloads: bytes) -> None:
        self.peer.say(b"".join(self.packet(payload) for payload in payloads))

    def packet(self, payload: bytes) -> bytes:
        head = struct.pack("<I", len(payload))[:3] + bytes((self.number,))
        self.number = (self.number + 1) & 0xFF
        return head + payload

    def hear(self) -> bytes:
        head = self.peer.take(4)
        self.number = (head[3] + 1) & 0xFF
        return self.peer.take(head[0] | head[1] << 8 | head[2] << 16)

    def flood(self, payload: bytes) -> None:
        """The same packet for ever, numbered as it should be. Raises Gone."""
        many = max(1, 256 * 1024 // (len(payload) + 4))
        while True:
            self.peer.say(b"".join(self.packet(payload) for _ in range(many)))


def greeting(plugin: bytes, *, tls: bool = False) -> bytes:
    capabilities = _CAPABILITIES | (_SSL if tls else 0)
    return b"".join(
        (
            b"\x0a8.0.99-rogue\0" + struct.pack("<I", 7) + SALT[:8] + b"\0",
            struct.pack("<HBHHB", capabilities & 0xFFFF, 45, 2, capabilities >> 16, 21),
            b"\0" * 10 + SALT[8:] + b"\0" + plugin + b"\0",
        )
    )


def lenenc(text: bytes) -> bytes:
    assert len(text) < 251
    return bytes((len(text),)) + text


def definition(name: bytes, type_code: int = 253) -> bytes:
    texts = b"".join(map(lenenc, (b"def", b"", b"", b"", name, b"")))
    return texts + struct.pack("<BHIBHBxx", 12, 45, 1024, type_code, 0, 0)


def rows(*values: bytes) -> list[bytes]:
    """A text result of one row."""
    columns = [definition(b"c%d" % n) for n in range(len(values))]
    return [bytes((len(values),)), *columns, EOF, b"".join(map(lenenc, values)), EOF]


Act = Callable[[Wire], None]

PHASES = ("greeting", "login", "set_up", "question", "answer", "ping", "prepare", "execute", "rows")
"""Where a session can be when the server stops being one: before it said who it is; where it judges
the login; the driver's own statements; what we ask of a fresh connection; any later question; a
ping; the three answers that a page's rows come in."""


@dataclass
class Script:
    """An ordinary session until ``phase``, where ``act`` is played."""

    phase: str
    act: Act
    plugin: bytes = b"mysql_native_password"
    server: RogueServer | None = field(default=None, repr=False)

    def __call__(self, peer: Peer) -> None:
        wire = Wire(peer)
        self._at(wire, "greeting")
        wire.say(greeting(self.plugin))
        wire.hear()
        self._at(wire, "login")
        self.serve(wire)

    def serve(self, wire: Wire) -> None:
        """From the end of the login on."""
        wire.say(OK)
        while True:
            command = wire.hear()
            if command[:1] in (b"\x01", b"\x19"):
                continue
            if command[:1] == b"\x0e":
                self._at(wire, "ping")
                wire.say(OK)
            elif command[:1] == b"\x16":
                self._at(wire, "prepare")
                wire.say(struct.pack("<BIHHxH", 0, 1, 1, 0, 0), definition(b"id", 8), EOF)
            elif command[:1] == b"\x17":
                self._at(wire, "execute")
                wire.say(b"\x01", definition(b"id", 8), EOF)
                self._at(wire, "rows")
                wire.say(b"\0\0" + struct.pack("<q", 42), EOF)
            else:
                self._query(wire, command[1:])

    def _query(self, wire: Wire, sql: bytes) -> None:
        if sql.startswith((b"SET", b"START", b"COMMIT", b"ROLLBACK")):
            self._at(wire, "set_up")
            wire.say(OK)
        elif sql.startswith(b"SELECT VERSION()"):
            self._at(wire, "question")
            wire.say(*rows(b"8.0.99", b"rogue", b"7"))
        elif b"@@SESSION" in sql:
            wire.say(*rows(b"", b"SYSTEM", b"1024", b"4", b"0", b"en_US", b"UTC"))
        elif sql == b"SELECT CONNECTION_ID()":
            wire.say(*rows(b"7"))
        elif sql == b"SELECT anything":
            self._at(wire, "answer")
            wire.say(*rows(b"42"))
        else:
            wire.say(b"\xff" + struct.pack("<H", 1064) + b"#42000no")

    def _at(self, wire: Wire, phase: str) -> None:
        if phase == self.phase:
            if self.server is not None:
                self.server.sprung.set()
            self.act(wire)


# ---------------------------------------------------------------- messages


def _error(text: bytes) -> bytes:
    return b"\xff" + struct.pack("<H", 1105) + b"#HY000" + text


def _said(payload: bytes) -> Act:
    """One packet, and nothing more."""
    return lambda wire: (wire.say(payload), wire.peer.silence())[0]


def _endless_packet(wire: Wire) -> None:
    wire.flood(b"\0" * WIDEST)


def _endless_columns(wire: Wire) -> None:
    wire.say(b"\xfd\xff\xff\xff")
    wire.flood(definition(b"x" * 200))


def _endless_rows(wire: Wire) -> None:
    wire.say(b"\x01", definition(b"id", 8), EOF)
    wire.flood(b"\x0242")


def _nested_results(wire: Wire) -> None:
    wire.flood(OK_MORE)


def _half(wire: Wire) -> None:
    wire.peer.say(wire.packet(b"\0" * 100)[:50])
    wire.peer.silence()


def _wrong_number(wire: Wire) -> None:
    wire.number = (wire.number + 3) & 0xFF
    wire.say(OK)
    wire.peer.silence()


def _close(wire: Wire) -> None:
    raise Gone


def _error_then_close(wire: Wire) -> None:
    wire.say(_error(b"secret \x1b]0;OWNED\x07 {password}" + b"\xff\xfe"))
    raise Gone


MESSAGES: dict[str, Act] = {
    "silence": lambda wire: wire.peer.silence(),
    "half a packet, then silence": _half,
    "a trickle": lambda wire: wire.peer.trickle(wire.packet(b"\x02" * 20_000), 0.02),
    "end": _close,
    "reset": lambda wire: wire.peer.reset(),
    "16 MB packets without end": _endless_packet,
    "an empty packet": _said(b""),
    "a wrong number": _wrong_number,
    "another protocol": lambda wire: wire.peer.flood(b"HTTP/1.1 400 Bad Request\r\n"),
    "an error of 15 MB": _said(_error(b"boom\x1b]0;OWNED\x07" + b"y" * 15_000_000)),
    "an error with escapes, then end": _error_then_close,
    "a cut error": _said(b"\xff\x01"),
    "a file asked for": _said(b"\xfb/etc/passwd"),
    "a length beyond the packet": _said(b"\x01" + b"\xfe" + b"\xff" * 8),
    "2^32 columns": _said(b"\xfe\0\0\0\0\x01\0\0\0"),
    "no columns, NULL": _said(b"\xfb"),
    "columns without end": _endless_columns,
    "rows without end": _endless_rows,
    "results without end": _nested_results,
    "an end where a result begins": _said(EOF),
    "another switch of the login": _said(b"\xfemysql_native_password\0" + SALT + b"\0"),
    "text that is no UTF-8": lambda wire: (
        wire.say(*rows(b"\xff\xfe", b"\xff", b"\xff")),
        wire.peer.silence(),
    )[0],
}
"""What a rogue server may send at any phase."""
