"""Repairing a delivered run: ranges that differ, read anew as its next generation (ADR 0032).

What is to be read again stands in the state, in the comparison's own results under their seals. Of
a report file it is believed which comparison it is of, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rivet_fleet.contracts.identity import checked_id
from rivet_fleet.contracts.keys import CampaignId, RangeKind, RunId, describe_range
from rivet_fleet.contracts.killpoints import KillPoint, reach
from rivet_fleet.contracts.reconcile import (
    RangeVerdict,
    ReconcilePlan,
    RunComparison,
    compared_run,
)
from rivet_fleet.contracts.state import RunView
from rivet_fleet.coordination.fleet import Fleet, refuse_other
from rivet_fleet.coordination.reconcile import refuse_other_files
from rivet_fleet.errors import StateRefused, StateTampered, UsageError
from rivet_fleet.persistence.repairs import refuse_repair, underway
from rivet_fleet.planning.config.loaded import LoadedConfig

REPORT_OTHER = "RIVET_REPAIR_REPORT_OTHER"
NOTHING = "RIVET_REPAIR_NOTHING"
FILES_GONE = "RIVET_REPAIR_FILES_GONE"
REPORT_BYTES_MAX = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeToRead:
    """One range that is to be read again. ``rows``, ``bytes``: of its files now; ``pages``: in how
    many it was read."""

    chunk_index: int
    identifier: str
    found: str
    rows: int
    bytes: int
    pages: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What a repair of one run reads again, and why. ``run`` is as it was compared; ``fences``: of
    the chunks, as they were delivered."""

    run: RunView
    of: RunView
    ranges: tuple[RangeToRead, ...]
    fences: dict[int, int]

    @property
    def asked(self) -> ReconcilePlan:
        """How the run was compared, and is again afterwards."""
        assert self.of.plan.reconcile is not None, "it is a comparison"
        return self.of.plan.reconcile

    @property
    def plain(self) -> dict[str, Any]:
        """As JSON. Fields are added and never taken away (RR8)."""
        return {
            "export_name": self.run.export_name,
            "run_id": self.run.run_id,
            "campaign_id": self.run.campaign_id,
            "reconcile_run_id": self.of.run_id,
            "generation": self.run.generation,
            "rows": sum(one.rows for one in self.ranges),
            "bytes": sum(one.bytes for one in self.ranges),
            "statements": sum(one.pages or 1 for one in self.ranges),
            "ranges": [
                {
                    "chunk_index": one.chunk_index,
                    "identifier": one.identifier,
                    "found": one.found,
                    "rows": one.rows,
                    "bytes": one.bytes,
                    "statements": one.pages,
                }
                for one in self.ranges
            ],
        }


# ------------------------------------------------------------------------------------------
# Which ranges, from a report or from a comparison that has just been made.


def of_report(
    fleet: Fleet, loaded: LoadedConfig, body: bytes, names: Sequence[str] = ()
) -> list[Repair]:
    """What the comparisons that a report tells of found, of the named exports, all by default.

    Raises UsageError for text that is no report, StateRefused where it is not what the state knows
    of those comparisons, where nothing is to be repaired, and where the run is not as it was
    compared."""
    found = []
    for told in _reports(body):
        run_id = _known_id(told.get("reconcile_run_id"))
        of = fleet.store.run(run_id)
        if of is None or of.plan.reconcile is None:
            raise _report_other(f"this state has no comparison {run_id}")
        comparison = compared_run(fleet.store.comparison(run_id))
        if not _tells(told, of, comparison):
            raise _report_other(f"it does not tell what comparison {run_id} found")
        if not names or {of.export_name, of.plan.family} & set(names):
            found.append(of)
    return _to_repair(fleet, loaded, found)


def of_comparison(fleet: Fleet, loaded: LoadedConfig, campaign_id: CampaignId) -> list[Repair]:
    """What a campaign of comparisons found. Raises as ``of_report``."""
    return _to_repair(fleet, loaded, fleet.store.runs(campaign_id))


def _reports(body: bytes) -> list[dict[str, Any]]:
    try:
        plain = json.loads(body)
        reports = plain["exports"]
        if isinstance(reports, list) and all(isinstance(one, dict) for one in reports):
            return reports
    except (ValueError, RecursionError, KeyError, TypeError):
        pass
    raise UsageError(
        "the file is no report of a comparison",
        hint="`rivet-fleet reconcile` writes one; without a file a new comparison is made first",
        code=REPORT_OTHER,
    )


def _known_id(said: object) -> RunId:
    try:
        return RunId(checked_id(said if isinstance(said, str) else ""))
    except StateTampered:
        raise _report_other("it names no comparison") from None


def _tells(told: dict[str, Any], of: RunView, comparison: RunComparison) -> bool:
    """Whether a report says of each range what the state does: else somebody has edited it."""
    assert of.plan.reconcile is not None, "asked before"
    here = [
        (one.chunk_index, (one.result.verdict if one.result else RangeVerdict.UNKNOWN).value)
        for one in comparison.ranges
    ]
    partitions = told.get("partitions")
    there = [
        (one.get("chunk_index"), one.get("status"))
        for one in (partitions if isinstance(partitions, list) else ())
        if isinstance(one, dict)
    ]
    same_run = (told.get("run_id"), told.get("export_name"))
    return there == here and same_run == (of.plan.reconcile.of_run, of.export_name)


def _report_other(why: str) -> StateRefused:
    return StateRefused(
        f"the report is of another state, export or run, or was edited: {why}",
        hint="nothing was changed; `rivet-fleet reconcile` makes a new one",
        code=REPORT_OTHER,
    )


def _to_repair(fleet: Fleet, loaded: LoadedConfig, comparisons: Sequence[RunView]) -> list[Repair]:
    found = [one for of in comparisons if (one := _repair(fleet, loaded, of)) is not None]
    if not found:
        raise StateRefused(
            "no range of what was compared differs",
            hint="nothing was changed; what is unsettled or unknown is to be compared again",
            code=NOTHING,
        )
    return found


def _repair(fleet: Fleet, loaded: LoadedConfig, of: RunView) -> Repair | None:
    """None where nothing of it differs."""
    assert of.plan.reconcile is not None, "asked before"
    run = fleet.store.run(of.plan.reconcile.of_run)
    campaign = None if run is None else fleet.store.campaign(run.campaign_id)
    if run is None or campaign is None:
        raise underway(f"the state has no run {of.plan.reconcile.of_run} any more")
    refuse_other(fleet.store, loaded, campaign)
    comparison = compared_run(fleet.store.comparison(of.run_id))
    if comparison.verdict is not RangeVerdict.MISMATCH:
        return None
    refuse_repair(run.run_id, run.status, run.generation, run.generation)
    if run.finished_at_s is None or of.created_at_s < run.finished_at_s:
        raise underway(f"run {run.run_id} was repaired since it was compared")
    return _of_run(fleet, run, of, comparison)


def _of_run(fleet: Fleet, run: RunView, of: RunView, comparison: RunComparison) -> Repair:
    refuse_other_files(fleet, run)
    ledger = fleet.store.completed_ledger(run.run_id)
    if ledger is None:
        raise underway(f"run {run.run_id} is not completed any more")
    visible = {info.path for info in fleet.destination(run.run_id).list_visible(run.run_id)}
    gone = [part.path for part in ledger.parts if part.path not in visible]
    if gone:
        more = f", and {len(gone) - 1} more" if gone[1:] else ""
        raise StateRefused(
            f"export {run.export_name}, run {run.run_id}: {gone[0]} is gone{more}",
            hint="nothing was changed; `rivet-fleet requeue --lost` and `resume` deliver it anew",
            code=FILES_GONE,
        )
    # Rows of a heap move between blocks, so that all of them are one (ADR 0030).
    whole = all(one.chunk_range.kind is RangeKind.BLOCKS for one in comparison.ranges)
    wanted = {
        one.chunk_index: one
        for one in comparison.ranges
        if whole or (one.result and one.result.verdict is RangeVerdict.MISMATCH)
    }
    pages = {task.chunk_index: task.pages_read for task in fleet.store.tasks(run.run_id)}
    parts = {index: [p for p in ledger.parts if p.chunk_index == index] for index in wanted}
    return Repair(
        run=run,
        of=of,
        ranges=tuple(
            RangeToRead(
                chunk_index=index,
                identifier=describe_range(one.chunk_range),
                found=one.result.sentence if one.result else "not compared",
                rows=sum(part.digest.rows for part in parts[index]),
                bytes=sum(part.digest.size_bytes for part in parts[index]),
                pages=pages.get(index),
            )
            for index, one in wanted.items()
        ),
        fences={index: ledger.fences[index] for index in wanted},
    )


# ------------------------------------------------------------------------------------------
# Doing it.


def begin(fleet: Fleet, repair: Repair) -> None:
    """Reopen the ranges, all or none: from here on the run's campaign goes on with them. Raises
    StateRefused where somebody was quicker; nothing of it was changed."""
    reason = f"comparison {repair.of.run_id} found other rows at the source"
    fleet.patience.call(
        "begin the repair",
        lambda: fleet.store.repair_run(
            repair.run.run_id,
            generation=repair.run.generation,
            fences=repair.fences,
            by=fleet.identity.worker_id,
            reason=reason,
        ),
    )
    reach(KillPoint.REPAIR_BEGUN)


def refuse_altered(fleet: Fleet, repair: Repair) -> None:
    """Open the first of the ranges at the source: a key that is gone, or a column of another type,
    is found before anything is reopened. Raises SchemaDrift, SourceError."""
    plan, index = repair.run.plan, repair.ranges[0].chunk_index
    task = fleet.store.task(repair.run.run_id, index)
    if task is None:
        raise underway(f"chunk {index} of run {repair.run.run_id} is gone")
    source = fleet.source(plan.read.source, plan.read.source_identity)
    try:
        source.open_chunk(plan.read, task.chunk_range, plan.tuning).close()
    finally:
        fleet.drop_source(plan.read.source)
