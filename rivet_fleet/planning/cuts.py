"""Where one key is cut: from the source's own samples, in whole numbers also between them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from rivet_fleet.contracts.facts import KeyFacts, SourceFacts
from rivet_fleet.contracts.keys import KeyTuple
from rivet_fleet.planning.candidates import is_integer, named
from rivet_fleet.planning.chunker import integer_cuts, quantile_cuts
from rivet_fleet.planning.sizing import CHUNKS_UNKNOWN, Sizing, believable_rows, chunk_count


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why the export cannot be divided as the configuration wants it."""

    setting: str
    reason: str
    suggestion: str | None = None


def cuts_for(
    facts: SourceFacts, columns: tuple[str, ...], key: KeyFacts | None, sizing: Sizing
) -> tuple[list[KeyTuple] | Refusal, list[str]]:
    """Where to cut: sampled quantiles; for whole numbers also points between them."""
    rows = believable_rows(facts, key)
    if sizing.count == 1:
        return [], []
    if is_integer(facts, columns):
        return _integer_cuts(columns[0], key, sizing, rows)
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


def _integer_cuts(
    name: str, key: KeyFacts | None, sizing: Sizing, rows: int | None
) -> tuple[list[KeyTuple] | Refusal, list[str]]:
    if key is None:
        return [], [f"nothing is known of the values of {name}: one chunk"]
    samples = [key.minimum, *key.boundaries, key.maximum]
    anchors: list[int] = []
    for sample in samples:
        if sample is None:
            continue
        try:
            anchors.append(_whole_number(sample[0]))
        except ValueError:
            # Never an empty success: a bound that cannot be read ends the planning (class 30).
            return Refusal(
                setting="chunk_column",
                reason=f"a bound of {name} cannot be read as a whole number",
                suggestion="use chunk_by_key, or no chunk setting at all",
            ), []
    if not anchors:
        return [], []
    span = max(anchors) - min(anchors) + 1
    unknown = min(CHUNKS_UNKNOWN, max(1, -(-span // sizing.rows)))
    count, warnings = chunk_count(sizing, rows, unknown)
    if count > 1 and not key.boundaries:
        warnings.append(
            f"there are no statistics of {name}: its span is cut evenly, and chunks may hold "
            "very different numbers of rows"
        )
    cuts: list[KeyTuple] = [(str(cut),) for cut in integer_cuts(anchors, count)]
    if sizing.count is not None and sizing.count > len(cuts) + 1:
        warnings.append(f"{len(cuts) + 1} chunks instead of {sizing.count}: too few values")
    return cuts, warnings


def _whole_number(text: str) -> int:
    """``12`` and ``12.000``; ValueError for anything else."""
    whole, _, fraction = text.strip().partition(".")
    if fraction.strip("0"):
        raise ValueError("not a whole number")
    return int(whole)
