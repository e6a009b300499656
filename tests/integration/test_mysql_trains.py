"""Statements that MariaDB finds on its socket one behind the other (ADR 0031)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import SourceError, SourceRefused, SourceUnavailable, StatementTimeout
from rivet_fleet.execution.chunkreader import PageStream
from rivet_fleet.execution.source import PageLimit, Source
from rivet_fleet.execution.sources.mysql import ENGINE as MYSQL
from rivet_fleet.execution.sources.mysql.decoder import DECODERS
from rivet_fleet.execution.sources.mysql.reading import takes_several
from rivet_fleet.execution.sources.mysql.reference import ReferenceDecoder
from rivet_fleet.execution.sources.mysql.session import Proxy
from rivet_fleet.execution.sources.mysql.statements import statement_limit
from rivet_fleet.execution.sources.mysql.stream import statement_train
from tests.integration.mysql_source_kit import facts_of, read_plan
from tests.integration.test_mysql_stream import NUMBER, SETTINGS, Kit

AT_ONCE = PageLimit(rows_max=100, bytes_max=1 << 20, pages_max=5, page_s=1e-9)


@pytest.fixture
def kit(mysql_database: str) -> Iterator[Kit]:
    opened = Kit(mysql_database)
    opened.sql("CREATE TABLE nought (n bigint NOT NULL)")
    opened.sql("INSERT INTO nought VALUES (0)")
    yield opened
    opened.close()


def train(
    kit: Kit, *statements: str, timeout_s: float = 30.0, compiled: bool = True
) -> Iterator[PageStream]:
    tuning = TuningPlan(statement_timeout_s=timeout_s)
    made = DECODERS.open if compiled else ReferenceDecoder
    return statement_train(
        kit.session,
        statements,
        (replace(NUMBER, nullable=True),),
        (*SETTINGS, *statement_limit(kit.session.server, timeout_s)),
        tuning,
        lambda: made((NUMBER,), max_value_bytes=1 << 20),
        subject="t",
    )


def rows_of(stream: PageStream) -> list[int]:
    stream.receive(rows_max=None, bytes_max=None)
    assert stream.ended
    return stream.take().column(0).to_pylist()


def number(value: object) -> str:
    return f"SELECT nought.n + {value} AS n FROM nought"


@pytest.mark.parametrize("compiled", [True, False])
def test_answers_that_come_in_one_block_are_told_apart(kit: Kit, compiled: bool) -> None:
    before = kit.prepared_statements()
    statements = [f"{number(n)} JOIN seq_1_to_{n}" for n in range(1, 9)]
    found = [rows_of(stream) for stream in train(kit, *statements, compiled=compiled)]
    assert found == [[n] * n for n in range(1, 9)]
    # The session is in step, and nothing is left of it on the server.
    assert rows_of(next(train(kit, number(7)))) == [7]
    kit.expect_prepared_statements(before)


def test_each_page_has_the_limit_by_itself(kit: Kit) -> None:
    slow = number("SLEEP({})")
    pages = train(kit, slow.format(0.3), slow.format(0.3), slow.format(9), timeout_s=0.5)
    assert rows_of(next(pages)) == [0]
    assert rows_of(next(pages)) == [0]
    third = next(pages)
    with pytest.raises(StatementTimeout):
        rows_of(third)
    assert third.statement_s > 0.4
    assert not kit.session.usable


def test_an_error_in_the_middle_is_that_pages(kit: Kit) -> None:
    pages = train(kit, number(1), number("(SELECT 1 UNION SELECT 2)"), number(3))
    assert rows_of(next(pages)) == [1]
    with pytest.raises(SourceError, match="1242"):
        rows_of(next(pages))
    assert not kit.session.usable


def test_a_statement_that_cannot_be_prepared_gets_no_others_rows(kit: Kit) -> None:
    """What is executed then would be the statement before it."""
    pages = train(kit, number(1), "SELECT n FROM missing", number(3))
    assert rows_of(next(pages)) == [1]
    with pytest.raises(SourceError, match="1146"):
        rows_of(next(pages))
    assert not kit.session.usable


def test_a_statement_with_a_placeholder_is_refused(kit: Kit) -> None:
    with pytest.raises(SourceRefused, match="placeholders"):
        rows_of(next(train(kit, number("?"), number(2))))
    assert not kit.session.usable


def test_a_server_that_goes_away_between_two_pages(kit: Kit) -> None:
    pages = train(kit, number(1), number("SLEEP(60)"))
    assert rows_of(next(pages)) == [1]
    kit.sql(f"KILL {kit.session.connection.own_id}")
    with pytest.raises(SourceUnavailable):
        rows_of(next(pages))


@pytest.fixture
def source(mysql_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    monkeypatch.setattr("rivet_fleet.execution.sources.mysql.reading._NEAR_S", 0.0)
    opened = MYSQL.open_source(parse_database_url(mysql_database), application_name="rivet-test")
    yield opened
    opened.close()


def followed(kit: Kit, source: Source) -> bool:
    kit.sql("CREATE TABLE t (n bigint PRIMARY KEY) SELECT seq AS n FROM seq_1_to_2000")
    read = read_plan(facts_of(source, "t"))
    chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("n",))
    reader = source.open_chunk(read, chunk, TuningPlan())
    pages = [reader.read_page(AT_ONCE)]
    while not pages[-1].last:
        pages.append(reader.read_page(AT_ONCE))
    found = [n for page in pages for n in page.batch.column(0).to_pylist()]
    assert found == list(range(1, 2001))
    return any(page.followed for page in pages)


def test_a_server_that_is_met_directly_is_asked_at_once(kit: Kit, source: Source) -> None:
    assert followed(kit, source)


@pytest.mark.parametrize(
    "other", [{"proxy": Proxy.PROXYSQL}, {"mariadb": False}, {"version": (10, 2, 44)}]
)
def test_who_is_not_known_to_take_it_is_asked_page_by_page(
    kit: Kit, other: dict[str, object]
) -> None:
    assert takes_several(kit.session.server)
    assert not takes_several(replace(kit.session.server, **other))  # type: ignore[arg-type]


def test_a_near_server_is_asked_page_by_page(
    kit: Kit, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rivet_fleet.execution.sources.mysql.reading._NEAR_S", 1.0)
    assert not followed(kit, source)
