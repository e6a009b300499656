"""Smallest and largest values of a part's columns, for the manifest.

Kept where finding them is one cheap pass: integers, dates, times of day and timestamps. Formats
report them as the integers that Arrow stores; the text of any year is made here.
"""

from __future__ import annotations

import pyarrow as pa

from rivet_fleet.contracts.civil import date_text, time_text, timestamp_text

_UNITS_A_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def is_ordered(kind: pa.DataType) -> bool:
    """True for types whose extremes are kept."""
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_date32(kind)
        or pa.types.is_time64(kind)
        or pa.types.is_timestamp(kind)
    )


class Extremes:
    """Smallest and largest stored integer per column of one part."""

    def __init__(self, schema: pa.Schema) -> None:
        self._types = {field.name: field.type for field in schema if is_ordered(field.type)}
        self._seen: dict[str, tuple[int, int]] = {}

    @property
    def names(self) -> frozenset[str]:
        """The columns whose extremes are kept."""
        return frozenset(self._types)

    def widen(self, name: str, low: int, high: int) -> None:
        """Some rows of an ordered column lie between ``low`` and ``high``, both among them."""
        seen = self._seen.get(name)
        self._seen[name] = (low, high) if seen is None else (min(seen[0], low), max(seen[1], high))

    def texts(self) -> dict[str, tuple[str, str]]:
        """Column → smallest and largest value as text; columns without any value are left out."""
        return {
            name: (_text(self._types[name], low), _text(self._types[name], high))
            for name, (low, high) in self._seen.items()
        }


def _text(kind: pa.DataType, stored: int) -> str:
    if pa.types.is_date32(kind):
        return date_text(stored)
    if pa.types.is_time64(kind):
        return time_text(_micros(stored, kind.unit))
    if pa.types.is_timestamp(kind):
        zone = "Z" if kind.tz is not None else ""
        return timestamp_text(_micros(stored, kind.unit), separator=" ") + zone
    return str(stored)


def _micros(stored: int, unit: str) -> int:
    return stored * 1_000_000 // _UNITS_A_SECOND[unit]
