"""Pages that are asked for at once, against real servers (ADR 0031)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.contracts.proof import Prove
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import SourceError, SourceUnavailable, StatementTimeout
from rivet_fleet.execution.chunkreader import PageStream
from rivet_fleet.execution.proof import PageProofs
from rivet_fleet.execution.source import ChunkReader, Page, PageLimit
from rivet_fleet.execution.sources.postgres.decoder import DECODERS
from rivet_fleet.execution.sources.postgres.dialect import page_settings
from rivet_fleet.execution.sources.postgres.exchange import copy_train
from rivet_fleet.execution.sources.postgres.session import Session
from tests.integration.postgres_source_kit import facts_of, read_plan, source, sql
from tests.waiting import until

__all__ = ["source", "sql"]

ROWS = 3_000
AT_ONCE = PageLimit(rows_max=200, bytes_max=1 << 20, pages_max=5, page_s=1e-9)
"""A page so short that the way to any server is worth five of them."""
NUMBER = ColumnSpec(
    name="n", native_type="bigint", type=ColumnType(kind=TypeKind.INT64), wire_type="20"
)


@pytest.fixture(autouse=True)
def afar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every server is a distance away."""
    monkeypatch.setattr("rivet_fleet.execution.sources.postgres.reading._NEAR_S", 0.0)


@pytest.fixture
def session(database: str) -> Iterator[Session]:
    opened = Session(
        parse_database_url(database), tls_mode=None, tls_ca_file=None, application_name="t"
    )
    yield opened
    opened.close()


def train(session: Session, *selects: str, timeout_s: float = 30.0) -> Iterator[PageStream]:
    tuning = TuningPlan(statement_timeout_s=timeout_s)
    return copy_train(
        session,
        tuple(f"COPY ({select}) TO STDOUT (FORMAT BINARY)" for select in selects),
        page_settings(tuning),
        tuning,
        lambda: DECODERS.open((NUMBER,), max_value_bytes=1 << 20),
        foreign=False,
    )


MANY = list(range(1, 2001))
"""So many that the server does not keep their end in its buffer."""


def slow(seconds: float) -> str:
    """``MANY``, the last of them so late."""
    late = f"length(pg_sleep({seconds})::text)"
    numbers = f"generate_series(1::bigint, {MANY[-1]}) n"
    return f"SELECT n + CASE WHEN n = {MANY[-1]} THEN {late} ELSE 0 END FROM {numbers}"


def rows_of(stream: PageStream) -> list[int]:
    stream.receive(rows_max=None, bytes_max=None)
    assert stream.ended
    return stream.take().column(0).to_pylist()


def pages_of(reader: ChunkReader, limit: PageLimit = AT_ONCE) -> Iterator[Page]:
    while True:
        page = reader.read_page(limit)
        yield page
        if page.last:
            return


def ids(pages) -> list[int]:
    return [n for page in pages for n in page.batch.column(0).to_pylist()]


@pytest.fixture
def keyed(sql) -> list[int]:
    """A table whose integer key has holes, and a gap that no page's width spans."""
    sql.execute("CREATE TABLE t (n int PRIMARY KEY, v text)")
    sql.execute(
        "INSERT INTO t SELECT 3 * i + CASE WHEN i > 2000 THEN 2000000000 ELSE 0 END, 'v' "
        f"FROM generate_series(1, {ROWS}) i"
    )
    sql.execute("ANALYZE t")
    return [n for (n,) in sql.execute("SELECT n FROM t ORDER BY n").fetchall()]


BY_KEY = ChunkRange(kind=RangeKind.KEYSET, columns=("n",))


def test_a_key_with_holes_and_gaps_comes_whole(source, keyed) -> None:
    reader = source.open_chunk(read_plan(facts_of(source, "t")), BY_KEY, TuningPlan())
    pages = list(pages_of(reader))
    assert ids(pages) == keyed
    assert sum(page.followed for page in pages) > ROWS / 200 / 2
    assert reader.longest_statement_s < 1.0
    # In pieces and packed it is the same, and behind a mark of the chunk's, too.
    part = replace(BY_KEY, lower=(str(keyed[500]),), upper=(str(keyed[2500]),))
    reader = source.open_chunk(read_plan(facts_of(source, "t")), part, TuningPlan())
    reader.pack()
    limit = replace(AT_ONCE, piece_rows_max=70, piece_bytes_max=1 << 20)
    assert ids(pages_of(reader, limit)) == keyed[500:2500]


def test_blocks_are_known_without_a_look(source, sql, keyed) -> None:
    read = read_plan(facts_of(source, "t"))
    chunk = ChunkRange(kind=RangeKind.BLOCKS, relation=read.relation, block_first=0)
    pages = list(pages_of(source.open_chunk(read, chunk, TuningPlan()), AT_ONCE))
    assert ids(pages) == keyed
    assert any(page.followed for page in pages)
    assert not pages[-1].followed


def test_each_page_has_a_snapshot_and_a_transaction_of_its_own(session) -> None:
    own = (
        "SELECT split_part(virtualtransaction, '/', 2)::bigint FROM pg_locks "
        "WHERE locktype = 'virtualxid' AND pid = pg_backend_pid()"
    )
    numbers = [rows_of(stream)[0] for stream in train(session, own, own, own)]
    assert numbers == sorted(set(numbers))


def test_what_a_page_set_is_over_with_it(session) -> None:
    list(map(rows_of, train(session, "SELECT 1::bigint", "SELECT 2::bigint")))
    with session.reading((), doing="looking", timeout_s=5.0) as cursor:
        row = cursor.execute("SELECT current_setting('statement_timeout')").fetchone()
    assert row == ("0",)


def test_a_page_that_times_out_takes_nothing_from_those_before_it(session) -> None:
    """Each statement has the limit by itself: two of them together may take longer."""
    pages = train(session, slow(0.3), slow(0.3), slow(9), timeout_s=0.5)
    assert rows_of(next(pages)) == MANY
    assert rows_of(next(pages)) == MANY
    third = next(pages)
    with pytest.raises(StatementTimeout):
        rows_of(third)
    assert third.statement_s > 0.4
    assert not session.usable
    assert rows_of(next(train(session, "SELECT 7::bigint"))) == [7]


def test_a_statement_that_follows_is_timed_from_the_last_ones_end(session) -> None:
    pages = train(session, slow(0.0), slow(0.4))
    one = next(pages)
    rows_of(one)
    # The caller's own time: the server is at work all the while.
    later_s = time.monotonic() + 0.2
    until(lambda: time.monotonic() > later_s, what="the caller has had its time")
    two = next(pages)
    rows_of(two)
    assert one.statement_s < two.statement_s
    assert two.statement_s > 0.39
    assert two.statement_s - two.seconds > 0.19


def test_pages_that_are_not_wanted_are_ended_and_not_read(session, sql) -> None:
    pages = train(session, slow(0.0), slow(60))
    assert rows_of(next(pages)) == MANY
    backend = session.connection.info.backend_pid
    pages.close()  # type: ignore[attr-defined]
    assert not session.usable
    gone = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
    # The server looks for its client when it has something to say, or is told to look.
    sql.execute("SELECT pg_terminate_backend(%s)", (backend,))
    until(lambda: sql.execute(gone, (backend,)).fetchone() == (0,), what="the backend is gone")


def test_a_page_that_is_to_be_proven_travels_alone(source, keyed) -> None:
    reader = source.open_chunk(read_plan(facts_of(source, "t")), BY_KEY, TuningPlan())
    proofs = PageProofs(Prove.ALL)
    reader.count_pages(proofs, 5.0)
    pages = list(pages_of(reader))
    assert ids(pages) == keyed
    assert proofs.proven == len(pages)
    assert not any(page.followed for page in pages)


def test_an_error_of_sql_in_the_middle_is_that_pages(session) -> None:
    pages = train(session, "SELECT 1::bigint", "SELECT 1 / 0::bigint", "SELECT 3::bigint")
    assert rows_of(next(pages)) == [1]
    with pytest.raises(SourceError, match="22012"):
        rows_of(next(pages))


def test_a_connection_that_is_gone_is_not_taken_for_the_trains(session) -> None:
    pages = train(session, "SELECT 1::bigint", "SELECT 2::bigint")
    assert rows_of(next(pages)) == [1]
    session.close()
    with pytest.raises(SourceUnavailable, match="is gone"):
        next(pages)


def test_no_train_leaves_where_a_pooler_may_stand(session, source, keyed, monkeypatch) -> None:
    reader = source.open_chunk(read_plan(facts_of(source, "t")), BY_KEY, TuningPlan())
    monkeypatch.setattr(Session, "stepwise", property(lambda self: True))
    pages = list(pages_of(reader))
    assert ids(pages) == keyed
    assert not any(page.followed for page in pages)


@pytest.mark.parametrize(("near_s", "page_s"), [(1.0, 1e-9), (0.0, 100.0)])
def test_a_near_server_is_asked_page_by_page(source, keyed, monkeypatch, near_s, page_s) -> None:
    monkeypatch.setattr("rivet_fleet.execution.sources.postgres.reading._NEAR_S", near_s)
    reader = source.open_chunk(read_plan(facts_of(source, "t")), BY_KEY, TuningPlan())
    pages = list(pages_of(reader, replace(AT_ONCE, page_s=page_s)))
    assert ids(pages) == keyed
    assert not any(page.followed for page in pages)
