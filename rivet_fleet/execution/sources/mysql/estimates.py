"""Cutting a large index by the server's own estimates of how many rows a range holds.

EXPLAIN of a range reads two pages of the index and no row (MySQL manual, "Range Optimization":
index dives). The span of the leading column is split into equal pieces, the heavy ones again,
until no piece holds much more than its share; then cuts are laid at equal shares of the rows.
"""

from __future__ import annotations

import datetime
import itertools
import re
from dataclasses import dataclass
from typing import Protocol

import pymysql

from rivet_fleet.errors import StatementTimeout
from rivet_fleet.execution.engines.facts import Size
from rivet_fleet.execution.engines.session import whole
from rivet_fleet.execution.sources.mysql.border import classify, refused, told
from rivet_fleet.execution.sources.mysql.dialect import BYTES, NUMBERS, family
from rivet_fleet.execution.sources.mysql.keytext import (
    TextForm,
    bytes_literal,
    key_bytes,
    written_as_bytes,
)
from rivet_fleet.execution.sources.mysql.liveness import WatchedConnection
from rivet_fleet.execution.sources.mysql.statements import Keys

# ------------------------------------------------------------------------------------------
# Values of a column as positions on a line, and back: what can be cut in the middle.
#
# Only for choosing where to ask and where to cut; the order itself is always the server's.

_DECIMAL = re.compile(r"(-?\d{1,65})(?:\.\d+)?")
"""Of a key's text: no decimal has more digits."""
_EPOCH = datetime.datetime(1, 1, 1)
_LAST = datetime.datetime(9999, 12, 31, 23, 59, 59)
_SECOND = datetime.timedelta(seconds=1)


class Scale(Protocol):
    """A monotonous map between a column's texts and whole numbers."""

    def position(self, text: str) -> int:
        """The number of the interval the value lies in."""
        ...

    def text(self, position: int) -> str:
        """The smallest value of that interval, as ``literal`` takes it."""
        ...


@dataclass(frozen=True, slots=True)
class _Whole:
    """Integers, and decimals by their whole part."""

    def position(self, text: str) -> int:
        """The number itself."""
        match = _DECIMAL.fullmatch(text)
        return int(match[1]) if match else 0

    def text(self, position: int) -> str:
        """The number itself."""
        return str(position)


@dataclass(frozen=True, slots=True)
class _Seconds:
    """Dates and moments by their second."""

    date_only: bool

    def position(self, text: str) -> int:
        """Days or seconds since the year 1. Raises ValueError for a date that is none."""
        moment = datetime.datetime.fromisoformat(text)
        unit = datetime.timedelta(days=1) if self.date_only else _SECOND
        return (moment - _EPOCH) // unit

    def text(self, position: int) -> str:
        """The beginning of that day or second."""
        unit = datetime.timedelta(days=1) if self.date_only else _SECOND
        moment = _EPOCH + min(position, (_LAST - _EPOCH) // unit) * unit
        return moment.date().isoformat() if self.date_only else moment.isoformat(sep=" ")


@dataclass(frozen=True, slots=True)
class _Prefix:
    """Text, and bytes as hexadecimal, by the characters behind the prefix the extremes share.

    Digits and Latin letters keep their order under the usual collations; where they do not, and
    for other characters, pieces are uneven: the cuts stay cuts all the same.
    """

    prefix: str
    digits: str

    def position(self, text: str) -> int:
        """The number that the next characters spell."""
        rest = text[len(self.prefix) :].lower().ljust(_WIDTH, "\0")
        value = 0
        for character in rest[:_WIDTH]:
            below = sum(digit.lower() <= character for digit in self.digits)
            value = value * len(self.digits) + max(0, below - 1)
        return value

    def text(self, position: int) -> str:
        """The prefix and these characters."""
        if position >= len(self.digits) ** _WIDTH:
            return self.prefix + self.digits[-1] * (_WIDTH + 2)
        found = ""
        for _ in range(_WIDTH):
            position, digit = divmod(position, len(self.digits))
            found = self.digits[digit] + found
        return self.prefix + found


@dataclass(frozen=True, slots=True)
class _Coded:
    """Text that is written as its bytes, by the ASCII that its values begin with."""

    charset: str
    inner: _Prefix

    def position(self, text: str) -> int:
        """The number that the next bytes spell."""
        return self.inner.position(key_bytes(text, self.charset).decode("latin-1"))

    def text(self, position: int) -> str:
        """The prefix and ASCII characters behind it: well-formed, whatever else there is."""
        return bytes_literal(self.inner.text(position).encode("latin-1"), self.charset)


_HEX_DIGITS = "0123456789ABCDEF"
_WORD_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_WIDTH = 6
"""Characters behind the prefix that are told apart: an even number, for whole bytes."""


_WIDE = ("ucs2", "utf32")
"""Character sets without ASCII."""


def scale_of(
    native_type: str, lowest: str, highest: str, form: TextForm | None = None
) -> Scale | None:
    """The scale on which a column's values lie, None where there is none. ``form`` of a text."""
    name = family(native_type)
    if name in (*NUMBERS, "decimal"):
        return _Whole()
    if name in ("date", "datetime", "timestamp"):
        scale = _Seconds(date_only=name == "date")
        try:
            scale.position(lowest), scale.position(highest)
        except ValueError:  # A zero date has no place on a calendar.
            return None
        return scale
    if form is not None and written_as_bytes(form):
        return _coded(form.charset, lowest, highest)
    shared = _shared_prefix(lowest, highest)
    if name in BYTES:
        return _Prefix(shared[: len(shared) // 2 * 2], _HEX_DIGITS)
    if name in ("char", "varchar", "text", "tinytext"):
        return _Prefix(shared, _WORD_DIGITS)
    return None


def _coded(charset: str, lowest: str, highest: str) -> Scale | None:
    if charset in _WIDE:
        return None
    ends = (key_bytes(text, charset).decode("latin-1") for text in (lowest, highest))
    plain = itertools.takewhile(str.isascii, _shared_prefix(*ends))
    return _Coded(charset, _Prefix("".join(plain), _WORD_DIGITS))


def _shared_prefix(one: str, other: str) -> str:
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(character for character, _ in same)


PIECES = 64
ROUNDS_MAX = 12
RANGES_PER_STATEMENT = 50
RANGES_MAX = 6_000
"""Estimates asked for at most: about two seconds of the server's time, in short statements."""


class Estimator(Protocol):
    """How many rows each of these half-open ranges of positions holds, about."""

    def __call__(self, ranges: list[tuple[int, int]]) -> list[int]:
        """One number for each range."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A half-open range of positions on a scale, and the rows estimated in it."""

    low: int
    high: int
    rows: int


def range_cuts(
    connection: WatchedConnection,
    item: str,
    keys: Keys,
    column: str,
    lowest: str,
    highest: str,
    most: int,
) -> tuple[str, ...]:
    """At most ``most`` values of ``column`` that cut its rows into about equal shares, rising.
    Empty for a column whose values have no scale, and where the server gives no estimates."""
    scale = scale_of(keys.native_types[column], lowest, highest, keys.texts.get(column))
    if scale is None:
        return ()

    def estimate(ranges: list[tuple[int, int]]) -> list[int]:
        return _explained(connection, item, keys, column, scale, ranges)

    low, high = scale.position(lowest), scale.position(highest) + 1
    pieces = refine(estimate, low, high, most)
    return tuple(scale.text(position) for position in cut(pieces, most))


def refine(estimate: Estimator, low: int, high: int, most: int) -> list[Piece]:
    """Pieces of ``[low, high)``, none of which holds more than about a share, in order. Pure but
    for ``estimate``; bounded by ``RANGES_MAX`` and ``ROUNDS_MAX``."""
    done: list[Piece] = []
    open_pieces, asked = [Piece(low=low, high=high, rows=0)], 0
    for _ in range(ROUNDS_MAX):
        ranges = [one for piece in open_pieces for one in _split(piece.low, piece.high)]
        if not ranges or asked + len(ranges) > RANGES_MAX:
            break
        asked += len(ranges)
        found = [
            Piece(low=low, high=high, rows=count)
            for (low, high), count in zip(ranges, estimate(ranges), strict=True)
        ]
        total = sum(piece.rows for piece in found) + sum(piece.rows for piece in done)
        share = max(1, total // (most + 1))
        open_pieces = [one for one in found if one.rows > share and one.high - one.low > 1]
        kept = {(piece.low, piece.high) for piece in open_pieces}
        done += [piece for piece in found if (piece.low, piece.high) not in kept]
    return sorted([*done, *open_pieces], key=lambda piece: piece.low)


def _split(low: int, high: int) -> list[tuple[int, int]]:
    count = min(PIECES, high - low)
    edges = [low + (high - low) * index // count for index in range(count + 1)]
    return list(itertools.pairwise(edges))


def cut(pieces: list[Piece], most: int) -> list[int]:
    """Positions at which about equal shares of the rows end; rising, none at the first piece's
    beginning. Pure."""
    total = sum(piece.rows for piece in pieces)
    found: list[int] = []
    before, wanted = 0, 1
    for piece in pieces:
        if before * (most + 1) >= total * wanted and piece.low > pieces[0].low:
            found.append(piece.low)
            wanted = before * (most + 1) // max(1, total) + 1
        before += piece.rows
    return found[:most]


def _explained(
    connection: WatchedConnection,
    item: str,
    keys: Keys,
    column: str,
    scale: Scale,
    ranges: list[tuple[int, int]],
) -> list[int]:
    counts: list[int] = []
    for first in range(0, len(ranges), RANGES_PER_STATEMENT):
        selects = [
            f"(SELECT 1 FROM {item} WHERE {keys.span_comparison(column, '>=', scale.text(low))} "
            f"AND {keys.span_comparison(column, '<', scale.text(high))})"
            for low, high in ranges[first : first + RANGES_PER_STATEMENT]
        ]
        with connection.cursor() as cursor:
            cursor.execute("EXPLAIN FORMAT=TRADITIONAL " + " UNION ALL ".join(selects))
            names = [str(one[0]).lower() for one in cursor.description or ()]
            plan = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        steps = [row for row in plan if row["select_type"] in ("PRIMARY", "UNION", "SIMPLE")]
        known = len(steps) == len(selects)
        counts += [whole(row["rows"] or 0) for row in steps] if known else [0] * len(selects)
    return counts


def explained(connection: WatchedConnection, select: str) -> Size:
    """The optimizer's own guess: the product over the tables it joins. Unknown where the server
    refuses to tell: EXPLAIN of a view asks for privileges on all that lies beneath (errors 1345,
    1142), which such a view is there not to need."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN FORMAT=TRADITIONAL {select}")
            names = [str(one[0]).lower() for one in cursor.description or ()]
            plan = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    except pymysql.MySQLError as error:
        if not refused(error) and classify(told(error)[0]).error is not StatementTimeout:
            raise
        return Size(rows=None, provenance="none")
    outer = [row["rows"] for row in plan if row["id"] == plan[0]["id"]]
    if not outer or None in outer:
        return Size(rows=None, provenance="none")
    product = 1
    for count in outer:
        product *= max(1, whole(count))
    return Size(rows=product, provenance="explain")
