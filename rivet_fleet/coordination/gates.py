"""What a run is found to be when its last chunk is completed, before anybody is told (ADR 0008).

Judging reads the ledger and writes nothing: every finalizer comes to the same verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.manifest import merge_columns
from rivet_fleet.contracts.part import LedgerPart
from rivet_fleet.contracts.plan import ExportPlan
from rivet_fleet.contracts.proof import RunProof
from rivet_fleet.contracts.quality import (
    GateOutcome,
    GateVerdict,
    QualityPlan,
    RunFindings,
    UniqueFound,
    judge,
    proof_gates,
)
from rivet_fleet.contracts.state import RunView
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.planning.change import shape_changes


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
    unique = [_unique(fleet, run, quality, position) for position in range(len(quality.unique))]
    return judge(quality, rows=rows, nulls=nulls, unique=unique)


def _unique(fleet: Fleet, run: RunView, quality: QualityPlan, position: int) -> UniqueFound:
    # Here and not above: NumPy's memory is for processes whose exports ask for it.
    from rivet_fleet.execution.uniqueness import merge_unique

    key = quality.unique[position]
    read = partial(fleet.store.unique_stats, run.run_id, position, key.columns)
    stats = fleet.patience.call("read what parts know about a key", read)
    return merge_unique(key, stats, entries_max=quality.unique_entries_max)


def tell_schema_changes(fleet: Fleet, campaign_id: str, plan: ExportPlan) -> None:
    """Into the journal, one entry per difference."""
    for change in plan.schema_changes:
        _tell(
            fleet,
            EventName.SCHEMA_CHANGED,
            (campaign_id, plan.run_id, plan.export_name),
            change.sentence,
            code=change.code.value,
            column=change.column,
            before=change.before,
            after=change.after,
            policy=plan.on_schema_drift,
        )


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
