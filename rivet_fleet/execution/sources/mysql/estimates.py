"""Cutting a large index by the server's own estimates of how many rows a range holds.

EXPLAIN of a range reads two pages of the index and no row (MySQL manual, "Range Optimization":
index dives). The span of the leading column is split into equal pieces, the heavy ones again,
until no piece holds much more than its share; then cuts are laid at equal shares of the rows.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Protocol

import pymysql

from rivet_fleet.errors import StatementTimeout
from rivet_fleet.execution.sources.mysql.border import refused, told
from rivet_fleet.execution.sources.mysql.errnos import classify
from rivet_fleet.execution.sources.mysql.liveness import WatchedConnection
from rivet_fleet.execution.sources.mysql.scales import Scale, scale_of
from rivet_fleet.execution.sources.mysql.statements import Keys

PIECES = 64
ROUNDS_MAX = 12
RANGES_PER_STATEMENT = 50
RANGES_MAX = 6_000
"""Estimates asked for at most: about two seconds of the server's time, in short statements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much there is, and who says so."""

    rows: int | None
    provenance: str
    width_bytes: int | None = None


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
        counts += [int(row["rows"] or 0) for row in steps] if known else [0] * len(selects)
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
        product *= max(1, int(count))
    return Size(rows=product, provenance="explain")
