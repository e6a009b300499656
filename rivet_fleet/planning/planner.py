"""Facts in, plan out: pure and total. Nothing is opened, nothing is written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from rivet_fleet.contracts.basis import resting
from rivet_fleet.contracts.facts import SourceFacts
from rivet_fleet.contracts.identity import check_campaign_id, date_of, new_campaign_id, run_id_of
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.parameters import ParameterSeal, references, seal
from rivet_fleet.contracts.plan import (
    CampaignPlan,
    ChunkSpec,
    ExportPlan,
    PlannedRun,
    ReadPlan,
)
from rivet_fleet.contracts.proof import ProofPlan
from rivet_fleet.contracts.state import MeasuredRun
from rivet_fleet.contracts.url import redact
from rivet_fleet.errors import RivetFleetError, SourceRefused, UnsupportedType
from rivet_fleet.planning.advice import Advised, advise, in_claim_order, waves_of
from rivet_fleet.planning.binding import begun_elsewhere, binding_of, refuse_other, remarks
from rivet_fleet.planning.config.connections import SourceConnection, identity_of
from rivet_fleet.planning.config.loaded import LoadedConfig, change_policies, policies_of, prove_of
from rivet_fleet.planning.config.models import ExportConfig
from rivet_fleet.planning.config.problems import Problem, did_you_mean
from rivet_fleet.planning.config.protection import budgets_of
from rivet_fleet.planning.config.quality import quality_plan, uncompared, unknown_columns
from rivet_fleet.planning.cuts import Refusal
from rivet_fleet.planning.diagnostics import diagnose
from rivet_fleet.planning.export_plan import (
    PlannedColumns,
    attempts_max,
    destination_plan,
    format_plan,
    memory_budget,
    meta_plan,
    meta_problems,
    plan_columns,
    proof_plan,
    query_plan,
    sealed_heaps,
    tuning_of,
    uses_date,
)
from rivet_fleet.planning.partitions import expand
from rivet_fleet.planning.request import casts_of, facts_request
from rivet_fleet.planning.strategy import Choice, choose, choose_partition
from rivet_fleet.planning.window import Moving, Windowed, choose_windowed, window_of

T = TypeVar("T")

__all__ = ["check_campaign_id", "facts_request", "new_campaign_id", "plan_campaign"]


@dataclass(slots=True, kw_only=True)
class Wrong:
    """Everything that is wrong with a campaign, collected before anything is raised; each with the
    export of the file that it is about."""

    problems: list[tuple[str, Problem]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    unsupported: list[tuple[str, str]] = field(default_factory=list)
    lossy: list[tuple[str, str]] = field(default_factory=list)

    @property
    def exports(self) -> frozenset[str]:
        """Those that something is wrong with."""
        found = (self.problems, self.refused, self.unsupported, self.lossy)
        return frozenset(name for kind in found for name, _ in kind)

    def error(self, loaded: LoadedConfig, export: str | None = None) -> RivetFleetError | None:
        """The first kind that has anything to say, with all of its kind: of all exports, or of
        one."""
        if problems := _of(self.problems, export):
            return loaded.error(*problems)
        if refused := _of(self.refused, export):
            return SourceRefused(redact("; ".join(refused), loaded.secrets))
        if unsupported := _of(self.unsupported, export):
            return UnsupportedType(
                f"{len(unsupported)} column(s) cannot be carried exactly:\n  "
                + "\n  ".join(unsupported),
                hint="add the casts shown under columns: of each export, "
                "set on_unsupported: text, or leave the columns out with query:",
            )
        if lossy := _of(self.lossy, export):
            return UnsupportedType(
                f"{len(lossy)} column(s) may lose digits or meaning, and on_lossy is fail:"
                "\n  " + "\n  ".join(lossy),
                hint="choose a wider type under columns:, or set on_lossy: warn",
                code="RIVET_COLUMN_LOSSY",
            )
        return None

    def raise_any(self, loaded: LoadedConfig) -> None:
        """Raise what ``error`` says of all exports."""
        if (error := self.error(loaded)) is not None:
            raise error


def _of(found: Sequence[tuple[str, T]], export: str | None) -> list[T]:
    return [one for name, one in found if export is None or name == export]


@dataclass(frozen=True, slots=True)
class _When:
    """The campaign, and the moment it is planned at."""

    campaign_id: CampaignId
    now_s: float | None
    moving: Mapping[str, Moving]

    @property
    def date(self) -> str | None:
        """What ``{date}`` stands for; None when nothing tells."""
        return date_of(self.campaign_id, self.now_s)


def plan_campaign(
    loaded: LoadedConfig,
    facts: Mapping[str, SourceFacts],
    *,
    campaign_id: CampaignId,
    connections: Mapping[str, SourceConnection],
    now_s: float | None = None,
    only: Collection[str] = (),
    moving: Mapping[str, Moving] | None = None,
) -> CampaignPlan:
    """Decide every export (or those named in ``only``), or refuse all of them. ``facts`` by export
    name, ``connections`` by source name.

    ``now_s`` gives ``{date}`` its day when the campaign id does not begin with one, and time
    windows their end; ``moving`` tells incremental exports what is new. Raises
    ConfigError, SourceRefused or UnsupportedType, each listing all of its kind; UsageError for
    an unsafe id.
    """
    decision = consider(
        loaded,
        facts,
        campaign_id=campaign_id,
        connections=connections,
        now_s=now_s,
        only=only or tuple(export.name for export in loaded.config.exports),
        moving=moving,
    )
    decision.wrong.raise_any(decision.loaded)
    return decision.plan


def _plan_exports(
    loaded: LoadedConfig,
    facts: Mapping[str, SourceFacts],
    connections: Mapping[str, SourceConnection],
    when: _When,
    only: Collection[str],
    wrong: Wrong,
) -> list[PlannedRun]:
    """Every export that can be planned, in the order of the file; the others in ``wrong``."""
    runs = []
    for export in loaded.config.exports:
        if export.name not in only:
            continue
        run = _plan_export(loaded, export, facts, connections, when, wrong)
        if run is not None:
            runs.append(run)
    _refuse_shared_prefixes(loaded, runs, when, wrong)
    return runs


def _campaign(
    loaded: LoadedConfig,
    campaign_id: CampaignId,
    connections: Mapping[str, SourceConnection],
    runs: Sequence[PlannedRun],
) -> CampaignPlan:
    return CampaignPlan(
        campaign_id=campaign_id,
        campaign_name=loaded.campaign_name,
        config_digest=loaded.digest,
        config_path=str(loaded.path.absolute()),
        runs=tuple(runs),
        budgets=budgets_of(loaded),
        identity=identity_of(loaded, connections.values()),
    )


def _plan_export(
    loaded: LoadedConfig,
    export: ExportConfig,
    facts: Mapping[str, SourceFacts],
    connections: Mapping[str, SourceConnection],
    when: _When,
    wrong: Wrong,
) -> PlannedRun | None:
    """One export, or None with an entry in ``wrong``."""
    found = facts.get(export.name)
    source = loaded.source_name(export)
    at, written = loaded.export_key(export.name), loaded.written_name(export.name)
    if found is None or source not in connections:
        wrong.refused.append((written, f"export {export.name}: nothing is known of its source yet"))
        return None
    columns = _columns(loaded, export, found, wrong)
    windowed = _windowed(loaded, export, found, connections[source], when)
    choice = _choice(loaded, export, found, windowed)
    if isinstance(choice, Refusal):
        problem = Problem(
            at=(*at, choice.setting),
            what=f"export {export.name}, {choice.setting}",
            reason=choice.reason,
            suggestion=choice.suggestion,
            code=choice.code,
        )
        wrong.problems.append((written, problem))
    if uses_date(export) and when.date is None:
        problem = Problem(
            at=(*at, "destination", "path"),
            what=f"export {export.name}",
            reason="{date} needs a moment, and this campaign id holds none",
        )
        wrong.problems.append((written, problem))
    if columns is None or isinstance(choice, Refusal) or isinstance(windowed, Refusal):
        return None
    return _sealed(loaded, export, found, columns, choice, connections[source], when, windowed)


def _windowed(
    loaded: LoadedConfig,
    export: ExportConfig,
    facts: SourceFacts,
    connection: SourceConnection,
    when: _When,
) -> Windowed | Refusal | None:
    """The window, and what its mark is bound to; refused where the mark is another's (B1)."""
    moving = when.moving.get(export.name)
    now = binding_of(loaded, export, facts, connection)
    stored = moving.binding if moving is not None else None
    setting = "chunk_by_key" if export.keyset_incremental else "cursor_column"
    refused = refuse_other(export, stored, now, setting)
    windowed = refused or window_of(export, facts, moving, when.now_s or 0.0)
    if not isinstance(windowed, Windowed) or windowed.cursor is None:
        return windowed
    bound = replace(windowed, cursor=replace(windowed.cursor, binding=now))
    if moving is not None and moving.elsewhere is not None:
        said = begun_elsewhere(export, moving.elsewhere)
        bound = replace(bound, warnings=(*bound.warnings, said))
    if windowed.cursor.mark_before is None:
        return bound
    return replace(bound, warnings=(*bound.warnings, *remarks(stored, now)))


def _choice(
    loaded: LoadedConfig,
    export: ExportConfig,
    facts: SourceFacts,
    windowed: Windowed | Refusal | None,
) -> Choice | Refusal:
    part = loaded.partitions.get(export.name)
    if isinstance(windowed, Refusal):
        return windowed
    if windowed is not None:
        return choose_windowed(export, facts, windowed.window)
    return choose(export, facts) if part is None else choose_partition(export, facts, part)


def _sealed(
    loaded: LoadedConfig,
    export: ExportConfig,
    facts: SourceFacts,
    columns: PlannedColumns,
    choice: Choice,
    connection: SourceConnection,
    when: _When,
    windowed: Windowed | None,
) -> PlannedRun:
    budget = memory_budget(loaded.config.campaign.worker_memory_mb)
    tuning = tuning_of(loaded, connection.name, export, budget)
    written, format_warnings = format_plan(export, budget)
    on_schema_drift, shape_factor = change_policies(loaded.config, export)
    quality = quality_plan(export.quality, choice.ranges)
    compared = uncompared(quality, facts.row_estimate, len(choice.ranges))
    window = windowed.window if windowed else None
    query, table, basis = query_plan(loaded.queries.get(export.name), facts, choice.ranges)
    diagnostics = diagnose(
        export, facts=facts, choice=choice, tuning=tuning, uncompared=compared, windowed=windowed
    )
    plan = ExportPlan(
        export_name=export.name,
        run_id=run_id_of(export.name, when.campaign_id),
        mode=export.mode,
        strategy=choice.strategy,
        reason=choice.reason,
        read=ReadPlan(
            source=connection.name,
            engine=connection.engine,
            source_identity=connection.identity,
            relation=facts.relation,
            query=query,
            table=table,
            secrets=_sealed_secrets(loaded, export, connection),
            columns=tuple(columns.specs),
            on_unrepresentable=policies_of(loaded.config, export).on_unrepresentable,
            session=facts.session,
            window=window,
            heaps=sealed_heaps(facts, choice.ranges),
            basis=resting(basis, choice.ranges, window),
            position=_seen_at(windowed, when.moving.get(export.name)),
        ),
        format=written,
        destination=destination_plan(loaded, export, when.date or ""),
        tuning=tuning,
        attempts_max=attempts_max(loaded, export, tuning),
        source_group=export.source_group,
        skip_empty=export.skip_empty,
        verify=export.verify,
        row_estimate=facts.row_estimate,
        warnings=(
            *facts.warnings,
            *columns.notes,
            *choice.warnings,
            *(windowed.warnings if windowed else ()),
            *(one.message for one in diagnostics),
            *format_warnings,
        ),
        diagnostics=diagnostics,
        quality=quality,
        on_schema_drift=on_schema_drift,
        shape_drift_warn_factor=shape_factor,
        cursor=windowed.cursor if windowed else None,
        settings_digest=loaded.sections[export.name],
        family=loaded.partitions[export.name].parent if export.name in loaded.partitions else "",
        meta=meta_plan(export, columns.specs, when.now_s),
        proof=_proof(loaded, export, facts, choice),
    )
    return PlannedRun(plan=plan, chunks=_chunks(choice))


def _seen_at(windowed: Windowed | None, moving: Moving | None) -> str:
    """How far the server had come that showed the end of a window that moves a mark."""
    moves = windowed is not None and windowed.cursor is not None and not windowed.window.empty
    return moving.newest.position if moving is not None and moves else ""


def _proof(
    loaded: LoadedConfig, export: ExportConfig, facts: SourceFacts, choice: Choice
) -> ProofPlan | None:
    partition = export.name in loaded.partitions
    return proof_plan(prove_of(loaded.config, export), facts, choice.ranges, partition=partition)


def _chunks(choice: Choice) -> tuple[ChunkSpec, ...]:
    return tuple(
        ChunkSpec(chunk_index=index, chunk_range=one, row_estimate=rows)
        for index, (one, rows) in enumerate(zip(choice.ranges, choice.estimates, strict=True))
    )


def _sealed_secrets(
    loaded: LoadedConfig, export: ExportConfig, connection: SourceConnection
) -> tuple[ParameterSeal, ...]:
    query = loaded.queries.get(export.name, "")
    if query not in loaded.templates:
        return ()
    return tuple(
        seal(name, loaded.parameters[name].value, connection.identity, query)
        for name in references(query)
    )


def _columns(
    loaded: LoadedConfig, export: ExportConfig, facts: SourceFacts, wrong: Wrong
) -> PlannedColumns | None:
    """Every column as it will be read, by name; None when some cannot be carried."""
    casts, at = casts_of(export), loaded.export_key(export.name)
    written = loaded.written_name(export.name)
    names = [column.name for column in facts.columns]
    problems = [
        Problem(
            at=(*at, "columns", name),
            what=f"export {export.name}, columns.{name}",
            reason="there is no such column",
            suggestion=did_you_mean(name, names),
        )
        for name in casts
        if name not in names
    ]
    if not names:
        wrong.problems += [(written, one) for one in problems]
        wrong.refused.append((written, f"export {export.name}: there are no columns to read"))
        return None
    found = plan_columns(export.name, facts, casts, policies_of(loaded.config, export))
    problems += meta_problems(export, names, at)
    for setting, name in unknown_columns(export.quality, found.specs) if export.quality else ():
        if name not in names:
            problems.append(
                Problem(
                    at=(*at, "quality", setting),
                    what=f"export {export.name}, quality.{setting}",
                    reason="names a column that is not there",
                    suggestion=did_you_mean(name, names),
                )
            )
    wrong.problems += [(written, one) for one in problems]
    wrong.unsupported += [(written, one) for one in found.unsupported]
    wrong.lossy += [(written, one) for one in found.lossy]
    return found if len(found.specs) == len(names) and not found.lossy else None


def _refuse_shared_prefixes(
    loaded: LoadedConfig, runs: list[PlannedRun], when: _When, wrong: Wrong
) -> None:
    """Two exports in one folder would overwrite each other's manifest, whichever of them is planned
    just now: those that are not have their places, too."""
    planned = {run.plan.export_name: run.plan.destination for run in runs}
    owner: dict[tuple[str, str], str] = {}
    for export in loaded.config.exports:
        name = export.name
        destination = planned.get(name) or destination_plan(loaded, export, when.date or "")
        place = (destination.kind, destination.prefix)
        if place in owner and name in planned:
            problem = Problem(
                at=(*loaded.export_key(name), "destination", "path"),
                what=f"export {name}",
                reason=f"has the same destination as export {owner[place]}",
                suggestion="add {export} to the path",
            )
            wrong.problems.append((loaded.written_name(name), problem))
        owner.setdefault(place, name)


# ------------------------------------------------------------------------------------------
# One decision from facts and history: ranges, advice, and the order of handing out. Pure.


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """The plan, its runs in the order of handing out, and the advice about it."""

    plan: CampaignPlan
    advised: Advised
    facts: Mapping[str, SourceFacts]
    """By the names of the plan's runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of each export: its runs are in ``plan``, or what is wrong with it in ``wrong``.

    ``loaded`` and ``facts`` know the partitions as exports of their own."""

    loaded: LoadedConfig
    facts: Mapping[str, SourceFacts]
    plan: CampaignPlan
    """Of the exports that nothing is wrong with, in the order of the file."""
    wrong: Wrong

    def error(self, export: str) -> RivetFleetError | None:
        """Why one export of the file would be refused."""
        return self.wrong.error(self.loaded, export)

    def decided(self, history: Mapping[str, Sequence[MeasuredRun]], *, now_s: float) -> Decided:
        """All of them, in the order of handing out. Raises what ``plan_campaign`` raises."""
        self.wrong.raise_any(self.loaded)
        advised = advise(self.loaded, self.facts, self.plan, history, now_s=now_s)
        waves = waves_of(self.loaded, advised.campaign)
        ordered = in_claim_order(self.plan, self.loaded.config.campaign, advised.campaign, waves)
        return Decided(plan=ordered, advised=advised, facts=self.facts)


def consider(
    loaded: LoadedConfig,
    facts: Mapping[str, SourceFacts],
    *,
    campaign_id: CampaignId,
    connections: Mapping[str, SourceConnection],
    now_s: float | None,
    only: Collection[str],
    moving: Mapping[str, Moving] | None = None,
) -> Decision:
    """Decide each of the exports named in ``only``; the refusal of one is a value. Raises what
    refuses them all: UsageError for an unsafe id, ConfigError for a group's budget."""
    check_campaign_id(campaign_id)
    wrong = Wrong()
    expanded = expand(loaded, facts, only)
    wrong.problems += expanded.problems
    when = _When(campaign_id, now_s, moving or {})
    runs = _plan_exports(expanded.loaded, expanded.facts, connections, when, expanded.only, wrong)
    refused = wrong.exports
    fine = [run for run in runs if run.plan.written_name not in refused]
    return Decision(
        loaded=expanded.loaded,
        facts=expanded.facts,
        plan=_campaign(expanded.loaded, campaign_id, connections, fine),
        wrong=wrong,
    )
