"""What can be said of a column without looking at its rows one by one (ADR 0030). Pure.

One table for all engines: a measure is compared only where server and file mean the same by it.
Sums over floating numbers depend on their order, extremes of texts on a collation: neither is here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from decimal import Context, Decimal, InvalidOperation

from rivet_fleet.contracts.columns import INTEGERS, MOMENTS, ColumnSpec, Fidelity, TypeKind
from rivet_fleet.contracts.facts import Asked, Measure

_EXTREMES = (Measure.LEAST, Measure.MOST)
_MEASURES: dict[TypeKind, tuple[Measure, ...]] = {
    TypeKind.BOOL: (Measure.SUM,),
    **dict.fromkeys((*INTEGERS, TypeKind.DECIMAL), (*_EXTREMES, Measure.SUM)),
    TypeKind.FLOAT64: _EXTREMES,
    **dict.fromkeys(MOMENTS, _EXTREMES),
    TypeKind.STRING: (Measure.BYTES,),
    TypeKind.BINARY: (Measure.BYTES,),
}
"""Besides NULLs. A ``float32`` has none: not every server writes one that reads back the same.
``sum`` of a bool counts those that are true; extremes of moments are microseconds since 1970, of
dates days."""


def measures_of(column: ColumnSpec) -> tuple[Measure, ...]:
    """What is compared of a column: of one that is cast, or does not keep its values, the NULLs."""
    exact = column.cast is None and column.type.fidelity is Fidelity.EXACT
    return (Measure.NULLS, *(_MEASURES.get(column.type.kind, ()) if exact else ()))


def asked_of(columns: Iterable[ColumnSpec]) -> tuple[Asked, ...]:
    """All measures of these columns, in one order for both sides."""
    return tuple(
        Asked(column=column, measure=measure)
        for column in columns
        for measure in measures_of(column)
    )


def differing(
    asked: Iterable[Asked], one: Iterable[Decimal | None], other: Iterable[Decimal | None]
) -> dict[str, tuple[str, ...]]:
    """The measures in which two sides differ, by column."""
    found: dict[str, tuple[str, ...]] = {}
    for each, left, right in zip(asked, one, other, strict=True):
        if written(left) != written(right):
            name = each.column.name
            found[name] = (*found.get(name, ()), each.measure.value)
    return found


_EXACT = Context(prec=1_000, traps=[InvalidOperation])
"""Wider than any sum of decimals of 76 digits."""


def joined(measure: Measure, values: Iterable[Decimal | None]) -> Decimal | None:
    """One measure of rows whose measure is known piece by piece: None where no piece has a value,
    zero where what is summed has none. NaN is above all numbers, and any sum with it is it."""
    known = [one for one in values if one is not None]
    if measure in _EXTREMES:
        choose = min if measure is Measure.LEAST else max
        return choose(known, key=_place, default=None)
    total = Decimal(0)
    for one in known:
        if one.is_nan() or (one.is_infinite() and total.is_infinite() and one != total):
            return Decimal("NaN")
        total = _EXACT.add(total, one)
    return total


def scaled(number: int, scale: int) -> Decimal:
    """So many units of the ``scale``-th digit behind the point, however long."""
    return Decimal(number).scaleb(-scale, _EXACT)


def _place(value: Decimal) -> tuple[bool, Decimal]:
    return value.is_nan(), Decimal(0) if value.is_nan() else value


def written(value: Decimal | None) -> str:
    """One spelling for equal numbers; the sign of a zero is none."""
    if value is None:
        return ""
    if not value.is_finite():
        return "NaN" if value.is_nan() else str(value)
    return format(value.normalize(_EXACT), "f") if value else "0"


def digest_of(asked: Iterable[Asked], values: Iterable[Decimal | None]) -> str:
    """16 hex digits that add up: of ranges together it is the sum of theirs. What does not add up
    (extremes, NaN) is not in it."""
    total = 0
    for one, value in zip(asked, values, strict=True):
        if one.measure in _EXTREMES or value is None or not value.is_finite():
            continue
        scale = one.column.type.scale or 0
        name = f"{one.column.name}\0{one.measure.value}".encode()
        weight = int.from_bytes(hashlib.sha256(name).digest()[:8], "big") | 1
        total += weight * int(value.scaleb(max(scale, 0), _EXACT))
    return f"{total % 2**64:016x}"


def measures_plain(columns: Iterable[ColumnSpec]) -> Mapping[str, list[str]]:
    """What is compared of each column, as plain JSON."""
    return {one.name: [measure.value for measure in measures_of(one)] for one in columns}
