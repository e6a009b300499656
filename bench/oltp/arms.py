"""The ways to extract that are compared, as configurations of the program."""

from __future__ import annotations

from dataclasses import dataclass

EXPORTS = 24
"""How often the big table is read in one window: more often than any of them gets to."""
WORKERS = 4
SHED, PAUSE = 2.0, 10.0
"""Times the latency the application has alone."""
_EXPORT = """\
  - {{name: history_{n}, table: history, mode: chunked, chunk_by_key: [id], chunk_size: 10000,
     format: parquet, compression: snappy, {group}
     destination: {{type: local, path: ./out/history_{n}}}}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What the governor may know of the application: where it tells its recent latency, and
    what that is when nobody disturbs it."""

    url: str
    alone_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way. ``group`` is the budget (none: no limit), ``profile`` the pace of one reader."""

    name: str
    told: str
    profile: str = "fast"
    group: str | None = None
    extracts: bool = True
    permits: int = WORKERS
    governed: bool = False

    def config(self, engine: str, goal: Goal) -> str:
        """The configuration file."""
        kind = "mysql" if engine == "mariadb" else "postgres"
        member = "" if self.group is None else "source_group: shop,"
        exports = "".join(_EXPORT.format(n=n, group=member) for n in range(EXPORTS))
        group = ""
        if self.group is not None:
            watched = {
                "url": goal.url,
                "shed": f"{SHED * goal.alone_ms:.1f}",
                "pause": f"{PAUSE * goal.alone_ms:.1f}",
            }
            filled = self.group
            for name, value in watched.items():
                filled = filled.replace(f"<{name}>", value)
            group = f"source_groups:\n  shop: {filled}\n"
        return (
            f"source: {{type: {kind}, url_env: OLTP_URL, tuning: {{profile: {self.profile}}}}}\n"
            f"{group}campaign: {{name: oltp, workers: {WORKERS}}}\n"
            f"exports:\n{exports}"
        )


ALONE = Arm(name="without us", told="the application alone", extracts=False, permits=0)
UNPROTECTED = Arm(name="unprotected", told=f"profile fast, {WORKERS} workers, no source group")
BUDGET = Arm(
    name="budget",
    told=f"profile balanced, {WORKERS} workers, 1 running chunk, 20,000 rows/s; no governor",
    profile="balanced",
    group="{max_running_chunks: 1, max_rows_per_s: 20000}",
    permits=1,
)
SESSIONS = Arm(
    name="governor, sessions",
    told=f"profile fast, {WORKERS} workers; sheds from 2 running sessions of the application on, "
    "pauses from 4 on",
    group="{max_running_chunks: 4, min_running_chunks: 1, monitor: {interval_s: 0.5, "
    "calm_samples: 4, signals: {running_sessions: {shed_above: 1, pause_above: 3}}}}",
    governed=True,
)
LATENCY = Arm(
    name="governor, latency",
    told=f"profile fast, {WORKERS} workers; the application publishes the p95 of its last two "
    f"seconds, sheds above {SHED:g} times what it has alone, pauses above {PAUSE:g} times",
    group="{max_running_chunks: 4, min_running_chunks: 1, monitor: {interval_s: 0.5, "
    "calm_samples: 4, signals: {app_latency_ms: "
    "{http: '<url>', shed_above: <shed>, pause_above: <pause>}}}}",
    governed=True,
)
ARMS = (ALONE, UNPROTECTED, BUDGET, SESSIONS, LATENCY)
"""The first one is the application alone: its latency is what the last one's thresholds are
made of."""
