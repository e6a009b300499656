"""A campaign in numbers, from the state database alone: they survive dead workers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rivet_fleet.contracts.state import GroupView, RunView, TaskCounts, WorkerView
from rivet_fleet.contracts.task import RunStatus
from rivet_fleet.observability.redaction import Redactor, one_line
from rivet_fleet.observability.units import bytes_text, counted, duration_text


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportMetrics:
    """One export's gauges and counters; ``bytes`` as written, times in seconds."""

    export_name: str
    run_id: str
    status: str
    chunks: TaskCounts
    rows: int
    bytes: int
    age_s: float
    changed_values: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignMetrics:
    """All exports, the workers and the source groups at one moment of the database's clock."""

    at_s: float
    exports: tuple[ExportMetrics, ...]
    chunks: TaskCounts
    rows: int
    bytes: int
    runs_in_progress: int
    workers_alive: int
    workers_busy: int
    rss_bytes: int
    group_running: dict[str, int]
    group_slots_max: dict[str, int | None]
    group_allowed: dict[str, int | None] = field(default_factory=dict)
    """What the governor lets run now: 0 while it pauses."""
    group_page_share: dict[str, float] = field(default_factory=dict)


def campaign_metrics(
    runs: Sequence[RunView],
    workers: Sequence[WorkerView],
    groups: Sequence[GroupView],
    now_s: float,
) -> CampaignMetrics:
    """``age_s`` of a run ends with the run; workers whose heartbeat is stale do not count."""
    alive = [w for w in workers if w.alive]
    return CampaignMetrics(
        at_s=now_s,
        exports=tuple(
            ExportMetrics(
                export_name=run.export_name,
                run_id=run.run_id,
                status=run.status.value,
                chunks=run.counts,
                rows=run.rows,
                bytes=run.bytes,
                age_s=(now_s if run.finished_at_s is None else run.finished_at_s)
                - run.created_at_s,
                changed_values=run.changed_values,
            )
            for run in runs
        ),
        chunks=added([run.counts for run in runs]),
        rows=sum(run.rows for run in runs),
        bytes=sum(run.bytes for run in runs),
        runs_in_progress=sum(run.status is RunStatus.IN_PROGRESS for run in runs),
        workers_alive=len(alive),
        workers_busy=sum(w.running_task is not None for w in alive),
        rss_bytes=sum(w.rss_bytes for w in alive),
        group_running={g.group_name: g.running for g in groups},
        group_slots_max={g.group_name: g.slots_max for g in groups},
        group_allowed={g.group_name: g.allowed for g in groups},
        group_page_share={g.group_name: g.page_share for g in groups},
    )


def metrics_lines(metrics: CampaignMetrics, redactor: Redactor) -> list[str]:
    """For a terminal: one line per export, one for the workers, one per source group."""
    lines = [
        f"{one_line(e.export_name, redactor, 40)}: {e.status}, "
        f"{e.chunks.completed}/{counted(e.chunks.total, 'chunk')}, {counted(e.rows, 'row')}, "
        f"{bytes_text(e.bytes)}, {duration_text(e.age_s)}"
        + (f", {counted(e.changed_values, 'changed value')}" if e.changed_values else "")
        for e in metrics.exports
    ]
    lines.append(
        f"{counted(metrics.workers_alive, 'worker')} alive, {metrics.workers_busy} busy, "
        f"{bytes_text(metrics.rss_bytes)}"
    )
    for name, running in metrics.group_running.items():
        slots = metrics.group_slots_max[name]
        limit = "no limit" if slots is None else f"{slots} slots"
        lines.append(f"source group {one_line(name, redactor, 40)}: {running} running, {limit}")
    return lines


def added(counts: Sequence[TaskCounts]) -> TaskCounts:
    """The sum of several runs' counts."""
    return TaskCounts(
        pending=sum(c.pending for c in counts),
        running=sum(c.running for c in counts),
        committed=sum(c.committed for c in counts),
        completed=sum(c.completed for c in counts),
        failed=sum(c.failed for c in counts),
    )
