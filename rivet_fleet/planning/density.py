"""What a density probe says about the number of rows. Pure."""

from __future__ import annotations

from dataclasses import replace

from rivet_fleet.contracts.facts import SourceFacts

TRUSTED_ROWS = 50
"""Fewer sampled rows say only that there are few, not how many."""
PROBED = "sample"


def with_probed_rows(facts: SourceFacts) -> SourceFacts:
    """``facts`` with the probe's number of rows where one was made and can be trusted: span
    times density."""
    for key in facts.keys:
        found = key.probed
        if found is None or found.rows < TRUSTED_ROWS or not key.minimum or not key.maximum:
            continue
        span = int(key.maximum[0]) - int(key.minimum[0]) + 1
        rows = round(span * found.rows / found.keys)
        return replace(facts, row_estimate=rows, row_estimate_provenance=PROBED)
    return facts
