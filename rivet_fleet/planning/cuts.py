"""Where one key is cut: from the source's own samples, in numbers also between them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from rivet_fleet.contracts.facts import WALKED, KeyFacts, SourceFacts
from rivet_fleet.contracts.keys import ChunkRange, KeyTuple
from rivet_fleet.planning.candidates import named
from rivet_fleet.planning.chunker import integer_cuts, quantile_cuts, whole_range
from rivet_fleet.planning.config_models import CHUNKS_MAX
from rivet_fleet.planning.problems import DAYS_INVALID
from rivet_fleet.planning.scales import Scale, anchors_of, scale_of
from rivet_fleet.planning.sizing import CHUNKS_UNKNOWN, Sizing, believable_rows, chunk_count


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why the export cannot be divided as the configuration wants it."""

    setting: str
    reason: str
    suggestion: str | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The decision: ranges that are a partition of the rows, each with its estimate."""

    strategy: str
    reason: str
    ranges: tuple[ChunkRange, ...]
    estimates: tuple[int | None, ...]
    warnings: tuple[str, ...] = ()


def whole_choice(reason: str) -> Choice:
    """Everything in one chunk."""
    return Choice(strategy="whole", reason=reason, ranges=tuple(whole_range()), estimates=(None,))


def cuts_for(
    facts: SourceFacts, columns: tuple[str, ...], key: KeyFacts | None, sizing: Sizing
) -> tuple[list[KeyTuple] | Refusal, list[str]]:
    """Where to cut: sampled quantiles; for numbers and moments also points between them."""
    rows = believable_rows(facts, key)
    if sizing.count == 1:
        return [], []
    if sizing.dense:
        return _dense_cuts(columns, key, facts, sizing)
    scale = scale_of(facts, columns)
    if scale is not None:
        return _scaled_cuts(columns[0], key, sizing, rows, scale)
    samples = key.boundaries if key else ()
    unknown = min(CHUNKS_UNKNOWN, len(samples) + 1)
    count, warnings = chunk_count(sizing, rows, unknown)
    cuts = quantile_cuts(samples, key.minimum if key else None, count)
    if count > len(cuts) + 1:
        warnings.append(
            f"{len(cuts) + 1} chunks instead of {count}: the source's statistics of "
            f"{named(columns)} have no more boundaries"
        )
    return cuts, warnings


def _dense_cuts(
    columns: tuple[str, ...], key: KeyFacts | None, facts: SourceFacts, sizing: Sizing
) -> tuple[list[KeyTuple] | Refusal, list[str]]:
    """Every boundary of the walk is a cut: each chunk holds exactly so many rows."""
    if key is not None and key.provenance == WALKED:
        if len(key.boundaries) >= CHUNKS_MAX:
            return Refusal(
                setting="chunk_size",
                reason=f"chunks of {sizing.rows} rows would be more than {CHUNKS_MAX}",
                suggestion="make chunk_size larger",
            ), []
        return list(key.boundaries), []
    estimated = Sizing(count=None, rows=sizing.rows)
    cuts, warnings = cuts_for(facts, columns, key, estimated)
    return cuts, [
        *warnings,
        f"chunk_dense: the index of {named(columns)} was not walked to its end in time, or there "
        "is none: chunks are cut by the source's statistics",
    ]


def unreadable(name: str) -> Refusal:
    """A bound that cannot be read ends the planning: never an empty success (class 30)."""
    return Refusal(
        setting="chunk_column",
        reason=f"a bound of {name} cannot be read as a whole number or a moment",
        suggestion="use chunk_by_key, or no chunk setting at all",
    )


def _scaled_cuts(
    name: str, key: KeyFacts | None, sizing: Sizing, rows: int | None, scale: Scale
) -> tuple[list[KeyTuple] | Refusal, list[str]]:
    if key is None:
        return [], [f"nothing is known of the values of {name}: one chunk"]
    try:
        anchors = anchors_of(key, scale)
    except ValueError:
        return unreadable(name), []
    if not anchors:
        return [], []
    span = (anchors[-1] - anchors[0]) // max(scale.day, 1) + 1
    unknown = min(CHUNKS_UNKNOWN, max(1, -(-span // sizing.rows) if not scale.day else span))
    count, warnings = chunk_count(sizing, rows, unknown)
    if count > 1 and not key.boundaries:
        warnings.append(
            f"there are no statistics of {name}: its span is cut evenly, and chunks may hold "
            "very different numbers of rows"
        )
    cuts: list[KeyTuple] = [(scale.write(cut),) for cut in integer_cuts(anchors, count)]
    if sizing.count is not None and sizing.count > len(cuts) + 1:
        warnings.append(f"{len(cuts) + 1} chunks instead of {sizing.count}: too few values")
    return cuts, warnings


def day_cuts(
    name: str, key: KeyFacts | None, scale: Scale, days: int
) -> tuple[list[int] | Refusal, list[int]]:
    """Midnights every ``days`` days behind the day of the smallest value, and the anchors; the
    ends stay open, so nothing is outside (S1)."""
    try:
        anchors = anchors_of(key, scale)
    except ValueError:
        return unreadable(name), []
    if not anchors:
        return [], []
    first, last = anchors[0] // scale.day, anchors[-1] // scale.day
    windows = (last - first) // days + 1
    if windows > CHUNKS_MAX:
        return Refusal(
            setting="chunk_by_days",
            reason=f"{name} spans {last - first + 1} days: {windows} windows are more than "
            f"{CHUNKS_MAX}",
            suggestion=f"write chunk_by_days: {-(-(last - first + 1) // CHUNKS_MAX)}",
            code=DAYS_INVALID,
        ), []
    return [(first + days * i) * scale.day for i in range(1, windows)], anchors
