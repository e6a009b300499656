"""One normal form for a value, whoever read it: what is equal here is equal by value.

bool, int (days or microseconds since 1970 for dates, times and timestamps), Decimal, str, bytes,
list; a float as its bits, every NaN the same; None. Nothing here is the product's own code.
"""

from __future__ import annotations

import re
import struct
from decimal import Decimal
from typing import Any

DAY_US = 86_400_000_000
INT64_MAX = 2**63 - 1


class _Unfit:
    """A value that the column's exported type has no place for."""

    def __repr__(self) -> str:
        return "UNFIT"


UNFIT: Any = _Unfit()


def float64(value: float) -> str:
    """The bits of a double, in hexadecimal."""
    return "NaN" if value != value else struct.pack(">d", value).hex()


def float32(value: float) -> str:
    """The bits of the nearest single, in hexadecimal."""
    if value != value:
        return "NaN"
    try:
        return struct.pack(">f", value).hex()
    except OverflowError:
        return "overflow"


def days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the proleptic Gregorian calendar; year 0 is 1 BC."""
    year -= month <= 2
    era, of_era = divmod(year, 400)
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


_DATE = re.compile(r"(-?\d+)-(\d\d)-(\d\d)")
_TIME = re.compile(r"(\d+):(\d\d):(\d\d)(?:\.(\d{1,6}))?")


def iso_date(text: str) -> int:
    """``-4712-01-01`` → days since 1970. Raises ValueError."""
    found = _DATE.fullmatch(text)
    if not found:
        raise ValueError(f"no date: {text!r}")
    return days(*(int(part) for part in found.groups()))


def clock(text: str) -> int:
    """``23:59:59.5`` → microseconds. Raises ValueError."""
    found = _TIME.fullmatch(text)
    if not found:
        raise ValueError(f"no time: {text!r}")
    hours, minutes, seconds, fraction = found.groups()
    us = int((fraction or "").ljust(6, "0"))
    return ((int(hours) * 60 + int(minutes)) * 60 + int(seconds)) * 1_000_000 + us


def iso_instant(text: str) -> int:
    """``2024-01-01T12:00:00.5`` (or with a space) → microseconds since 1970."""
    date, time = re.split("[T ]", text, maxsplit=1)
    return iso_date(date) * DAY_US + clock(time)


def decimal(text: str) -> Decimal:
    """A number as it is: digits and value; -0 is 0."""
    number = Decimal(text)
    return number if number else Decimal(0)
