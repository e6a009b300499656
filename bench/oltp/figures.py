"""Latencies to figures, and figures to the page's table. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.render import markdown_table

PERCENTILES = (50, 95, 99)
HEAD = ("way", "p50 ms", "p95 ms", "p99 ms", "transactions", "of those due", "rows/s extracted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One window of one way: every latency in seconds, how many were due, rows delivered."""

    took_s: tuple[float, ...]
    due: int
    seconds: float
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The medians over a way's windows."""

    percentiles_ms: tuple[float, ...]
    done: int
    due: int
    rows_per_s: float


def percentile(values: Sequence[float], wanted: int) -> float:
    """The nearest-rank percentile. Raises ValueError without values."""
    if not values:
        raise ValueError("no values")
    rank = max(1, -(-len(values) * wanted // 100))
    return sorted(values)[rank - 1]


def figures(windows: Sequence[Window]) -> Figures:
    """Each percentile is the median of the windows' own."""
    return Figures(
        percentiles_ms=tuple(
            1000 * median(percentile(one.took_s, wanted) for one in windows)
            for wanted in PERCENTILES
        ),
        done=sum(len(one.took_s) for one in windows),
        due=sum(one.due for one in windows),
        rows_per_s=median(one.rows / one.seconds for one in windows),
    )


def table(measured: Mapping[str, Sequence[Window]]) -> str:
    """One line for each way."""
    rows = []
    for name, windows in measured.items():
        one = figures(windows)
        cells = [f"{value:,.1f}" for value in one.percentiles_ms]
        share = f"{one.done / one.due:.1%}" if one.due else "–"
        rows.append([name, *cells, f"{one.done:,}", share, f"{one.rows_per_s:,.0f}"])
    return markdown_table(HEAD, rows)
