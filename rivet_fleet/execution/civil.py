"""Dates and times of any year as text, in the proleptic Gregorian calendar.

Python's ``datetime`` ends at the years 1 and 9999; databases do not.
"""

from __future__ import annotations

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
