"""Looking before leaping: what would be exported, how, and as which types. Nothing is written.

The front desk's questions and its plan, with every refusal beside what it is about; at the
destinations only what lies there is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from rivet_fleet.contracts.columns import ColumnSpec, Fidelity
from rivet_fleet.contracts.facts import ColumnFacts, ServerFacts, SourceFacts
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.plan import CampaignPlan, ExportPlan
from rivet_fleet.contracts.typereport import (
    UNSUPPORTED,
    CheckReport,
    ColumnReport,
    ExportReport,
    Judgement,
    Target,
    findings,
)
from rivet_fleet.coordination.history import Memory, recollect, refuses_runs
from rivet_fleet.coordination.inquiry import (
    Inquiry,
    OnRefusal,
    Outcome,
    Refused,
    open_inquiry,
)
from rivet_fleet.coordination.wiring import ProcessOptions
from rivet_fleet.errors import ExitCode, RivetFleetError
from rivet_fleet.execution.types import arrow_name, canonical_name, parquet_name
from rivet_fleet.planning.advice import advise
from rivet_fleet.planning.config.loaded import LoadedConfig
from rivet_fleet.planning.config.models import ExportConfig
from rivet_fleet.planning.config.protection import readers_of
from rivet_fleet.planning.export_plan import profile_of
from rivet_fleet.planning.judging import Seen, judge
from rivet_fleet.planning.partitions import folded
from rivet_fleet.planning.targets import as_text, resolve

_PARQUET = "parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """The report, and how the command ends when nothing strict is asked: OK when a run would
    deliver every export, else what a run of the refused ones would end with."""

    report: CheckReport
    exit_code: ExitCode
    refused: tuple[Refused, ...] = ()
    """Why a run would not deliver something; without a name: why it would deliver nothing."""


def check_exports(
    loaded: LoadedConfig,
    options: ProcessOptions,
    *,
    names: tuple[str, ...],
    targets: tuple[Target, ...],
    campaign_id: CampaignId,
    now_s: float,
    probe: bool = False,
) -> Checked:
    """Ask the sources about the named exports (all of them by default), plan and judge each.

    What is wrong with one export is its ``refused`` and hides no other; a state database that
    is away or of an older version costs the history alone. Raises UsageError for an unknown name,
    ConfigError for a connection that is not there.
    """
    notes: list[str] = []
    memory, whole = _remembered(loaded, options, notes)
    with open_inquiry(
        loaded, options, on_refusal=OnRefusal.COLLECT, memory=memory, probe=probe
    ) as inquiry:
        answers = inquiry.inquire(names, campaign_id=campaign_id, now_s=now_s)
        look = _Look(inquiry=inquiry, targets=targets, now_s=now_s)
        reports = tuple(_report(look, one, whole) for one in answers.outcomes)
    of_all = (Refused(export_name="", error=whole),) if whole else ()
    refused = (*answers.refused, *of_all)
    # Generic wins: what must be repaired first is not helped by trying again.
    exit_code = min((one.exit_code for one in refused), default=ExitCode.OK)
    return Checked(
        report=CheckReport(
            exports=reports, findings=findings(reports), notes=(*notes, *look.notes)
        ),
        exit_code=exit_code,
        refused=refused,
    )


def _remembered(
    loaded: LoadedConfig, options: ProcessOptions, notes: list[str]
) -> tuple[Memory, RivetFleetError | None]:
    """What former runs left, and what keeps every export from being run: a state that a run would
    refuse, too. An older one it would bring to this version, and one that is away it waits for."""
    memory, error = recollect(loaded, options)
    if error is None or refuses_runs(error):
        return memory, error
    notes.append(f"no history: {error.message}; judged by the sources' own numbers alone")
    return memory, None


@dataclass(slots=True, kw_only=True)
class _Look:
    """What the reports of one check are made with."""

    inquiry: Inquiry
    targets: tuple[Target, ...]
    now_s: float
    notes: list[str] = field(default_factory=list)
    _servers: dict[str, ServerFacts | None] = field(default_factory=dict)

    def server(self, name: str) -> ServerFacts | None:
        """The server's limits, asked once; None with a note when it does not tell."""
        if name not in self._servers:
            try:
                self._servers[name] = self.inquiry.server(name)
            except RivetFleetError as error:
                self.notes.append(f"source {name} does not tell its limits: {error.message}")
                self._servers[name] = None
        return self._servers[name]


def _report(look: _Look, outcome: Outcome, whole: RivetFleetError | None) -> ExportReport:
    """``whole``: what refuses every export."""
    export, facts, inquiry = outcome.export, outcome.facts, look.inquiry
    connection = inquiry.connection(inquiry.loaded.source_name(export))
    refused = [one for one in (outcome.refused, _whole(export, whole)) if one]
    report = ExportReport(
        export_name=export.name,
        source=connection.name,
        engine=connection.engine,
        server_version="",
        relation=export.table,
        format=export.format,
        row_estimate=None,
        refused=tuple(one.reason for one in refused),
    )
    if facts is None:
        return report
    report = _with_facts(report, facts, export, look.targets)
    if outcome.plan is None or outcome.refused is not None:
        return report
    plan = folded(outcome.plan)
    judged = _judged(look, export, facts, plan)
    return replace(_with_plan(report, plan, export, look.targets), judgement=judged)


def _whole(export: ExportConfig, error: RivetFleetError | None) -> Refused | None:
    return None if error is None else Refused(export_name=export.name, error=error)


def _judged(look: _Look, export: ExportConfig, facts: SourceFacts, plan: CampaignPlan) -> Judgement:
    """The advice of ``plan`` about this export, with the server's limits and its evidence."""
    loaded, history, run = look.inquiry.loaded, look.inquiry.history, plan.runs[0]
    advised = advise(loaded, {export.name: facts}, plan, history, now_s=look.now_s)
    (recommendation,) = advised.campaign.ordered_exports
    source = loaded.source_name(export)
    bounds = [loaded.workers_expected, len(run.chunks)]
    allowed = readers_of(loaded, export.source_group)
    if allowed is not None:
        bounds.append(allowed)
    seen = Seen(
        export=export,
        facts=facts,
        run=run,
        server=look.server(source),
        history=history.get(export.name, ()),
        readers=min(bounds),
    )
    profile = profile_of(loaded.sources[source], export.tuning)
    return judge(seen, advised.preflights[export.name], recommendation, profile=profile)


def _only_run(plan: CampaignPlan) -> ExportPlan:
    (planned,) = plan.runs
    return planned.plan


def _with_facts(
    report: ExportReport, facts: SourceFacts, export: ExportConfig, targets: tuple[Target, ...]
) -> ExportReport:
    return replace(
        report,
        engine=facts.engine,
        server_version=facts.server_version,
        relation=str(facts.relation) if facts.relation else None,
        row_estimate=facts.row_estimate,
        columns=tuple(_column(column, export, targets) for column in facts.columns),
    )


def _with_plan(
    report: ExportReport, plan: CampaignPlan, export: ExportConfig, targets: tuple[Target, ...]
) -> ExportReport:
    planned = _only_run(plan)
    added = planned.output_columns[len(planned.read.columns) :]
    specs = {spec.name: spec for spec in planned.read.columns}
    return replace(
        report,
        strategy=planned.strategy,
        reason=planned.reason,
        chunks=len(plan.runs[0].chunks),
        warnings=planned.warnings,
        diagnostics=planned.diagnostics,
        columns=(
            *(_as_planned(column, specs[column.name]) for column in report.columns),
            *(_column(_added(column), export, targets) for column in added),
        ),
    )


def _added(column: ColumnSpec) -> ColumnFacts:
    """A column of ``meta_columns``, which no source has."""
    return ColumnFacts(
        name=column.name,
        native_type=column.native_type,
        type=column.type,
        nullable=column.nullable,
    )


def _as_planned(column: ColumnReport, spec: ColumnSpec) -> ColumnReport:
    return replace(column, nullable=spec.nullable, cast=spec.cast)


def _column(column: ColumnFacts, export: ExportConfig, targets: tuple[Target, ...]) -> ColumnReport:
    kind = column.type
    if not targets and export.target is not None:
        targets = (Target(export.target),)
    resolved = tuple(resolve(kind, column.name, target) for target in targets)
    if export.format != _PARQUET:
        resolved = tuple(as_text(one) for one in resolved)
    return ColumnReport(
        name=column.name,
        native_type=column.native_type,
        type=canonical_name(kind) if kind else None,
        arrow_type=arrow_name(kind) if kind else None,
        file_type=_file_type(column, export.format),
        fidelity=kind.fidelity.value if kind else UNSUPPORTED,
        nullable=column.nullable,
        cast=column.cast,
        note=_note(column),
        targets=resolved,
    )


def _file_type(column: ColumnFacts, file_format: str) -> str | None:
    if column.type is None:
        return None
    return parquet_name(column.type) if file_format == _PARQUET else "text"


def _note(column: ColumnFacts) -> str | None:
    if column.type is None:
        hint = f"; columns: {{{column.name}: {column.cast_hint}}}" if column.cast_hint else ""
        return f"{column.unsupported_reason or 'this type is not supported'}{hint}"
    if column.cast is not None:
        return f"read as {column.cast}: {column.unsupported_reason or 'it has no exact form'}"
    if column.type.fidelity is Fidelity.LOSSY:
        return "may not keep every value"
    return None
