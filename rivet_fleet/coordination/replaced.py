"""Parts that a repair has replaced: left alone until nobody reads them any more (ADR 0032)."""

from __future__ import annotations

from functools import partial

from rivet_fleet.contracts.keys import RunId
from rivet_fleet.contracts.killpoints import KillPoint, reach
from rivet_fleet.contracts.manifest import LedgerPart, run_manifest_name, run_marker_name
from rivet_fleet.contracts.state import RunStatus, RunView
from rivet_fleet.coordination.commit import make_impossible, tell_removed
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.execution.parts import fingerprint_bytes
from rivet_fleet.verification.manifests import MANIFEST_BYTES_MAX

REPLACED_AFTER_S = 86_400.0
"""So long a reader may go on with the manifest that it began with."""


_WHY = "a repair has replaced it"


def replaced_paths(fleet: Fleet, run_id: RunId) -> set[str]:
    """Of a run's parts those that were replaced and are visible yet: readers have them."""
    return {part.path for part in _replaced(fleet, run_id)}


def _replaced(fleet: Fleet, run_id: RunId) -> list[LedgerPart]:
    read = partial(fleet.store.replaced_parts, run_id)
    return fleet.patience.call("read what was replaced", read)


def remove_replaced(fleet: Fleet, run: RunView, *, min_age_s: float) -> int:
    """Remove the parts that repairs of a completed run have replaced, once the manifest of its
    generation has stood for ``min_age_s``; how many. Markers of former generations go first:
    their folders are whole no more. Raises DestinationError: then some are still there."""
    if run.status is not RunStatus.COMPLETED or run.generation == 1 or run.finished_at_s is None:
        return 0
    read = partial(fleet.store.replaced_parts, run.run_id, until=run.generation)
    parts = fleet.patience.call("read what was replaced", read)
    age_s = fleet.patience.call("read the clock", fleet.store.now_s) - run.finished_at_s
    if not parts or age_s < min_age_s:
        return 0
    destination = fleet.destination(run.run_id)
    body = destination.read(run_manifest_name(run.run_id, run.generation), MANIFEST_BYTES_MAX)
    # Who took the new manifest away has left the former one alone, and its readers with it.
    if body is None or fingerprint_bytes(body) != run.manifest_fingerprint:
        return 0
    for generation in range(1, run.generation):
        destination.remove(run_marker_name(run.run_id, generation))
    make_impossible(destination, parts)
    reach(KillPoint.REPLACED_REMOVED)
    for part in parts:
        tell_removed(fleet, run, part.chunk_index, part.path, part.fence, _WHY)
    forget = partial(fleet.store.forget_replaced, run.run_id, run.generation)
    fleet.patience.call("forget what was replaced", forget)
    return len(parts)
