"""Looking before leaping: what would be exported, how, and as which types. Nothing is written.

One connection for each source, the same questions ``submit`` asks, the same plan; of the state
database only the history is read, the destinations are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rivet_fleet.contracts.columns import ColumnSpec, Fidelity
from rivet_fleet.contracts.facts import ColumnFacts, ServerFacts, SourceFacts
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.plan import CampaignPlan, ExportPlan
from rivet_fleet.contracts.state import MeasuredRun
from rivet_fleet.contracts.typereport import (
    UNSUPPORTED,
    CheckReport,
    ColumnReport,
    ExportReport,
    Judgement,
    Target,
    findings,
)
from rivet_fleet.contracts.window import StoredMark
from rivet_fleet.coordination.inquiry import Asked, Remembered, remember
from rivet_fleet.coordination.wiring import ProcessOptions, open_planned_source
from rivet_fleet.errors import ExitCode, RivetFleetError, UsageError
from rivet_fleet.execution.registry import open_format
from rivet_fleet.execution.source import Source
from rivet_fleet.execution.types import arrow_name, arrow_schema, canonical_name, parquet_name
from rivet_fleet.planning.advice import advise
from rivet_fleet.planning.config.connections import SourceConnection, source_connection, state_url
from rivet_fleet.planning.config.loaded import LoadedConfig
from rivet_fleet.planning.config.models import ExportConfig
from rivet_fleet.planning.config.problems import did_you_mean
from rivet_fleet.planning.config.protection import readers_of
from rivet_fleet.planning.export_plan import profile_of
from rivet_fleet.planning.judging import Seen, judge
from rivet_fleet.planning.partitions import expand, folded
from rivet_fleet.planning.planner import plan_campaign
from rivet_fleet.planning.targets import as_text, resolve
from rivet_fleet.planning.window import reads_window

_PARQUET = "parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """The report, and how the command ends when nothing strict is asked: OK when ``run`` would
    start, else what ``run`` would end with."""

    report: CheckReport
    exit_code: ExitCode


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
    cannot be read costs the history alone. Raises UsageError for an unknown name, ConfigError
    for a connection that is not there.
    """
    exports = _chosen(loaded, names)
    notes: list[str] = []
    remembered = _remembered(loaded, options, [one.name for one in exports], notes)
    look = _Look(
        loaded=loaded,
        options=options,
        connections={
            name: source_connection(loaded, name)
            for name in sorted({loaded.source_name(export) for export in exports})
        },
        history=remembered.history,
        marks=remembered.marks,
        targets=targets,
        campaign_id=campaign_id,
        now_s=now_s,
        asked=Asked(probe=probe),
    )
    try:
        looked = [_check(look, export) for export in exports]
    finally:
        look.close()
    reports = tuple(report for report, _ in looked)
    codes = {code for _, code in looked if code is not ExitCode.OK}
    # Generic wins: what must be repaired first is not helped by trying again.
    exit_code = min(codes, default=ExitCode.OK)
    return Checked(
        report=CheckReport(
            exports=reports, findings=findings(reports), notes=(*notes, *look.notes)
        ),
        exit_code=exit_code,
    )


def _remembered(
    loaded: LoadedConfig, options: ProcessOptions, names: list[str], notes: list[str]
) -> Remembered:
    try:
        url = options.state_url or state_url(loaded)
        return remember(loaded, names, state_url=url, namespace=options.namespace)
    except RivetFleetError as error:
        notes.append(f"no history: {error.message}; judged by the sources' own numbers alone")
        return Remembered()


@dataclass(slots=True, kw_only=True)
class _Look:
    """What one check works with: one connection for each source, opened when needed."""

    loaded: LoadedConfig
    options: ProcessOptions
    connections: Mapping[str, SourceConnection]
    history: Mapping[str, Sequence[MeasuredRun]]
    marks: Mapping[str, StoredMark]
    targets: tuple[Target, ...]
    campaign_id: CampaignId
    now_s: float
    notes: list[str] = field(default_factory=list)
    asked: Asked = field(default_factory=Asked)
    _sources: dict[str, Source] = field(default_factory=dict)
    _servers: dict[str, ServerFacts | None] = field(default_factory=dict)

    def source(self, name: str) -> Source:
        """The open source. Raises ConfigError, SourceError."""
        if name not in self._sources:
            identity = self.connections[name].identity
            self._sources[name] = open_planned_source(self.loaded, self.options, name, identity)
        return self._sources[name]

    def server(self, name: str) -> ServerFacts | None:
        """The server's limits, asked once; None with a note when it does not tell."""
        if name not in self._servers:
            try:
                self._servers[name] = self.source(name).describe_server()
            except RivetFleetError as error:
                self.notes.append(f"source {name} does not tell its limits: {error.message}")
                self._servers[name] = None
        return self._servers[name]

    def close(self) -> None:
        """Close every source."""
        for source in self._sources.values():
            source.close()


def _chosen(loaded: LoadedConfig, names: tuple[str, ...]) -> tuple[ExportConfig, ...]:
    known = {export.name: export for export in loaded.config.exports}
    for name in names:
        if name not in known:
            raise UsageError(f"there is no export {name!r}", hint=did_you_mean(name, known))
    return tuple(known[name] for name in names) if names else loaded.config.exports


def _check(look: _Look, export: ExportConfig) -> tuple[ExportReport, ExitCode]:
    loaded = look.loaded
    connection = look.connections[loaded.source_name(export)]
    report = ExportReport(
        export_name=export.name,
        source=connection.name,
        engine=connection.engine,
        server_version="",
        relation=export.table,
        format=export.format,
        row_estimate=None,
    )
    try:
        mark = look.marks.get(export.name) if reads_window(export) else None
        facts = look.asked.ask(loaded, export, look.source(connection.name), mark)
    except RivetFleetError as error:
        return replace(report, refused=(_said(error),)), error.exit_code
    report = _with_facts(report, facts, export, look.targets)
    try:
        parts = expand(loaded, {export.name: facts}, (export.name,))
        whole = plan_campaign(
            parts.loaded,
            parts.facts,
            campaign_id=look.campaign_id,
            connections=look.connections,
            now_s=look.now_s,
            only=parts.only,
            moving=look.asked.moving,
        )
        plan = folded(whole)
        planned = _only_run(plan)
        open_format(planned.format).check_schema(arrow_schema(planned.output_columns))
    except RivetFleetError as error:
        return replace(report, refused=(_said(error),)), error.exit_code
    judged = _judged(look, export, facts, plan)
    return replace(_with_plan(report, plan, export, look.targets), judgement=judged), ExitCode.OK


def _judged(look: _Look, export: ExportConfig, facts: SourceFacts, plan: CampaignPlan) -> Judgement:
    """The advice of ``plan`` about this export, with the server's limits and its evidence."""
    loaded, run = look.loaded, plan.runs[0]
    advised = advise(loaded, {export.name: facts}, plan, look.history, now_s=look.now_s)
    (recommendation,) = advised.campaign.ordered_exports
    source = loaded.source_name(export)
    bounds = [loaded.config.campaign.workers, len(run.chunks)]
    allowed = readers_of(loaded, export.source_group)
    if allowed is not None:
        bounds.append(allowed)
    seen = Seen(
        export=export,
        facts=facts,
        run=run,
        server=look.server(source),
        history=look.history.get(export.name, ()),
        readers=min(bounds),
    )
    profile = profile_of(loaded.sources[source], export.tuning)
    return judge(seen, advised.preflights[export.name], recommendation, profile=profile)


def _said(error: RivetFleetError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message


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
