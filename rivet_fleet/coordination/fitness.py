"""What is wrong with a process and with no chunk (ADR 0023): the table, the questions it needs, and
how it is told."""

from __future__ import annotations

import os
from dataclasses import replace
from enum import Enum
from pathlib import Path

from rivet_fleet.contracts.basis import other_source
from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.identity import CAMPAIGN_OTHER
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.parameters import PARAMETER_CHANGED, PARAMETER_MISSING
from rivet_fleet.contracts.plan import PLAN_VERSION, Access, DestinationPlan, ExportPlan
from rivet_fleet.contracts.seals import KEY_CODES, Allowed
from rivet_fleet.contracts.state import JournalFilter, RunStatus
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.errors import (
    ConfigError,
    DestinationError,
    DestinationFull,
    DestinationRefused,
    RelationLocked,
    RetryClass,
    RivetFleetError,
    SchemaDrift,
    SourceBusy,
    SourceError,
    SourceRefused,
    StateRefused,
    WorkerUnfit,
)
from rivet_fleet.execution.destination import Destination

SPOOL_FREE_BYTES_MIN = 64 * 1024
"""Below it a spool is full whoever works: no chunk is claimed for it."""
_OTHER_SCHEMA = ("RIVET_STATE_SCHEMA_NEWER", "RIVET_STATE_SCHEMA_OLD", "RIVET_STATE_IN_USE")
_LATELY_S = 60.0
_JOURNAL_LOOKED_AT = 500


class Defect(Enum):
    """What a process may lack; the values are codes (docs/reference/error-codes.md)."""

    CONFIGURATION = "RIVET_WORKER_CONFIGURATION"
    LOGIN = "RIVET_WORKER_LOGIN"
    OTHER_SOURCE = "RIVET_WORKER_OTHER_SOURCE"
    SPOOL = "RIVET_WORKER_SPOOL"
    DESTINATION = "RIVET_WORKER_DESTINATION"
    INSTALLATION = "RIVET_WORKER_INSTALLATION"
    VERSION = "RIVET_WORKER_VERSION"
    NOT_ALLOWED = "RIVET_WORKER_NOT_ALLOWED"


_HINTS = {
    Defect.CONFIGURATION: "give this process the configuration and the environment of the campaign",
    Defect.LOGIN: "give this process credentials that the source accepts",
    Defect.OTHER_SOURCE: "lead this process to the planned source; when that one is gone for all, "
    "`rivet-fleet cancel` and plan anew",
    Defect.SPOOL: "repair this host's spool folder, or name another with spool_dir",
    Defect.DESTINATION: "mount the destination on this host, writable for this user (its folder "
    "is made by `run` and `submit` alone: make it again when somebody removed it)",
    Defect.INSTALLATION: "repair the installation on this host",
    Defect.NOT_ALLOWED: "if this is meant, widen --allow-source, --allow-destination or their "
    "environment variables; if not, ask who may write to the state",
    Defect.VERSION: "run the version of rivet-fleet here that the campaign was planned with",
}
_SOURCE_DEFECTS = (Defect.CONFIGURATION, Defect.LOGIN, Defect.OTHER_SOURCE)


def defect_of(error: Exception) -> Defect | None:
    """The table: which defect of the process an error proves by itself; None when it may be the
    chunk's, the source's or the destination's own. Nothing else decides."""
    match error:
        case WorkerUnfit():
            return next((one for one in Defect if one.value == error.code), None)
        case ImportError():
            return Defect.INSTALLATION
        case ConfigError() if error.code in (PARAMETER_CHANGED, PARAMETER_MISSING):
            return Defect.CONFIGURATION
        case SourceError() if not error.connected and error.retry is RetryClass.PERMANENT:
            return Defect.LOGIN
        case DestinationFull():
            return None  # a chunk may be larger than what is free
        case DestinationError() if error.spool:
            return Defect.SPOOL
        case DestinationRefused():
            return Defect.DESTINATION
        case _:
            return None


def unfit(defect: Defect, error: Exception | str) -> WorkerUnfit:
    """The end of this process, in words. ``error``: what was met."""
    hint = _HINTS[defect]
    if isinstance(error, RivetFleetError):
        message = error.message
        hint = f"{error.hint}; {hint}" if error.hint and defect is not Defect.VERSION else hint
    else:
        message = str(error)
    return WorkerUnfit(
        f"this process cannot do the campaign's work: {message}",
        hint=f"{hint}; no chunk has failed and no attempt is spent",
        code=defect.value,
    )


def unfit_of(error: Exception) -> WorkerUnfit | None:
    """``defect_of`` in words."""
    if isinstance(error, WorkerUnfit):
        return error
    defect = defect_of(error)
    return None if defect is None else unfit(defect, error)


def refuse_before_claim(
    fleet: Fleet, campaign_id: CampaignId, probed: set[Access]
) -> tuple[ExportPlan, ...]:
    """What can be seen without a chunk: raises WorkerUnfit for a plan of a newer version, a source
    that this process does not have or has otherwise, and a destination that is not there.
    ``probed``: see ``refuse_claimed_destination``. The plans of what is unfinished.

    Connects to no source and creates no folder.
    """
    runs = fleet.patience.call("read the plans", lambda: fleet.store.runs(campaign_id))
    open_runs = [run for run in runs if run.status is RunStatus.IN_PROGRESS]
    for run in open_runs:
        _refuse_plan(fleet, run.plan)
        _opened(fleet, run.run_id)
    fleet.drop_sources()
    # Of one run alone: a probe costs, and a claim tells whose destination is needed next.
    for run in open_runs[:1]:
        refuse_claimed_destination(fleet, run.run_id, probed)
    return tuple(run.plan for run in open_runs)


def _refuse_plan(fleet: Fleet, plan: ExportPlan) -> None:
    if plan.plan_version > PLAN_VERSION:
        raise unfit(
            Defect.VERSION,
            f"export {plan.export_name} has a plan of version {plan.plan_version}, and this "
            f"program reads up to version {PLAN_VERSION}",
        )
    try:
        fleet.source(plan.read.source, plan.read.source_identity)
    except ConfigError as error:
        raise unfit(Defect.CONFIGURATION, error) from error
    except ImportError as error:
        raise unfit(Defect.INSTALLATION, error) from error


def refuse_claimed_destination(fleet: Fleet, run_id: RunId, probed: set[Access]) -> None:
    """Before the first page of a chunk: raises WorkerUnfit for a destination that this process
    cannot write to. ``probed``: what it has looked at, each once; a probe costs."""
    plan = fleet.planned_run(run_id).plan
    access = plan.destination.access
    # What compares writes nothing there, and may have no right to.
    if plan.reconcile is None and access not in probed:
        _refuse_destination(fleet, run_id)
        probed.add(access)


def _opened(fleet: Fleet, run_id: RunId) -> Destination:
    try:
        return fleet.destination(run_id)
    except ConfigError as error:
        raise unfit(Defect.CONFIGURATION, error) from error
    except ImportError as error:
        raise unfit(Defect.INSTALLATION, error) from error


def _refuse_destination(fleet: Fleet, run_id: RunId) -> None:
    try:
        _opened(fleet, run_id).check()
    except DestinationError as error:
        found = unfit_of(error)
        if found is not None:
            raise found from error


def refuse_source(allowed: Allowed, name: str, identity: str) -> None:
    """Raise WorkerUnfit for a source that this process may not read, whatever a plan says."""
    if not allowed.reads(name, identity):
        raise unfit(
            Defect.NOT_ALLOWED,
            f"source {name} ({identity}) is none of those that it may read: "
            f"{', '.join(allowed.sources)}",
        )


def within_allowed(allowed: Allowed, plan: DestinationPlan) -> DestinationPlan:
    """The destination as this process may touch it, whatever a plan says: by the path that a
    folder really has, held from the allowed one on, so that no link leads out of it, be it one
    that somebody puts there this moment. Raises WorkerUnfit."""
    prefix = plan.prefix
    if not allowed.writes(prefix):
        raise unfit(
            Defect.NOT_ALLOWED,
            f"destination {prefix} is not below {', '.join(allowed.destinations)}",
        )
    if not allowed.destinations or "://" in prefix:
        return plan
    # Its own rules refuse a prefix that does not lie below its anchor.
    anchor = os.path.normpath(prefix if plan.anchor is None else plan.anchor)
    roots = [Path(one.removeprefix("file://")).resolve() for one in allowed.destinations]
    held = Path(anchor).resolve()
    real = Path(os.path.normpath(held / os.path.relpath(prefix, anchor)))
    root = next((one for one in roots if real.is_relative_to(one)), None)
    if root is None:
        raise unfit(
            Defect.NOT_ALLOWED,
            f"destination {prefix} leads to {real}, which is not below "
            f"{', '.join(allowed.destinations)}",
        )
    outer = root if held.is_relative_to(root) else held
    return replace(plan, prefix=str(real), anchor=str(outer))


def spool_is_full(spool: Path) -> bool:
    """True where the spool has no room for anything. Raises WorkerUnfit where it is gone."""
    try:
        room = os.statvfs(spool)
    except OSError as error:
        raise unfit(Defect.SPOOL, f"the spool at {spool}: {error.strerror}") from error
    return room.f_bavail * room.f_frsize < SPOOL_FREE_BYTES_MIN


def full_spool(spool: Path) -> WorkerUnfit:
    """The end of a process whose spool stays full."""
    return unfit(Defect.SPOOL, f"no space left in the spool at {spool}")


def asks_source(error: Exception) -> bool:
    """Whether ``asked_of_source`` connects anew: not where no connection could be made just now."""
    # A lock is the planned server's own word about the planned relation.
    if isinstance(error, RelationLocked) or (isinstance(error, SourceBusy) and not error.connected):
        return False
    return isinstance(error, SourceRefused | SchemaDrift | ConfigError | SourceBusy)


def asked_of_source(fleet: Fleet, plan: ExportPlan, error: Exception) -> WorkerUnfit | None:
    """Whether an attempt ended because this process is led to another source than the planned one,
    or to none: asked of the source itself, apart from any chunk. None: the error stands."""
    if not asks_source(error):
        return None
    read = plan.read
    try:
        # Asked over a new connection: the old one leads to where the name led before.
        fleet.drop_source(read.source)
        source = fleet.source(read.source, read.source_identity)
        found = other_source(read.basis, source.identify())
    except ConfigError as wrong:
        return unfit(Defect.CONFIGURATION, wrong)
    except SourceError as wrong:
        if isinstance(error, RivetFleetError):
            error.received_bytes += wrong.received_bytes
        return unfit_of(wrong)
    if not found:
        return None
    return unfit(Defect.OTHER_SOURCE, f"{read.source} ({read.source_identity}) leads elsewhere: "
                 f"{found}")  # fmt: skip


def with_others(fleet: Fleet, plan: ExportPlan, found: WorkerUnfit) -> WorkerUnfit:
    """Whether others read the source that refuses us: is it this process, or everybody?"""
    if found.code not in {one.value for one in _SOURCE_DEFECTS}:
        return found
    name = plan.read.source
    campaign_id, since_s = fleet.planned_run(plan.run_id).campaign_id, fleet.store.now_s()
    of_source = {
        run.run_id for run in fleet.store.runs(campaign_id) if run.plan.read.source == name
    }
    only = JournalFilter(events=(EventName.CHUNK_COMMITTED.value,), since_s=since_s - _LATELY_S)
    lately = fleet.store.journal(
        campaign_id=campaign_id, only=only, limit=_JOURNAL_LOOKED_AT, newest=True
    )
    others = {
        entry.worker_id
        for entry in lately
        if entry.run_id in of_source and entry.worker_id != fleet.identity.worker_id
    }
    said = (
        f"{len(others)} other workers have read {name} within the last minute: it is this process"
        if others
        else f"nobody has read {name} within the last minute: it may refuse everybody"
    )
    told = WorkerUnfit(f"{found.message} ({said})", hint=found.hint, code=found.code)
    return told


def tell_unfit(fleet: Fleet, found: WorkerUnfit) -> WorkerUnfit:
    """Logs, journal and ``status`` learn which process it is, and what it lacks."""
    fleet.tell(
        EventName.WORKER_REFUSED,
        fleet.redact(f"{found.message} — {found.hint}"),
        code=found.code,
        worker_name=fleet.identity.name,
        host_id=fleet.identity.host_id,
        pid=fleet.identity.pid,
    )
    return found


def refuse_state(error: StateRefused) -> WorkerUnfit | None:
    """A state of another schema version than this program's, or sealed with another key than this
    process has; a campaign of another configuration than this process's, which may be its own led
    elsewhere by a variable. None for another refusal."""
    if error.code in _OTHER_SCHEMA:
        return unfit(Defect.VERSION, error)
    if error.code in (*KEY_CODES, CAMPAIGN_OTHER):
        return unfit(Defect.CONFIGURATION, error)
    return None
