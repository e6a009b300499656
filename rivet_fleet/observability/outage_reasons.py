"""A source that does not come back keeps a campaign active for ever, and so do workers that lack
something: this says so. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.keys import RunId
from rivet_fleet.contracts.state import JournalEntry, Outage, RunView
from rivet_fleet.contracts.task import RunStatus
from rivet_fleet.observability.advice import command
from rivet_fleet.observability.reasons import Reason, ReasonCode, Scene
from rivet_fleet.observability.units import counted, duration_text, rfc3339

_UNFIT_SHOWN = 20


def runs_by_source(runs: Sequence[RunView]) -> dict[str, tuple[RunId, ...]]:
    """The runs of each source that still has something to read. A finished run of the same
    source belongs to it: its last chunk is a sign that the source was there."""
    found: dict[str, list[RunView]] = {}
    for run in runs:
        found.setdefault(run.plan.read.source, []).append(run)
    return {
        source: tuple(run.run_id for run in members)
        for source, members in found.items()
        if any(run.status is RunStatus.IN_PROGRESS and _unread(run) for run in members)
    }


def outage_reasons(scene: Scene, outages: Mapping[str, Outage]) -> list[Reason]:
    """One for each source that is away; nothing once the campaign is over."""
    if scene.campaign.status.over:
        return []
    return [_away(scene, source, outage) for source, outage in outages.items()]


def held_reasons(scene: Scene, entries: Sequence[JournalEntry]) -> list[Reason]:
    """One for each source whose budget of retries is spent at this moment; nothing once the
    campaign is over. ``entries``: when that was told lately."""
    if scene.campaign.status.over:
        return []
    until_s: dict[str, float] = {}
    for entry in entries:
        source, wait_s = str(entry.data.get("source")), entry.data.get("wait_s")
        if isinstance(wait_s, int | float):
            until_s[source] = max(until_s.get(source, 0.0), entry.at_s + wait_s - scene.now_s)
    return [_held(source, left_s) for source, left_s in until_s.items() if left_s > 0]


def _held(source: str, left_s: float) -> Reason:
    return Reason(
        code=ReasonCode.RETRIES_HELD,
        sentence=f"Source {source} fails more often than the fleet may try it again, over all "
        f"hosts and campaigns: tries wait their turn, one for another {duration_text(left_s)}. "
        "Chunks keep what they have read; the journal's source.retried and "
        "chunk.failed say what fails.",
        until_s=left_s,
    )


def unfit_reasons(scene: Scene, entries: Sequence[JournalEntry]) -> list[Reason]:
    """One for each process, by name and host, that refused to work and has not begun anew since;
    nothing once the campaign is over. ``entries``: the starts and refusals, oldest first."""
    if scene.campaign.status.over:
        return []
    last = {(str(e.data.get("worker_name")), str(e.data.get("host_id"))): e for e in entries}
    refused = [
        (who, entry) for who, entry in last.items() if entry.event == EventName.WORKER_REFUSED.value
    ]
    return [_unfit(scene, *who, entry) for who, entry in refused[-_UNFIT_SHOWN:]]


def _unfit(scene: Scene, name: str, host_id: str, entry: JournalEntry) -> Reason:
    return Reason(
        code=ReasonCode.WORKER_UNFIT,
        sentence=f"Worker {name} on {host_id} ended {duration_text(scene.now_s - entry.at_s)} ago "
        f"without spending an attempt ({entry.data.get('code')}): {entry.message.rstrip('.')}.",
        next_command=command("resume", scene.campaign.config_path),
    )


def _unread(run: RunView) -> int:
    return run.counts.pending + run.counts.running + run.counts.failed


def _away(scene: Scene, source: str, outage: Outage) -> Reason:
    running = sum(run.counts.running for run in scene.runs if run.plan.read.source == source)
    now = f" ({counted(running, 'chunk')} at this moment)" if running else ""
    return Reason(
        code=ReasonCode.SOURCE_AWAY,
        sentence=f"Source {source} is away since {rfc3339(outage.since_s)} "
        f"({duration_text(scene.now_s - outage.since_s)}): {counted(outage.tries, 'chunk')} could "
        f"not connect and went back, the last {duration_text(scene.now_s - outage.last_s)} ago: "
        f"{outage.message.rstrip('.')}. Nothing is lost and no attempt is spent; it is tried "
        f"again{now} until it answers. Bring the source, or the way to it, back; "
        "or give the campaign up with `cancel`.",
        next_command=command("doctor", scene.campaign.config_path),
    )
