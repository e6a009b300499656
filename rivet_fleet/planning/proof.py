"""What a run will ask the source about its own completeness (ADR 0019). Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rivet_fleet.contracts.facts import SourceFacts
from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.proof import ProofPlan, Prove


def proof_plan(
    prove: Prove, facts: SourceFacts, ranges: Sequence[ChunkRange], *, partition: bool
) -> ProofPlan | None:
    """None asks nothing. A query is evaluated once more only where everything is asked.
    ``partition``: the run reads one period of a column."""
    if prove is Prove.OFF:
        return None
    counted = (
        covered(ranges, partition=partition)
        if facts.relation is not None or prove is Prove.ALL
        else None
    )
    return ProofPlan(prove=prove, counted=counted, before=facts.changes)


def covered(ranges: Sequence[ChunkRange], *, partition: bool) -> ChunkRange:
    """The rows of all ranges together, as one: everything there is, but for a partition."""
    first, last = ranges[0], ranges[-1]
    if not partition or first.kind is RangeKind.WHOLE:
        return ChunkRange(kind=RangeKind.WHOLE)
    if first.kind is RangeKind.NULLS:
        return first
    return ChunkRange(
        kind=RangeKind.WINDOW, columns=first.columns, lower=first.lower, upper=last.upper
    )
