"""Walking a key's index in bounded statements: exact row percentiles, for every engine.

Used when a plan asks for chunks of exactly so many rows (``chunk_dense``, ADR 0012). Nothing is
numbered and nothing is sorted: each step skips a bounded number of index entries.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Sequence

from rivet_fleet.contracts.facts import ProbedDensity
from rivet_fleet.contracts.keys import KeyTuple, RelationName
from rivet_fleet.execution.paging import Progress

KeyAt = Callable[[KeyTuple | None, str, int], KeyTuple | None]
"""``(from, operator, skip)``: the key ``skip`` entries behind the first one that is
``operator from``; from the very beginning when ``from`` is None. None when there is none."""

STEP_ROWS_MAX = 50_000
"""Index entries one statement skips at most, so that each stays short."""
WALK_S_MAX = 600.0
WALKED_BOUNDARIES_MAX = 50_000
"""As many chunks as a plan may have."""


def walk_keys(
    key_at: KeyAt,
    *,
    columns: tuple[str, ...],
    every: int,
    boundaries_max: int,
    step_max: int = STEP_ROWS_MAX,
    now_s: Callable[[], float] = time.monotonic,
) -> tuple[KeyTuple, ...] | None:
    """Every ``every``-th key, rising: each but the last range holds exactly so many rows of a
    unique key. Equal keys stay together, so ranges of others may be smaller or larger by one run.

    At most ``boundaries_max``; None when it takes longer than ``WALK_S_MAX``. Raises
    MalformedData when the walk comes back to a key it has passed.
    """
    began_s = now_s()
    at, progress = key_at(None, ">=", 0), Progress(columns)
    found: list[KeyTuple] = []
    while at is not None and len(found) < boundaries_max:
        begin, rest = at, every
        while at is not None and rest > 0:
            if now_s() - began_s > WALK_S_MAX:
                return None
            step = min(rest, step_max)
            ahead = key_at(at, ">=", step)
            at = key_at(at, ">", 0) if ahead == at else ahead
            if at is not None:
                progress.to(">", at)
            rest -= step
        if at is not None and at != begin:
            found.append(at)
    return tuple(found)


# ------------------------------------------------------------------------------------------
# How densely a whole-number key is filled: bounded counts in windows spread over its span.
#
# Asked for by ``check --probe``, and made only where the catalogue's number is doubtful
# (Rivet: Discovery). Each window is one statement over at most ``WINDOW_KEYS`` values of an index.

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


# ------------------------------------------------------------------------------------------
# Which relations a name that is not there may have meant.

SHOWN = 3


def close_relations(wanted: RelationName, listed: Sequence[RelationName]) -> str | None:
    """The sentence "did you mean …?" with three of ``listed`` at most; None when none is close.

    ``wanted`` has the schema it was looked for in. What lies in that schema comes before any
    namesake elsewhere: a server often holds a dozen copies of one application.
    """

    def likeness(relation: RelationName) -> float:
        return difflib.SequenceMatcher(None, str(wanted), str(relation)).ratio()

    folded = wanted.name.lower()
    near = difflib.get_close_matches(wanted.name, {each.name for each in listed}, n=SHOWN)
    close = [each for each in listed if each.name.lower() == folded or each.name in near]
    close.sort(
        key=lambda each: (
            each.schema != wanted.schema,
            each.name.lower() != folded,
            -likeness(each),
            str(each),
        )
    )
    return f"did you mean {', '.join(map(str, close[:SHOWN]))}?" if close else None
