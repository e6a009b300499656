"""What waits for what when the fleet follows waves, priorities or durations. Pure.

Only campaigns whose configuration asked for an order have anything to say here; chunks that a
full source group holds back wait for the group, not for their turn.
"""

from __future__ import annotations

from rivet_fleet.contracts.plan import ClaimPlace
from rivet_fleet.contracts.state import RunView
from rivet_fleet.contracts.task import RunStatus
from rivet_fleet.observability.reasons import (
    Reason,
    ReasonCode,
    Scene,
    claimable,
    full_groups,
)
from rivet_fleet.observability.units import counted, duration_text

_BY_ORDER = {
    "priority": ReasonCode.HIGHER_PRIORITY_FIRST,
    "longest_first": ReasonCode.LONGER_CHUNKS_FIRST,
}


def order_reasons(scene: Scene) -> tuple[Reason, ...]:
    """For every export with claimable chunks: which export goes first, and why; and when two
    waves run at once, that this is meant."""
    if scene.campaign.status.over:
        return ()
    free = _free_runs(scene)
    if not free:
        return _overlap(scene)
    first = free[0]
    behind = (_behind(scene, run, first) for run in free[1:])
    return (*(reason for reason in behind if reason is not None), *_overlap(scene))


def _free_runs(scene: Scene) -> list[RunView]:
    """Runs with chunks that could be claimed now, in the order of handing out."""
    full = full_groups(scene)
    return [
        run for run in scene.runs if run.plan.source_group not in full and claimable(scene, run) > 0
    ]


def _behind(scene: Scene, run: RunView, first: RunView) -> Reason | None:
    """Why ``run`` is not first; None where the configuration's own order is all there is."""
    place, ahead = run.plan.place, first.plan.place
    if place is None or ahead is None:
        return None
    waits = f"{counted(claimable(scene, run), 'chunk')} of {run.export_name}"
    name = f"{first.export_name} ({counted(claimable(scene, first), 'chunk')} left to claim)"
    if ahead.wave != place.wave:
        code = ReasonCode.EARLIER_WAVE_FIRST
        says = f"{waits} belong to wave {place.wave}: wave {ahead.wave} goes first, now {name}."
    elif place.order not in _BY_ORDER:
        return None
    else:
        code = _BY_ORDER[place.order]
        says = f"{waits} come after {name}: {_comparison(place, ahead)}."
    return Reason(code=code, export_name=run.export_name, sentence=says)


def _comparison(place: ClaimPlace, ahead: ClaimPlace) -> str:
    if place.order == "longest_first":
        return (
            f"a chunk of it is expected to take {duration_text(ahead.chunk_work_s)}, "
            f"of this one {duration_text(place.chunk_work_s)}"
        )
    return f"priority {ahead.score} against {place.score}"


def _overlap(scene: Scene) -> tuple[Reason, ...]:
    """A later wave has begun while an earlier one still runs: nobody idles at its end."""
    running: dict[int, int] = {}
    for run in scene.runs:
        place = run.plan.place
        if run.status is RunStatus.IN_PROGRESS and place and place.wave and run.counts.running:
            running[place.wave] = running.get(place.wave, 0) + run.counts.running
    if len(running) < 2:
        return ()
    earliest = min(running)
    later = sum(number for wave, number in running.items() if wave != earliest)
    says = (
        f"Wave {earliest} still runs {counted(running[earliest], 'chunk')}; workers that found "
        f"nothing more to claim in it went on with {counted(later, 'chunk')} of later waves."
    )
    return (Reason(code=ReasonCode.WAVES_OVERLAP, sentence=says),)
