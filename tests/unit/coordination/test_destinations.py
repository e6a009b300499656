"""A destination with credentials, from the configuration to an opened bucket: its secrets are used
by its own place alone and shown nowhere. The store is the model of one, found as a plug-in is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rivet_fleet.contracts.codec import dumps
from rivet_fleet.contracts.doctor import DoctorCode, DoctorFinding, Gravity
from rivet_fleet.contracts.manifest import MANIFEST_NAME
from rivet_fleet.contracts.plan import CampaignPlan, DestinationPlan
from rivet_fleet.contracts.seals import EVERYTHING, Allowed
from rivet_fleet.contracts.state import RunStatus
from rivet_fleet.contracts.url import MASK
from rivet_fleet.contracts.window import Subject
from rivet_fleet.coordination import commit, wiring
from rivet_fleet.coordination.delivered import validate_place
from rivet_fleet.coordination.doctor import _places
from rivet_fleet.coordination.fitness import Defect, refuse_before_claim, within_allowed
from rivet_fleet.coordination.garbage import collect_garbage
from rivet_fleet.coordination.wiring import ProcessOptions, open_planned_destination
from rivet_fleet.errors import ConfigError, DestinationRefused, WorkerUnfit
from rivet_fleet.execution import registry
from rivet_fleet.execution.destination import Destination
from rivet_fleet.execution.parts import digest_file
from rivet_fleet.persistence.open import open_store
from rivet_fleet.planning.binding import binding_of
from rivet_fleet.planning.config.connections import source_connection
from rivet_fleet.planning.config.destinations import place_named
from rivet_fleet.planning.config.load import config_json_schema
from rivet_fleet.planning.config.loaded import LoadedConfig
from rivet_fleet.planning.planner import new_campaign_id, plan_campaign
from rivet_fleet.verification.findings import Depth
from tests.campaigns import campaign_plan
from tests.model import objects
from tests.model.store import MemoryStore
from tests.unit.coordination.fleets import CAMPAIGN, DatabaseClock, make_fleet, spooled
from tests.unit.planning.shapes import table

HEAD = """\
source: {type: postgres, url: 'postgresql://reader@localhost/shop'}
exports:
"""
LAKE = """\
  - name: orders
    table: public.orders
    format: parquet
    destination:
      type: objects
      bucket: lake
      prefix: raw/{date}/{export}
      endpoint: store.example:9000
      region: north
      access_key_env: LAKE_KEY
      secret_key_env: LAKE_SECRET
"""
ENVIRON = {"LAKE_KEY": "AKfor/lake", "LAKE_SECRET": "hunter+2/lake==", "OTHER": "not-the-lakes"}
PREFIX = "objects://lake@store.example:9000/raw/2026-01-02/orders"
OPTIONS = {"region": "north", "access_key_env": "LAKE_KEY", "secret_key_env": "LAKE_SECRET"}
PLANNED = DestinationPlan(kind="objects", prefix=PREFIX, options=OPTIONS)
ME = ProcessOptions(name="w")
Load = Callable[..., LoadedConfig]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """A configuration of exports, in an installation that has the store's plug-in."""
    found = {**registry._destinations(), "objects": objects}
    monkeypatch.setattr(registry, "_destinations", lambda: found)
    objects.opened.clear()

    def run(exports: str = LAKE, environ: dict[str, str] = ENVIRON) -> LoadedConfig:
        path = tmp_path / "fleet.yaml"
        path.write_text(HEAD + exports)
        return wiring.load(path, params={}, environ=environ)

    return run


def planned(loaded: LoadedConfig) -> CampaignPlan:
    return plan_campaign(
        loaded,
        {"orders": table()},
        campaign_id=new_campaign_id(1767312000.0),
        connections={"default": source_connection(loaded, "default")},
    )


def test_a_plan_names_variables_and_a_process_puts_in_what_they_hold(load: Load) -> None:
    loaded = load()
    plan = planned(loaded).runs[0].plan.destination
    assert plan == PLANNED
    destination = open_planned_destination(loaded, ME, plan, create=False)
    assert destination.uri.endswith("/raw/2026-01-02/orders")
    (connection,) = objects.opened
    assert (connection.prefix, dict(connection.options)) == (PREFIX, OPTIONS)
    secrets = {"access_key_env": ENVIRON["LAKE_KEY"], "secret_key_env": ENVIRON["LAKE_SECRET"]}
    assert connection.secrets == secrets


def test_its_secrets_are_shown_nowhere(load: Load, tmp_path: Path) -> None:
    loaded = load()
    hide = wiring.redactor(loaded)
    store = open_store(f"sqlite:///{tmp_path / 'state.db'}")
    store.migrate(for_all=False)
    store.submit(planned(loaded))
    store.close()
    destination = open_planned_destination(loaded, ME, PLANNED, create=False)
    shown = [repr(loaded), repr(loaded.config), dumps(planned(loaded)), loaded.digest]
    shown += [repr(objects.opened), destination.uri, (tmp_path / "state.db").read_bytes().hex()]
    for secret in (ENVIRON["LAKE_KEY"], ENVIRON["LAKE_SECRET"]):
        assert secret in loaded.secrets
        assert hide(f"PUT {secret}: 403") == f"PUT {MASK}: 403"
        assert not [text for text in shown if secret in text or secret.encode().hex() in text]
    assert "hunter%2B2" not in hide("?sig=hunter%2B2%2Flake%3D%3D")
    assert "OTHER" not in loaded.environ


def test_a_missing_variable_is_named_with_its_place(load: Load) -> None:
    loaded = load(environ={"LAKE_KEY": "k"})
    with pytest.raises(ConfigError, match="LAKE_SECRET is not set") as refused:
        open_planned_destination(loaded, ME, PLANNED, create=False)
    assert "fleet.yaml:13:" in refused.value.message
    assert objects.opened == []


@pytest.mark.parametrize(
    "edited",
    [
        {"prefix": "objects://lake@evil.example:9000/raw/orders"},
        {"prefix": "objects://another/raw/orders"},
        {"options": {**OPTIONS, "access_key_env": "OTHER"}},
        {"options": {**OPTIONS, "region": "south"}},
        {"options": {}},
        {"kind": "local", "prefix": "/data/out"},
    ],
)
def test_no_secret_goes_where_the_own_configuration_does_not(load: Load, edited: dict) -> None:
    """Whoever can write to the state could send it anywhere, or ask for any variable."""
    plan = replace(PLANNED, **edited)
    with pytest.raises(ConfigError) as refused:
        open_planned_destination(load(), ME, plan, create=False)
    assert refused.value.code == "RIVET_CONFIG_DESTINATION_MISMATCH"
    assert objects.opened == []


def test_doctor_opens_nothing_that_is_not_allowed(load: Load, tmp_path: Path) -> None:
    local = "  - {name: o, table: public.o, format: csv, destination: {type: local, path: out}}"
    me = replace(ME, allowed=Allowed(destinations=("/nowhere",)))
    found = list(_places(load(local), me, 0.0))
    (told,) = [one for one in found if one.subject == "destination of o"]
    assert told.gravity is Gravity.ERROR and "is not below /nowhere" in told.what
    assert not (tmp_path / "out").exists()


def a_folder(prefix: Path, anchor: Path | None = None) -> DestinationPlan:
    return DestinationPlan(kind="local", prefix=str(prefix), anchor=anchor and str(anchor))


def test_an_allowed_folder_is_held_by_where_it_really_is(tmp_path: Path) -> None:
    """A link between the allowed folder and the root is looked through; one that leads out is
    refused, and one that takes a folder's place behind the look is not followed."""
    out, real = tmp_path / "out", tmp_path / "disk"
    for one in (out / "raw", real / "raw", tmp_path / "payroll"):
        one.mkdir(parents=True)
    (out / "today").symlink_to(out / "raw")
    (out / "astray").symlink_to(tmp_path / "payroll")
    (tmp_path / "linked").symlink_to(real)
    allowed = Allowed(destinations=(str(out), f"file://{tmp_path}/linked"))

    held = within_allowed(allowed, a_folder(out / "today" / "x", out / "today"))
    assert (held.prefix, held.anchor) == (str(out / "raw" / "x"), str(out))
    held = within_allowed(allowed, a_folder(tmp_path / "linked" / "raw"))
    assert (held.prefix, held.anchor) == (str(real / "raw"), str(real))
    above = a_folder(out / "raw", tmp_path)
    assert within_allowed(allowed, above).anchor == str(tmp_path)
    # A placeholder's level is not looked through: it is refused where it is opened.
    lies = a_folder(out / "astray", out)
    assert within_allowed(allowed, lies).prefix == str(out / "astray")

    deep = tmp_path / "payroll" / "deep"
    deep.mkdir()
    (tmp_path / "in").symlink_to(deep)
    with pytest.raises(WorkerUnfit, match="leads to"):
        beside = Allowed(destinations=(str(out), str(deep)))
        within_allowed(beside, a_folder(out / "x", tmp_path / "in"))

    for plan in (
        a_folder(out / "astray" / "x", out / "astray"),
        a_folder(out / "astray"),
        a_folder(out / "raw" / ".." / "x", out / "astray"),
    ):
        with pytest.raises(WorkerUnfit) as refused:
            within_allowed(allowed, plan)
        assert refused.value.code == Defect.NOT_ALLOWED.value
        assert "leads to" in refused.value.message


def test_a_link_that_is_put_behind_the_look_leads_nowhere(load: Load, tmp_path: Path) -> None:
    out, payroll = tmp_path / "out", tmp_path / "payroll"
    for one in (out / "raw", payroll):
        one.mkdir(parents=True)
    me = replace(ME, allowed=Allowed(destinations=(str(out),)))
    opened = open_planned_destination(load(), me, a_folder(out / "raw"), create=True)
    (out / "raw").rename(out / "moved")
    (out / "raw").symlink_to(payroll)
    with pytest.raises(DestinationRefused, match="is a symbolic link"):
        opened.put_atomic("manifest.json", b"{}")
    assert not list(payroll.iterdir())


def test_partitions_are_looked_for_below_the_place_that_was_asked_for(tmp_path: Path) -> None:
    """Of a folder nothing below it may lead out; the folder itself may be a link."""
    out = tmp_path / "out"
    (out / "%2E5").mkdir(parents=True)
    (out / "%2E5" / MANIFEST_NAME).write_text("{}")
    (tmp_path / "link").symlink_to(out)
    asked: list[DestinationPlan] = []

    def open_at(place: DestinationPlan) -> Destination:
        asked.append(place)
        return wiring.open_place(place, EVERYTHING)

    for text in (str(tmp_path / "link"), (tmp_path / "link").as_uri()):
        asked.clear()
        place = place_named(text, registry.destination_kinds())
        (found,) = validate_place(open_at, place, run_id=None, depth=Depth.LIGHT)
        assert found.uri.endswith("%2E5") or found.uri.endswith("%252E5")
        assert [(one.prefix, one.anchor) for one in asked] == [
            (str(tmp_path / "link"), None),
            (str(tmp_path / "link" / "%2E5"), str(tmp_path / "link")),
        ]


def test_what_is_allowed_is_asked_before_anything_else(load: Load) -> None:
    allowed = replace(ME, allowed=Allowed(destinations=("objects://lake/raw",)))
    with pytest.raises(WorkerUnfit) as refused:
        open_planned_destination(load(), allowed, PLANNED, create=False)
    assert refused.value.code == Defect.NOT_ALLOWED.value


@pytest.mark.parametrize(
    ("there", "written", "said"),
    [
        ("      bucket: lake\n", "", "destination.bucket: is required"),
        ("prefix: raw/{date}/{export}", "prefix: /", "destination.prefix: must not be empty"),
        ("raw/{date}", "raw/{dat}", "did you mean 'date'?"),
        ("      region: north\n", "      path: out\n", "destination.path: has no meaning for type"),
        ("region: north", "regoin: north", "regoin: unknown key"),
        ("      access_key_env: LAKE_KEY\n", "", "goes with secret_key_env"),
        ("LAKE_SECRET", "'hunter+2/lake=='", "must be the name of an environment variable"),
        ("region: north", "region: 7", "must be text"),
        ("type: objects", "type: local", "a setting of an object store"),
    ],
)
def test_a_kind_judges_its_own_settings(load: Load, there: str, written: str, said: str) -> None:
    assert there in LAKE
    with pytest.raises(ConfigError) as refused:
        load(LAKE.replace(there, written))
    told = f"{refused.value.message}\n{refused.value.hint}"
    assert said in told
    assert "hunter" not in told


def test_two_exports_of_one_place_are_one_place_whatever_their_keys(load: Load) -> None:
    again = LAKE.replace("name: orders", "name: more").replace("LAKE_SECRET", "OTHER")
    shared = load((LAKE + again).replace("{export}", "same"))
    own = [one.destination.below[1] for one in shared.config.exports]
    assert own == ["raw/{date}/same/{export}"] * 2
    loaded = load(LAKE + again.replace("{export}", "orders"))
    with pytest.raises(ConfigError, match="the same destination"):
        plan_campaign(
            loaded,
            {"orders": table(), "more": table()},
            campaign_id=new_campaign_id(0),
            connections={"default": source_connection(loaded, "default")},
        )


def test_a_mark_is_bound_to_the_place_and_to_no_name_of_a_variable(load: Load) -> None:
    def place(text: str) -> list[object]:
        loaded = load(
            text.replace("format:", "mode: incremental\n    cursor_column: id\n    format:")
        )
        (export,) = loaded.config.exports
        connection = source_connection(loaded, "default")
        found = binding_of(loaded, export, table(), connection)
        return [one for one in found if one.subject is Subject.DESTINATION]

    assert place(LAKE) == place(LAKE.replace("LAKE_SECRET", "OTHER"))
    assert place(LAKE) != place(LAKE.replace("bucket: lake", "bucket: pond"))


def test_doctor_names_a_variable_that_is_missing(load: Load) -> None:
    def told(environ: dict[str, str]) -> list[DoctorFinding]:
        loaded = load(LAKE + "spool_dir: spool\n", environ=environ)
        found = _places(loaded, ME, 0.0)
        return [one for one in found if one.subject == "destination of orders"]

    (missing,) = told({"LAKE_KEY": "k"})
    assert "LAKE_SECRET is not set" in missing.what and missing.gravity is Gravity.ERROR
    assert [one.code for one in told(ENVIRON)] == [DoctorCode.DESTINATION_WRITABLE]


def test_doctor_names_what_would_lead_a_library_elsewhere_and_what_a_store_ignores(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_buckets", {"objects://lake@store.example:9000": BAD})
    loaded = load(
        LAKE + "spool_dir: spool\n", environ={**ENVIRON, "OBJECTS_ENDPOINT": "http://evil"}
    )
    found = [one for one in _places(loaded, ME, 0.0) if one.subject == "destination of orders"]
    assert [one.code for one in found] == [
        DoctorCode.DESTINATION_REDIRECT,
        DoctorCode.DESTINATION_WRITABLE,
        DoctorCode.DESTINATION_UNCONDITIONAL,
    ]
    assert "OBJECTS_ENDPOINT" in found[0].what


BAD = objects.Bucket(conditional=False)


def test_what_identifies_a_configuration_is_the_place_and_the_names_never_the_secret(
    load: Load,
) -> None:
    digest = load().digest
    assert load(environ={**ENVIRON, "LAKE_SECRET": "rotated"}).digest == digest
    assert load(LAKE.replace("bucket: lake", "bucket: pond")).digest != digest
    assert load(LAKE.replace("LAKE_SECRET", "OTHER")).digest != digest


def test_a_partition_is_a_folder_of_its_own_in_a_store_too(load: Load) -> None:
    text = LAKE.replace("{date}/{export}", "{partition}").replace(
        "format:", "partition_by: day\n    format:"
    )
    destination = load(text).config.exports[0].destination
    assert destination.below == ("prefix", "raw/{partition}")
    one = destination.placed("raw/day=2026-01-02")
    assert one.settings == {**destination.settings, "prefix": "raw/day=2026-01-02"}
    with pytest.raises(ConfigError, match=r"destination\.prefix: \{partition\} needs partition_by"):
        load(LAKE.replace("{export}", "{partition}"))


def submitted(*destinations: DestinationPlan) -> MemoryStore:
    plan = campaign_plan(chunks=(1,) * len(destinations))
    runs = tuple(
        replace(run, plan=replace(run.plan, destination=destination))
        for run, destination in zip(plan.runs, destinations, strict=True)
    )
    store = MemoryStore(DatabaseClock())
    store.submit(replace(plan, runs=runs))
    return store


def test_a_worker_without_the_variable_is_unfit_before_it_claims(
    load: Load, tmp_path: Path
) -> None:
    loaded = load(environ={"LAKE_KEY": "k"})
    store = submitted(PLANNED)
    fleet = make_fleet(store, tmp_path)
    fleet.open_source = lambda *_: _Source()  # type: ignore[assignment, return-value]
    fleet.open_destination = lambda plan: open_planned_destination(loaded, ME, plan, create=False)
    with pytest.raises(WorkerUnfit, match="LAKE_SECRET") as refused:
        refuse_before_claim(fleet, CAMPAIGN, set())
    assert refused.value.code == Defect.CONFIGURATION.value
    (run,) = store.runs(CAMPAIGN)
    assert (run.status, run.counts.pending) == (RunStatus.IN_PROGRESS, run.counts.total)


class _Source:
    def close(self) -> None:
        """Nothing is held open."""


def test_an_opened_destination_is_kept_by_place_and_way_in(load: Load, tmp_path: Path) -> None:
    """One prefix of two kinds is two places, and other keys are another way in."""
    other = replace(PLANNED, options={**OPTIONS, "region": "south"})
    local = DestinationPlan(kind="local", prefix=PREFIX)
    store = submitted(PLANNED, other, local, PLANNED)
    fleet, opened = make_fleet(store, tmp_path), []
    fleet.open_destination = lambda plan: opened.append(plan) or object()  # type: ignore[func-returns-value, assignment, return-value]
    kept = [fleet.destination(run.run_id) for run in store.runs(CAMPAIGN)]
    assert opened == [PLANNED, other, local]
    assert kept[3] is kept[0]


def test_a_sweep_reads_the_ledger_of_everybody_at_its_place(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run's committed upload is none of its garbage, by whatever keys it was sent; and the
    same letters in another bucket are another place."""
    south = LAKE.replace("region: north", "region: south").replace("name: orders", "name: south")
    other = LAKE.replace("bucket: lake", "bucket: pond").replace("name: orders", "name: pond")
    loaded = load(LAKE + south + other)
    pond = replace(PLANNED, prefix=PREFIX.replace("lake@", "pond@"))
    by_south = replace(PLANNED, options={**OPTIONS, "region": "south"})
    store = submitted(PLANNED, by_south, pond)
    fleet = make_fleet(store, tmp_path)
    fleet.open_destination = lambda plan: open_planned_destination(loaded, ME, plan, create=True)
    monkeypatch.setattr(commit, "publish_chunk", lambda *_, **__: commit.Published.OVERTAKEN)
    for number in range(2):
        claim = store.claim(CAMPAIGN, fleet.identity, 30.0)
        assert claim is not None
        plan = fleet.planned_run(claim.run_id).plan
        commit.deliver_chunk(fleet, claim, plan, spooled(tmp_path / str(number)))
    lost = tmp_path / "lost"
    lost.write_bytes(b"lost")
    run_id = store.runs(CAMPAIGN)[2].run_id
    path = f"{run_id}/pond-c000000-p000-f1.parquet"
    fleet.destination(run_id).stage(lost, path, digest_file(lost, 1))
    assert collect_garbage(fleet, CAMPAIGN, min_age_s=0).staged_files == 1
    left = [one.path for one in fleet.destination(store.runs(CAMPAIGN)[0].run_id).list_staged()]
    assert len(left) == 2


def test_the_schema_for_editors_knows_the_settings_of_each_kind(load: Load) -> None:
    assert load() is not None
    schema = config_json_schema(registry.destination_kinds())
    block = schema["$defs"]["DestinationConfig"]
    assert {"type", "path", "bucket", "access_key_env"} <= set(block["properties"])
    assert block["additionalProperties"] is False
    assert json.dumps(schema)
