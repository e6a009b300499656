"""Views as the state database would answer them, with only what a test cares about spelled out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rivet_fleet.contracts.keys import (
    CampaignId,
    ChunkRange,
    RangeKind,
    RelationName,
    RunId,
    TaskId,
)
from rivet_fleet.contracts.plan import (
    DestinationPlan,
    ExportPlan,
    FormatPlan,
    ReadPlan,
    TuningPlan,
)
from rivet_fleet.contracts.state import (
    CampaignStatus,
    CampaignView,
    GroupView,
    JournalEntry,
    RunStatus,
    RunView,
    TaskCounts,
    TaskStatus,
    TaskView,
    WorkerView,
)
from rivet_fleet.contracts.url import redact
from rivet_fleet.observability.units import Redactor

NOW_S = 1_800_000_000.0


def redactor_for(secrets: Iterable[str]) -> Redactor:
    """A redactor that also knows these secrets, wherever they stand."""
    known = tuple(s for s in secrets if s)
    return lambda text: redact(text, known)


def plan(name: str = "orders", *, group: str | None = None) -> ExportPlan:
    return ExportPlan(
        export_name=name,
        run_id=RunId(f"{name}-run"),
        mode="chunked",
        strategy="keyset",
        reason="unique key (id)",
        read=ReadPlan(
            source="shop",
            engine="engine",
            source_identity="db://reader@db:5432/shop",
            relation=RelationName(schema="public", name=name),
            query=None,
            columns=(),
        ),
        format=FormatPlan(format="parquet"),
        destination=DestinationPlan(kind="local", prefix="/data/out"),
        tuning=TuningPlan(),
        attempts_max=3,
        source_group=group,
    )


def run(
    name: str = "orders",
    *,
    group: str | None = None,
    status: RunStatus = RunStatus.IN_PROGRESS,
    expected: int | None = None,
    rows: int = 0,
    size: int = 0,
    finished_at_s: float | None = None,
    finalize_fence: int = 0,
    error: str | None = None,
    **counts: int,
) -> RunView:
    counted = TaskCounts(**counts)
    return RunView(
        run_id=RunId(f"{name}-run"),
        campaign_id=CampaignId("c1"),
        export_name=name,
        status=status,
        plan=plan(name, group=group),
        plan_hash="sha256:00",
        expected_tasks=counted.total if expected is None else expected,
        counts=counted,
        rows=rows,
        bytes=size,
        created_at_s=NOW_S - 100,
        finished_at_s=finished_at_s,
        finalize_fence=finalize_fence,
        error=error,
    )


def campaign(
    status: CampaignStatus = CampaignStatus.ACTIVE, *, path: str = "fleet.yaml"
) -> CampaignView:
    return CampaignView(
        campaign_id=CampaignId("c1"),
        campaign_name="nightly",
        config_digest="d",
        config_path=path,
        status=status,
        created_at_s=NOW_S - 100,
        finished_at_s=NOW_S if status.over else None,
    )


def task(name: str = "orders", index: int = 0, **over: Any) -> TaskView:
    values: dict[str, Any] = {
        "task_id": TaskId(index),
        "campaign_id": CampaignId("c1"),
        "run_id": RunId(f"{name}-run"),
        "export_name": name,
        "chunk_index": index,
        "chunk_range": ChunkRange(kind=RangeKind.WHOLE),
        "status": TaskStatus.RUNNING,
        "fence": 1,
        "attempts": 1,
        "attempts_max": 3,
        "priority": 50,
        "owner": "w1",
        "owner_name": "worker-1",
        "lease_expires_at_s": NOW_S + 20,
        "not_before_s": None,
        "rows_written": None,
        "pages_read": None,
        "error_class": None,
        "last_error": None,
        "updated_at_s": NOW_S,
    }
    return TaskView(**{**values, **over})


def worker(
    worker_id: str = "w1", *, alive: bool = True, busy: bool = True, host: str = "h1"
) -> WorkerView:
    return WorkerView(
        worker_id=worker_id,
        name=worker_id.replace("w", "worker-"),
        host_id=host,
        pid=4711,
        pid_started_at_s=1.0,
        started_at_s=NOW_S - 50,
        heartbeat_at_s=NOW_S - (1 if alive else 40),
        alive=alive,
        rss_bytes=100_000_000,
        running_task=0 if busy else None,
    )


def group(name: str, *, slots_max: int | None, running: int) -> GroupView:
    return GroupView(group_name=name, slots_max=slots_max, running=running, running_here=running)


def entry(event: str, *, message: str = "", at_s: float = NOW_S, **over: Any) -> JournalEntry:
    values: dict[str, Any] = {
        "journal_id": 1,
        "at_s": at_s,
        "event": event,
        "campaign_id": "c1",
        "run_id": "orders-run",
        "export_name": "orders",
        "chunk_index": 12,
        "worker_id": "w1",
        "message": message,
    }
    return JournalEntry(**{**values, **over})
