"""``plan``: everything a run would do, decided and sealed. Writes nothing but the file it is asked
for."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.plan import CampaignPlan, PlannedRun
from rivet_fleet.contracts.window import StoredMark
from rivet_fleet.coordination.inquiry import OnRefusal, open_inquiry
from rivet_fleet.coordination.wiring import ProcessOptions, redactor
from rivet_fleet.errors import ConfigError, UsageError
from rivet_fleet.observability.units import redact_plain
from rivet_fleet.planning.config.loaded import LoadedConfig
from rivet_fleet.planning.planner import Decided

SECRET_CHARS_MIN = 8
"""A shorter secret in a query is more likely a word of the query than a secret."""


def plan_ahead(
    loaded: LoadedConfig,
    options: ProcessOptions,
    *,
    names: Sequence[str],
    campaign_id: CampaignId,
    now_s: float,
) -> PlanArtifact:
    """The artifact for the named exports (all of them by default).

    Raises ConfigError, SourceError, UnsupportedType, StateError, DestinationError as ``run`` would,
    UsageError for an unknown name, and ConfigError when the plan would hold a secret.
    """
    with open_inquiry(loaded, options, on_refusal=OnRefusal.RAISE) as inquiry:
        answers = inquiry.inquire(names, campaign_id=campaign_id, now_s=now_s)
        decided = answers.decided()
        _refuse_secrets(loaded, decided.plan)
        return _artifact(loaded, decided, decided.facts, inquiry.marks, now_s)


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


def write_plan(path: Path, text: str, *, what: str = "plan") -> None:
    """The file at once or not at all, its user's alone: nobody ever reads half of it. Raises
    UsageError, which calls it ``what``."""
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
            f"the {what} cannot be written to {path}: {failure.strerror}",
            hint="name a file in a folder that exists",
        ) from None
