"""The names that a place is known by (``manifest.json``, ``_SUCCESS``, ``latest.json``): whose they
are, and whose they become when a run that bears them is reopened or given up.

They speak of the newest run that is delivered there, and of one that is being ended while it is.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

from rivet_fleet.contracts.identity import checked_id, namespace_of
from rivet_fleet.contracts.keys import RunId
from rivet_fleet.contracts.manifest import (
    LATEST_NAME,
    MANIFEST_NAME,
    SUCCESS_NAME,
    latest_of,
    run_manifest_name,
    run_marker_name,
    success_line,
    withdrawn_bytes,
)
from rivet_fleet.contracts.state import RunStatus, RunView
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.errors import (
    ConfigError,
    DestinationError,
    RivetFleetError,
    StateRefused,
    StateTampered,
)
from rivet_fleet.execution.destination import Destination
from rivet_fleet.execution.parts import fingerprint_bytes
from rivet_fleet.verification.manifests import (
    MANIFEST_BYTES_MAX,
    ManifestUnreadable,
    parse_manifest,
)

DESTINATION_SHARED = "RIVET_DESTINATION_SHARED"
"""The code of every refusal to deliver where another namespace does."""
RUN_ID_TAKEN = "RIVET_RUN_ID_TAKEN"
"""The code of every refusal to deliver under an id that has a delivery in its folder already."""


def delivered_by_other(destination: Destination, namespace: str) -> str | None:
    """What is wrong with the folder, when its manifest is of another namespace's run (N4)."""
    body = destination.read(MANIFEST_NAME, MANIFEST_BYTES_MAX)
    if body is None:
        return None
    try:
        owner = namespace_of(parse_manifest(body).run_id)
    except ManifestUnreadable:
        return None  # whatever it is, it is no delivery of anybody
    if owner == namespace:
        return None
    return f"{destination.uri} holds deliveries of another namespace, and this is {namespace}"


def delivered_already(destination: Destination, run_id: RunId) -> str | None:
    """What is there of a run of this id, which is to be planned: of an id that was used before."""
    copy = run_manifest_name(run_id)
    if destination.read(copy, MANIFEST_BYTES_MAX) is not None:
        return copy
    return next((info.path for info in destination.list_visible(run_id)), None)


def known_by_later(fleet: Fleet, destination: Destination, run: RunView) -> bool:
    """Whether the prefix is known by a run that was planned behind this one. Asked of the place: a
    later run that delivered elsewhere, or nothing, has not taken the name here."""
    body = destination.read(MANIFEST_NAME, MANIFEST_BYTES_MAX)
    with contextlib.suppress(ManifestUnreadable):
        found = None if body is None else run_named(fleet, parse_manifest(body).run_id)
        # One that was given up is delivered by nobody: what it left of itself holds no name.
        if found and found.status in (RunStatus.IN_PROGRESS, RunStatus.COMPLETED):
            return _age(found) > _age(run)
    return False


def run_named(fleet: Fleet, named: str) -> RunView | None:
    """The run that a manifest names, which anybody may have written; None where the state has none,
    and for what is no id of ours."""
    with contextlib.suppress(StateTampered, StateRefused):
        run_id = RunId(checked_id(named))
        return fleet.patience.call("look at the run that is named", lambda: fleet.store.run(run_id))
    return None


def _age(run: RunView) -> tuple[float, str]:
    """The order of runs: that of their planning."""
    return run.created_at_s, run.run_id


def bears_name(destination: Destination, body: bytes) -> bool:
    """Whether the prefix is known by this run. Markers only move forward."""
    return destination.read(MANIFEST_NAME, MANIFEST_BYTES_MAX) == body


def withdraw_success(destination: Destination, run: RunView) -> None:
    """Before a finished run is reopened: nobody may believe in it any longer, in whichever of its
    generations.

    The canonical marker goes only when it speaks of this run, and ``latest.json``, which stays,
    names none then.
    """
    plan = run.plan
    latest = destination.read(LATEST_NAME, MANIFEST_BYTES_MAX)
    if latest is not None and f'"run_id": "{plan.run_id}"'.encode() in latest:
        destination.put_atomic(LATEST_NAME, withdrawn_bytes(plan))
    canonical = destination.read(SUCCESS_NAME, 4096)
    for generation in range(1, run.generation + 1):
        body = destination.read(run_manifest_name(plan.run_id, generation), MANIFEST_BYTES_MAX)
        if body is not None and canonical == success_line(fingerprint_bytes(body)):
            destination.remove(SUCCESS_NAME)
        destination.remove(run_marker_name(plan.run_id, generation))


# ------------------------------------------------------------------------------------------
# A run that is given up after its end had begun: what it says of itself is taken back.


def reached_end(run: RunView) -> bool:
    """Whether a finalizer ever began with a run that was not completed: what it wrote may stand.
    A cancellation raises the fence once more."""
    before = {RunStatus.IN_PROGRESS: 0, RunStatus.CANCELLED: 1}.get(run.status)
    return before is not None and run.plan.reconcile is None and run.finalize_fence > before


def retract(fleet: Fleet, destination: Destination, run: RunView) -> None:
    """Take back what a run that will never be completed says of itself: its markers, the copy of
    its manifest, and the shared names where they speak of it; parts stay. Of a repair the former
    generation is delivered as before (ADR 0032); of any other run the one before it, as far as it
    stands. Idempotent. Raises DestinationError."""
    copy = run_manifest_name(run.run_id, run.generation)
    before = former(destination, run)
    if before is None:
        give_back(fleet, destination, run)
        withdraw_success(destination, run)
    else:
        _put_back(destination, run, destination.read(copy, MANIFEST_BYTES_MAX) or b"", before)
        destination.remove(run_marker_name(run.run_id, run.generation))
    # The last of all: by it the others are known.
    destination.remove(copy)


def give_back(fleet: Fleet, destination: Destination, run: RunView) -> None:
    """The shared names, as far as they speak of the run, to the newest run that is delivered there;
    to none where nothing is. Raises DestinationError."""
    own = _manifests(destination, run, run.generation)
    if not _speaking(destination, own):
        return
    found = newest_delivered(fleet, destination, run)
    if found is not None:
        _hand_over(destination, own, *found)
        return
    _unmark(destination, own.values())
    if destination.read(MANIFEST_NAME, MANIFEST_BYTES_MAX) in own.values():
        destination.remove(MANIFEST_NAME)


def move_on(fleet: Fleet, destination: Destination, run: RunView) -> bool:
    """The shared names, as far as they speak of a former generation of a repaired run, to the
    newest run that is delivered there. False where they still do: nothing else is delivered. Raises
    DestinationError."""
    own = _manifests(destination, run, run.generation - 1)
    if not _speaking(destination, own):
        return True
    found = newest_delivered(fleet, destination, run)
    if found is None or _age(found[0]) < _age(run):
        return False
    _hand_over(destination, own, *found)
    return True


def _speaking(destination: Destination, own: Mapping[str, bytes]) -> bool:
    """Whether readers are led to one of these manifests."""
    named = destination.read(MANIFEST_NAME, MANIFEST_BYTES_MAX)
    return named in own.values() or _shown(destination) in own


def _hand_over(
    destination: Destination, own: Mapping[str, bytes], other: RunView, body: bytes
) -> None:
    """What speaks of ``own`` speaks of the other run; and ``latest.json`` where it names nobody,
    because what it named was withdrawn."""
    if _shown(destination) in {*own, ""}:
        destination.put_atomic(LATEST_NAME, latest_of(other.plan, body, other.generation))
    if destination.read(MANIFEST_NAME, MANIFEST_BYTES_MAX) in own.values():
        # Nobody is to see the marker of the one beside the manifest of the other.
        _unmark(destination, own.values())
        destination.put_atomic(MANIFEST_NAME, body)
    if bears_name(destination, body):
        destination.put_atomic(SUCCESS_NAME, success_line(fingerprint_bytes(body)))


def _manifests(destination: Destination, run: RunView, until: int) -> dict[str, bytes]:
    """The copies of a run's manifests that stand, by name."""
    names = [run_manifest_name(run.run_id, number) for number in range(1, until + 1)]
    found = {name: destination.read(name, MANIFEST_BYTES_MAX) for name in names}
    return {name: body for name, body in found.items() if body is not None}


def _shown(destination: Destination) -> str | None:
    """The manifest that ``latest.json`` leads to; empty where it names nobody, None where there is
    none that could be read."""
    body = destination.read(LATEST_NAME, MANIFEST_BYTES_MAX)
    if body is None:
        return None
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(body)["manifest"] or "")
    return None


def _unmark(destination: Destination, bodies: Iterable[bytes]) -> None:
    canonical = destination.read(SUCCESS_NAME, 4096)
    if canonical in [success_line(fingerprint_bytes(body)) for body in bodies]:
        destination.remove(SUCCESS_NAME)


def newest_delivered(
    fleet: Fleet, destination: Destination, run: RunView
) -> tuple[RunView, bytes] | None:
    """The newest run that is delivered at this one's place, perhaps itself, and its manifest, as
    the state and the run's own marker agree on it."""
    read, store = fleet.patience.call, fleet.store
    campaign = read("read the campaign", lambda: store.campaign(run.campaign_id))
    name = campaign.campaign_name if campaign else None
    for one in read("list the campaigns", lambda: store.campaigns(name=name)):
        runs = read("list its runs", partial(store.runs, one.campaign_id))
        for other in sorted(runs, key=_age, reverse=True):
            if _delivers_at(other, run):
                copy = run_manifest_name(other.run_id, other.generation)
                body = destination.read(copy, MANIFEST_BYTES_MAX) or b""
                line = destination.read(run_marker_name(other.run_id, other.generation), 4096)
                mark = fingerprint_bytes(body)
                if mark == other.manifest_fingerprint and line == success_line(mark):
                    return other, body
    return None


def _delivers_at(other: RunView, run: RunView) -> bool:
    ended = other.status is RunStatus.COMPLETED and not other.skipped
    same = other.plan.destination.place == run.plan.destination.place
    return ended and other.plan.reconcile is None and same


def former(destination: Destination, run: RunView) -> bytes | None:
    """The manifest of the generation before this one. Without its marker it was withdrawn, because
    a part of it is lost."""
    generation = run.generation - 1
    if not generation:
        return None
    body = destination.read(run_manifest_name(run.run_id, generation), MANIFEST_BYTES_MAX) or b""
    marker = destination.read(run_marker_name(run.run_id, generation), 4096)
    return body if marker == success_line(fingerprint_bytes(body)) else None


def _put_back(destination: Destination, run: RunView, body: bytes, former: bytes) -> None:
    """The shared names, as far as they are those of this ``body``, to the former generation."""
    latest = destination.read(LATEST_NAME, MANIFEST_BYTES_MAX)
    ours = f'"manifest": "{run_manifest_name(run.run_id, run.generation)}"'
    if latest is not None and ours.encode() in latest:
        destination.put_atomic(LATEST_NAME, latest_of(run.plan, former, run.generation - 1))
    if bears_name(destination, body):
        destination.put_atomic(MANIFEST_NAME, former)
    if destination.read(SUCCESS_NAME, 4096) == success_line(fingerprint_bytes(body)):
        destination.put_atomic(SUCCESS_NAME, success_line(fingerprint_bytes(former)))


def retract_all(fleet: Fleet, runs: Iterable[RunView]) -> None:
    """Of those that the state has cancelled by now. Raises DestinationError, or ConfigError without
    its credentials, where a place is away: what still stands there, and behind the others."""
    away: list[tuple[RunView, RivetFleetError]] = []
    for run in runs:
        try:
            retract_given_up(fleet, fleet.destination(run.run_id, run), run)
        except (ConfigError, DestinationError) as error:
            away.append((run, error))
    for run, why in away:
        raise type(why)(
            f"run {run.run_id} is given up in the state, and may still have a manifest and "
            f"_SUCCESS at its destination: {why.message}",
            hint=f"when it is there again, `rivet-fleet cancel --campaign-id {run.campaign_id}` "
            "takes them back",
            code=why.code,
        )


def retract_given_up(fleet: Fleet, destination: Destination, run: RunView) -> None:
    """Also by the finalizer that lost it: whoever cancelled the run or forgot it may have looked
    before it came so far. One that somebody finishes, or has finished, is left alone; but of a
    repair that was given up the state has led back to the generation before (ADR 0032)."""
    now = fleet.patience.call("look at the run", lambda: fleet.store.run(run.run_id))
    if now is None or now.status is RunStatus.CANCELLED:
        retract(fleet, destination, run)
    elif now.status is RunStatus.COMPLETED and now.generation < run.generation:
        _lead_back(fleet, destination, run, now)


def _lead_back(fleet: Fleet, destination: Destination, run: RunView, now: RunView) -> None:
    """As ``retract``, of a repair, where the state vouches for the generation before it: its marks
    come back, too, if a part that the repair lost had taken them along."""
    copy = run_manifest_name(run.run_id, now.generation)
    body = destination.read(copy, MANIFEST_BYTES_MAX) or b""
    mark = fingerprint_bytes(body)
    marker = run_marker_name(run.run_id, now.generation)
    if destination.read(marker, 4096) != success_line(mark):
        if mark != now.manifest_fingerprint or not _whole(destination, run, body):
            retract(fleet, destination, run)
            return
        destination.put_atomic(marker, success_line(mark))
    given_up = run_manifest_name(run.run_id, run.generation)
    left = destination.read(given_up, MANIFEST_BYTES_MAX)
    own = {} if left is None else {given_up: left}
    if bears_name(destination, body) or _speaking(destination, own):
        _hand_over(destination, own, now, body)
    destination.remove(run_marker_name(run.run_id, run.generation))
    destination.remove(given_up)


def _whole(destination: Destination, run: RunView, body: bytes) -> bool:
    """Whether every part that a manifest names is there."""
    visible = {info.path: info.size_bytes for info in destination.list_visible(run.run_id)}
    with contextlib.suppress(ManifestUnreadable):
        parts = parse_manifest(body).parts
        return all(visible.get(part.path) == part.digest.size_bytes for part in parts)
    return False


def left_of_repairs(fleet: Fleet, runs: Iterable[RunView]) -> list[RunView]:
    """Of completed runs, the repairs that were given up and still say something of themselves.
    Raises DestinationError."""
    found = []
    for run in runs:
        if run.status is RunStatus.COMPLETED and run.plan.reconcile is None and not run.skipped:
            copy = run_manifest_name(run.run_id, run.generation + 1)
            if fleet.destination(run.run_id, run).read(copy, MANIFEST_BYTES_MAX) is not None:
                found.append(replace(run, generation=run.generation + 1))
    return found
