"""A claim's proof of ownership, and how long a process may believe in it."""

from __future__ import annotations

from dataclasses import dataclass

from rivet_fleet.contracts.keys import CampaignId, ChunkRange, RunId, TaskId, WorkerId


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerIdentity:
    """Who claims. ``worker_id`` is unique per process start; names and pids are reusable (F4).

    ``host_id`` is equal for two processes exactly when one can see the other's pid;
    ``pid_started_at_s`` (boot-relative, from the OS) tells a reused pid from the old one.
    """

    worker_id: WorkerId
    name: str
    host_id: str
    pid: int
    pid_started_at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One claimed chunk: what to read, and the fence every later write must name (F1)."""

    task_id: TaskId
    campaign_id: CampaignId
    run_id: RunId
    export_name: str
    chunk_index: int
    chunk_range: ChunkRange
    fence: int
    attempt: int
    attempts_max: int
    source_group: str = ""


def trusted_until_s(sent_at_monotonic_s: float, lease_ttl_s: float) -> float:
    """When to stop wasting work, anchored at the moment the renewal was *sent* (F3).

    It never decides ownership: the fence does (F2).
    """
    return sent_at_monotonic_s + lease_ttl_s


def heartbeat_interval_s(lease_ttl_s: float) -> float:
    """How often to renew: at most every third of the lease (F6), here a quarter."""
    return lease_ttl_s / 4.0
