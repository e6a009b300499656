"""The PostgreSQL source when things go wrong: broken links, limits, drift, refusals."""

from __future__ import annotations

from dataclasses import replace

import psycopg
import pytest

from rivet_fleet.contracts.facts import FactsRequest
from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.demo.embedded import free_port
from rivet_fleet.errors import (
    RetryClass,
    SchemaDrift,
    SourceBusy,
    SourceRefused,
    SourceUnavailable,
    StatementTimeout,
    ValueTooLarge,
)
from rivet_fleet.execution.source import PageLimit
from rivet_fleet.execution.sources.postgres import exchange, open_source, session
from rivet_fleet.execution.sources.postgres.decoder import open_decoder
from tests.integration.postgres_source_kit import (
    LIMIT,
    drain,
    facts_of,
    read_all,
    read_plan,
    relation,
    source,
    sql,
)
from tests.integration.relay import relay

__all__ = ["source", "sql"]

WHOLE = ChunkRange(kind=RangeKind.WHOLE)


def test_a_terminated_backend_is_survived_without_a_double_row(sql, source) -> None:
    sql.execute("CREATE TABLE t (k uuid PRIMARY KEY, n int NOT NULL)")
    sql.execute("INSERT INTO t SELECT md5(i::text)::uuid, i FROM generate_series(1, 5000) i")
    chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("k",))
    reader = source.open_chunk(read_plan(facts_of(source, "t")), chunk, TuningPlan())
    kill = (
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE application_name = 'rivet-test' AND datname = current_database()"
    )
    rows: list[int] = []
    killed = 0
    while True:
        if killed < 3:
            assert sql.execute(kill).fetchall() == [(True,)]
            killed += 1
            with pytest.raises(SourceUnavailable) as caught:
                reader.read_page(LIMIT)
            assert caught.value.retry is RetryClass.RECONNECT
            reader.reconnect()
        page = reader.read_page(LIMIT)
        rows += page.batch.column("n").to_pylist()
        if page.last:
            break
    assert killed == 3 and sorted(rows) == list(range(1, 5001))


def test_a_backend_terminated_between_two_pieces_costs_what_was_not_handed_on(sql, source) -> None:
    """The statement is still open on the server: it waits for us to take its rows."""
    sql.execute("CREATE TABLE t (n int PRIMARY KEY, pad text NOT NULL)")
    sql.execute("ALTER TABLE t ALTER pad SET STORAGE EXTERNAL")
    sql.execute("INSERT INTO t SELECT i, repeat('x', 4000) FROM generate_series(1, 12000) i")
    chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("n",))
    reader = source.open_chunk(read_plan(facts_of(source, "t")), chunk, TuningPlan())
    limit = replace(LIMIT, rows_max=12_000, bytes_max=1 << 30, piece_rows_max=500)
    limit = replace(limit, piece_bytes_max=1 << 30)
    first = reader.read_page(limit)
    assert not first.complete and 500 <= first.batch.num_rows < 1000
    kill = (
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE application_name = 'rivet-test' AND datname = current_database() "
        "AND state = 'active'"
    )
    assert sql.execute(kill).fetchall() == [(True,)]
    rows = first.batch.column("n").to_pylist()
    with pytest.raises(SourceUnavailable) as caught:
        while True:
            rows += reader.read_page(limit).batch.column("n").to_pylist()
    assert caught.value.retry is RetryClass.RECONNECT and reader.resumable
    reader.reconnect()
    rows += drain(reader, limit).column("n").to_pylist()
    assert rows == list(range(1, 12_001))


def test_a_broken_stream_is_not_continued(sql, source) -> None:
    sql.execute("CREATE TABLE t (n int NOT NULL)")
    sql.execute("INSERT INTO t SELECT i FROM generate_series(1, 2000) i")
    reader = source.open_chunk(read_plan(facts_of(source, "t")), WHOLE, TuningPlan())
    reader.read_page(LIMIT)
    with pytest.raises(SourceUnavailable):
        reader.reconnect()


def test_a_closed_reader_leaves_a_usable_source(sql, source) -> None:
    sql.execute("CREATE TABLE t (n int NOT NULL, pad text)")
    sql.execute("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 20000) i")
    reader = source.open_chunk(read_plan(facts_of(source, "t")), WHOLE, TuningPlan())
    assert not reader.read_page(LIMIT).last
    reader.close()
    reader.close()
    assert source.ping()
    idle = (
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%;COPY%' AND state = 'active' "
        "AND pid <> pg_backend_pid()"
    )
    assert sql.execute(idle).fetchone() == (0,)


def test_a_slow_statement_runs_into_its_limit_once(sql, source) -> None:
    query = "SELECT i, pg_sleep(0.2)::text AS s FROM generate_series(1, 100) i"
    facts = source.introspect(FactsRequest(export_name="q", relation=None, query=query))
    with pytest.raises(StatementTimeout) as caught:
        read_all(source, read_plan(facts, query=query), WHOLE, statement_timeout_s=0.3)
    assert caught.value.retry is RetryClass.PERMANENT
    assert source.ping()


def test_a_lock_is_waited_for_no_longer_than_allowed(sql, source) -> None:
    sql.execute("CREATE TABLE t (n int PRIMARY KEY)")
    chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("n",))
    read = read_plan(facts_of(source, "t"))
    reader = source.open_chunk(read, chunk, TuningPlan(lock_timeout_s=0.2))
    with sql.transaction():
        sql.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(SourceBusy) as caught:
            reader.read_page(LIMIT)
    assert caught.value.retry is RetryClass.TRANSIENT
    assert reader.read_page(LIMIT).last


@pytest.mark.parametrize("pooled", [False, True])
def test_nothing_outlives_the_transaction(sql, source, monkeypatch, pooled) -> None:
    """But for what is prepared, where nobody else has the session."""
    monkeypatch.setattr(session, "is_pooled", lambda *_: pooled)
    sql.execute("CREATE TABLE t (n int PRIMARY KEY)")
    sql.execute("INSERT INTO t SELECT i FROM generate_series(1, 100) i")
    names = ("statement_timeout", "lock_timeout", "TimeZone", "DateStyle", "enable_seqscan", "jit")

    def settings() -> list[object]:
        connection = source._session.connection
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        shown = [connection.execute(f"SHOW {name}").fetchone() for name in names]
        prepared = connection.execute("SELECT * FROM pg_prepared_statements").fetchall()
        return [*shown, *(prepared if pooled else ())]

    source.ping()
    before = settings()
    facts = facts_of(source, "t")
    for kind in (RangeKind.KEYSET, RangeKind.SPAN, RangeKind.WHOLE):
        columns = () if kind is RangeKind.WHOLE else ("n",)
        read_all(source, read_plan(facts), ChunkRange(kind=kind, columns=columns))
    assert settings() == before


def test_drift_lists_every_difference(sql, source) -> None:
    sql.execute("CREATE TABLE t (a int NOT NULL, b text, c numeric(5,2), d int)")
    read = read_plan(facts_of(source, "t"))
    sql.execute("ALTER TABLE t DROP b, ADD e date, ALTER a DROP NOT NULL")
    sql.execute("ALTER TABLE t ALTER c TYPE numeric(6,2)")
    with pytest.raises(SchemaDrift) as caught:
        source.open_chunk(read, WHOLE, TuningPlan())
    for said in (
        "a was NOT NULL and may be NULL",
        "b is gone",
        "c was numeric(5,2) and is numeric(6,2)",
        "e (date) is new",
    ):
        assert said in caught.value.message


def test_a_table_that_is_away_for_a_moment_is_looked_for_again(sql, source) -> None:
    """Between the two renames of a swap its name stands for nothing; then for the new table."""
    sql.execute("CREATE TABLE t (n int PRIMARY KEY)")
    sql.execute("INSERT INTO t SELECT generate_series(1, 900)")
    sql.execute("CREATE TABLE t_new (n int UNIQUE NOT NULL)")
    sql.execute("INSERT INTO t_new TABLE t")
    chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("n",))
    plan, limit = read_plan(facts_of(source, "t")), PageLimit(rows_max=500, bytes_max=1 << 20)
    reader = source.open_chunk(plan, chunk, TuningPlan())
    rows = reader.read_page(limit).batch.column("n").to_pylist()
    sql.execute("ALTER TABLE t RENAME TO t_old")
    with pytest.raises(SourceBusy) as caught:
        reader.read_page(limit)
    assert caught.value.retry is RetryClass.TRANSIENT
    sql.execute("ALTER TABLE t_new RENAME TO t")
    reader.reconnect()
    rows += reader.read_page(limit).batch.column("n").to_pylist()
    assert rows == list(range(1, 901))


def test_a_missing_table_names_close_ones(sql, source) -> None:
    sql.execute('CREATE TABLE "Orders" (n int); CREATE TABLE customers (n int)')
    with pytest.raises(SourceRefused, match=r"public\.orders does not exist") as caught:
        facts_of(source, "orders")
    assert "public.Orders" in (caught.value.hint or "")
    with pytest.raises(SourceRefused) as caught:
        facts_of(source, "custmers")
    assert "public.customers" in (caught.value.hint or "")


def test_a_missing_privilege_names_the_grant(database, sql) -> None:
    sql.execute("CREATE SCHEMA s; CREATE TABLE s.t (n int)")
    role = "reader_" + database.rsplit("/", 1)[1]
    sql.execute(f"CREATE ROLE {role} LOGIN")
    source = open_source(replace(parse_database_url(database), user=role), application_name="x")
    request = FactsRequest(export_name="t", relation=relation("t", "s"), query=None)
    try:
        with pytest.raises(SourceRefused) as caught:
            source.introspect(request)
    finally:
        source.close()
        sql.execute(f"DROP ROLE {role}")
    assert f'GRANT USAGE ON SCHEMA "s" TO "{role}"' in (caught.value.hint or "")
    assert f'GRANT SELECT ON "s"."t" TO "{role}"' in (caught.value.hint or "")


def test_connections_that_cannot_be_made(database) -> None:
    url = parse_database_url(database)
    cases = [
        (replace(url, database="nowhere"), SourceRefused, "database name"),
        (replace(url, user="nobody_here"), SourceRefused, "user name"),
        (replace(url, port=free_port()), SourceUnavailable, "running"),
        (url.with_option("sslmode", "require"), SourceRefused, "tls.mode"),
        (url.with_option("no_such_option", "1"), SourceRefused, ""),
    ]
    for target, error, hint in cases:
        source = open_source(target, application_name="rivet-test")
        with pytest.raises(error) as caught:
            source.ping()
        assert target.identity in caught.value.message
        assert hint in (caught.value.hint or "")


def test_secrets_are_never_shown(database) -> None:
    url = replace(parse_database_url(database), password="hunter2-secret")
    source = open_source(url, application_name="rivet-test")
    query = "SELECT 1 AS n WHERE 'password=hunter2-secret' = 1"
    with pytest.raises(SourceRefused) as caught:
        source.introspect(FactsRequest(export_name="q", relation=None, query=query))
    source.close()
    assert "hunter2" not in f"{caught.value} {caught.value.hint} {caught.value!r} {source!r}"


def test_a_silent_link_is_given_up(source, monkeypatch) -> None:
    monkeypatch.setattr(session, "SILENCE_GRACE_S", -9.8)
    with (
        pytest.raises(SourceUnavailable, match="the link is dead"),
        source._session.transaction((), doing="waiting", timeout_s=10) as cursor,
    ):
        cursor.execute("SELECT pg_sleep(30)")
    assert source.ping()


@pytest.mark.parametrize("encrypted", [False, True], ids=["socket", "libpq"])
def test_an_answer_without_rows_to_copy_is_no_empty_page(
    source, monkeypatch, encrypted: bool
) -> None:
    monkeypatch.setattr(exchange, "encrypted", lambda pgconn: encrypted)
    decoder = open_decoder((), max_value_bytes=1000)
    answer = exchange.open_exchange(source._session.connection, decoder)
    with pytest.raises(psycopg.OperationalError, match="without rows to copy"):
        answer.send(b"BEGIN;COMMIT")
        while answer.pull()[1] is not exchange.Pulled.END:
            pass
        answer.finish()


def test_an_answer_left_early_closes_the_connection(sql, source) -> None:
    sql.execute("CREATE TABLE t (n int PRIMARY KEY, v text NOT NULL)")
    sql.execute("INSERT INTO t SELECT i, repeat('x', i) FROM generate_series(1, 3000) i")
    sql.execute("CREATE TABLE other (n int PRIMARY KEY)")
    sql.execute("INSERT INTO other SELECT generate_series(1, 10)")
    chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("n",))
    other = read_plan(facts_of(source, "other"))
    with pytest.raises(ValueTooLarge):
        read_all(source, read_plan(facts_of(source, "t")), chunk, max_value_bytes=100)
    # Thousands of rows were still on their way; none of them may be taken for these.
    assert read_all(source, other, chunk).column("n").to_pylist() == list(range(1, 11))


@pytest.mark.parametrize("encrypted", [False, True], ids=["socket", "libpq"])
def test_a_server_that_goes_away_behind_an_answer_takes_nothing_from_it(
    sql, database, monkeypatch, encrypted: bool
) -> None:
    """The page's end and the server's last word arrive as one."""
    monkeypatch.setattr(exchange, "encrypted", lambda pgconn: encrypted)
    sql.execute("CREATE TABLE t (n int PRIMARY KEY)")
    sql.execute("INSERT INTO t SELECT generate_series(1, 900)")
    ended: list[int] = []

    def end() -> None:
        found = sql.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE query LIKE 'BEGIN%COPY%' AND pid <> pg_backend_pid()"
        ).fetchone()
        ended.append(found[0])

    url = parse_database_url(database)
    with relay(url, last_words=(b"COPY (", end)) as link:
        source = open_source(link.through(url), application_name="rivet-test")
        plan = read_plan(facts_of(source, "t"))
        reader = source.open_chunk(
            plan, ChunkRange(kind=RangeKind.KEYSET, columns=("n",)), TuningPlan()
        )
        first = reader.read_page(PageLimit(rows_max=500, bytes_max=1 << 20))
        assert (ended, first.batch.num_rows) == ([1], 500)
        if encrypted:  # libpq keeps the word for the next query, which fails as it would anyway
            with pytest.raises(SourceUnavailable) as caught:
                reader.read_page(PageLimit(rows_max=500, bytes_max=1 << 20))
            assert caught.value.retry is RetryClass.RECONNECT
            reader.reconnect()
        second = reader.read_page(PageLimit(rows_max=500, bytes_max=1 << 20))
        assert (second.batch.num_rows, second.last) == (400, True)
        source.close()
