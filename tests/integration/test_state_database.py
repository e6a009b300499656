"""The state database itself: migrations, versions, sharing, faults, lost answers."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, event, text

from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.demo.embedded import EmbeddedPostgres, free_port
from rivet_fleet.errors import LeaseLost, StateError, StateRefused, StateUnavailable
from rivet_fleet.persistence import claims, postgres_dialect
from rivet_fleet.persistence.guards import SCHEMA_VERSION, VERSION_TABLE
from rivet_fleet.persistence.migrate import create, upgrade
from rivet_fleet.persistence.open import open_store, state_health
from rivet_fleet.persistence.schema import metadata
from rivet_fleet.persistence.store import Store
from tests.campaigns import campaign_plan, staged_part
from tests.stores import SqlBackend, identity

C1 = CampaignId("c1")


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.db'}"
    return str(request.getfixturevalue("database"))


@pytest.fixture
def opened(url: str) -> Iterator[Store]:
    store = open_store(url)
    yield store
    store.close()


def _migrate(url: str, gate: Any) -> None:
    store = open_store(url)
    gate.wait()
    store.migrate()
    store.check_version()
    store.close()


# -- the schema -----------------------------------------------------------------------------------


def _indexes(connection: Any) -> set[str]:
    if connection.dialect.name == "sqlite":
        rows = connection.execute(
            text("SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
        )
    else:
        rows = connection.execute(
            text("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'")
        )
    return {row[0] for row in rows if VERSION_TABLE not in row[0]}


def test_migrations_and_metadata_make_the_same_database(
    url: str, opened: Store, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with opened._db.migrating() as stepwise:
        upgrade(stepwise)
    if url.startswith("sqlite"):
        fresh = create_engine(f"sqlite:///{tmp_path / 'fresh.db'}")
    else:
        server: EmbeddedPostgres = request.getfixturevalue("postgres")
        other = server.create_database(f"fresh_{os.getpid()}_{free_port()}")
        fresh = create_engine(other.replace("postgresql://", "postgresql+psycopg://"))
    with fresh.begin() as declaring:
        create(declaring)
    # A store's own connection makes no lists, which a comparison asks for.
    plain = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with plain.connect() as migrated, fresh.connect() as declared:
        options = {
            "compare_type": True,
            "version_table": VERSION_TABLE,
            # Alembic cannot compare descending indexes on SQLite, nor the conditions of partial
            # ones anywhere: the text of every index is compared below.
            "include_object": lambda _object, name, kind, *_: (
                (kind, str(name)[:19]) != ("index", "ix_chunk_task_claim")
            ),
        }
        context = MigrationContext.configure(migrated, opts=options)
        assert compare_metadata(context, metadata) == []
        assert _indexes(migrated) == _indexes(declared)
        version = text(f"SELECT version_num FROM {VERSION_TABLE}")
        assert migrated.execute(version).all() == declared.execute(version).all()
    fresh.dispose()
    plain.dispose()


def test_budgets_of_former_campaigns_become_those_of_their_groups(opened: Store) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(claims.__file__).parent / "migrations"))
    with opened._db.migrating() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        for number, slots in enumerate([5, 2, None]):
            values = {"id": f"c{number}", "at": float(number), "slots": slots}
            connection.execute(
                text(
                    "INSERT INTO campaign (campaign_id, campaign_name, config_digest, config_path, "
                    "status, created_at_s) VALUES (:id, :id, 'd', 'p', 'active', :at)"
                ),
                values,
            )
            connection.execute(
                text(
                    "INSERT INTO source_group (campaign_id, group_name, slots_max) "
                    "VALUES (:id, 'db', :slots)"
                ),
                values,
            )
    opened.migrate()
    (budget,) = opened.budgets()
    assert (budget.group_name, budget.ceiling) == ("db", 2), "the newest word that was a number"


def test_the_program_knows_its_newest_migration() -> None:
    scripts = Path(claims.__file__).parent / "migrations"
    assert ScriptDirectory(str(scripts)).get_current_head() == SCHEMA_VERSION


def test_sixteen_processes_migrate_an_empty_database_at_once(url: str, opened: Store) -> None:
    # A server that has imported everything once forks sixteen real processes cheaply.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    gate = context.Barrier(16)
    children = [context.Process(target=_migrate, args=(url, gate)) for _ in range(16)]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=120)
    assert [child.exitcode for child in children] == [0] * 16
    opened.check_version()


def test_a_newer_schema_is_refused_by_both_versions(opened: Store) -> None:
    opened.migrate()
    with opened._db.migrating() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0999'"))
    for refused in (opened.check_version, opened.migrate):
        with pytest.raises(StateRefused, match=rf"0999.*{SCHEMA_VERSION}"):
            refused()


def test_a_database_without_schema_says_what_to_do(opened: Store) -> None:
    with pytest.raises(StateRefused, match="no schema") as caught:
        opened.check_version()
    assert "state migrate" in (caught.value.hint or "")
    with pytest.raises(StateRefused) as missing:
        opened.campaigns()
    assert "state migrate" in (missing.value.hint or "")


# -- SQLite ---------------------------------------------------------------------------------------


def test_sqlite_is_durable(tmp_path: Path) -> None:
    backend = SqlBackend(f"sqlite:///{tmp_path / 's.db'}")
    with backend.sql._db.connected() as connection:
        for pragma, expected in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)):
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == expected
    backend.store.close()


def test_a_second_host_is_refused_until_the_first_is_quiet(tmp_path: Path) -> None:
    backend = SqlBackend(f"sqlite:///{tmp_path / 's.db'}")
    store = backend.store
    store.submit(campaign_plan())
    assert store.claim(C1, identity("w1", host_id="one"), 60.0) is not None
    other = identity("w2", host_id="two")
    for refused in (
        lambda: store.claim(C1, other, 60.0),
        lambda: store.renew(other, [], 60.0, 1),
    ):
        with pytest.raises(StateRefused, match="in use by host one") as caught:
            refused()
        assert "PostgreSQL" in (caught.value.hint or "")
    backend.execute("UPDATE fleet_meta SET at_s = at_s - :quiet", quiet=claims.QUIET_S + 1)
    assert store.claim(C1, other, 60.0) is not None
    store.close()


def test_a_corrupt_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(b"this is not a database at all, but long enough to look at" * 100)
    store = open_store(f"sqlite:///{path}")
    with pytest.raises(StateRefused):
        store.migrate()
    store.close()


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateRefused) as caught:
        open_store(f"sqlite:///{tmp_path / 'no' / 'such' / 's.db'}")
    assert "directory" in (caught.value.hint or "")


def test_a_state_deleted_meanwhile_loses_no_process(tmp_path: Path) -> None:
    backend = SqlBackend(f"sqlite:///{tmp_path / 's.db'}")
    backend.store.submit(campaign_plan())
    backend.store.close()
    for file in tmp_path.glob("s.db*"):
        file.unlink()
    store = open_store(f"sqlite:///{tmp_path / 's.db'}")
    with pytest.raises(StateRefused):
        store.campaigns()
    store.close()


# -- PostgreSQL -----------------------------------------------------------------------------------


@pytest.fixture
def remote(database: str) -> Iterator[SqlBackend]:
    backend = SqlBackend(database)
    yield backend
    backend.store.close()


def _end_connections(postgres: EmbeddedPostgres) -> None:
    postgres.psql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'rivet-fleet'"
    )


def test_a_connection_that_died_in_the_pool_is_replaced(
    remote: SqlBackend, postgres: EmbeddedPostgres
) -> None:
    remote.store.submit(campaign_plan())
    _end_connections(postgres)
    claim = remote.store.claim(C1, identity(), 60.0)
    assert claim is not None
    _end_connections(postgres)
    remote.store.commit(claim.task_id, claim.fence, [], rows=0, pages=1)
    _end_connections(postgres)
    assert [r.run_id for r in remote.store.runs(C1)] == [RunId("c1-e0")]


def test_a_commit_whose_answer_was_lost_is_recognised(
    remote: SqlBackend, postgres: EmbeddedPostgres
) -> None:
    """The server commits, then the connection dies before the client hears of it."""
    remote.store.submit(campaign_plan())
    claim = remote.store.claim(C1, identity(), 60.0)
    assert claim is not None
    lost = []

    def after_commit(
        _conn: Any, _cursor: Any, statement: str, _params: Any, _context: Any, _many: bool
    ) -> None:
        if statement == "COMMIT" and not lost:
            lost.append(statement)
            _end_connections(postgres)
            _conn.exec_driver_sql("SELECT 1")  # this is where the loss shows

    event.listen(remote.sql._db.engine, "after_cursor_execute", after_commit)
    part = staged_part(0, claim.fence)
    remote.store.commit(claim.task_id, claim.fence, [part], rows=10, pages=1)
    assert lost
    assert len(remote.store.parts(RunId("c1-e0"))) == 1
    entries = [e.event for e in remote.store.journal(campaign_id=C1)]
    assert entries.count("chunk.committed") == 1
    with pytest.raises(LeaseLost):
        remote.store.commit(claim.task_id, claim.fence + 1, [part], rows=10, pages=1)


def test_an_unreachable_server_is_unavailable_within_seconds() -> None:
    store = open_store(f"postgresql://fleet:hunter2@127.0.0.1:{free_port()}/state")
    with pytest.raises(StateUnavailable) as caught:
        store.now_s()
    assert "hunter2" not in str(caught.value)
    store.close()


def test_a_missing_database_and_role_are_refused(postgres: EmbeddedPostgres) -> None:
    for url in (postgres.url("absent"), postgres.url(user="nobody_here")):
        store = open_store(url)
        with pytest.raises(StateRefused):
            store.now_s()
        store.close()


def test_nothing_we_set_outlives_a_transaction(remote: SqlBackend) -> None:
    remote.store.submit(campaign_plan())
    with remote.sql._db.connected() as connection:
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            assert connection.exec_driver_sql(f"SHOW {name}").scalar() == "0"


def test_what_the_state_answers_is_made_within_bounds(
    remote: SqlBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the connection that every statement of a store uses, and on the next one."""
    asked = "SELECT '{1,2}'::int[], '{a}'::text[], '[1]'::json, '[1]'::jsonb, ROW(1)"
    with remote.sql._db.connected() as connection:
        (row,) = connection.exec_driver_sql(asked).fetchall()
        assert tuple(row) == ("{1,2}", "{a}", "[1]", "[1]", "(1)")
    with monkeypatch.context() as large:
        large.setattr(postgres_dialect, "_CELL_BYTES_MAX", 1000)
        large.setattr(postgres_dialect, "_held_bytes", itertools.count(0, 1001).__next__)
        with pytest.raises(StateError), remote.sql._db.connected() as connection:
            connection.exec_driver_sql("SELECT repeat('x', 1000)").fetchall()
            connection.exec_driver_sql("SELECT repeat('x', 1001)").fetchall()
    with monkeypatch.context() as many:
        many.setattr(postgres_dialect, "_BLOCK_ROWS", 2)
        with pytest.raises(StateError), remote.sql._db.connected() as connection:
            answered = connection.exec_driver_sql("SELECT 1 FROM generate_series(1, 5)")
            many.setattr(postgres_dialect, "_held_bytes", lambda: 1 << 40)
            answered.fetchall()
    assert remote.store.now_s() > 0


def test_concurrent_claims_never_share_a_task(url: str) -> None:
    backend = SqlBackend(url)
    backend.store.submit(campaign_plan(chunks=(60,)))
    found: list[int] = []

    def work(number: int) -> None:
        worker = identity(f"w{number}")
        while (claim := backend.store.claim(C1, worker, 60.0)) is not None:
            found.append(claim.task_id)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    backend.store.close()
    assert len(found) == len(set(found)) == 60


def test_concurrent_claims_keep_to_the_groups_budget(url: str) -> None:
    backend = SqlBackend(url)
    backend.store.submit(campaign_plan(chunks=(20, 20), groups=("db", "db"), slots={"db": 3}))
    claims: list[Any] = []

    def work(number: int) -> None:
        for _ in range(4):
            claims.append(backend.store.claim(C1, identity(f"w{number}"), 60.0))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(c is not None for c in claims) == 3
    assert [g.running for g in backend.store.groups(C1)] == [3]
    backend.store.close()


def test_two_identical_submissions_at_once_create_one_campaign(url: str) -> None:
    backend = SqlBackend(url)
    created: list[bool] = []

    def work() -> None:
        created.append(backend.store.submit(campaign_plan(chunks=(50,))).created)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(created) == [False, False, False, True]
    assert len(backend.store.tasks(RunId("c1-e0"))) == 50
    backend.store.close()


def test_a_process_killed_inside_a_transaction_leaves_no_lock(url: str) -> None:
    backend = SqlBackend(url)
    backend.store.submit(campaign_plan())
    script = (
        "import os, signal, sys\n"
        "from sqlalchemy import text\n"
        "from rivet_fleet.persistence.open import open_store\n"
        "store = open_store(sys.argv[1])\n"
        "with store._db.migrating() as c:\n"
        "    c.execute(text(\"UPDATE chunk_task SET status = 'failed'\"))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, url], check=False, timeout=60)
    assert done.returncode == -9
    claim = backend.store.claim(C1, identity(), 60.0)
    while claim is None:  # the server needs a moment to notice the closed connection
        claim = backend.store.claim(C1, identity(), 60.0)
    assert (claim.chunk_index, claim.attempt) == (0, 1)
    backend.store.close()


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_a_default_of_the_server_never_sets_the_level_of_a_transition(url: str) -> None:
    """At SERIALIZABLE claims beside each other would fail with 40001."""
    import psycopg

    name = url.rpartition("/")[2]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            f"ALTER DATABASE {name} SET default_transaction_isolation = serializable".encode()
        )
    store = open_store(url)
    store.migrate()
    for run in (store._db.one, store._db.write):
        assert run(lambda t: t.scalar("SHOW transaction_isolation")) == "read committed"
    assert store._db.read(lambda t: t.scalar("SHOW transaction_isolation")) == "repeatable read"
    store.close()


def test_who_else_may_make_objects_where_the_state_lies_is_named(
    postgres: EmbeddedPostgres,
) -> None:
    url = postgres.create_database("schema_with_guests")
    assert state_health(url).makers == ()
    grants = "CREATE ROLE guest; GRANT CREATE ON SCHEMA public TO PUBLIC, guest"
    postgres.psql(grants, database="schema_with_guests")
    assert state_health(url).makers == (("public", "PUBLIC"), ("public", "guest"))
