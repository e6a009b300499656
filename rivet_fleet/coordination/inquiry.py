"""Everything a source is asked before an export is planned, in the one order that works."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from rivet_fleet import __version__
from rivet_fleet.contracts.artifact import (
    ARTIFACT_VERSION,
    STALE_REFUSE_S,
    ArtifactExport,
    ColumnSnapshot,
    FactsSnapshot,
    PlanArtifact,
)
from rivet_fleet.contracts.codec import from_plain
from rivet_fleet.contracts.facts import SourceFacts
from rivet_fleet.contracts.keys import CampaignId, RelationName
from rivet_fleet.contracts.plan import CampaignPlan, ExportPlan, PlannedRun
from rivet_fleet.contracts.proof import ChangeReading
from rivet_fleet.contracts.state import MeasuredRun
from rivet_fleet.contracts.window import StoredMark
from rivet_fleet.coordination.fleet import refuse_other_owner
from rivet_fleet.coordination.wiring import ProcessOptions, open_planned_source, redactor
from rivet_fleet.errors import (
    ConfigError,
    RelationLocked,
    SourceError,
    SourceRefused,
    StatementTimeout,
    StateRefused,
    UsageError,
)
from rivet_fleet.execution.registry import open_format
from rivet_fleet.execution.source import Source
from rivet_fleet.execution.types import arrow_schema
from rivet_fleet.observability.units import redact_plain
from rivet_fleet.persistence.open import open_store, store_exists
from rivet_fleet.planning.change import with_schema_changes
from rivet_fleet.planning.config.connections import seal_key, source_connection
from rivet_fleet.planning.config.loaded import LoadedConfig
from rivet_fleet.planning.config.models import ExportConfig
from rivet_fleet.planning.config.problems import did_you_mean
from rivet_fleet.planning.export_plan import refused_casts
from rivet_fleet.planning.planner import Decided, decide
from rivet_fleet.planning.request import facts_request, with_probed_rows
from rivet_fleet.planning.window import Moving, newest_request, reads_window


@dataclass(slots=True)
class Asked:
    """What is known of every export asked so far, by name."""

    probe: bool = False
    """Count rows where the catalogue's number is doubtful, and believe that."""
    facts: dict[str, SourceFacts] = field(default_factory=dict)
    moving: dict[str, Moving] = field(default_factory=dict)
    left_out: dict[str, SourceError] = field(default_factory=dict)
    """Exports that cannot be planned for a reason of their own: somebody holds a lock on their
    relation, or the source cannot send a column as it was asked to."""

    def ask(
        self, loaded: LoadedConfig, export: ExportConfig, source: Source, mark: StoredMark | None
    ) -> SourceFacts:
        """Facts first: which row is the newest depends on the key they name. ``mark`` was read
        before: whatever moves it later is found when the plan is stored (W6)."""
        continued = mark is not None
        wanted = facts_request(loaded, export, continued=continued)
        changes = _changes(source, wanted.relation)
        facts = with_probed_rows(source.introspect(replace(wanted, probe_density=self.probe)))
        facts = replace(facts, changes=changes)
        self.facts[export.name] = facts
        value = None if mark is None else mark.value
        request = newest_request(export, facts, loaded.queries.get(export.name), value)
        if request is not None:
            self.moving[export.name] = Moving(
                mark=value,
                newest=source.newest(request),
                binding=None if mark is None else mark.binding,
            )
        return facts

    def ask_or_leave_out(
        self, loaded: LoadedConfig, export: ExportConfig, source: Source, mark: StoredMark | None
    ) -> None:
        """Ask; what is one relation's own trouble is a value, and ends nothing about others."""
        try:
            trouble: SourceError | None = refused_casts(
                export.name, self.ask(loaded, export, source, mark)
            )
        except RelationLocked as error:
            trouble = error
        if trouble is not None:
            self.facts.pop(export.name, None)
            self.moving.pop(export.name, None)
            self.left_out[export.name] = trouble

    def refuse_nothing(self) -> None:
        """Raise what left the first one out when no export is left to be planned."""
        if self.left_out and not self.facts:
            raise next(iter(self.left_out.values()))


def _changes(source: Source, relation: RelationName | None) -> ChangeReading | None:
    """Before anything else is asked: what changes from now on is counted. None where nobody
    counts, or may say."""
    if relation is None:
        return None
    with contextlib.suppress(SourceRefused, StatementTimeout):
        return source.read_changes(relation)
    return None


# ------------------------------------------------------------------------------------------
# ``plan``: ask the sources, decide, and seal it. Writes nothing but the file it is asked for.

SECRET_CHARS_MIN = 8
"""A shorter secret in a query is more likely a word of the query than a secret."""
_SCHEMA_NONE = "RIVET_STATE_SCHEMA_NONE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What the state database knows of former runs; empty before the first one."""

    history: Mapping[str, Sequence[MeasuredRun]] = field(default_factory=dict)
    marks: Mapping[str, StoredMark] = field(default_factory=dict)
    last_plans: Mapping[str, ExportPlan] = field(default_factory=dict)


def remember(
    loaded: LoadedConfig, names: Sequence[str], *, state_url: str, namespace: str
) -> Remembered:
    """Read the state database without creating or changing it. Raises StateUnavailable, and
    StateRefused for one of another version, or where campaigns of this name belong to another
    configuration."""
    if not store_exists(state_url):
        return Remembered()
    store = open_store(state_url, namespace=namespace, pool_size=1, seal_key=seal_key(loaded))
    try:
        store.check_version()
        refuse_other_owner(store, loaded)
        return Remembered(
            history=store.history(loaded.campaign_name, names),
            marks=store.marks(loaded.campaign_name, names),
            last_plans=store.last_plans(loaded.campaign_name, names),
        )
    except StateRefused as refused:
        # An older schema holds marks: a plan without them would read everything anew.
        if refused.code != _SCHEMA_NONE:
            raise
        return Remembered()  # no campaign of this program ever ran there
    finally:
        store.close()


def plan_ahead(
    loaded: LoadedConfig,
    options: ProcessOptions,
    *,
    names: Sequence[str],
    campaign_id: CampaignId,
    state_url: str,
    now_s: float,
) -> PlanArtifact:
    """The artifact for the named exports (all of them by default).

    Raises ConfigError, SourceError, UnsupportedType, StateError as ``run`` would, UsageError
    for an unknown name, and ConfigError when the plan would hold a secret.
    """
    chosen = _chosen(loaded, names)
    remembered = remember(loaded, chosen, state_url=state_url, namespace=options.namespace)
    asked = _asked(loaded, options, chosen, remembered.marks)
    decided = decide(
        loaded,
        asked.facts,
        moving=asked.moving,
        campaign_id=campaign_id,
        connections={
            name: source_connection(loaded, name) for name in sorted(_sources(loaded, chosen))
        },
        history=remembered.history,
        now_s=now_s,
        only=chosen,
    )
    compared = with_schema_changes(decided.plan, remembered.last_plans)
    decided = replace(decided, plan=compared)
    for run in decided.plan.runs:
        open_format(run.plan.format).check_schema(arrow_schema(run.plan.output_columns))
    _refuse_secrets(loaded, decided.plan)
    return _artifact(loaded, decided, decided.facts, remembered.marks, now_s)


def _chosen(loaded: LoadedConfig, names: Sequence[str]) -> tuple[str, ...]:
    known = [export.name for export in loaded.config.exports]
    for name in names:
        if name not in known:
            raise UsageError(f"there is no export {name!r}", hint=did_you_mean(name, known))
    return tuple(name for name in known if name in names) if names else tuple(known)


def _sources(loaded: LoadedConfig, chosen: Sequence[str]) -> set[str]:
    return {loaded.source_name(e) for e in loaded.config.exports if e.name in chosen}


def _asked(
    loaded: LoadedConfig,
    options: ProcessOptions,
    chosen: Sequence[str],
    marks: Mapping[str, StoredMark],
) -> Asked:
    """One connection for each source, closed when everything is known."""
    opened: dict[str, Source] = {}
    asked = Asked()
    try:
        for export in loaded.config.exports:
            if export.name not in chosen:
                continue
            name = loaded.source_name(export)
            if name not in opened:
                identity = source_connection(loaded, name).identity
                opened[name] = open_planned_source(loaded, options, name, identity)
            mark = marks.get(export.name) if reads_window(export) else None
            asked.ask(loaded, export, opened[name], mark)
    finally:
        for source in opened.values():
            source.close()
    return asked


def _refuse_secrets(loaded: LoadedConfig, plan: CampaignPlan) -> None:
    """What is executed cannot be redacted, so a secret in it is refused (PA9)."""
    for run in plan.runs:
        texts = (run.plan.read.query or "", run.plan.destination.prefix)
        for secret in loaded.secrets:
            if len(secret) >= SECRET_CHARS_MIN and any(secret in text for text in texts):
                raise ConfigError(
                    f"the plan of export {run.plan.export_name} would hold a secret of the "
                    "configuration: its query or destination repeats it",
                    hint="keep secrets in url_env or password_env; move what the query needs "
                    "into a view",
                    code="RIVET_PLAN_HOLDS_SECRET",
                )


def _artifact(
    loaded: LoadedConfig,
    decided: Decided,
    facts: Mapping[str, SourceFacts],
    marks: Mapping[str, StoredMark],
    now_s: float,
) -> PlanArtifact:
    hide = redactor(loaded)
    plan = replace(
        decided.plan,
        runs=tuple(_redacted(run, loaded) for run in decided.plan.runs),
    )
    exports = tuple(
        ArtifactExport(
            export_name=run.plan.export_name,
            chunk_count=len(run.chunks),
            plan_fingerprint=run.plan_hash,
            cursor_snapshot=_value(marks.get(run.plan.export_name)),
            strategy_rationale=hide(run.plan.reason),
            facts=_snapshot(facts[run.plan.export_name], run),
            preflight=decided.advised.preflights[run.plan.export_name],
        )
        for run in plan.runs
    )
    advice = decided.advised.campaign
    return PlanArtifact(
        artifact_version=ARTIFACT_VERSION,
        rivet_fleet_version=__version__,
        plan_id=plan.campaign_id,
        created_at=_rfc3339(now_s),
        created_at_s=now_s,
        expires_at=_rfc3339(now_s + STALE_REFUSE_S),
        config_path=plan.config_path,
        config_digest=plan.config_digest,
        campaign=plan,
        exports=exports,
        prioritization=from_plain(type(advice), redact_plain(advice, hide)),
    )


def _value(mark: StoredMark | None) -> str | None:
    return None if mark is None else mark.value


def _redacted(run: PlannedRun, loaded: LoadedConfig) -> PlannedRun:
    """The words of a plan come from servers as well; what is executed stays as it is."""
    hide = redactor(loaded)
    words = tuple(hide(warning) for warning in run.plan.warnings)
    return replace(run, plan=replace(run.plan, reason=hide(run.plan.reason), warnings=words))


def _snapshot(facts: SourceFacts, run: PlannedRun) -> FactsSnapshot:
    columns = next((c.chunk_range.columns for c in run.chunks if c.chunk_range.columns), ())
    key = next((one for one in facts.keys if one.columns == columns), None)
    return FactsSnapshot(
        engine=facts.engine,
        server_version=facts.server_version,
        row_estimate=facts.row_estimate,
        row_estimate_from=facts.row_estimate_provenance,
        row_width_bytes=facts.row_width_bytes,
        key_columns=columns,
        key_minimum=key.minimum if key else None,
        key_maximum=key.maximum if key else None,
        columns=tuple(
            ColumnSnapshot(name=c.name, native_type=c.native_type, nullable=c.nullable)
            for c in facts.columns
        ),
    )


def _rfc3339(at_s: float) -> str:
    moment = datetime.fromtimestamp(at_s, tz=UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def write_plan(path: Path, text: str) -> None:
    """The file at once or not at all: nobody ever reads half a plan. Raises UsageError."""
    passing = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        # A plan names tables, filters and parameters: it is its user's alone.
        made = os.open(passing, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with os.fdopen(made, "w", encoding="utf-8") as file:
            file.write(text)
        passing.replace(path)
    except OSError as failure:
        passing.unlink(missing_ok=True)
        raise UsageError(
            f"the plan cannot be written to {path}: {failure.strerror}",
            hint="-o names a file in a folder that exists",
        ) from None
