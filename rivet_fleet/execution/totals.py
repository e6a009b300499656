"""Measures of columns, exactly and whatever the order of their rows: of files, and of pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rivet_fleet.contracts.aggregates import digest_of, joined, scaled
from rivet_fleet.contracts.facts import Asked, Measure
from rivet_fleet.contracts.reconcile import Moment, Side
from rivet_fleet.execution.rowtally import Flags, RowCount, Settled
from rivet_fleet.execution.types import storage_of


class Totals:
    """The measures that are asked for, over all rows that are added."""

    def __init__(self, asked: Sequence[Asked]) -> None:
        self._asked = asked
        self._found: list[Decimal | None] = [joined(one.measure, ()) for one in asked]

    @property
    def values(self) -> tuple[Decimal | None, ...]:
        """In the order in which they are asked for."""
        return tuple(self._found)

    def add(self, columns: Mapping[str, pa.Array], settled: Flags | None = None) -> None:
        """Some rows; of them those of ``settled``, None for all."""
        kept = None if settled is None else pa.array(settled)
        plain: dict[str, pa.Array] = {}
        for place, one in enumerate(self._asked):
            name = one.column.name
            if name not in plain:
                column = storage_of(columns[name])
                if pa.types.is_dictionary(column.type):
                    column = column.dictionary_decode()
                plain[name] = column if kept is None else column.filter(kept)
            more = _measured(one.measure, plain[name])
            self._found[place] = joined(one.measure, (self._found[place], more))

    def join(self, values: Sequence[Decimal | None]) -> None:
        """What others have measured of other rows."""
        for place, (one, more) in enumerate(zip(self._asked, values, strict=True)):
            self._found[place] = joined(one.measure, (self._found[place], more))


class Measured:
    """One look at one side: its rows, counted and measured."""

    def __init__(self, asked: Sequence[Asked], settled: Settled | None) -> None:
        self._asked, self._count = asked, RowCount(settled)
        self.totals = Totals(asked)

    def add(self, columns: Mapping[str, pa.Array]) -> None:
        """Some rows of the side."""
        rows = len(next(iter(columns.values())))
        self.totals.add(columns, self._count.add(columns, rows))

    def join(self, rows: int, values: Sequence[Decimal | None]) -> None:
        """Settled rows that others have counted and measured."""
        self._count.rows += rows
        self.totals.join(values)

    def side(self, begun: Moment, ended: Moment) -> Side:
        """What is kept of the look."""
        return Side(
            rows=self._count.rows,
            unsettled=self._count.unsettled,
            begun=begun,
            ended=ended,
            digest=digest_of(self._asked, self.totals.values),
        )


def _measured(measure: Measure, column: pa.Array) -> Decimal | None:
    if measure is Measure.NULLS:
        return Decimal(column.null_count)
    values = column.drop_null()
    if not len(values):
        return None
    if measure is Measure.BYTES:
        return Decimal(pc.sum(pc.binary_length(values).cast(pa.int64())).as_py())
    if measure is Measure.SUM:
        return _sum(values)
    return _extreme(values, least=measure is Measure.LEAST)


def _extreme(values: pa.Array, *, least: bool) -> Decimal:
    if pa.types.is_floating(values.type):
        # NaN is above all numbers, as servers that have it order it.
        numbers = values.filter(pc.invert(pc.is_nan(values)))
        if not len(numbers) or (not least and len(numbers) < len(values)):
            return Decimal("NaN")
        return Decimal(repr(_end(numbers, least=least)))
    if pa.types.is_date32(values.type):
        values = values.cast(pa.int32())
    elif pa.types.is_timestamp(values.type):
        values = values.cast(pa.int64())
    return Decimal(_end(values, least=least))


def _end(values: pa.Array, *, least: bool) -> Any:
    return pc.min_max(values)["min" if least else "max"].as_py()


def _sum(values: pa.Array) -> Decimal:
    """In halves of words: no sum of 64 bits can hold any number of them."""
    kind = values.type
    if pa.types.is_boolean(kind):
        return Decimal(values.true_count)
    if pa.types.is_decimal(kind):
        return scaled(_summed(values, kind.byte_width // 8), kind.scale)
    wide = values if pa.types.is_uint64(kind) else values.cast(pa.int64())
    return Decimal(_summed(wide, 1, signed=not pa.types.is_uint64(kind)))


def _summed(values: pa.Array, words: int, *, signed: bool = True) -> int:
    data = np.frombuffer(values.buffers()[1], np.uint64)
    first = values.offset * words
    rows = data[first : first + len(values) * words].reshape(-1, words)
    total, half = 0, np.uint64(0xFFFFFFFF)
    for word in range(words):
        column = rows[:, word]
        total += int(np.sum(column & half, dtype=np.uint64)) << (64 * word)
        high = column >> np.uint64(32)
        if signed and word + 1 == words:
            upper = column.view(np.int64) >> np.int64(32)
            total += int(np.sum(upper, dtype=np.int64)) << (64 * word + 32)
        else:
            total += int(np.sum(high, dtype=np.uint64)) << (64 * word + 32)
    return total
