"""Sessions bring rules of their own: what a role or a database sets must not change, slow or end
what we read, nor let our reading end what others do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from rivet_fleet.contracts.basis import resting
from rivet_fleet.contracts.facts import FactsRequest
from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.execution.engines.session import Liveness
from rivet_fleet.execution.engines.source import EngineSource
from rivet_fleet.execution.source import PageLimit, Source
from rivet_fleet.execution.sources.postgres import ENGINE as POSTGRES
from rivet_fleet.execution.sources.postgres import session as session_module
from rivet_fleet.execution.sources.postgres.liveness import ask
from rivet_fleet.execution.sources.postgres.session import Session
from tests.integration.fleet_cli import Desk, fleet_yaml
from tests.integration.postgres_source_kit import drain, facts_of, read_plan, sql
from tests.waiting import until

__all__ = ["sql"]

Sql = psycopg.Connection[tuple[object, ...]]
ACCOUNTS = """
CREATE TABLE acct (id int PRIMARY KEY, v int); INSERT INTO acct VALUES (1, 0), (2, 0);
GRANT SELECT ON acct TO PUBLIC;
"""
WHOLE = ChunkRange(kind=RangeKind.WHOLE)
BY_ID = ChunkRange(kind=RangeKind.KEYSET, columns=("id",))


@pytest.fixture
def reader(database: str, sql: Sql) -> Iterator[str]:
    """A role of its own, whose settings a test may make as it likes; its URL."""
    name = f"reader_{sql.info.dbname}"
    sql.execute(f"CREATE ROLE {name} LOGIN".encode())
    yield database.replace("//postgres@", f"//{name}@")
    sql.execute(f"DROP OWNED BY {name}; DROP ROLE {name}".encode())


def _role(url: str) -> str:
    return parse_database_url(url).user or ""


def _opened(url: str) -> Source:
    return POSTGRES.open_source(parse_database_url(url), application_name="rivet-test")


def _session(source: Source) -> Session:
    assert isinstance(source, EngineSource)
    return source._session


def test_a_serializable_default_harms_no_transaction_of_others(
    database: str, sql: Sql, reader: str
) -> None:
    sql.execute(ACCOUNTS)
    sql.execute(
        f"ALTER ROLE {_role(reader)} SET default_transaction_isolation = serializable;"
        f"ALTER ROLE {_role(reader)} SET default_transaction_deferrable = on".encode()
    )
    source = _opened(reader)
    with psycopg.connect(database) as a, psycopg.connect(database) as b:
        for other in (a, b):
            other.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        a.execute("SELECT sum(v) FROM acct").fetchone()
        b.execute("UPDATE acct SET v = 20 WHERE id = 2")
        b.commit()
        facts = facts_of(source, "acct")
        for chunk in (WHOLE, BY_ID):
            reading = source.open_chunk(read_plan(facts), chunk, TuningPlan())
            assert drain(reading).num_rows == 2
        source.list_relations()
        source.describe_server()
        locks = sql.execute(
            "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
            "WHERE l.mode = 'SIReadLock' AND a.usename = %s",
            [_role(reader)],
        ).fetchone()
        assert locks == (0,)
        a.execute("UPDATE acct SET v = -11 WHERE id = 1")
        a.commit()  # 40001, where the reader was at SERIALIZABLE
    source.close()


def test_every_transaction_names_its_level(sql: Sql, reader: str) -> None:
    sql.execute(
        f"ALTER ROLE {_role(reader)} SET default_transaction_isolation = serializable".encode()
    )
    source = _opened(reader)
    session = _session(source)
    for snapshot, level in ((False, "read committed"), (True, "repeatable read")):
        with session.reading((), doing="asking", timeout_s=5.0, snapshot=snapshot) as cursor:
            assert cursor.execute("SHOW transaction_isolation").fetchone() == (level,)
            assert cursor.execute("SHOW transaction_read_only").fetchone() == ("on",)
    own = session.connection.info.backend_pid
    session.connection.execute("BEGIN")  # somebody waits for us: there is nothing at work
    assert ask(session._parameters, own) is Liveness.DEAD
    source.close()


def test_no_limit_of_the_role_ends_a_page(sql: Sql, reader: str) -> None:
    sql.execute(
        "CREATE TABLE t (v int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 60);"
        "CREATE VIEW slow AS SELECT v, length(pg_sleep(0.01)::text) AS z FROM t;"
        "GRANT SELECT ON t, slow TO PUBLIC"
    )
    limits = [
        "statement_timeout",
        "lock_timeout",
        "idle_in_transaction_session_timeout",
        "idle_session_timeout",
        *(["transaction_timeout"] if sql.info.server_version >= 170_000 else []),
    ]
    for name in limits:
        sql.execute(f"ALTER ROLE {_role(reader)} SET {name} = '100ms'".encode())
    source = _opened(reader)
    reading = source.open_chunk(read_plan(facts_of(source, "slow")), WHOLE, TuningPlan())
    assert drain(reading).num_rows == 60
    own = _session(source).connection.info.backend_pid
    # Longer idle than the role's limit: the session is still the same.
    # Another session has the role's limit, and meets it.
    with pytest.raises(psycopg.Error), psycopg.connect(reader) as other:
        other.cursor().execute("SELECT pg_sleep(60)")
    assert source.ping() and _session(source).connection.info.backend_pid == own
    source.close()


def test_a_campaign_of_a_role_with_limits_completes(sql: Sql, reader: str, tmp_path: Path) -> None:
    sql.execute(
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 300);"
        "CREATE VIEW slow AS SELECT id, length(pg_sleep(0.002)::text) AS z FROM t;"
        "GRANT SELECT ON t, slow TO PUBLIC"
    )
    if sql.info.server_version >= 170_000:
        sql.execute(f"ALTER ROLE {_role(reader)} SET transaction_timeout = '300ms'".encode())
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": reader})
    desk.write(
        "source: {type: postgres, url_env: SHOP_URL}\n"
        "exports:\n  - {name: slow, table: public.slow, format: parquet,\n"
        "     destination: {type: local, path: ./out/slow}}\n"
    )
    desk.cli("run")
    assert desk.delivered("slow") == list(range(1, 301))


def test_rows_of_an_inverted_index_are_not_limited(sql: Sql, reader: str) -> None:
    sql.execute(
        "CREATE TABLE docs (id int PRIMARY KEY, tags int[]);"
        "INSERT INTO docs SELECT i, ARRAY[1, i] FROM generate_series(1, 5000) i;"
        "CREATE INDEX ON docs USING gin (tags) WITH (fastupdate = off);"
        "GRANT SELECT ON docs TO PUBLIC; ANALYZE docs"
    )
    sql.execute(
        f"ALTER ROLE {_role(reader)} SET gin_fuzzy_search_limit = 100;"
        f"ALTER ROLE {_role(reader)} SET enable_seqscan = off".encode()
    )
    source = _opened(reader)
    query = "SELECT id FROM docs WHERE tags @> ARRAY[1]"
    request = FactsRequest(export_name="q", relation=None, query=query)
    read = read_plan(source.introspect(request), query=query)
    limit = PageLimit(rows_max=10_000, bytes_max=1 << 20)
    found = drain(source.open_chunk(read, WHOLE, TuningPlan()), limit)
    assert found.num_rows == 5000
    source.close()


@pytest.mark.parametrize("pooled", [False, True])
def test_what_every_chunk_asks_is_prepared_once_and_never_behind_a_pooler(
    sql: Sql, reader: str, monkeypatch: pytest.MonkeyPatch, pooled: bool
) -> None:
    sql.execute(ACCOUNTS)
    monkeypatch.setattr(session_module, "is_pooled", lambda *_: pooled)
    source = _opened(reader)
    facts = facts_of(source, "acct")
    read = replace(read_plan(facts), basis=resting(facts.basis, [BY_ID], None))
    held = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_prepared_statements"
    seen = []
    for _ in range(3):
        reading = source.open_chunk(read, BY_ID, TuningPlan())
        assert drain(reading).num_rows == 2 and reading.prove() == ()
        seen.append(_session(source).connection.execute(held).fetchone())
    source.close()
    # When it is asked for the second time: preparing takes a way there and back of its own.
    first, again, last = (count[0] for count in seen if count is not None)
    assert again == last
    assert last == 0 if pooled else first < last and 4 <= last <= 16


@pytest.mark.parametrize("method", ["reject", None])
def test_a_host_that_is_not_admitted_is_refused_and_told_so(
    sql: Sql, reader: str, tmp_path: Path, method: str | None
) -> None:
    shown = sql.execute("SHOW hba_file").fetchone()
    assert shown is not None
    hba = Path(str(shown[0]))
    before = hba.read_text()
    # Without a method nothing admits the role: every other line is for the others.
    line = f"host all {_role(reader)} all {method}\n" if method else ""
    hba.write_text(f"{line}local all postgres trust\nhost all postgres all trust\n")

    def refused() -> bool:
        try:
            psycopg.connect(reader).close()
        except psycopg.OperationalError:
            return True
        return False

    try:
        sql.execute("SELECT pg_reload_conf()")
        desk = Desk(folder=tmp_path, environment={"SHOP_URL": reader})
        desk.write(fleet_yaml())
        until(refused)
        error = desk.refused("run", code=1, named="pg_hba.conf", hint="from this host")
        assert "database name" not in error["hint"]
    finally:
        hba.write_text(before)
        sql.execute("SELECT pg_reload_conf()")
        until(lambda: not refused())
