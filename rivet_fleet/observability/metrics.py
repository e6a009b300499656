"""A campaign in numbers, from the state database alone: they survive dead workers. Pure.

How it stands, how the runs of its exports ended, what their sources counted meanwhile; and all of
it for Prometheus.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rivet_fleet.contracts.codec import to_plain
from rivet_fleet.contracts.counters import COUNTERS_CAVEAT, CounterReading, RunCounters
from rivet_fleet.contracts.foreign import flat
from rivet_fleet.contracts.keys import RunId
from rivet_fleet.contracts.state import GroupView, RunStatus, RunView, TaskCounts, WorkerView
from rivet_fleet.observability.units import (
    Redactor,
    bytes_text,
    counted,
    duration_text,
    one_line,
    rfc3339,
    rows_rate_text,
)

# ------------------------------------------------------------------------------------------
# A campaign at one moment: its exports, its workers, its source groups.


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
                age_s=(now_s if run.finished_at_s is None else run.finished_at_s) - run.began_at_s,
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


# ------------------------------------------------------------------------------------------
# Ended runs of exports, campaign after campaign: what ``metrics`` lists.


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRun:
    """One row of ``export_metrics``. Seconds and bytes; None where it was not measured.

    ``duration_s`` counts from submission, ``work_s`` only the time workers spent on attempts
    that were committed; ``rows_per_s`` is what one worker delivered in a second of work, else of
    the duration.
    """

    export_name: str
    run_id: str
    ended_at_s: float
    status: str
    error: str | None
    rows: int
    bytes: int
    files: int
    chunks: int
    duration_s: float
    work_s: float | None
    rows_per_s: float | None
    attempts: int | None
    retries: int
    longest_statement_s: float | None
    changed_values: int | None


def ended_run(row: Mapping[str, Any]) -> EndedRun:
    """A row as ``Store.metrics`` answers it."""
    duration_s = row["duration_ms"] / 1000
    work_s = _seconds(row["work_ms"])
    spent_s = work_s or duration_s
    return EndedRun(
        export_name=row["export_name"],
        run_id=row["run_id"],
        ended_at_s=row["run_at_s"],
        status=row["status"],
        error=row["error_message"],
        rows=row["total_rows"],
        bytes=row["bytes_written"],
        files=row["files_produced"],
        chunks=row["chunks"],
        duration_s=duration_s,
        work_s=work_s,
        rows_per_s=row["total_rows"] / spent_s if spent_s else None,
        attempts=row["attempts"],
        retries=row["retries"],
        longest_statement_s=_seconds(row["longest_statement_ms"]),
        changed_values=row["changed_values"],
    )


def _seconds(millis: int | None) -> float | None:
    return None if millis is None else millis / 1000


_HEAD = (
    "export", "ended", "status", "rows", "size", "files", "took", "rows/s", "attempts",
    "retries", "longest statement", "changed",
)  # fmt: skip


def history_lines(runs: Sequence[EndedRun], redactor: Redactor) -> list[str]:
    """A table, newest first; one line that says so when there is nothing."""
    if not runs:
        return ["No run of these exports has ended yet."]
    rows = [tuple(flat(cell) for cell in _cells(run, redactor)) for run in runs]
    widths = [max(map(len, column)) for column in zip(_HEAD, *rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < 3 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (_HEAD, *rows)
    ]


def _cells(run: EndedRun, redactor: Redactor) -> tuple[str, ...]:
    longest_s = run.longest_statement_s
    return (
        one_line(run.export_name, redactor, 40),
        rfc3339(run.ended_at_s),
        run.status,
        f"{run.rows:,}",
        bytes_text(run.bytes),
        str(run.files),
        duration_text(run.duration_s),
        rows_rate_text(run.rows_per_s),
        "-" if run.attempts is None else str(run.attempts),
        str(run.retries),
        "-" if longest_s is None else duration_text(longest_s),
        "-" if run.changed_values is None else f"{run.changed_values:,}",
    )


# ------------------------------------------------------------------------------------------
# By how much a source's own counters rose during each run, for people and programs.


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedRun:
    """``risen`` is None until the run has ended, and when the server counted anew meanwhile."""

    run_id: str
    export_name: str
    source: str
    risen: dict[str, int] | None
    before: CounterReading
    after: CounterReading | None
    caveat: str = COUNTERS_CAVEAT


def counted_runs(
    looked: Sequence[RunCounters], names: Mapping[RunId, str]
) -> tuple[CountedRun, ...]:
    """Those of the runs that ``names`` gives an export's name."""
    return tuple(
        CountedRun(
            run_id=one.run_id,
            export_name=names[one.run_id],
            source=one.source,
            risen=one.risen,
            before=one.before,
            after=one.after,
        )
        for one in looked
        if one.run_id in names
    )


def counter_lines(counted: Sequence[CountedRun], redactor: Redactor) -> list[str]:
    """For a terminal; nothing where nothing is known."""
    lines = []
    for one in counted:
        if one.risen is None:
            continue
        said = ", ".join(f"{name} +{value:,}" for name, value in one.risen.items() if value)
        export = one_line(one.export_name, redactor, 40)
        lines.append(f"  {export} on {one_line(one.source, redactor, 40)}: {said or 'nothing'}")
    return [f"the source during each run ({COUNTERS_CAVEAT}):", *lines] if lines else []


# ------------------------------------------------------------------------------------------
# Metrics in the Prometheus text format, version 0.0.4 ("Exposition formats" in its manual).
#
# For a textfile collector or a scrape job that runs the command. Labels are the namespace (as
# ``state_namespace``: a scrape job in Kubernetes brings a ``namespace`` of its own), the
# campaign's and the export's names, never ids: a series lives as long as its export. Names and
# labels may be added to, never renamed.

PREFIX = "rivet_fleet_"
RUN_STATUSES = ("in_progress", "completed", "failed", "cancelled")


@dataclass(slots=True, kw_only=True)
class _Family:
    """One metric: its meaning and its samples."""

    name: str
    meaning: str
    samples: list[tuple[Mapping[str, str], float]] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        if not self.samples:
            return
        yield f"# HELP {PREFIX}{self.name} {self.meaning}"
        yield f"# TYPE {PREFIX}{self.name} gauge"
        for labels, value in self.samples:
            told = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
            yield f"{PREFIX}{self.name}{{{told}}} {value!r}"


def prometheus_text(
    namespace: str, campaign_name: str, now: CampaignMetrics | None, ended: Sequence[EndedRun]
) -> str:
    """The exposition. ``now`` is the active or newest campaign; of ``ended`` the newest run of
    each export counts. Everything is a gauge: a state database can be reset."""
    whose = {"state_namespace": namespace, "campaign": campaign_name}
    families = [*_ended_families(whose, ended)]
    if now is not None:
        families = [*_export_families(whose, now), *_fleet_families(whose, now), *families]
    return "".join(f"{line}\n" for family in families for line in family.lines())


def _export_families(whose: Mapping[str, str], now: CampaignMetrics) -> list[_Family]:
    status = _Family(name="run_status", meaning="1 for the status of the export's current run.")
    chunks = _Family(name="run_chunks", meaning="Chunks of the current run by status.")
    rows = _Family(name="run_rows", meaning="Rows committed in the current run.")
    size = _Family(name="run_bytes", meaning="Bytes of files committed in the current run.")
    changed = _Family(
        name="run_changed_values", meaning="Values a policy changed in the current run."
    )
    age = _Family(
        name="run_age_seconds", meaning="From submission of the current run to its end, or now."
    )
    for export in now.exports:
        labels = {**whose, "export": export.export_name}
        for name in RUN_STATUSES:
            status.samples.append(({**labels, "status": name}, float(export.status == name)))
        for name, count in to_plain(export.chunks).items():
            chunks.samples.append(({**labels, "status": name}, float(count)))
        rows.samples.append((labels, float(export.rows)))
        size.samples.append((labels, float(export.bytes)))
        changed.samples.append((labels, float(export.changed_values)))
        age.samples.append((labels, float(export.age_s)))
    return [status, chunks, rows, size, changed, age]


def _fleet_families(whose: Mapping[str, str], now: CampaignMetrics) -> list[_Family]:
    groups = now.group_running
    allowed = {name: most for name, most in now.group_allowed.items() if most is not None}
    slots = {name: most for name, most in now.group_slots_max.items() if most is not None}
    return [
        _one("workers_alive", "Workers heard from lately.", whose, now.workers_alive),
        _one("workers_busy", "Workers that hold a chunk.", whose, now.workers_busy),
        _one("workers_rss_bytes", "Resident memory of live workers.", whose, now.rss_bytes),
        _Family(
            name="source_group_running_chunks",
            meaning="Chunks of a source group that run now.",
            samples=[({**whose, "group": name}, float(n)) for name, n in groups.items()],
        ),
        _Family(
            name="source_group_slots",
            meaning="Chunks of a source group that may run at once.",
            samples=[({**whose, "group": name}, float(n)) for name, n in slots.items()],
        ),
        _Family(
            name="source_group_permits",
            meaning="Chunks of a source group that the governor lets run now; 0 while it pauses.",
            samples=[({**whose, "group": name}, float(n)) for name, n in allowed.items()],
        ),
        _Family(
            name="source_group_page_share",
            meaning="Size of a source group's pages, as a share of what their targets allow.",
            samples=[({**whose, "group": name}, n) for name, n in now.group_page_share.items()],
        ),
    ]


def _one(name: str, meaning: str, labels: Mapping[str, str], value: float) -> _Family:
    return _Family(name=name, meaning=meaning, samples=[(labels, float(value))])


def _ended_families(whose: Mapping[str, str], ended: Sequence[EndedRun]) -> Iterator[_Family]:
    newest: dict[str, EndedRun] = {}
    for run in ended:
        newest.setdefault(run.export_name, run)
    for name, meaning, value in (
        ("success", "1 when the export's last ended run was delivered, 0 when not.", _success),
        ("timestamp_seconds", "When it ended, seconds since 1970.", lambda r: r.ended_at_s),
        ("rows", "Its rows.", lambda r: r.rows),
        ("bytes", "Bytes of its files.", lambda r: r.bytes),
        ("files", "Its files.", lambda r: r.files),
        ("duration_seconds", "From its submission to its end.", lambda r: r.duration_s),
        ("work_seconds", "What workers spent on its committed attempts.", lambda r: r.work_s),
        ("rows_per_second", "Rows of one worker in a second of work.", lambda r: r.rows_per_s),
        ("attempts", "Attempts at its chunks.", lambda r: r.attempts),
        ("retries", "Attempts beyond the first of each chunk.", lambda r: r.retries),
        (
            "longest_statement_seconds",
            "Its longest statement on the source.",
            lambda r: r.longest_statement_s,
        ),
        ("changed_values", "Values a policy changed.", lambda r: r.changed_values),
    ):
        values = [(export, value(run)) for export, run in newest.items()]
        yield _Family(
            name=f"last_run_{name}",
            meaning=meaning,
            samples=[({**whose, "export": e}, float(v)) for e, v in values if v is not None],
        )


def _success(run: EndedRun) -> float:
    return float(run.status == "success")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
