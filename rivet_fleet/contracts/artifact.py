"""The sealed plan as a file: what ``plan`` writes, people review, and ``apply`` executes.

The seal is over everything else in the file, and no option goes around it (PA10). Without a key it
is a digest, which finds accidents and edits, not somebody who seals anew; where the state has a key
(ADR 0024) it is a seal of that key, because what it commands is the same. Rivet's is xxh3; the
digest here is sha256, like every other of a plan. Formatting does not count: a file that was
re-indented says the same and keeps its seal.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from rivet_fleet.contracts.codec import canonical_json, from_plain, to_plain
from rivet_fleet.contracts.identity import checked_id
from rivet_fleet.contracts.keys import CampaignId, KeyTuple
from rivet_fleet.contracts.plan import PLAN_VERSION, CampaignPlan, PlannedRun
from rivet_fleet.contracts.priority import CampaignAdvice, Preflight
from rivet_fleet.contracts.seals import UNKEYED, Sealer, is_keyed
from rivet_fleet.errors import DataIntegrityError, StateTampered, UsageError

ARTIFACT_VERSION = 1
STALE_WARN_S = 3_600.0
STALE_REFUSE_S = 86_400.0
CLOCKS_APART_S = 60.0
_SEAL, _KIND = "integrity", "plan file"


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSnapshot:
    """One column as the source described it when the plan was made."""

    name: str
    native_type: str
    nullable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FactsSnapshot:
    """What the plan was made of. ``apply`` shows it and decides nothing by it (PA1, PA8)."""

    engine: str
    server_version: str
    row_estimate: int | None
    row_estimate_from: str
    row_width_bytes: int | None
    key_columns: tuple[str, ...]
    key_minimum: KeyTuple | None
    key_maximum: KeyTuple | None
    columns: tuple[ColumnSnapshot, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactExport:
    """One export's part of the review.

    ``cursor_snapshot`` is the high-water mark the plan was made at, as opaque text; None when
    there was none, and then any mark matches (PA4). ``plan_fingerprint`` is shown, never
    compared: the stored plan's own hash is what a resume goes by (PA6).
    """

    export_name: str
    chunk_count: int
    plan_fingerprint: str
    cursor_snapshot: str | None
    strategy_rationale: str
    facts: FactsSnapshot
    preflight: Preflight


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanArtifact:
    """Everything ``apply`` needs but the secrets. ``campaign`` is what is executed; the rest
    explains it."""

    artifact_version: int
    rivet_fleet_version: str
    plan_id: CampaignId
    created_at: str
    created_at_s: float
    expires_at: str
    config_path: str
    config_digest: str
    campaign: CampaignPlan
    exports: tuple[ArtifactExport, ...]
    prioritization: CampaignAdvice


class Freshness(Enum):
    """What the age of a plan means (PA3)."""

    FRESH = "fresh"
    AGING = "aging"
    STALE = "stale"
    FROM_THE_FUTURE = "from_the_future"


def freshness(created_at_s: float, now_s: float) -> Freshness:
    """Under an hour is fresh; from a day on it is refused unless forced."""
    age_s = now_s - created_at_s
    if age_s < -CLOCKS_APART_S:
        return Freshness.FROM_THE_FUTURE
    if age_s >= STALE_REFUSE_S:
        return Freshness.STALE
    return Freshness.AGING if age_s >= STALE_WARN_S else Freshness.FRESH


def artifact_text(artifact: PlanArtifact, sealer: Sealer = UNKEYED) -> str:
    """The file: key-sorted JSON with its seal, one newline at the end."""
    plain = to_plain(artifact)
    plain[_SEAL] = _seal_of(plain, sealer)
    return json.dumps(plain, sort_keys=True, indent=2, ensure_ascii=False) + "\n"


def config_path_said(text: str) -> str:
    """Which configuration the file names, to whoever names none. Of a file with a key's seal it is
    not asked: by which key it is proven would then be its own word.

    Raises UsageError for that, and as ``read_artifact`` does for anything else.
    """
    if is_keyed(_sealed(_parsed(text))):
        raise UsageError(
            "the plan is sealed with a key, and it is not for the plan to say with whose",
            hint="name the configuration that it was made from: its state.key_env is believed "
            "(-c fleet.yaml)",
            code="RIVET_PLAN_CONFIG_UNNAMED",
        )
    return read_artifact(text).config_path


def read_artifact(text: str, sealer: Sealer = UNKEYED) -> PlanArtifact:
    """The plan of a file, if it is exactly what ``plan`` sealed with the same key, or with none.

    Raises DataIntegrityError for anything else, UsageError for a file that is no plan or was
    made by a newer program.
    """
    plain = _parsed(text)
    sealed = _sealed(plain)
    del plain[_SEAL]
    _refuse_other_key(sealed, sealer)
    expected = _seal_if_any(plain, sealer)
    if expected is None or not hmac.compare_digest(sealed.encode(), expected.encode()):
        raise DataIntegrityError(
            "the plan is not what was sealed: it was changed after `plan` wrote it",
            hint="no option goes around the seal; make a new plan with `rivet-fleet plan`",
            code="RIVET_PLAN_TAMPERED",
        )
    return _artifact_of(plain)


def _sealed(plain: dict[str, Any]) -> str:
    """The seal as it stands there. Raises DataIntegrityError where there is none."""
    sealed = plain.get(_SEAL)
    if not isinstance(sealed, str) or not sealed.isascii() or not sealed:
        raise DataIntegrityError(
            "the plan has no seal",
            hint="no option goes around the seal; make a new plan with `rivet-fleet plan`",
            code="RIVET_PLAN_TAMPERED",
        )
    return sealed


def _refuse_other_key(sealed: str, sealer: Sealer) -> None:
    """Raise DataIntegrityError where the file and this process are not of one key."""
    theirs = sealed.split(":")[1] if is_keyed(sealed) else ""
    if theirs == sealer.key_id:
        return
    if not sealer.key_id:
        said = "with a key, and the configuration names none"
    elif not theirs:
        said = "without a key, and the configuration asks for one"
    else:
        said = f"with another key (id {theirs[:16]}) than this process has (id {sealer.key_id})"
    raise DataIntegrityError(
        f"the plan is sealed {said}: it may be anybody's",
        hint="nothing was stored; look whether it is the plan that was reviewed, and make it anew "
        "with `rivet-fleet plan` where state.key_env and its key are the fleet's",
        code="RIVET_PLAN_NOT_KEYED",
    )


def _artifact_of(plain: dict[str, Any]) -> PlanArtifact:
    """Raises DataIntegrityError for what is no whole plan, UsageError for a newer one."""
    try:
        _refuse_newer(plain)
        artifact = from_plain(PlanArtifact, plain)
        if not math.isfinite(artifact.created_at_s):
            raise ValueError("a plan without an age never expires")
        _check_ids(artifact)
        return artifact
    except (*_NO_PLAN, StateTampered):
        raise DataIntegrityError(
            "the plan is sealed, but is not a whole plan",
            hint="make a new plan with `rivet-fleet plan`",
            code="RIVET_PLAN_TAMPERED",
        ) from None


_NO_PLAN = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def _check_ids(artifact: PlanArtifact) -> None:
    """Raise StateTampered for an id that was never given: folders are named after them."""
    runs = (run.plan.run_id for run in artifact.campaign.runs)
    for stored in (artifact.plan_id, artifact.campaign.campaign_id, *runs):
        checked_id(stored)


def _parsed(text: str) -> dict[str, Any]:
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError):
        plain = None
    if not isinstance(plain, dict) or "artifact_version" not in plain:
        raise UsageError(
            "this file is not a plan (or not whole)",
            hint="`rivet-fleet plan -c fleet.yaml -o plan.json` writes one",
            code="RIVET_PLAN_UNREADABLE",
        )
    return plain


def _refuse_newer(plain: dict[str, Any]) -> None:
    runs = plain.get("campaign", {}).get("runs", [])
    versions = [run.get("plan", {}).get("plan_version", 0) for run in runs]
    if plain["artifact_version"] > ARTIFACT_VERSION or max(versions, default=0) > PLAN_VERSION:
        raise UsageError(
            f"the plan was made by version {plain.get('rivet_fleet_version')}, "
            "which writes plans this program does not know",
            hint="apply it with that version, or make a new plan with this one",
            code="RIVET_PLAN_NEWER",
        )


def _seal_if_any(plain: dict[str, Any], sealer: Sealer) -> str | None:
    """None for what no plan holds: half a character, or lists without end."""
    try:
        return _seal_of(plain, sealer)
    except (ValueError, RecursionError):
        return None


def _seal_of(plain: dict[str, Any], sealer: Sealer) -> str:
    if sealer.key is not None:
        return sealer.seal(_KIND, plain)
    return "sha256:" + hashlib.sha256(canonical_json(plain)).hexdigest()


def by_name(artifact: PlanArtifact) -> dict[str, PlannedRun]:
    """The planned runs by export name, in the order they are handed out."""
    return {run.plan.export_name: run for run in artifact.campaign.runs}
