"""From single runs to medians and ratios. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

from bench.values import MemoryPoint, RunResult, Summary


def summarise(runs: Sequence[RunResult], floor: str | None) -> tuple[Summary, ...]:
    """One summary per contender of one section's runs, in the order in which they first ran.

    ``floor``: the contender that ratios are taken to.
    """
    names = dict.fromkeys(run.contender for run in runs)
    floors = [run for run in runs if run.contender == floor and run.error is None]
    return tuple(_summary([run for run in runs if run.contender == name], floors) for name in names)


def ratios(
    runs: Sequence[RunResult],
    floors: Sequence[RunResult],
    value: Callable[[RunResult], float],
) -> list[float]:
    """``value`` of each run over that of the floor in the same round; rounds without one drop out.

    Both ran within the same minutes: what slows the machine down for a while slows both.
    """
    floor_of = {floor.round: value(floor) for floor in floors}
    return [value(run) / floor_of[run.round] for run in runs if floor_of.get(run.round)]


def median(values: Iterable[float]) -> float | None:
    """The middle value; None of nothing."""
    found = list(values)
    return statistics.median(found) if found else None


def growth_bytes_per_row(points: Sequence[MemoryPoint]) -> list[float | None]:
    """Peak RSS gained per further row since the good point before; None where there is none.

    Tells a bound being reached (it falls towards zero) from a leak (it stays).
    """
    growths: list[float | None] = []
    before: MemoryPoint | None = None
    for point in points:
        known = before is not None and point.error is None and point.rows > before.rows
        growths.append(_slope(before, point) if known and before is not None else None)
        before = point if point.error is None else before
    return growths


def _slope(before: MemoryPoint, point: MemoryPoint) -> float:
    return (point.peak_rss_bytes - before.peak_rss_bytes) / (point.rows - before.rows)


def _summary(mine: Sequence[RunResult], floors: Sequence[RunResult]) -> Summary:
    good = [r for r in mine if r.error is None]
    return Summary(
        engine=mine[0].engine,
        table=mine[0].table,
        contender=mine[0].contender,
        group=mine[0].group,
        rounds=len(good),
        wall_s=median(r.wall_s for r in good),
        wall_ratio=median(ratios(good, floors, lambda r: r.wall_s)),
        client_cpu_s=median(r.client_cpu_s for r in good),
        rows_per_cpu_s=median(r.rows / r.client_cpu_s for r in good if r.client_cpu_s),
        server_cpu_s=median(r.server_cpu_s for r in good),
        server_cpu_ratio=median(ratios(good, floors, lambda r: r.server_cpu_s)),
        peak_rss_bytes=median(r.peak_rss_bytes for r in good),
        tree_rss_bytes=median(r.tree_rss_bytes for r in good),
        tree_pss_bytes=median(r.tree_pss_bytes for r in good),
        longest_statement_s=max((r.longest_statement_s for r in good), default=None),
        output_bytes=median(r.output_bytes for r in good),
        statements=median(r.statements for r in good),
        errors=tuple(dict.fromkeys(r.error for r in mine if r.error is not None)),
    )
