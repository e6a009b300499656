"""The promises a benchmark must keep, judged. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bench.values import ClaimRate, Floor, MemoryPoint, RunResult

STATEMENT_S_MAX = 0.25
MEMORY_GROWTH_MAX = 1.15
MEMORY_FROM_ROWS = 100_000
"""Below it, pages and the row group are still small. Strict on purpose: at this many rows a row
group need not be full yet, so a worker may not use its whole allowance for it, either."""
CLAIMS_PER_S_MIN = {"postgres": 1_000.0, "sqlite": 500.0}


def judge(
    runs: Sequence[RunResult], memory: Sequence[MemoryPoint], claims: Sequence[ClaimRate]
) -> tuple[Floor, ...]:
    """Every floor; ``runs`` are those of rivet-fleet alone."""
    return (
        _arrived(runs, memory),
        _statements(runs, memory),
        _flat(memory),
        *(_claims(rate) for rate in claims),
        _locked(claims),
    )


def memory_growth(memory: Sequence[MemoryPoint]) -> float | None:
    """Peak at the most rows over the peak at ``MEMORY_FROM_ROWS``; None without both."""
    good = sorted((p for p in memory if p.error is None), key=lambda p: p.rows)
    from_there = [p for p in good if p.rows >= MEMORY_FROM_ROWS]
    if len(from_there) < 2:
        return None
    return from_there[-1].peak_rss_bytes / from_there[0].peak_rss_bytes


def _arrived(runs: Sequence[RunResult], memory: Sequence[MemoryPoint]) -> Floor:
    wrong = [r for r in runs if r.error is not None] + [p for p in memory if p.error is not None]
    total = len(runs) + len(memory)
    return Floor(
        name="every row arrives in every run",
        limit="0 runs with an error",
        measured=f"{len(wrong)} of {total}",
        passed=not wrong if total else None,
    )


def _statements(runs: Sequence[RunResult], memory: Sequence[MemoryPoint]) -> Floor:
    """The longest of all runs, not a median: one long statement is one too many."""
    longest = [r.longest_statement_s for r in runs if r.error is None]
    longest += [p.longest_statement_s for p in memory if p.error is None]
    return Floor(
        name="longest statement of any run",
        limit=f"≤ {STATEMENT_S_MAX} s",
        measured=f"{max(longest):.3f} s" if longest else "not measured",
        passed=max(longest) <= STATEMENT_S_MAX if longest else None,
    )


def _flat(memory: Sequence[MemoryPoint]) -> Floor:
    growth = memory_growth(memory)
    return Floor(
        name=f"worker's peak RSS, most rows over {MEMORY_FROM_ROWS:,}",
        limit=f"≤ ×{MEMORY_GROWTH_MAX}",
        measured="not measured" if growth is None else f"×{growth:.2f}",
        passed=None if growth is None else growth <= MEMORY_GROWTH_MAX,
    )


def _claims(rate: ClaimRate) -> Floor:
    least = CLAIMS_PER_S_MIN[rate.state]
    found = rate.claims_per_s
    return Floor(
        name=f"claims per second, {rate.state} state, {rate.processes} processes",
        limit=f"≥ {least:,.0f}/s",
        measured=rate.error or "not measured" if found is None else f"{found:,.0f}/s",
        passed=False if found is None else found >= least,
    )


def _locked(claims: Sequence[ClaimRate]) -> Floor:
    counts = [rate.locked for rate in claims if rate.locked is not None]
    return Floor(
        name="`database is locked` surfacing",
        limit="0",
        measured=str(sum(counts)) if counts else "not measured",
        passed=sum(counts) == 0 if counts else None,
    )
