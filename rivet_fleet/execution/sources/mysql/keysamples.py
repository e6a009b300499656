"""Key facts: minimum, maximum and row quantiles of a candidate key, in the server's order.

Extremes are index look-ups. Quantiles of a table of moderate size come from walking the key's
index in bounded steps; those of a large one from the server's own estimates of index ranges
(EXPLAIN dives into the index and reads no row). Values travel as the server's own text and are
compared by the server alone: its collations are not Python's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.contracts.facts import ColumnFacts, IndexFacts, KeyFacts
from rivet_fleet.contracts.keys import KeyTuple
from rivet_fleet.execution.paging import Progress
from rivet_fleet.execution.sources.mysql.catalog import rows
from rivet_fleet.execution.sources.mysql.dialect import quote_text
from rivet_fleet.execution.sources.mysql.estimates import range_cuts
from rivet_fleet.execution.sources.mysql.keytext import UNSOUND
from rivet_fleet.execution.sources.mysql.liveness import WatchedConnection
from rivet_fleet.execution.sources.mysql.statements import Keys

WALK_ROWS_MAX = 2_000_000
"""The largest table whose index is walked: a second or two of an index that is read anyway."""
WALK_S_MAX = 15.0
WHOLE_ROWS_MAX = 20_000
"""Up to so many keys are simply all read: one statement is gentler than two for each boundary."""
ROWS_PER_BOUNDARY = 5_000
"""A boundary for fewer rows is only worth a statement where few are asked for."""
BOUNDARIES_ANYWAY = 200
STEP_ROWS_MAX = 50_000
"""Index entries one statement of the walk skips at most, so that each stays short."""
_UNORDERABLE = (
    TypeKind.FLOAT32,
    TypeKind.FLOAT64,
    TypeKind.JSON,
    # The server compares an enum with text as text, but orders it by its number; comparing
    # numbers reads the whole index.
    TypeKind.ENUM,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySource:
    """Where the keys are sampled: a FROM item that uses the key's index, if there is one.

    ``row_estimate`` None means that nothing is known and nothing is walked.
    """

    item: str
    keys: Keys
    row_estimate: int | None
    indexed: bool


def usable_keys(
    columns: tuple[ColumnFacts, ...], indexes: tuple[IndexFacts, ...]
) -> tuple[tuple[str, ...], ...]:
    """The column tuples a keyset can walk: unique, whole, ordered, NOT NULL, exact as text."""
    by_name = {column.name: column for column in columns}
    found: list[tuple[str, ...]] = []
    for index in indexes:
        sound = index.unique and index.valid and index.ready and index.ordered
        if not sound or index.partial or index.expression:
            continue
        keys = [by_name.get(name) for name in index.columns]
        if all(key is not None and not key.nullable and orderable(key) for key in keys):
            found.append(index.columns)
    return tuple(dict.fromkeys(found))


def orderable(column: ColumnFacts) -> bool:
    """True when the column's text stands exactly for its place in the order."""
    if column.collation in UNSOUND:
        return False
    return column.type is not None and column.type.kind not in _UNORDERABLE


def key_facts(
    connection: WatchedConnection,
    source: KeySource,
    columns: tuple[str, ...],
    *,
    nullable: bool,
    unique: bool,
    boundaries_max: int,
    finite: bool = False,
) -> KeyFacts:
    """Extremes and quantiles of one key. The caller bounds the time of each statement.

    ``finite``: the key is a date or a moment; its extremes are those within the calendar."""
    where = _not_null(source, columns)
    if finite:
        where = f"{source.keys.column_ref(columns[0])} >= {quote_text('0001-01-01')}"
    lowest = _extreme(connection, source, columns, where, "ASC")
    highest = _extreme(connection, source, columns, where, "DESC") if lowest else None
    boundaries: tuple[KeyTuple, ...] = ()
    provenance = "none"
    if lowest and highest and source.indexed and boundaries_max > 0:
        if source.row_estimate is not None and source.row_estimate <= WALK_ROWS_MAX:
            boundaries = _walk(connection, source, columns, lowest, boundaries_max)
            provenance = "sample"
        else:
            boundaries = _estimated(connection, source, columns, lowest, highest, boundaries_max)
            provenance = "histogram"
    return KeyFacts(
        columns=columns,
        minimum=lowest,
        maximum=highest,
        boundaries=boundaries,
        provenance=provenance if boundaries else "none",
        has_nulls=nullable and _has_nulls(connection, source, columns),
        unique=unique,
    )


def _texts(source: KeySource, columns: tuple[str, ...]) -> str:
    return ", ".join(source.keys.text_expression(name) for name in columns)


def _not_null(source: KeySource, columns: tuple[str, ...]) -> str:
    return " AND ".join(f"{source.keys.column_ref(name)} IS NOT NULL" for name in columns)


def _extreme(
    connection: WatchedConnection,
    source: KeySource,
    columns: tuple[str, ...],
    where: str,
    direction: str,
) -> KeyTuple | None:
    order = ", ".join(f"{source.keys.column_ref(name)} {direction}" for name in columns)
    found = rows(
        connection,
        f"SELECT {_texts(source, columns)} FROM {source.item} "
        f"WHERE {where} ORDER BY {order} LIMIT 1",
    )
    return found[0] if found else None


def step(
    connection: WatchedConnection,
    source: KeySource,
    columns: tuple[str, ...],
    after: tuple[KeyTuple | None, str, int],
) -> KeyTuple | None:
    """One step of a walk; see ``keywalk.KeyAt``."""
    key, operator, skip = after
    where = _not_null(source, columns)
    if key is not None:
        where = source.keys.row_comparison(columns, operator, key)
    return _key_at(connection, source, columns, where, skip)


def count_between(
    connection: WatchedConnection, source: KeySource, column: str, window: tuple[int, int, int]
) -> int:
    """Rows with a key in ``[low, high)``, counted up to ``most``."""
    low, high, most = window
    where = " AND ".join(
        source.keys.span_comparison(column, operator, str(value))
        for operator, value in ((">=", low), ("<", high))
    )
    sql = f"SELECT count(*) FROM (SELECT 1 FROM {source.item} WHERE {where} LIMIT {most}) AS w"
    return int(rows(connection, sql)[0][0])


def _has_nulls(connection: WatchedConnection, source: KeySource, columns: tuple[str, ...]) -> bool:
    where = " OR ".join(f"{source.keys.column_ref(name)} IS NULL" for name in columns)
    return bool(rows(connection, f"SELECT 1 FROM {source.item} WHERE {where} LIMIT 1"))


def _key_at(
    connection: WatchedConnection,
    source: KeySource,
    columns: tuple[str, ...],
    where: str,
    skip: int,
) -> KeyTuple | None:
    """The key ``skip`` rows behind the first one that ``where`` lets through."""
    found = rows(
        connection,
        f"SELECT {_texts(source, columns)} FROM {source.item} WHERE {where} "
        f"ORDER BY {source.keys.key_list(columns)} LIMIT 1 OFFSET {skip}",
    )
    return found[0] if found else None


def _all_keys(
    connection: WatchedConnection, source: KeySource, columns: tuple[str, ...], rows_max: int
) -> list[KeyTuple] | None:
    """All different keys, rising; None when there are ``rows_max`` rows or more."""
    found = rows(
        connection,
        f"SELECT {_texts(source, columns)} FROM {source.item} "
        f"WHERE {_not_null(source, columns)} ORDER BY {source.keys.key_list(columns)} "
        f"LIMIT {rows_max}",
    )
    return list(dict.fromkeys(found)) if len(found) < rows_max else None


def _walk(
    connection: WatchedConnection,
    source: KeySource,
    columns: tuple[str, ...],
    lowest: KeyTuple,
    most: int,
) -> tuple[KeyTuple, ...]:
    """Every n-th key. A walk that takes too long is given up: half of it would be a lie."""
    estimate = max(1, source.row_estimate or 1)
    if estimate <= WHOLE_ROWS_MAX:
        keys = _all_keys(connection, source, columns, 2 * WHOLE_ROWS_MAX)
        if keys is not None:
            return _thin(keys[1:], most)
    most = min(most, max(BOUNDARIES_ANYWAY, estimate // ROWS_PER_BOUNDARY))
    # The estimate may be far off: small steps, thinned afterwards.
    step = max(1, min(STEP_ROWS_MAX, estimate // (2 * most)))
    found: list[KeyTuple] = []
    last, began_s, progress = lowest, time.monotonic(), Progress(columns)
    while True:
        where = source.keys.row_comparison(columns, ">", last)
        key = _key_at(connection, source, columns, where, step - 1)
        if key is None:
            return _thin(found, most)
        if time.monotonic() - began_s > WALK_S_MAX or len(found) * step > 4 * WALK_ROWS_MAX:
            return ()
        found.append(key)
        _, last = progress.to(">", key)
        if len(found) >= 4 * most:
            found, step = found[1::2], step * 2


def _thin(found: list[KeyTuple], most: int) -> tuple[KeyTuple, ...]:
    """At most ``most`` of the keys, evenly spaced."""
    if len(found) <= most:
        return tuple(found)
    return tuple(found[(2 * i + 1) * len(found) // (2 * most)] for i in range(most))


def _estimated(
    connection: WatchedConnection,
    source: KeySource,
    columns: tuple[str, ...],
    lowest: KeyTuple,
    highest: KeyTuple,
    most: int,
) -> tuple[KeyTuple, ...]:
    """Cuts of the leading column by the server's estimates, each moved to the key behind it."""
    lead = columns[0]
    cuts = range_cuts(
        connection,
        source.item,
        source.keys,
        lead,
        lowest[0],
        highest[0],
        most,
    )
    found: list[KeyTuple] = []
    for cut in cuts:
        where = source.keys.span_comparison(lead, ">=", cut)
        if found:
            behind = source.keys.row_comparison(columns, ">", found[-1])
            where = f"{where} AND {behind}"
        key = _key_at(connection, source, columns, where, 0)
        if key is not None and key != lowest:
            found.append(key)
    return tuple(found)
