"""Finishing a run, in the order of ADR 0001; each step idempotent, so two finalizers agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from rivet_fleet.contracts.columns import ColumnSpec
from rivet_fleet.contracts.events import Event, EventName, Told
from rivet_fleet.contracts.keys import RunId
from rivet_fleet.contracts.killpoints import KillPoint, reach
from rivet_fleet.contracts.manifest import (
    LATEST_NAME,
    MANIFEST_NAME,
    REPORT_FOLDER,
    SUCCESS_NAME,
    LedgerPart,
    RunLedger,
    RunWindow,
    build_manifest,
    latest_bytes,
    merge_columns,
    part_named,
    run_manifest_name,
    run_marker_name,
    success_line,
)
from rivet_fleet.contracts.proof import RunProof
from rivet_fleet.contracts.quality import (
    GateOutcome,
    GateVerdict,
    QualityPlan,
    RunFindings,
    UniqueFound,
    judge,
    proof_gates,
    refusal,
)
from rivet_fleet.contracts.state import FinalizeLease, FinishedRun, RunView
from rivet_fleet.coordination.commit import remove_late, reopen_chunk
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.coordination.names import (
    DESTINATION_SHARED,
    RUN_ID_TAKEN,
    bears_name,
    delivered_by_other,
    known_by_later,
    retract,
    retract_given_up,
    withdraw_success,
)
from rivet_fleet.coordination.proof import prove_run
from rivet_fleet.errors import (
    DestinationError,
    LeaseLost,
    SourceError,
    StateError,
    StateTampered,
    StopRequested,
)
from rivet_fleet.execution.destination import Destination, Presence
from rivet_fleet.execution.parts import fingerprint_bytes
from rivet_fleet.execution.source import Source
from rivet_fleet.execution.types import arrow_type
from rivet_fleet.observability.report import (
    SUMMARY_JSON_NAME,
    SUMMARY_MD_NAME,
    summarise_run,
    summary_json,
    summary_markdown,
)
from rivet_fleet.planning.change import shape_changes
from rivet_fleet.verification.manifests import (
    MANIFEST_BYTES_MAX,
)

# ------------------------------------------------------------------------------------------
# The source's counters before a run's first chunk and after its end. Best effort, never fatal:
# no delivery waits for it, and whatever fails leaves only a gap in the evidence.


def look_before(fleet: Fleet, run_id: RunId, source_name: str, source: Source) -> int:
    """Before the first row that this process reads of a run; only the first look of all counts.
    What was received in vain: bytes."""
    try:
        fleet.store.note_counters_before(run_id, source_name, source.read_counters())
    except SourceError as error:
        return error.received_bytes
    except StateError:
        pass
    return 0


def look_after(fleet: Fleet, run: RunView) -> None:
    """After the run ended; not at all without a look before."""
    read = run.plan.read
    try:
        if fleet.store.counters_of(run.run_id) is None:
            return
        reading = fleet.source(read.source, read.source_identity).read_counters()
        fleet.store.note_counters_after(run.run_id, reading)
    except (SourceError, StateError, StateTampered):
        fleet.drop_source(read.source)


# ------------------------------------------------------------------------------------------
# What a run is found to be when its last chunk is completed, before anybody is told (ADR 0008).
#
# Judging reads the ledger and writes nothing: every finalizer comes to the same verdict.


def run_findings(
    fleet: Fleet, run: RunView, parts: Sequence[LedgerPart], proof: RunProof | None = None
) -> RunFindings:
    """Gates judged, and numbers compared with former runs. ``parts`` is the whole ledger,
    ``proof`` what the source said of it."""
    rows = sum(part.digest.rows for part in parts)
    quality = run.plan.quality
    campaign = fleet.patience.call(
        "read the campaign", lambda: fleet.store.campaign(run.campaign_id)
    )
    former = {}
    if campaign is not None and run.plan.shape_drift_warn_factor > 0:
        name = campaign.campaign_name
        former = fleet.patience.call(
            "read the history", lambda: fleet.store.history(name, [run.export_name])
        )
    return RunFindings(
        gates=(
            *(() if quality is None else _judged(fleet, run, quality, parts, rows)),
            *proof_gates(proof),
        ),
        shape=shape_changes(
            former.get(run.export_name, ()),
            rows=rows,
            size_bytes=sum(part.digest.size_bytes for part in parts),
            mode=run.plan.mode,
            factor=run.plan.shape_drift_warn_factor,
        ),
        acceptance=run.acceptance,
        proof=proof,
    )


def _judged(
    fleet: Fleet, run: RunView, quality: QualityPlan, parts: Sequence[LedgerPart], rows: int
) -> tuple[GateVerdict, ...]:
    nulls = {column.name: column.nulls for column in merge_columns(parts)}
    unique = [
        _unique(fleet, run, quality, position, len(parts))
        for position in range(len(quality.unique))
    ]
    return judge(quality, rows=rows, nulls=nulls, unique=unique)


def _unique(
    fleet: Fleet, run: RunView, quality: QualityPlan, position: int, parts: int
) -> UniqueFound:
    # Here and not above: NumPy's memory is for processes whose exports ask for it.
    from rivet_fleet.execution.uniqueness import merge_unique

    key = quality.unique[position]
    read = partial(fleet.store.unique_stats, run.run_id, position, key.columns)
    stats = fleet.patience.call("read what parts know about a key", read)
    found = merge_unique(key, stats, entries_max=quality.unique_entries_max)
    # Each part says something of each key. Of a former run that is not kept.
    return replace(found, missing=max(0, parts - len(stats)))


def tell_findings(fleet: Fleet, run: RunView, findings: RunFindings) -> None:
    """Into the journal: every gate that was judged, every number that is unusual."""
    whose = (run.campaign_id, run.run_id, run.export_name)
    for gate in findings.gates:
        _tell(
            fleet,
            EventName.QUALITY_JUDGED
            if gate.outcome is GateOutcome.PASSED
            else EventName.QUALITY_FAILED,
            whose,
            gate.sentence,
            code=gate.code.value,
            outcome=gate.outcome.value,
            refuses=gate.refuses,
        )
    for change in findings.shape:
        _tell(
            fleet,
            EventName.SHAPE_DRIFTED,
            whose,
            change.sentence,
            code=change.code.value,
            usual=change.usual,
            now=change.now,
            samples=change.samples,
        )


def _tell(
    fleet: Fleet, name: EventName, whose: tuple[str, str, str], message: str, **data: object
) -> None:
    campaign_id, run_id, export_name = whose
    fleet.emit(
        Event(
            name=name,
            campaign_id=campaign_id,
            run_id=run_id,
            export_name=export_name,
            worker_id=fleet.identity.worker_id,
            message=message,
            data=data,
        )
    )


def finalize_run(fleet: Fleet, run_id: RunId) -> bool:
    """Finish the run if it is ready and nobody else is doing it. True when it is completed.

    A run whose quality gates do not hold is failed instead: no manifest, no success (Q2, Q3).
    Raises DestinationError when the manifest could not be written: the run stays in
    progress and the next finalizer starts again from the first step.
    """
    lease = fleet.patience.call(
        "lease the run's end",
        lambda: fleet.store.lease_finalize(run_id, fleet.identity, fleet.settings.lease_ttl_s),
    )
    if lease is None:
        return False
    reach(KillPoint.FINALIZE_LEASED)
    run = fleet.patience.call("read the run", lambda: fleet.store.run(run_id))
    if run is None:
        return False
    try:
        # The only reading: what is judged, counted and told is what was found whole.
        ledger = fleet.patience.call("read the ledger", lambda: fleet.store.whole_ledger(lease))
    except LeaseLost:
        return False
    parts = ledger.parts
    if run.plan.reconcile is not None:
        # It delivers nothing, and is judged by what stands with its chunks.
        return _finish(fleet, run, lease, parts, "", RunFindings())
    destination = fleet.destination(run_id, run)
    visible = {info.path: info.size_bytes for info in destination.list_visible(run_id)}
    strange = _stranger(run, ledger, visible)
    if strange is not None:
        # What speaks of that other delivery bears this run's names, and stays.
        _fail(fleet, run, lease, strange)
        return False
    # Before the source is asked: whatever it said would be void with the first chunk reopened.
    if _reopen_lost(fleet, destination, run, parts, visible):
        return False
    try:
        proof = prove_run(fleet, run, lease, parts)
    except (LeaseLost, StopRequested):
        return False
    findings = run_findings(fleet, run, parts, proof)
    if findings.refused:
        _refuse(fleet, run, lease, findings, parts)
        return False
    # Behind the count, which takes its time: as late as it can be.
    remove_late(fleet, run, ledger.fences)
    if run.plan.skip_empty and not parts:
        # No delivery at all: what was delivered before stays what it was (Rivet: Manifest).
        return _finish(fleet, run, lease, parts, "", findings)
    # Not reopened by itself: what a store spoils once it may spoil again, and each time its source
    # would be read anew.
    damaged = _damaged(fleet, destination, run, lease, parts)
    if damaged is not None:
        _give_up(fleet, run, lease, damaged)
        return False
    # Here, and again where the name is taken: a folder that is another's is to get no copy either.
    other = delivered_by_other(destination, fleet.store.namespace)
    if other is not None:
        _leave_to_other(fleet, run, lease, other)
        return False
    return _deliver(fleet, destination, run, lease, ledger.parts, (proof, findings))


def _deliver(
    fleet: Fleet,
    destination: Destination,
    run: RunView,
    lease: FinalizeLease,
    parts: list[LedgerPart],
    judged: tuple[RunProof | None, RunFindings],
) -> bool:
    """Say that it is a success, and end it. Raises LeaseLost, DestinationError."""
    proof, findings = judged
    body = manifest_bytes(fleet, run, destination, parts, proof)
    try:
        other = _write(fleet, destination, run, lease, parts, body)
    except LeaseLost:
        retract_given_up(fleet, destination, run)
        raise
    if other is not None:
        _leave_to_other(fleet, run, lease, other)
        return False
    finished = _finish(fleet, run, lease, parts, fingerprint_bytes(body), findings)
    if not finished:
        retract_given_up(fleet, destination, run)
    return finished


def _refuse(
    fleet: Fleet,
    run: RunView,
    lease: FinalizeLease,
    findings: RunFindings,
    parts: list[LedgerPart],
) -> None:
    """The run is not delivered; what is visible of it stays in its own folder as evidence."""
    error = refusal(findings.refused)
    try:
        fleet.patience.call("refuse the run", lambda: fleet.store.fail_run(lease, error, findings))
    except LeaseLost:
        return
    tell_findings(fleet, run, findings)
    _report(fleet, run.run_id, parts)
    # A finalizer that died may have come further, by what it found then.
    retract(fleet, fleet.destination(run.run_id), run)


def _stranger(run: RunView, ledger: RunLedger, visible: Iterable[str]) -> str | None:
    """What is wrong when a part lies in the run's folder that no attempt of this run can have
    delivered: somebody else has run under its id. Of a lower fence it may be one that was given up,
    which ``remove_late`` takes."""
    known = {part.path for part in ledger.parts}
    name, extension = run.plan.export_name, run.plan.format.extension
    for path in sorted(set(visible) - known):
        named = part_named(path, run_id=run.run_id, export_name=name, extension=extension)
        if named is not None and named[1] >= ledger.fences.get(named[0], 0):
            return (
                f"part {path} is another delivery's under the id of this run, and nothing was "
                "removed; `rivet-fleet run --new` without --campaign-id delivers into a folder of "
                f"its own [{RUN_ID_TAKEN}]"
            )
    return None


def _leave_to_other(fleet: Fleet, run: RunView, lease: FinalizeLease, why: str) -> None:
    """Another namespace was first. What is visible of this run stays in its own folder, without a
    manifest that speaks of success."""
    fleet.destination(run.run_id).remove(run_manifest_name(run.run_id, run.generation))
    _give_up(fleet, run, lease, f"{why} [{DESTINATION_SHARED}]")


def _give_up(fleet: Fleet, run: RunView, lease: FinalizeLease, error: str) -> None:
    """The run fails, and says nothing of itself any more."""
    if _fail(fleet, run, lease, error):
        retract(fleet, fleet.destination(run.run_id), run)


def _fail(fleet: Fleet, run: RunView, lease: FinalizeLease, error: str) -> bool:
    """An operator has to see to the run. False where it is somebody else's by now."""
    try:
        fleet.patience.call("give the run up", lambda: fleet.store.fail_run(lease, error))
    except LeaseLost:
        return False
    fleet.emit(
        Event(
            name=EventName.RUN_FAILED,
            campaign_id=run.campaign_id,
            run_id=run.run_id,
            export_name=run.export_name,
            worker_id=fleet.identity.worker_id,
            message=error,
        )
    )
    return True


def _reopen_lost(
    fleet: Fleet,
    destination: Destination,
    run: RunView,
    parts: list[LedgerPart],
    visible: Mapping[str, int],
) -> bool:
    """A file deleted under our feet is found here, before anybody is told of success."""
    lost = {p.chunk_index: p for p in parts if visible.get(p.path) != p.digest.size_bytes}
    # A listing condemns nothing, it spares a look at each part that is there as it should be.
    lost = {
        index: part
        for index, part in lost.items()
        if destination.look(part.receipt, part.path, part.digest) is not Presence.VISIBLE
    }
    if lost:
        # A finalizer may have died behind the marks.
        withdraw_success(destination, run)
    for index, part in lost.items():
        task = fleet.patience.call("read a chunk", partial(fleet.store.task, run.run_id, index))
        # Another one may have reopened it since the ledger was read: its fence is higher then.
        if task is not None and part.fence in (task.fence, task.commit_fence):
            reopen_chunk(
                fleet,
                task_id=task.task_id,
                run_id=run.run_id,
                chunk_index=index,
                fence=task.fence,
                reason=f"published part {part.path} is gone or not what was written",
            )
    return bool(lost)


def manifest_bytes(
    fleet: Fleet,
    run: RunView,
    destination: Destination,
    parts: list[LedgerPart],
    proof: RunProof | None = None,
) -> bytes:
    """The manifest from what the state keeps alone: equal for every finalizer, whenever it runs."""
    return build_manifest(
        run.plan,
        parts,
        window=RunWindow(
            started_at=_rfc3339(run.created_at_s),
            finished_at=_finished_at(fleet, run),
            generation=run.generation,
        ),
        destination_uri=destination.uri,
        schema_fingerprint=schema_fingerprint(run.plan.output_columns),
        acceptance=run.acceptance,
        proof=proof,
    )


def _finished_at(fleet: Fleet, run: RunView) -> str:
    """Of the last chunk, so that every finalizer says the same."""
    return _rfc3339(
        fleet.patience.call(
            "read when the run ended", lambda: fleet.store.run_finished_at_s(run.run_id)
        )
    )


def schema_fingerprint(columns: Sequence[ColumnSpec]) -> str:
    """xxh3 over name-sorted ``name<TAB>type`` lines: equal shapes compare equal (§8.3)."""
    lines = sorted(f"{column.name}\t{arrow_type(column.type)}\n" for column in columns)
    return fingerprint_bytes("".join(lines).encode())


def _write(
    fleet: Fleet,
    destination: Destination,
    run: RunView,
    lease: FinalizeLease,
    parts: list[LedgerPart],
    body: bytes,
) -> str | None:
    """Immutable copy, canonical name, check, markers. Only a success comes this far. What is
    wrong with the folder, when another namespace delivered there since it was looked at.

    An older run that is finished anew (a part of it was lost) is whole again by its own copy and
    marker: what the prefix is known by stays the newest's.
    """
    later = known_by_later(fleet, destination, run)
    # The copy before the name: who follows manifest.json finds the copy of its run.
    copy = run_manifest_name(run.run_id, run.generation)
    destination.put_atomic(copy, body)
    reach(KillPoint.MANIFEST_COPY_WRITTEN)
    other = None if later else _take_name(fleet, destination, lease, body)
    if other is not None:
        return other
    reach(KillPoint.MANIFEST_WRITTEN)
    told = fleet.mention(
        Event(
            name=EventName.MANIFEST_WRITTEN,
            campaign_id=run.campaign_id,
            run_id=run.run_id,
            export_name=run.export_name,
            worker_id=fleet.identity.worker_id,
            data={"manifest": copy},
        )
    )
    reach(KillPoint.MANIFEST_VERIFIED)
    # Behind the check, and the run's own first: the canonical marker speaks of a folder that is
    # marked already.
    line = success_line(fingerprint_bytes(body))
    destination.put_atomic(run_marker_name(run.run_id, run.generation), line)
    # Who slept has lost the lease, and a later run has taken the name: both markers are its then.
    _still_ours(fleet, lease, told)
    if later or not bears_name(destination, body):
        return None
    destination.put_atomic(SUCCESS_NAME, line)
    reach(KillPoint.SUCCESS_WRITTEN)
    if bears_name(destination, body):
        latest = latest_bytes(
            run.plan, parts, finished_at=_finished_at(fleet, run), generation=run.generation
        )
        destination.put_atomic(LATEST_NAME, latest)
        reach(KillPoint.LATEST_WRITTEN)
    return None


def _take_name(
    fleet: Fleet, destination: Destination, lease: FinalizeLease, body: bytes
) -> str | None:
    """``manifest.json``: a first one is created and not put over another, because two namespaces
    may both have found none (N4); one that is there is replaced by runs of its own alone."""
    _still_ours(fleet, lease)
    if destination.read(MANIFEST_NAME, MANIFEST_BYTES_MAX) is None:
        if destination.put_new(MANIFEST_NAME, body):
            return None
        # Who was quicker may also have been a later run of ours.
        _still_ours(fleet, lease)
    other = delivered_by_other(destination, fleet.store.namespace)
    if other is None:
        destination.put_atomic(MANIFEST_NAME, body)
    return other


def _damaged(
    fleet: Fleet,
    destination: Destination,
    run: RunView,
    lease: FinalizeLease,
    parts: list[LedgerPart],
) -> str | None:
    """``verify: content`` reads every part once more before anybody is told of success. What is
    wrong, None when nothing is. Raises LeaseLost."""
    if run.plan.verify != "content":
        return None
    for part in parts:
        # All of it may take longer than a lease, and who waits for one would begin anew.
        _still_ours(fleet, lease)
        if destination.prove(part.path, part.digest) is not Presence.VISIBLE:
            return (
                f"part {part.path} does not hold what was written; `rivet-fleet requeue --lost` "
                "and `resume` read its chunk again [RIVET_VERIFY_PART_CHECKSUM_MISMATCH]"
            )
    return None


def _still_ours(fleet: Fleet, lease: FinalizeLease, *told: Told) -> None:
    """The canonical name is shared by all runs: a finalizer that slept must not come late. ``told``
    is journaled with it."""
    fleet.patience.call(
        "confirm the run's end",
        lambda: fleet.store.confirm_finalize(lease, fleet.settings.lease_ttl_s, told=told),
    )


def _finish(
    fleet: Fleet,
    run: RunView,
    lease: FinalizeLease,
    parts: list[LedgerPart],
    fingerprint: str,
    findings: RunFindings,
) -> bool:
    now_s = fleet.patience.call("read the clock", fleet.store.now_s)
    finished = FinishedRun(
        manifest_fingerprint=fingerprint,
        rows=sum(p.digest.rows for p in parts),
        bytes=sum(p.digest.size_bytes for p in parts),
        files=len(parts),
        duration_s=max(0.0, now_s - run.began_at_s),
        findings=findings,
    )
    try:
        fleet.patience.call("finish the run", lambda: fleet.store.finish_run(lease, finished))
    except LeaseLost:
        return False
    reach(KillPoint.RUN_FINISHED)
    look_after(fleet, run)
    tell_findings(fleet, run, findings)
    if fingerprint:
        _report(fleet, run.run_id, parts)
    return True


def _report(fleet: Fleet, run_id: RunId, parts: list[LedgerPart]) -> None:
    """Best effort, never fatal (I8): a summary for people and programs beside the data."""
    try:
        run = fleet.store.run(run_id)
        campaign = fleet.store.campaign(run.campaign_id) if run else None
        if run is None or campaign is None:
            return
        destination = fleet.destination(run_id)
        summary = summarise_run(
            campaign,
            run,
            [],
            uri=destination.uri,
            files=len(parts),
            changed={column.name: column.changed for column in merge_columns(parts)},
        )
        folder = f"{REPORT_FOLDER}/{run_id}"
        body = summary_json(summary, fleet.redact).encode()
        destination.put_atomic(f"{folder}/{SUMMARY_JSON_NAME}", body, durable=False)
        text = summary_markdown(summary, fleet.redact).encode()
        destination.put_atomic(f"{folder}/{SUMMARY_MD_NAME}", text, durable=False)
        reach(KillPoint.REPORT_WRITTEN)
    except (DestinationError, StateError) as error:
        fleet.tell(EventName.DESTINATION_RETRIED, f"no report for {run_id}: {error.message}")


def _rfc3339(epoch_s: float) -> str:
    moment = datetime.fromtimestamp(round(epoch_s, 3), tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
