"""How densely a whole-number key is filled: bounded counts in windows spread over its span.

Asked for by ``check --probe``, and made only where the catalogue's number is doubtful (inventory
§5.11). Each window is one statement over at most ``WINDOW_KEYS`` values of an index.
"""

from __future__ import annotations

from collections.abc import Callable

from rivet_fleet.contracts.facts import ProbedDensity

WINDOWS = 50
WINDOW_KEYS = 10_000
ROWS_MAX = 4 * WINDOW_KEYS
"""Rows one window counts at most: values may repeat."""
SMALL_ROWS = 50_000
SPAN_FACTOR = 4
_GOLDEN = 0.618_033_988_749_895

CountBetween = Callable[[int, int, int], int]
"""``(first, end, most)``: how many rows have a key in ``[first, end)``, counted up to ``most``."""


def worth_probing(rows: int | None, provenance: str, span: int) -> bool:
    """False for a small table, and where the span and the statistics agree."""
    if rows is None or provenance != "statistics":
        return True
    return rows >= SMALL_ROWS and span > SPAN_FACTOR * rows


def probe_windows(minimum: int, maximum: int) -> list[tuple[int, int]]:
    """Half-open windows, one in each of ``WINDOWS`` equal strata, at places that follow no
    period. The same for the same extremes."""
    span = maximum - minimum + 1
    strata = min(WINDOWS, span)
    found = []
    for i in range(strata):
        first = minimum + span * i // strata
        room = minimum + span * (i + 1) // strata - first
        width = min(WINDOW_KEYS, room)
        offset = int(((i + 1) * _GOLDEN % 1.0) * (room - width))
        found.append((first + offset, first + offset + width))
    return found


def probe(count_between: CountBetween, minimum: int, maximum: int) -> ProbedDensity:
    """Count every window. The caller bounds the time of each statement."""
    rows = keys = 0
    for first, end in probe_windows(minimum, maximum):
        rows += count_between(first, end, ROWS_MAX)
        keys += end - first
    return ProbedDensity(rows=rows, keys=keys)
