"""Hours of the day in which a source group may run. Pure; the clock is an argument."""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from rivet_fleet.contracts.protection import HoursPlan

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)")
_DAYS_AHEAD = 8


def parse_window(text: str) -> tuple[int, int]:
    """``HH:MM-HH:MM`` as minutes of the day; an end that is not later is on the next day.
    Raises ValueError."""
    found = _WINDOW.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no window such as 22:00-06:00")
    hours = [int(part) for part in found.groups()]
    begin, end = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
    if end > 24 * 60:
        raise ValueError(f"{text!r} ends after midnight: write 00:00 or later of the next day")
    return begin, end if end > begin else end + 24 * 60


def opens_in_s(hours: HoursPlan, now_s: float) -> float:
    """Seconds until the group may run: 0 inside a window. ``now_s`` is epoch seconds."""
    zone = ZoneInfo(hours.time_zone)
    today = datetime.fromtimestamp(now_s, zone).date()
    soonest = float("inf")
    for ahead in range(-1, _DAYS_AHEAD):
        day = today + timedelta(days=ahead)
        if hours.days and DAYS[day.weekday()] not in hours.days:
            continue
        for window in hours.windows:
            begin, end = parse_window(window)
            begins_s, ends_s = _at(day, begin, zone), _at(day, end, zone)
            if begins_s <= now_s < ends_s:
                return 0.0
            if begins_s > now_s:
                soonest = min(soonest, begins_s - now_s)
    return soonest


def _at(day: date, minutes: int, zone: ZoneInfo) -> float:
    """Wall-clock minutes of a day as epoch seconds: a change of the clocks moves the window."""
    days, minute = divmod(minutes, 24 * 60)
    wall = datetime.combine(day + timedelta(days=days), time(minute // 60, minute % 60), zone)
    return wall.timestamp()
