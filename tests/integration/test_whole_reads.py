"""Reads that cannot be cut: in bounded steps, each with its limit, and with one of the whole."""

from __future__ import annotations

import pyarrow as pa
import pytest

from rivet_fleet.contracts.facts import FactsRequest
from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.plan import ReadPlan, TuningPlan
from rivet_fleet.errors import StatementTimeout
from rivet_fleet.execution.engines.decoding import Decoders
from rivet_fleet.execution.source import PageLimit, Source
from rivet_fleet.execution.sources.postgres import reading
from rivet_fleet.execution.sources.postgres.exchange import CopyStream
from rivet_fleet.execution.sources.postgres.reading import PostgresReading
from rivet_fleet.execution.sources.postgres.reference import ReferenceDecoder
from tests.integration import mysql_source_kit
from tests.integration.postgres_source_kit import drain, read_plan, source, sql

__all__ = ["source", "sql"]

WHOLE = ChunkRange(kind=RangeKind.WHOLE)
FIVE = PageLimit(rows_max=5, bytes_max=1 << 20)
SLOW = "SELECT i, pg_sleep(0.03)::text AS s FROM generate_series(1, 25) i"


def queried(source: Source, query: str) -> ReadPlan:
    facts = source.introspect(FactsRequest(export_name="q", relation=None, query=query))
    return read_plan(facts, query=query)


def test_a_limit_of_statements_is_none_of_the_whole(source: Source) -> None:
    """Five rows at a time, 0.15 s each; together they take longer than a statement may."""
    reader = source.open_chunk(queried(source, SLOW), WHOLE, TuningPlan(statement_timeout_s=0.5))
    assert drain(reader, FIVE).column("i").to_pylist() == list(range(1, 26))
    assert 0.1 < reader.longest_statement_s < 0.5
    reader = source.open_chunk(queried(source, SLOW), WHOLE, TuningPlan(statement_timeout_s=0.1))
    with pytest.raises(StatementTimeout):
        reader.read_page(FIVE)


def test_the_whole_has_a_limit_of_its_own(source: Source) -> None:
    reader = source.open_chunk(queried(source, SLOW), WHOLE, TuningPlan(whole_read_timeout_s=0.2))
    with pytest.raises(StatementTimeout, match="cannot be cut") as caught:
        drain(reader, FIVE)
    assert caught.value.code == "RIVET_WHOLE_READ_TIMEOUT"
    assert source.ping()


def test_the_one_statement_of_mysql_has_that_limit(mysql_database: str) -> None:
    opened = mysql_source_kit.MYSQL.open_source(
        mysql_source_kit.parse_database_url(mysql_database), application_name="t"
    )
    query = "SELECT seq AS i, SLEEP(0.03) AS s FROM seq_1_to_20"
    try:
        plan = queried(opened, query)
        tuning = TuningPlan(statement_timeout_s=0.2)
        assert drain(opened.open_chunk(plan, WHOLE, tuning), FIVE).num_rows == 20
        tuning = TuningPlan(whole_read_timeout_s=0.2)
        with pytest.raises(StatementTimeout):
            drain(opened.open_chunk(plan, WHOLE, tuning), FIVE)
    finally:
        opened.close()


@pytest.mark.parametrize("slowly", [False, True], ids=["compiled", "reference"])
def test_a_cursor_gives_what_a_copy_gives(
    sql, source: Source, monkeypatch: pytest.MonkeyPatch, slowly: bool
) -> None:
    """Every kind of cell, NULL and empty ones, rows of several widths, more than are fetched at
    once; and no rows at all."""
    sql.execute(
        "CREATE VIEW v AS SELECT i AS n, i % 7 AS m, repeat('é', i * 3) AS t, "
        "NULLIF(i % 3, 0) AS z, (i / 8.0)::numeric(12, 3) AS d, "
        "decode(repeat('00ff', i % 5), 'hex') AS b, i % 2 = 0 AS f, ARRAY[i, NULL, 2] AS a, "
        "jsonb_build_object('i', i) AS j, date '2026-01-01' + i AS w "
        "FROM generate_series(1, 99) i"
    )
    if slowly:
        slow = Decoders(reference=ReferenceDecoder, compiled=lambda: None)
        monkeypatch.setattr(PostgresReading, "_decoders", slow)
    plan = queried(source, "SELECT * FROM v")

    def rows(most: int) -> pa.Table:
        limit = PageLimit(rows_max=most, bytes_max=1 << 20)
        return drain(source.open_chunk(plan, WHOLE, TuningPlan()), limit)

    fetched = [rows(most) for most in (1, 33, 99, 1000)]
    nothing = queried(source, "SELECT n, t FROM v WHERE n < 0")
    assert drain(source.open_chunk(nothing, WHOLE, TuningPlan()), FIVE).num_rows == 0
    monkeypatch.setattr(reading, "CursorStream", _copied)
    copied = rows(1000)
    assert copied.num_rows == 99
    assert all(one.equals(copied) for one in fetched)


def _copied(session, sql, settings, tuning, decoder, *, foreign):
    """The same rows by one COPY."""
    copy = f"COPY ({sql}) TO STDOUT (FORMAT BINARY)"
    return CopyStream(session, copy, settings, tuning, decoder, foreign=foreign)


def test_a_cursor_that_is_left_leaves_nothing(source: Source) -> None:
    many = queried(source, "SELECT generate_series(1, 90000) AS i")
    reader = source.open_chunk(many, WHOLE, TuningPlan())
    assert reader.read_page(FIVE).batch.num_rows == 5
    reader.close()
    few = queried(source, SLOW.replace("0.03", "0"))
    assert drain(source.open_chunk(few, WHOLE, TuningPlan()), FIVE).num_rows == 25
