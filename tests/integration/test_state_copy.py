"""States that move or are migrated: whole or not at all, and never beside the living."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.errors import StateRefused
from rivet_fleet.persistence import copies, migrate
from rivet_fleet.persistence.copies import copy_state
from rivet_fleet.persistence.open import open_store
from rivet_fleet.persistence.store import Store
from tests.campaigns import campaign_plan
from tests.conformance.test_store_marks import bound_run, finish, stored
from tests.integration.fleet_cli import Desk, fleet_yaml, run_sqlite
from tests.stores import SqlBackend, identity

C9 = CampaignId("c9")


def quiet(path: Path) -> None:
    """Whoever worked there has left."""
    run_sqlite(path, "UPDATE worker SET heartbeat_at_s = heartbeat_at_s - 3600")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A state with a delivered run, its mark, and a campaign that is half done."""
    path = tmp_path / "state.db"
    store = SqlBackend(f"sqlite:///{path}").store
    store.submit(bound_run(1, None, 5, "a"))
    finish(store, 1)
    store.submit(campaign_plan(campaign_id=C9, chunks=(3, 2)))
    claim = store.claim(C9, identity("w1"), 60.0)
    assert claim is not None
    store.renew(identity("w1"), [], 60.0, 1)
    store.close()
    return path


def test_a_state_moves_whole_and_goes_on_there(path: Path, database: str) -> None:
    source = f"sqlite:///{path}"
    with pytest.raises(StateRefused, match=r"w1 .pid 4711 on host.") as used:
        copy_state(source, database)
    assert used.value.code == "RIVET_STATE_IN_USE"
    quiet(path)
    with pytest.raises(StateRefused, match="w1, which holds a chunk"):
        copy_state(source, database)
    run_sqlite(path, "UPDATE chunk_task SET lease_expires_at_s = 1 WHERE status = 'running'")
    done = copy_state(source, database)
    counts = {table.name: table.rows for table in done.tables}
    assert done.created and (counts["chunk_task"], counts["chunk_run"]) == (6, 3)
    for name in counts:
        extra = 1 if name == "fleet_meta" else 0  # the word that it has moved
        assert run_sqlite(path, f"SELECT count(*) - {extra} FROM {name}") == [(counts[name],)]
    with pytest.raises(StateRefused, match="was moved to postgresql://") as moved:
        open_store(source).check_version()
    assert moved.value.code == "RIVET_STATE_MOVED"
    store = SqlBackend(database).store
    assert stored(store) is not None
    # Numbers that the server gives go on behind those that were copied.
    assert [one.owner_name for one in store.reap_expired(C9)] == ["w1"]
    store.submit(campaign_plan(campaign_id="c10", chunks=(1,) * 3, name="other"))
    assert store.claim(C9, identity("w2"), 60.0) is not None
    store.close()


def test_a_copy_that_died_before_the_file_was_marked_is_recognised(
    path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet(path)
    run_sqlite(path, "UPDATE chunk_task SET lease_expires_at_s = 1 WHERE status = 'running'")
    with monkeypatch.context() as dying:
        dying.setattr(copies, "_retire", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            copy_state(f"sqlite:///{path}", database)
    again = copy_state(f"sqlite:///{path}", database)
    assert not again.created
    with pytest.raises(StateRefused, match="was moved to"):
        copy_state(f"sqlite:///{path}", database)


def test_a_target_that_holds_something_else_is_refused(path: Path, database: str) -> None:
    quiet(path)
    run_sqlite(path, "UPDATE chunk_task SET lease_expires_at_s = 1 WHERE status = 'running'")
    store = SqlBackend(database).store
    store.submit(campaign_plan(campaign_id="theirs"))
    with pytest.raises(StateRefused, match="holds something else") as refused:
        copy_state(f"sqlite:///{path}", database)
    assert refused.value.code == "RIVET_STATE_NOT_EMPTY"
    assert [one.campaign_id for one in store.campaigns()] == ["theirs"]
    store.close()
    open_store(f"sqlite:///{path}").check_version()
    for source, target in ((database, database), (f"sqlite:///{path}", f"sqlite:///{path}2")):
        with pytest.raises(StateRefused):
            copy_state(source, target)


def old(url: str, version: str) -> Store:
    """A state as an earlier program made it."""
    store = open_store(url)
    config = Config()
    scripts = Path(migrate.__file__).parent / "migrations"
    config.set_main_option("script_location", str(scripts))
    with store._db.migrating() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, version)
    return store


def test_a_file_is_copied_before_it_is_migrated_and_never_beside_the_living(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state.db"
    store = old(f"sqlite:///{path}", "0004")
    run_sqlite(
        path,
        "INSERT INTO worker (worker_id, name, host_id, pid, pid_started_at_s, started_at_s, "
        "heartbeat_at_s) VALUES ('w', 'worker-1', 'vm', 7, 1, 1, "
        "(julianday('now') - 2440587.5) * 86400.0)",
    )
    with pytest.raises(StateRefused, match=r"worker-1 .pid 7 on vm.") as used:
        store.migrate()
    assert used.value.code == "RIVET_STATE_IN_USE"
    assert not list(tmp_path.glob("*.before-*"))
    quiet(path)
    store.migrate()
    store.check_version()
    (copy,) = tmp_path.glob("*.before-*")
    assert copy.name == f"state.db.before-{migrate.SCHEMA_VERSION}"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    version = "SELECT version_num FROM rivet_fleet_version"
    assert run_sqlite(copy, version) == [("0004",)]
    assert run_sqlite(copy, "SELECT name FROM worker") == [("worker-1",)]
    store.migrate()
    store.close()


def test_nothing_is_migrated_without_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = old(f"sqlite:///{path}", "0004")
    (tmp_path / f"state.db.before-{migrate.SCHEMA_VERSION}.tmp").mkdir()
    with pytest.raises(StateRefused, match="no copy of"):
        store.migrate()
    assert run_sqlite(path, "SELECT version_num FROM rivet_fleet_version") == [("0004",)]
    store.close()


def test_a_shared_schema_is_migrated_by_a_word_for_all(tmp_path: Path, database: str) -> None:
    """One team's new program does not end the other teams' (N6)."""
    old(database, "0008").close()
    theirs = open_store(database, namespace="team-b")
    with theirs._db.migrating() as connection:
        connection.exec_driver_sql(
            "INSERT INTO campaign (campaign_id, campaign_name, config_digest, config_path, status, "
            "created_at_s, namespace) VALUES ('c@team-b', 'c', 'd', 'p', 'completed', 1, 'team-b')"
        )
    state = {"RIVET_FLEET_STATE_URL": database, "RIVET_FLEET_NAMESPACE": "team-a"}
    desk = Desk(folder=tmp_path, environment=state)
    desk.write(fleet_yaml())
    for verb in ("submit", "resume"):
        told = desk.refused(verb, code=1, named="another namespace uses it", hint="state migrate")
        assert told["code"] == migrate.SCHEMA_OLD and "team-b" not in str(told)
    with pytest.raises(StateRefused, match="version 0008"):
        theirs.check_version()
    desk.cli("state", "migrate")
    theirs.check_version()
    theirs.close()
