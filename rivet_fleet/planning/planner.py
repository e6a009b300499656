"""Facts in, plan out: pure and total. Nothing is opened, nothing is written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rivet_fleet.contracts.basis import resting
from rivet_fleet.contracts.facts import SourceFacts
from rivet_fleet.contracts.identity import check_campaign_id, date_of, new_campaign_id, run_id_of
from rivet_fleet.contracts.keys import CampaignId, RangeKind
from rivet_fleet.contracts.parameters import ParameterSeal, references, seal
from rivet_fleet.contracts.plan import (
    CampaignPlan,
    ChunkSpec,
    ExportPlan,
    PlannedRun,
    ReadPlan,
    SealedHeap,
)
from rivet_fleet.contracts.proof import ProofPlan
from rivet_fleet.contracts.state import MeasuredRun
from rivet_fleet.contracts.url import redact
from rivet_fleet.errors import SourceRefused, UnsupportedType
from rivet_fleet.planning.advice import Advised, advise, in_claim_order, waves_of
from rivet_fleet.planning.binding import binding_of, refuse_other, remarks
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
    destination_plan,
    format_plan,
    memory_budget,
    meta_plan,
    meta_problems,
    plan_columns,
    proof_plan,
    tuning_plan,
    uses_date,
)
from rivet_fleet.planning.partitions import expand
from rivet_fleet.planning.request import casts_of, facts_request
from rivet_fleet.planning.strategy import Choice, choose, choose_partition
from rivet_fleet.planning.window import Moving, Windowed, choose_windowed, window_of

__all__ = ["check_campaign_id", "facts_request", "new_campaign_id", "plan_campaign"]


@dataclass(slots=True, kw_only=True)
class _Wrong:
    """Everything that is wrong with a campaign, collected before anything is raised."""

    problems: list[Problem] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)
    lossy: list[str] = field(default_factory=list)

    def raise_any(self, loaded: LoadedConfig) -> None:
        """The first kind that has anything to say, with all of its kind."""
        if self.problems:
            raise loaded.error(*self.problems)
        if self.refused:
            raise SourceRefused(redact("; ".join(self.refused), loaded.secrets))
        if self.unsupported:
            raise UnsupportedType(
                f"{len(self.unsupported)} column(s) cannot be carried exactly:\n  "
                + "\n  ".join(self.unsupported),
                hint="add the casts shown under columns: of each export, "
                "set on_unsupported: text, or leave the columns out with query:",
            )
        if self.lossy:
            raise UnsupportedType(
                f"{len(self.lossy)} column(s) may lose digits or meaning, and on_lossy is fail:"
                "\n  " + "\n  ".join(self.lossy),
                hint="choose a wider type under columns:, or set on_lossy: warn",
                code="RIVET_COLUMN_LOSSY",
            )


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
    """Decide every export (or those named in ``only``). ``facts`` by export name,
    ``connections`` by source name.

    ``now_s`` gives ``{date}`` its day when the campaign id does not begin with one, and time
    windows their end; ``moving`` tells incremental exports what is new. Raises
    ConfigError, SourceRefused or UnsupportedType, each listing all of its kind; UsageError for
    an unsafe id.
    """
    check_campaign_id(campaign_id)
    wrong = _Wrong()
    when = _When(campaign_id, now_s, moving or {})
    runs = []
    for export in loaded.config.exports:
        if only and export.name not in only:
            continue
        run = _plan_export(loaded, export, facts, connections, when, wrong)
        if run is not None:
            runs.append(run)
    _refuse_shared_prefixes(loaded, runs, wrong)
    wrong.raise_any(loaded)
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
    wrong: _Wrong,
) -> PlannedRun | None:
    """One export, or None with an entry in ``wrong``."""
    found = facts.get(export.name)
    source = loaded.source_name(export)
    at = loaded.export_key(export.name)
    if found is None or source not in connections:
        wrong.refused.append(f"export {export.name}: nothing is known of its source yet")
        return None
    columns = _columns(loaded, export, found, wrong)
    windowed = _windowed(loaded, export, found, connections[source], when)
    choice = _choice(loaded, export, found, windowed)
    if isinstance(choice, Refusal):
        wrong.problems.append(
            Problem(
                at=(*at, choice.setting),
                what=f"export {export.name}, {choice.setting}",
                reason=choice.reason,
                suggestion=choice.suggestion,
                code=choice.code,
            )
        )
    if uses_date(export) and when.date is None:
        wrong.problems.append(
            Problem(
                at=(*at, "destination", "path"),
                what=f"export {export.name}",
                reason="{date} needs a moment, and this campaign id holds none",
            )
        )
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
    campaign = loaded.config.campaign
    budget = memory_budget(campaign.worker_memory_mb)
    tuning = tuning_plan(loaded.sources[connection.name], export.tuning, budget)
    written, format_warnings = format_plan(export, budget)
    attempts = export.chunk_max_attempts or campaign.max_chunk_attempts or tuning.max_retries + 1
    on_schema_drift, shape_factor = change_policies(loaded.config, export)
    quality = quality_plan(export.quality, choice.ranges)
    compared = uncompared(quality, facts.row_estimate, len(choice.ranges))
    window = windowed.window if windowed else None
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
            query=loaded.queries.get(export.name),
            secrets=_sealed_secrets(loaded, export, connection),
            columns=tuple(columns.specs),
            on_unrepresentable=policies_of(loaded.config, export).on_unrepresentable,
            session=facts.session,
            window=window,
            heaps=_sealed_heaps(facts, choice),
            basis=resting(facts.basis, choice.ranges, window),
        ),
        format=written,
        destination=destination_plan(export, loaded.path, when.date or ""),
        tuning=tuning,
        attempts_max=attempts,
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


def _sealed_heaps(facts: SourceFacts, choice: Choice) -> tuple[SealedHeap, ...]:
    """What the block numbers of a plan are numbers of; nothing for a plan without any."""
    if all(one.kind is not RangeKind.BLOCKS for one in choice.ranges):
        return ()
    return tuple(
        SealedHeap(relation=heap.name, identity=heap.identity)
        for heap in facts.heaps
        if heap.identity is not None
    )


def _columns(
    loaded: LoadedConfig, export: ExportConfig, facts: SourceFacts, wrong: _Wrong
) -> PlannedColumns | None:
    """Every column as it will be read, by name; None when some cannot be carried."""
    casts = casts_of(export)
    names = [column.name for column in facts.columns]
    for name in casts:
        if name not in names:
            wrong.problems.append(
                Problem(
                    at=(*loaded.export_key(export.name), "columns", name),
                    what=f"export {export.name}, columns.{name}",
                    reason="there is no such column",
                    suggestion=did_you_mean(name, names),
                )
            )
    if not names:
        wrong.refused.append(f"export {export.name}: there are no columns to read")
        return None
    found = plan_columns(export.name, facts, casts, policies_of(loaded.config, export))
    wrong.problems += meta_problems(export, names, loaded.export_key(export.name))
    for setting, name in unknown_columns(export.quality, found.specs) if export.quality else ():
        if name not in names:
            wrong.problems.append(
                Problem(
                    at=(*loaded.export_key(export.name), "quality", setting),
                    what=f"export {export.name}, quality.{setting}",
                    reason="names a column that is not there",
                    suggestion=did_you_mean(name, names),
                )
            )
    wrong.unsupported += found.unsupported
    wrong.lossy += found.lossy
    return found if len(found.specs) == len(names) and not found.lossy else None


def _refuse_shared_prefixes(loaded: LoadedConfig, runs: list[PlannedRun], wrong: _Wrong) -> None:
    """Two exports in one folder would overwrite each other's manifest."""
    owner: dict[tuple[str, str], str] = {}
    for run in runs:
        place = (run.plan.destination.kind, run.plan.destination.prefix)
        name = run.plan.export_name
        if place in owner:
            wrong.problems.append(
                Problem(
                    at=(*loaded.export_key(name), "destination", "path"),
                    what=f"export {name}",
                    reason=f"has the same destination as export {owner[place]}",
                    suggestion="add {export} to the path",
                )
            )
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


def decide(
    loaded: LoadedConfig,
    facts: Mapping[str, SourceFacts],
    *,
    campaign_id: CampaignId,
    connections: Mapping[str, SourceConnection],
    history: Mapping[str, Sequence[MeasuredRun]],
    now_s: float,
    only: Collection[str] = (),
    moving: Mapping[str, Moving] | None = None,
) -> Decided:
    """See ``plan_campaign`` for what it raises; ``history`` newest first, by export name."""
    expanded = expand(loaded, facts, only)
    loaded, facts = expanded.loaded, expanded.facts
    plan = plan_campaign(
        loaded,
        facts,
        campaign_id=campaign_id,
        connections=connections,
        now_s=now_s,
        only=expanded.only,
        moving=moving,
    )
    advised = advise(loaded, facts, plan, history, now_s=now_s)
    waves = waves_of(loaded, advised.campaign)
    ordered = in_claim_order(plan, loaded.config.campaign, advised.campaign, waves)
    return Decided(plan=ordered, advised=advised, facts=facts)
