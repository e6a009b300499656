"""Between a client and an honest server: one result of many comes in another shape.

All else passes as it is, so that a verb gets as far as its last question. Formats: PostgreSQL
manual, "Message Formats"; MySQL internals manual, "Text Resultset".
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from rivet_fleet.contracts.url import DatabaseUrl
from tests.rogue.tcp import Gone, Peer, rogue

Cell = bytes | None


@dataclass(frozen=True, slots=True)
class Kinds:
    """The codes of an engine's types."""

    text: int
    whole: int
    decimal: int
    double: int


@dataclass(frozen=True, slots=True)
class Result:
    """Rows as text. ``columns``: how the server describes each, its type's code apart."""

    columns: tuple[bytes, ...]
    types: tuple[int, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def told(self, cell: Cell, kind: int) -> Result:
        """Every cell this one, of this type; a row where there was none."""
        count = len(self.columns)
        return replace(
            self, types=(kind,) * count, rows=((cell,) * count,) * max(len(self.rows), 1)
        )

    def column(self, cell: Cell) -> Result:
        """A column more; of none, none."""
        if not self.columns:
            return self
        rows = tuple((*row, cell) for row in self.rows)
        return Result((*self.columns, self.columns[0]), (*self.types, self.types[0]), rows)

    def less(self) -> Result:
        """A column less, where there are two."""
        if len(self.columns) < 2:
            return self.column(b"1")
        return Result(self.columns[1:], self.types[1:], tuple(row[1:] for row in self.rows))


def _twice(one: Result) -> Result:
    return replace(one, rows=one.rows * 2)


Shape = Callable[[Result, Kinds], Result]

SHAPES: dict[str, Shape] = {
    "no row": lambda one, _: replace(one, rows=()),
    "rows twice": lambda one, kinds: _twice(one if one.rows else one.told(b"1", kinds.text)),
    "NULL": lambda one, _: replace(one.told(None, 0), types=one.types),
    "text": lambda one, kinds: one.told(b"x'\"\xc3\xa9", kinds.text),
    "nothing": lambda one, kinds: one.told(b"", kinds.text),
    "no UTF-8": lambda one, kinds: one.told(b"\xff\xfe", kinds.text),
    "a whole number": lambda one, kinds: one.told(b"-1", kinds.whole),
    "a huge number": lambda one, kinds: one.told(b"9" * 30, kinds.decimal),
    "a power of ten": lambda one, kinds: one.told(b"1e999999", kinds.decimal),
    "no number": lambda one, kinds: one.told(b"nan", kinds.double),
    "a column more": lambda one, _: one.column(b"1"),
    "a column less": lambda one, _: one.less(),
}


class Between(ABC):
    """The way to ``where``, on which the result of one number comes in one shape. ``met``: how many
    came since ``arm``."""

    kinds: ClassVar[Kinds]

    def __init__(self, where: DatabaseUrl) -> None:
        self._where = where
        self.arm(-1, SHAPES["no row"])

    def arm(self, of: int, shape: Shape) -> None:
        """From now on."""
        self.met, self._of, self._shape = 0, of, shape

    def __call__(self, peer: Peer) -> None:
        host, port = self._where.host or "127.0.0.1", self._where.port or 0
        with socket.create_connection((host, port)) as link:
            for one in (link, peer.link):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            far = Peer(link, threading.Event())
            asks = threading.Thread(target=self._pass, args=(self.asks, peer, far), daemon=True)
            asks.start()
            self._pass(self.answers, far, peer)
            asks.join()

    @staticmethod
    def _pass(way: Callable[[Peer, Peer], None], here: Peer, there: Peer) -> None:
        try:
            with contextlib.suppress(Gone):
                while True:
                    here.received.clear()
                    way(here, there)
        finally:
            for peer in (here, there):
                with contextlib.suppress(OSError):
                    peer.link.shutdown(socket.SHUT_RDWR)

    def reshaped(self, result: Result) -> Result:
        """The result as it is to come."""
        number, self.met = self.met, self.met + 1
        return self._shape(result, self.kinds) if number == self._of else result

    @abstractmethod
    def asks(self, client: Peer, server: Peer) -> None:
        """Pass something that the client says."""

    @abstractmethod
    def answers(self, server: Peer, client: Peer) -> None:
        """Pass something that the server says."""


class BetweenPostgres(Between):
    """Holds each result until its end."""

    kinds = Kinds(text=25, whole=20, decimal=1700, double=701)

    def __init__(self, where: DatabaseUrl) -> None:
        super().__init__(where)
        self._held: Result | None = None

    def asks(self, client: Peer, server: Peer) -> None:
        server.say(_some(client))

    def answers(self, server: Peer, client: Peer) -> None:
        head = server.take(5)
        kind, body = head[:1], server.take(int.from_bytes(head[1:], "big") - 4)
        if kind == b"T":
            self._held = _described(body)
        elif kind == b"D" and self._held is not None:
            self._held = replace(self._held, rows=(*self._held.rows, _row(body)))
        else:
            if self._held is not None and kind in (b"C", b"E"):
                client.say(_result(self.reshaped(self._held)))
            if kind in (b"C", b"E", b"Z"):
                self._held = None
            client.say(head + body)


def _some(peer: Peer) -> bytes:
    try:
        found = peer.link.recv(65_536)
    except OSError:
        raise Gone from None
    if not found:
        raise Gone
    return found


def _described(body: bytes) -> Result:
    columns, types, at = [], [], 2
    for _ in range(int.from_bytes(body[:2], "big")):
        ends = body.index(b"\0", at) + 19
        columns.append(body[at:ends])
        types.append(int.from_bytes(body[ends - 12 : ends - 8], "big"))
        at = ends
    return Result(tuple(columns), tuple(types), ())


def _row(body: bytes) -> tuple[Cell, ...]:
    cells: list[Cell] = []
    at = 2
    for _ in range(int.from_bytes(body[:2], "big")):
        (size,) = struct.unpack_from(">i", body, at)
        at += 4
        cells.append(None if size < 0 else body[at : at + size])
        at += max(size, 0)
    return tuple(cells)


def _result(result: Result) -> bytes:
    described = [
        column[:-12] + struct.pack(">I", kind) + column[-8:]
        for column, kind in zip(result.columns, result.types, strict=True)
    ]
    said = [_message(b"T", len(described), described)]
    for row in result.rows:
        cells = (
            b"\xff\xff\xff\xff" if cell is None else struct.pack(">I", len(cell)) + cell
            for cell in row
        )
        said.append(_message(b"D", len(row), list(cells)))
    return b"".join(said)


def _message(kind: bytes, count: int, pieces: list[bytes]) -> bytes:
    body = struct.pack(">H", count) + b"".join(pieces)
    return kind + struct.pack(">I", len(body) + 4) + body


_QUERY = 0x03
_EOF = 0xFE
_SHORT = 9


class BetweenMysql(Between):
    """Takes each answer to a query packet by packet."""

    kinds = Kinds(text=253, whole=8, decimal=246, double=5)

    def __init__(self, where: DatabaseUrl) -> None:
        super().__init__(where)
        self._command = 0
        self._logged_in = False

    def __call__(self, peer: Peer) -> None:
        self._command, self._logged_in = 0, False
        super().__call__(peer)

    def asks(self, client: Peer, server: Peer) -> None:
        number, body = _packet(client)
        if number == 0 and self._logged_in:
            self._command = body[0]
        server.say(_framed(number, body))

    def answers(self, server: Peer, client: Peer) -> None:
        number, body = _packet(server)
        if number > 1 and body[:1] == b"\0":
            self._logged_in = True
        plain = self._command != _QUERY or number != 1 or body[:1] in (b"\0", b"\xff", b"\xfb")
        if plain:
            client.say(_framed(number, body))
            return
        result, end = self._taken(server, body[0])
        made = self.reshaped(result)
        packets = [bytes((len(made.columns),)), *map(_definition, made.columns, made.types)]
        packets += [b"\xfe\0\0\x02\0", *(b"".join(map(_lenenc, row)) for row in made.rows), end]
        client.say(b"".join(_framed(n, one) for n, one in enumerate(packets, 1)))

    @staticmethod
    def _taken(server: Peer, count: int) -> tuple[Result, bytes]:
        columns = [_packet(server)[1] for _ in range(count)]
        _packet(server)
        rows = []
        while True:
            _, body = _packet(server)
            if body[:1] == b"\xff" or (body[0] == _EOF and len(body) < _SHORT):
                types = tuple(column[-6] for column in columns)
                return Result(tuple(columns), types, tuple(rows)), body
            rows.append(_cells(body))


def _packet(peer: Peer) -> tuple[int, bytes]:
    head = peer.take(4)
    return head[3], peer.take(int.from_bytes(head[:3], "little"))


def _framed(number: int, body: bytes) -> bytes:
    return struct.pack("<I", len(body))[:3] + bytes((number & 0xFF,)) + body


def _definition(column: bytes, kind: int) -> bytes:
    return column[:-6] + bytes((kind,)) + column[-5:]


_LONG = {0xFC: 2, 0xFD: 3, 0xFE: 8}


def _cells(body: bytes) -> tuple[Cell, ...]:
    cells: list[Cell] = []
    at = 0
    while at < len(body):
        size, at = body[at], at + 1
        if size == 0xFB:
            cells.append(None)
            continue
        if size in _LONG:
            width = _LONG[size]
            size, at = int.from_bytes(body[at : at + width], "little"), at + width
        cells.append(body[at : at + size])
        at += size
    return tuple(cells)


def _lenenc(cell: Cell) -> bytes:
    if cell is None:
        return b"\xfb"
    size = len(cell)
    if size < 0xFB:
        return bytes((size,)) + cell
    return b"\xfd" + struct.pack("<I", size)[:3] + cell


BETWEEN: dict[str, type[Between]] = {
    "postgresql": BetweenPostgres,
    "mysql": BetweenMysql,
}


@contextlib.contextmanager
def between(where: DatabaseUrl) -> Iterator[tuple[Between, DatabaseUrl]]:
    """The way to a server for the length of a block, and the URL that leads there."""
    kind = BETWEEN.get(where.scheme, BetweenMysql)
    way = kind(where)
    with rogue(way) as server:
        yield way, replace(where, host="127.0.0.1", port=server.port)
