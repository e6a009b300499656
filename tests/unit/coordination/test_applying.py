"""What apply takes, what it refuses, and what force may pass: over the in-memory store."""

from __future__ import annotations

import hashlib
import json
import os
import string
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rivet_fleet import __version__
from rivet_fleet.contracts.artifact import (
    STALE_REFUSE_S,
    STALE_WARN_S,
    ArtifactExport,
    FactsSnapshot,
    Freshness,
    PlanArtifact,
    artifact_text,
    config_path_said,
    freshness,
    read_artifact,
)
from rivet_fleet.contracts.codec import canonical_json
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.plan import CampaignPlan
from rivet_fleet.contracts.priority import Preflight, Verdict
from rivet_fleet.contracts.seals import UNKEYED, Sealer
from rivet_fleet.contracts.window import StoredMark
from rivet_fleet.coordination import sealed
from rivet_fleet.coordination.sealed import Applied, apply_plan
from rivet_fleet.errors import (
    ConfigError,
    DataIntegrityError,
    DestinationRefused,
    StateRefused,
    UsageError,
)
from rivet_fleet.planning.advice import campaign_view
from rivet_fleet.planning.priority import ScoredStrategy, ScoreInputs, recommend
from tests.model.store import MemoryStore
from tests.unit.coordination.fleets import DatabaseClock, make_fleet, memory_plan

NOW_S = 1_700_000_000.0
IDENTITY = "postgresql://reader@db/shop"


def artifact(campaign: CampaignPlan | None = None, **changes: Any) -> PlanArtifact:
    campaign = campaign or memory_plan((3,))
    facts = FactsSnapshot(
        engine="postgres",
        server_version="16",
        row_estimate=3000,
        row_estimate_from="statistics",
        row_width_bytes=40,
        key_columns=("id",),
        key_minimum=("1",),
        key_maximum=("2999",),
        columns=(),
    )
    preflight = Preflight(
        verdict=Verdict.UNSAFE,
        rows=3000,
        rows_from="estimate",
        recommended_profile="safe",
        recommended_parallel=1,
    )
    run = campaign.runs[0]
    export = ArtifactExport(
        export_name="e0",
        chunk_count=3,
        plan_fingerprint=run.plan_hash,
        cursor_snapshot=None,
        strategy_rationale="integer key",
        facts=facts,
        preflight=preflight,
    )
    scored = ScoreInputs(
        export_name="e0",
        strategy=ScoredStrategy.CHUNKED,
        rows=3000,
        chunk_count=3,
        verdict=Verdict.UNSAFE,
    )
    values: dict[str, Any] = {
        "artifact_version": 1,
        "rivet_fleet_version": __version__,
        "plan_id": campaign.campaign_id,
        "created_at": "2023-11-14T22:13:20Z",
        "created_at_s": NOW_S,
        "expires_at": "2023-11-15T22:13:20Z",
        "config_path": "/etc/fleet.yaml",
        "config_digest": campaign.config_digest,
        "campaign": campaign,
        "exports": (export,),
        "prioritization": campaign_view([recommend(scored)]),
    }
    return PlanArtifact(**{**values, **changes})


class Counter:
    """A clock that stands still."""

    def __init__(self, now_s: float) -> None:
        self._now_s = now_s

    def now_s(self) -> float:
        return self._now_s

    def monotonic_s(self) -> float:
        return self._now_s


def apply(
    plan: PlanArtifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    store: MemoryStore | None = None,
    age_s: float = 0.0,
    force: bool = False,
    digest: str = "digest",
    identity: str = IDENTITY,
) -> tuple[Applied, MemoryStore, list[Any]]:
    store = store or MemoryStore(DatabaseClock())
    events: list[Any] = []
    fleet = make_fleet(store, tmp_path)
    fleet.clock, fleet.emit = Counter(plan.created_at_s + age_s), events.append
    loaded: Any = SimpleNamespace(
        campaign_name="shop",
        digest=digest,
        sections={"e0": "new"},
        path=Path("fleet.yaml"),
        config=SimpleNamespace(source_groups={}),
    )
    monkeypatch.setattr(
        sealed, "source_connection", lambda _loaded, _name: SimpleNamespace(identity=identity)
    )
    return apply_plan(fleet, loaded, plan, force=force), store, events


# -- the file -------------------------------------------------------------------------------------


def test_a_plan_survives_its_file_and_any_indentation() -> None:
    plan = artifact()
    text = artifact_text(plan)
    assert read_artifact(text) == plan
    assert read_artifact(json.dumps(json.loads(text))) == plan


TEXT = artifact_text(artifact(memory_plan((3,))))


@given(st.integers(0, len(TEXT) - 1), st.sampled_from(string.printable))
def test_pa10_no_changed_byte_is_ever_read_as_another_plan(at: int, letter: str) -> None:
    changed = TEXT[:at] + letter + TEXT[at + 1 :]
    try:
        found = read_artifact(changed)
    except (DataIntegrityError, UsageError):
        return
    assert found == read_artifact(TEXT), "only what does not count may differ"


@pytest.mark.parametrize(
    "body",
    [
        '{"artifact_version":1,"integrity":"x","a":"\\ud800"}',
        '{"artifact_version":1,"integrity":"x","a":' + "[" * 900 + "]" * 900 + "}",
        "[" * 100_000,
        '{"artifact_version":1e400,"integrity":"x"}',
    ],
)
def test_a_file_that_no_plan_can_be_is_refused_by_name(body: str) -> None:
    with pytest.raises((DataIntegrityError, UsageError)):
        read_artifact(body)


@pytest.mark.parametrize(
    "changes",
    [
        {"campaign": []},
        {"campaign": {"runs": "abc"}},
        {"campaign": {"runs": None}},
        {"artifact_version": "one"},
        {"created_at_s": float("nan")},
        {"created_at_s": float("-inf")},
        {"created_at_s": 10**400},
        {"plan_id": "../../x"},
        {"campaign": {**json.loads(TEXT)["campaign"], "campaign_id": "../../x"}},
        {"campaign": json.loads(json.dumps(json.loads(TEXT)["campaign"]).replace("c1-e0", "../x"))},
    ],
)
def test_a_plan_that_was_sealed_anew_is_still_read_with_care(changes: dict[str, Any]) -> None:
    """The seal has no key: whoever edits can make it again. One without an age never expires."""
    plain = {**json.loads(TEXT), **changes}
    del plain["integrity"]
    seal = hashlib.sha256(canonical_json(plain)).hexdigest()
    with pytest.raises(DataIntegrityError, match="not a whole plan"):
        read_artifact(json.dumps({**plain, "integrity": f"sha256:{seal}"}))


KEYED = Sealer(key=b"correct-horse-battery-staple")
OTHER = Sealer(key=b"another-horse-of-another-hue")


def test_pa10_a_plan_is_taken_by_the_key_it_was_sealed_with_alone() -> None:
    plan = artifact()
    text = artifact_text(plan, KEYED)
    assert read_artifact(text, KEYED) == plan == read_artifact(artifact_text(plan))
    assert KEYED.key is not None and KEYED.key.decode() not in text
    for made, asked, said in (
        (UNKEYED, KEYED, "sealed without a key"),
        (OTHER, KEYED, "sealed with another key"),
        (KEYED, UNKEYED, "sealed with a key"),
    ):
        with pytest.raises(DataIntegrityError, match=said) as refused:
            read_artifact(artifact_text(plan, made), asked)
        assert refused.value.code == "RIVET_PLAN_NOT_KEYED"
    # Only who has the key can make one that names it.
    claimed = artifact_text(plan, OTHER).replace(OTHER.key_id, KEYED.key_id)
    for forged in (claimed, text.replace('"e0"', '"e1"')):
        with pytest.raises(DataIntegrityError) as refused:
            read_artifact(forged, KEYED)
        assert refused.value.code == "RIVET_PLAN_TAMPERED"


def test_a_keyed_plan_does_not_say_by_which_key_it_is_proven() -> None:
    """A configuration of the forger's names a key of the forger's."""
    assert config_path_said(artifact_text(artifact())) == "/etc/fleet.yaml"
    for keyed in (KEYED, OTHER):
        with pytest.raises(UsageError) as unnamed:
            config_path_said(artifact_text(artifact(), keyed))
        assert unnamed.value.code == "RIVET_PLAN_CONFIG_UNNAMED" and "-c" in (
            unnamed.value.hint or ""
        )
    for text in (
        artifact_text(artifact()).replace("/etc/", "/tmp/"),
        artifact_text(artifact()).replace('"c1-e0"', '"../x"'),
    ):
        with pytest.raises(DataIntegrityError):
            config_path_said(text)


def test_a_plan_names_no_configuration_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, config = tmp_path / "plan.json", tmp_path / "fleet.yaml"
    config.write_text("")
    assert sealed.config_of(str(config), plan) == (config, None)
    beside = sealed.config_of("/nowhere/fleet.yaml", plan)
    assert beside[0] == config and "beside the plan" in (beside[1] or "")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    theirs = shared / "fleet.yaml"
    theirs.write_text("")
    theirs.chmod(0o666)
    with pytest.raises(UsageError, match="can be written by others"):
        sealed.config_of(str(theirs), plan)
    if os.geteuid() == 0:
        os.chown(config, 65534, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: config.stat().st_uid + 1)
    for named in (str(config), "/nowhere/fleet.yaml"):
        with pytest.raises(UsageError, match="belongs to user") as refused:
            sealed.config_of(named, plan)
        assert refused.value.code == "RIVET_PLAN_CONFIG_UNNAMED"


def test_pa10_a_plan_without_a_seal_or_with_more_in_it_is_refused() -> None:
    plain = json.loads(TEXT)
    for change in (
        lambda p: p.pop("integrity"),
        lambda p: p.update(integrity=""),
        lambda p: p.update(integrity=None),
        lambda p: p.update(more=1),
        lambda p: p["campaign"].update(more=1),
        lambda p: p["campaign"]["runs"][0]["chunks"].pop(),
    ):
        other = json.loads(json.dumps(plain))
        change(other)
        with pytest.raises(DataIntegrityError) as refused:
            read_artifact(json.dumps(other))
        assert refused.value.code == "RIVET_PLAN_TAMPERED"


def test_a_newer_plan_is_refused_by_name() -> None:
    newer = artifact_text(artifact(artifact_version=2, rivet_fleet_version="9.9"))
    with pytest.raises(UsageError, match=r"version 9\.9") as refused:
        read_artifact(newer)
    assert refused.value.code == "RIVET_PLAN_NEWER"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": 1}', "name: fleet"])
def test_another_file_is_no_plan(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_artifact(text)
    assert refused.value.code == "RIVET_PLAN_UNREADABLE"


def test_pa3_freshness_at_its_borders() -> None:
    F = Freshness
    expected = {
        0.0: F.FRESH,
        STALE_WARN_S - 1: F.FRESH,
        STALE_WARN_S: F.AGING,
        STALE_REFUSE_S - 1: F.AGING,
        STALE_REFUSE_S: F.STALE,
        -30.0: F.FRESH,
        -61.0: F.FROM_THE_FUTURE,
    }
    assert {age: freshness(NOW_S, NOW_S + age) for age in expected} == expected


# -- applying -------------------------------------------------------------------------------------


def test_pa1_the_plan_is_stored_as_it_is_and_no_source_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = artifact()
    applied, store, events = apply(plan, tmp_path, monkeypatch)
    assert applied.submitted.created and applied.warnings == ()
    (run,) = store.runs(plan.plan_id)
    (planned,) = plan.campaign.runs
    assert (run.plan, run.plan_hash) == (planned.plan, planned.plan_hash)
    tasks = store.tasks(run.run_id)
    assert [t.chunk_range for t in tasks] == [c.chunk_range for c in planned.chunks]
    assert [event.name.value for event in events] == ["plan.applied"]


def test_applied_again_it_is_the_same_campaign_even_when_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = artifact()
    _, store, _ = apply(plan, tmp_path, monkeypatch)
    again, _, events = apply(plan, tmp_path, monkeypatch, store=store, age_s=10 * STALE_REFUSE_S)
    assert not again.submitted.created and events == []
    other = artifact(memory_plan((2,)))
    with pytest.raises(StateRefused) as refused:
        apply(other, tmp_path, monkeypatch, store=store, force=True)
    assert refused.value.code == "RIVET_PLAN_CONFLICT"


def test_pa3_warns_then_refuses_unless_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = artifact()
    applied, _, _ = apply(plan, tmp_path, monkeypatch, age_s=STALE_WARN_S)
    assert "1.0 hours old" in applied.warnings[0]
    with pytest.raises(UsageError) as refused:
        apply(plan, tmp_path, monkeypatch, age_s=STALE_REFUSE_S)
    assert refused.value.code == "RIVET_PLAN_STALE"
    forced, _, events = apply(plan, tmp_path, monkeypatch, age_s=STALE_REFUSE_S, force=True)
    assert "forced" in forced.warnings[0] and events[0].data["forced"] == ["stale"]
    early, _, _ = apply(plan, tmp_path, monkeypatch, age_s=-3600)
    assert "clocks" in early.warnings[0]


class Marked(MemoryStore):
    """A store whose exports have a high-water mark."""

    standing: dict[str, str]

    def marks(self, campaign_name: str, export_names: Any) -> dict[str, StoredMark]:
        known = self.standing.items()
        return {name: StoredMark(value=mark) for name, mark in known if name in export_names}


def test_pa4_a_cursor_must_not_have_moved_unless_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at(mark: str | None, now: dict[str, str], *, force: bool = False) -> Any:
        plan = artifact()
        (export,) = plan.exports
        store = Marked(DatabaseClock())
        store.standing = now
        marked = replace(plan, exports=(replace(export, cursor_snapshot=mark),))
        return apply(marked, tmp_path, monkeypatch, store=store, force=force)

    at(None, {"e0": "7"})  # no snapshot matches any mark
    at("7", {"e0": "7"})
    for now in ({"e0": "8"}, {"e0": "7 "}, {}):
        with pytest.raises(StateRefused) as refused:
            at("7", now)
        assert refused.value.code == "RIVET_PLAN_CURSOR_DRIFT"
    _, _, events = at("7", {"e0": "8"}, force=True)
    assert events[0].data["forced"] == ["cursor_drift"]


def test_pa6_the_fingerprint_is_shown_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = artifact()
    odd = replace(plan, exports=(replace(plan.exports[0], plan_fingerprint="sha256:other"),))
    applied, _, _ = apply(odd, tmp_path, monkeypatch)
    assert applied.submitted.created


def test_pa8_a_verdict_stops_nothing_but_a_destination_that_cannot_be_written_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = artifact()
    assert plan.exports[0].preflight.verdict is Verdict.UNSAFE
    applied, _, _ = apply(plan, tmp_path, monkeypatch)
    assert applied.submitted.created
    (run,) = plan.campaign.runs
    file = tmp_path / "file"
    file.write_text("in the way")
    blocked = replace(run.plan.destination, kind="local", prefix=str(file / "out"))
    campaign = replace(
        plan.campaign, runs=(replace(run, plan=replace(run.plan, destination=blocked)),)
    )
    store = MemoryStore(DatabaseClock())
    with pytest.raises(DestinationRefused):
        apply(artifact(campaign), tmp_path, monkeypatch, store=store, force=True)
    assert store.campaigns() == []


def test_pa10_another_configuration_or_source_cannot_be_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = artifact()
    for wrong, code in (
        ({"digest": "other"}, "RIVET_CONFIG_CHANGED"),
        ({"identity": "postgresql://reader@other/shop"}, "RIVET_CONFIG_SOURCE_MISMATCH"),
    ):
        store = MemoryStore(DatabaseClock())
        with pytest.raises(ConfigError) as refused:
            apply(plan, tmp_path, monkeypatch, store=store, force=True, **wrong)  # type: ignore[arg-type]
        assert refused.value.code == code
        assert store.campaigns() == []


def test_an_export_that_is_still_in_progress_is_not_planned_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, store, _ = apply(artifact(), tmp_path, monkeypatch)
    campaign = memory_plan((3,))
    (run,) = campaign.runs
    other = replace(
        campaign,
        campaign_id=CampaignId("c2"),
        runs=(replace(run, plan=replace(run.plan, run_id=RunId("c2-e0"))),),
    )
    with pytest.raises(StateRefused) as refused:
        apply(artifact(other), tmp_path, monkeypatch, store=store, force=True)
    assert refused.value.code == "RIVET_EXPORT_IN_PROGRESS"
