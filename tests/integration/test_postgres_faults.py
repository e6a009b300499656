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
    SourceRefused,
    SourceUnavailable,
    ValueTooLarge,
)
from rivet_fleet.execution.engines import session as frame
from rivet_fleet.execution.source import PageLimit
from rivet_fleet.execution.sources.postgres import ENGINE as POSTGRES
from rivet_fleet.execution.sources.postgres import exchange, session
from rivet_fleet.execution.sources.postgres.decoder import DECODERS
from tests.integration.postgres_source_kit import (
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
    source = POSTGRES.open_source(
        replace(parse_database_url(database), user=role), application_name="x"
    )
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
        (replace(url, options=(*url.options, ("sslmode", "require"))), SourceRefused, "tls.mode"),
        (replace(url, options=(*url.options, ("no_such_option", "1"))), SourceRefused, ""),
    ]
    for target, error, hint in cases:
        source = POSTGRES.open_source(target, application_name="rivet-test")
        with pytest.raises(error) as caught:
            source.ping()
        assert target.identity in caught.value.message
        assert hint in (caught.value.hint or "")


def test_secrets_are_never_shown(database) -> None:
    url = replace(parse_database_url(database), password="hunter2-secret")
    source = POSTGRES.open_source(url, application_name="rivet-test")
    query = "SELECT 1 AS n WHERE 'password=hunter2-secret' = 1"
    with pytest.raises(SourceRefused) as caught:
        source.introspect(FactsRequest(export_name="q", relation=None, query=query))
    source.close()
    assert "hunter2" not in f"{caught.value} {caught.value.hint} {caught.value!r} {source!r}"


def test_a_silent_link_is_given_up(source, monkeypatch) -> None:
    monkeypatch.setattr(frame, "SILENCE_GRACE_S", -9.8)
    with (
        pytest.raises(SourceUnavailable, match="the link is dead"),
        source._session.reading((), doing="waiting", timeout_s=10) as cursor,
    ):
        cursor.execute("SELECT pg_sleep(30)")
    assert source.ping()


def test_an_answer_without_rows_to_copy_is_no_empty_page(source) -> None:
    decoder = DECODERS.open((), max_value_bytes=1000)
    answer = exchange.Exchange(source._session.connection, decoder)
    with pytest.raises(psycopg.OperationalError, match="without rows to copy"):
        answer.send(b"BEGIN;COMMIT")


def test_a_statement_larger_than_any_buffer_on_the_way_is_sent_whole(source) -> None:
    source._session.connection.silence_s_max = 5.0
    answer = exchange.Exchange(source._session.connection, DECODERS.open((), max_value_bytes=1000))
    answer.send(b"COPY (SELECT) TO STDOUT (FORMAT binary) /*" + b"x" * 40_000_000 + b"*/")
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


def test_a_server_that_goes_away_behind_an_answer_takes_nothing_from_it(sql, database) -> None:
    """The page's end and the server's last word arrive as one."""
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
        source = POSTGRES.open_source(link.through(url), application_name="rivet-test")
        plan = read_plan(facts_of(source, "t"))
        reader = source.open_chunk(
            plan, ChunkRange(kind=RangeKind.KEYSET, columns=("n",)), TuningPlan()
        )
        first = reader.read_page(PageLimit(rows_max=500, bytes_max=1 << 20))
        assert (ended, first.batch.num_rows) == ([1], 500)
        # libpq keeps the word for the next query, which fails as it would anyway.
        with pytest.raises(SourceUnavailable) as caught:
            reader.read_page(PageLimit(rows_max=500, bytes_max=1 << 20))
        assert caught.value.retry is RetryClass.RECONNECT
        reader.reconnect()
        second = reader.read_page(PageLimit(rows_max=500, bytes_max=1 << 20))
        assert (second.batch.num_rows, second.last) == (400, True)
        source.close()
