"""Looking before leaping: what would be exported, how, and as which types. Nothing is written.

One connection for each source, the same questions ``submit`` asks, the same plan; the state
database and the destinations are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from rivet_fleet.contracts.columns import ColumnSpec, Fidelity
from rivet_fleet.contracts.facts import ColumnFacts, SourceFacts
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.plan import CampaignPlan, ExportPlan
from rivet_fleet.contracts.typereport import (
    UNSUPPORTED,
    CheckReport,
    ColumnReport,
    ExportReport,
    Target,
    findings,
)
from rivet_fleet.coordination.wiring import ProcessOptions, open_planned_source
from rivet_fleet.errors import ExitCode, RivetFleetError, UsageError
from rivet_fleet.execution.registry import open_format
from rivet_fleet.execution.source import Source
from rivet_fleet.execution.typenames import arrow_name, canonical_name, parquet_name
from rivet_fleet.execution.types import arrow_schema
from rivet_fleet.planning.config_models import ExportConfig
from rivet_fleet.planning.connections import SourceConnection, source_connection
from rivet_fleet.planning.loaded import LoadedConfig
from rivet_fleet.planning.planner import facts_request, plan_campaign
from rivet_fleet.planning.problems import did_you_mean
from rivet_fleet.planning.targets import as_text, resolve

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
) -> Checked:
    """Ask the sources about the named exports (all of them by default), and plan each.

    What is wrong with one export is its ``refused`` and hides no other. Raises UsageError for
    an unknown name, ConfigError for a connection that is not there.
    """
    exports = _chosen(loaded, names)
    connections = {
        name: source_connection(loaded, name)
        for name in sorted({loaded.source_name(export) for export in exports})
    }
    opened: dict[str, Source] = {}
    try:
        looked = [
            _check(loaded, export, connections, opened, options, targets, campaign_id)
            for export in exports
        ]
    finally:
        for source in opened.values():
            source.close()
    reports = tuple(report for report, _ in looked)
    codes = {code for _, code in looked if code is not ExitCode.OK}
    # Generic wins: what must be repaired first is not helped by trying again.
    exit_code = min(codes, default=ExitCode.OK)
    return Checked(
        report=CheckReport(exports=reports, findings=findings(reports)), exit_code=exit_code
    )


def _chosen(loaded: LoadedConfig, names: tuple[str, ...]) -> tuple[ExportConfig, ...]:
    known = {export.name: export for export in loaded.config.exports}
    for name in names:
        if name not in known:
            raise UsageError(f"there is no export {name!r}", hint=did_you_mean(name, known))
    return tuple(known[name] for name in names) if names else loaded.config.exports


def _check(
    loaded: LoadedConfig,
    export: ExportConfig,
    connections: Mapping[str, SourceConnection],
    opened: dict[str, Source],
    options: ProcessOptions,
    targets: tuple[Target, ...],
    campaign_id: CampaignId,
) -> tuple[ExportReport, ExitCode]:
    connection = connections[loaded.source_name(export)]
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
        if connection.name not in opened:
            opened[connection.name] = open_planned_source(
                loaded, options, connection.name, connection.identity
            )
        facts = opened[connection.name].introspect(facts_request(loaded, export))
    except RivetFleetError as error:
        return replace(report, refused=(_said(error),)), error.exit_code
    report = _with_facts(report, facts, export, targets)
    try:
        plan = plan_campaign(
            loaded,
            {export.name: facts},
            campaign_id=campaign_id,
            connections=connections,
            only=(export.name,),
        )
        planned = _only_run(plan)
        open_format(planned.format).check_schema(arrow_schema(planned.read.columns))
    except RivetFleetError as error:
        return replace(report, refused=(_said(error),)), error.exit_code
    return _with_plan(report, plan), ExitCode.OK


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


def _with_plan(report: ExportReport, plan: CampaignPlan) -> ExportReport:
    planned = _only_run(plan)
    specs = {spec.name: spec for spec in planned.read.columns}
    return replace(
        report,
        strategy=planned.strategy,
        reason=planned.reason,
        chunks=len(plan.runs[0].chunks),
        warnings=planned.warnings,
        columns=tuple(_as_planned(column, specs[column.name]) for column in report.columns),
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
