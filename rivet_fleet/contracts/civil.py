"""Dates and times of any year as text, in the proleptic Gregorian calendar.

Python's ``datetime`` ends at the years 1 and 9999; databases do not.
"""

from __future__ import annotations

import re

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US


def date_text(days: int) -> str:
    """``YYYY-MM-DD`` of a day counted from 1970-01-01; years beyond 9999 and before 0 (which is
    1 BC) are written signed and unpadded."""
    shifted = days + 719_468
    era, day_of_era = divmod(shifted, 146_097)
    year = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    month_index = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month_index + 2) // 5 + 1
    month = month_index + 3 if month_index < 10 else month_index - 9
    full_year = year + era * 400 + (1 if month <= 2 else 0)
    sign = "-" if full_year < 0 else ""
    return f"{sign}{abs(full_year):04d}-{month:02d}-{day:02d}"


def time_text(micros: int) -> str:
    """``HH:MM:SS.ffffff`` of microseconds since midnight; the hour may be 24 or more."""
    seconds, fraction = divmod(micros, SECOND_US)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{fraction:06d}"


def timestamp_text(micros: int, *, separator: str = "T") -> str:
    """Date and time of microseconds since 1970-01-01 00:00."""
    days, rest = divmod(micros, DAY_US)
    return f"{date_text(days)}{separator}{time_text(rest)}"


_CIVIL = re.compile(
    r"(?P<year>\d{4,9})-(?P<month>\d\d)-(?P<day>\d\d)"
    r"(?:[ T](?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)(?:\.(?P<fraction>\d{1,6}))?)?"
    r"(?:\+00(?::?00)?)?(?P<bc> BC)?"
)


def days_of(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01; the year 0 is 1 BC. A day beyond its month counts on."""
    shifted = year - (month <= 2)
    era, year_of_era = divmod(shifted, 400)
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * 146_097 + day_of_era - 719_468


def year_month_of(days: int) -> tuple[int, int]:
    """The year (0 is 1 BC) and the month of a day counted from 1970-01-01."""
    year, month, _ = date_text(days).rsplit("-", 2)
    return int(year), int(month)


def micros_of(text: str) -> int:
    """Microseconds since 1970-01-01 00:00 of a date or a moment in UTC as servers write it:
    ``2024-02-29``, ``0044-03-15 12:00:00 BC``, ``2024-01-01 00:00:00.5+00``.

    Month and day 00 (MySQL) count as the first. Raises ValueError for anything else, such as
    ``infinity``: nothing is guessed.
    """
    found = _CIVIL.fullmatch(text.strip())
    if found is None:
        raise ValueError("neither a date nor a moment in UTC")
    year = int(found["year"])
    days = days_of(
        1 - year if found["bc"] else year, max(1, int(found["month"])), max(1, int(found["day"]))
    )
    hours, minutes, seconds = (int(found[one] or 0) for one in ("hour", "minute", "second"))
    fraction = int((found["fraction"] or "0").ljust(6, "0"))
    return days * DAY_US + ((hours * 60 + minutes) * 60 + seconds) * SECOND_US + fraction


def server_date(days: int) -> str:
    """The day as servers read it: ``2024-02-29``, ``0044-03-15 BC``."""
    text = date_text(days)
    year, rest = year_month_of(days)[0], text[-6:]
    return f"{1 - year:04d}{rest} BC" if year <= 0 else f"{year:04d}{rest}"


def server_moment(micros: int, *, zone: str = "") -> str:
    """The moment as servers read it; ``zone`` is ``+00:00`` for one with a time zone."""
    days, rest = divmod(micros, DAY_US)
    day, _, era = server_date(days).partition(" ")
    clock = time_text(rest).removesuffix(".000000")
    return f"{day} {clock}{zone}" + (f" {era}" if era else "")
