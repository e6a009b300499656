"""Latencies to figures, and figures to the page's table. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.render import markdown_table

PERCENTILES = (50, 95, 99)
HEAD = (
    *("way", "p50 ms", "p95 ms", "p99 ms", "max ms", "p99 with the lead-in", "tx/s", "done of due"),
    *("rows/s extracted", "chunks allowed", "server's cores", "extraction's cores"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One window of one way. ``done`` holds (when it was due, how long it took) of every
    transaction, in seconds from the first arrival; those due before ``lead_s`` are the lead-in.
    Cores are processor seconds per second, rows per second what became visible."""

    done: tuple[tuple[float, float], ...]
    due_s: tuple[float, ...]
    lead_s: float
    seconds: float
    rows_per_s: float = 0.0
    permits: float = 0.0
    server_cores: float = 0.0
    extraction_cores: float = 0.0
    application_cores: float = 0.0

    @property
    def took_s(self) -> tuple[float, ...]:
        """The latencies that count."""
        return tuple(took for due, took in self.done if due >= self.lead_s)

    @property
    def per_s(self) -> float:
        """The rate that was achieved: what ended within the window, due in it or late from
        the lead-in."""
        ends_s = self.lead_s + self.seconds
        return sum(self.lead_s <= due + took < ends_s for due, took in self.done) / self.seconds

    @property
    def due(self) -> int:
        """How many should have been done, without the lead-in."""
        return sum(due >= self.lead_s for due in self.due_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The medians over a way's windows; ``max_ms`` is the worst of all, ``done`` and ``due`` are
    sums."""

    percentiles_ms: tuple[float, ...]
    max_ms: float
    p99_whole_ms: float
    per_s: float
    done: int
    due: int
    rows_per_s: float
    permits: float
    server_cores: float
    extraction_cores: float


def percentile(values: Sequence[float], wanted: int) -> float:
    """The nearest-rank percentile. Raises ValueError without values."""
    if not values:
        raise ValueError("no values")
    rank = max(1, -(-len(values) * wanted // 100))
    return sorted(values)[rank - 1]


def figures(windows: Sequence[Window]) -> Figures:
    """Each percentile is the median of the windows' own."""
    whole = [[took for _, took in one.done] for one in windows]
    return Figures(
        percentiles_ms=tuple(
            1000 * median(percentile(one.took_s, wanted) for one in windows)
            for wanted in PERCENTILES
        ),
        max_ms=1000 * max(max(one.took_s) for one in windows),
        p99_whole_ms=1000 * median(percentile(took_s, 99) for took_s in whole),
        per_s=median(one.per_s for one in windows),
        done=sum(len(one.took_s) for one in windows),
        due=sum(one.due for one in windows),
        rows_per_s=median(one.rows_per_s for one in windows),
        permits=median(one.permits for one in windows),
        server_cores=median(one.server_cores for one in windows),
        extraction_cores=median(one.extraction_cores for one in windows),
    )


def alone_p95_ms(windows: Sequence[Window]) -> float:
    """What the governor's thresholds are multiples of. Raises ValueError without windows."""
    return 1000 * median(percentile(one.took_s, 95) for one in windows)


def table(measured: Mapping[str, Sequence[Window]]) -> str:
    """One line for each way; a way without a window says so."""
    return markdown_table(HEAD, [_line(name, windows) for name, windows in measured.items()])


def _line(name: str, windows: Sequence[Window]) -> list[str]:
    if not windows:
        return [name, *("–" for _ in HEAD[1:])]
    one = figures(windows)
    return [
        name,
        *(f"{value:,.1f}" for value in (*one.percentiles_ms, one.max_ms, one.p99_whole_ms)),
        f"{one.per_s:,.1f}",
        f"{one.done / one.due:.1%}" if one.due else "–",
        f"{one.rows_per_s:,.0f}",
        f"{one.permits:.1f}",
        f"{one.server_cores:.2f}",
        f"{one.extraction_cores:.2f}",
    ]
