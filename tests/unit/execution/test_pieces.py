"""A page handed on in pieces (ADR 0016): what is read, what goes on behind it, what rests."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import cast

import pyarrow as pa
import pytest

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.contracts.keys import ChunkRange, RangeKind, RelationName
from rivet_fleet.contracts.plan import FormatPlan, ReadPlan, TuningPlan
from rivet_fleet.errors import RetryClass, SourceUnavailable, StopRequested
from rivet_fleet.execution import registry
from rivet_fleet.execution.chunkreader import PagedReader
from rivet_fleet.execution.engines import stream
from rivet_fleet.execution.engines.decoding import BatchDecoder
from rivet_fleet.execution.engines.session import StatementTimes
from rivet_fleet.execution.engines.stream import SteppedStream, Steps
from rivet_fleet.execution.extract import extract_chunk
from rivet_fleet.execution.servo import Allowance
from rivet_fleet.execution.source import PageLimit
from rivet_fleet.execution.types import Footing
from tests.postgres_keys import PlainKeys
from tests.unit.execution.test_extract import read_ids

COLUMN = ColumnSpec(
    name="id", native_type="bigint", type=ColumnType(kind=TypeKind.INT64), nullable=False
)
SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False)])
ROW_BYTES = 10
BY_ID = ChunkRange(kind=RangeKind.KEYSET, columns=("id",))
IN_PIECES = PageLimit(rows_max=100, bytes_max=1 << 20, piece_rows_max=30, piece_bytes_max=1 << 20)


class Statement:
    """A ``PageStream`` of the numbers ``first`` to ``last``: ten rows a block, and behind the
    last one the statement's end."""

    def __init__(self, first: int, last: int, fails_behind: int | None = None) -> None:
        self.at, self.last, self.fails_behind = first, last, fails_behind
        self.ended, self.abandoned = False, False
        self.wire_bytes, self.seconds, self.statement_s = 0, 1.0, 1.0
        self.changed: dict[str, int] = {}
        self.ready: list[int] = []

    @property
    def rows_ready(self) -> int:
        return len(self.ready)

    def receive(self, *, rows_max, bytes_max) -> None:
        before = self.wire_bytes
        while not self.ended:
            if rows_max is not None and len(self.ready) >= rows_max:
                return
            if bytes_max is not None and self.wire_bytes - before > bytes_max:
                return
            if self.fails_behind is not None and self.at > self.fails_behind:
                raise SourceUnavailable("gone", retry=RetryClass.RECONNECT)
            self.ended = self.at > self.last
            block = list(range(self.at, min(self.at + 10, self.last + 1)))
            self.ready += block
            self.at += len(block)
            self.wire_bytes += ROW_BYTES * len(block)

    def take(self, rows_max=None) -> pa.RecordBatch:
        taken, self.ready = self.ready, []
        return pa.record_batch([pa.array(taken, pa.int64())], schema=SCHEMA)

    def abandon(self) -> None:
        self.abandoned = not self.ended
        self.ended = True


class Engine:
    """A ``ReadingEngine`` over the numbers 1 to ``rows``; it remembers its statements."""

    identity, keys, longest_statement_s = "numbers", PlainKeys(), 1.0

    def __init__(self, rows: int, *, decodes_at_once: bool = True) -> None:
        self.rows, self.decodes_at_once = rows, decodes_at_once
        self.statements: list[Statement] = []
        self.asked: list[int] = []
        self.reconnects = 0
        self.fails: dict[int, int] = {}

    def carries_key(self, column) -> bool:
        return True

    def key_text(self, value) -> str:
        return str(value)

    def select_list(self, columns, hidden_keys) -> str:
        return "id"

    def from_item(self, relation, query, *, only) -> str:
        return "numbers"

    def open_stream(self, select, columns, walk, *, packed, held=False) -> Statement:
        sql = select.sql()
        behind = re.search(r"> ?\(?'(\d+)'", sql)
        first = int(behind[1]) + 1 if behind else 1
        limit = int(re.search(r"LIMIT (\d+)", sql)[1])
        fails = self.fails.pop(len(self.statements), None)
        statement = Statement(first, min(first + limit - 1, self.rows), fails)
        self.asked.append(limit)
        self.statements.append(statement)
        return statement

    connected = True

    def pages_at_once(self, page_s: float) -> int:
        return 1

    def reconnect(self) -> None:
        self.reconnects += 1


def reader_of(engine: Engine) -> PagedReader:
    relation = RelationName(schema="public", name="numbers")
    read = ReadPlan(
        source="s",
        engine="postgres",
        source_identity="",
        relation=relation,
        query=None,
        columns=(COLUMN,),
    )
    footing = Footing(read, BY_ID, lambda: ())
    return PagedReader(engine, read, BY_ID, footing, row_bytes_max=1 << 30)


def taken(pages) -> list[int]:
    return [i for page in pages for i in page.batch.column(0).to_pylist()]


def test_one_statement_is_handed_on_in_pieces() -> None:
    engine = Engine(250)
    reader = reader_of(engine)
    pages = []
    while not pages or not pages[-1].last:
        pages.append(reader.read_page(IN_PIECES))
    assert taken(pages) == list(range(1, 251))
    assert [page.batch.num_rows for page in pages] == [30, 30, 30, 10, 30, 30, 30, 10, 30, 20]
    assert [page.complete for page in pages] == [False, False, False, True] * 2 + [False, True]
    assert len(engine.statements) == 3


def test_what_follows_the_last_row_is_no_piece() -> None:
    reader = reader_of(Engine(250))
    pages = [reader.read_page(replace(IN_PIECES, rows_max=90)) for _ in range(6)]
    assert [page.batch.num_rows for page in pages] == [30] * 6
    assert [page.complete for page in pages] == [False, False, True] * 2


def test_a_slow_decoder_gets_whole_pages() -> None:
    engine = Engine(250, decodes_at_once=False)
    reader = reader_of(engine)
    assert not reader.piecewise
    assert reader.read_page(IN_PIECES).batch.num_rows == 100


def test_a_failure_between_pieces_costs_what_was_not_handed_on() -> None:
    engine = Engine(250)
    engine.fails = {0: 70}
    reader = reader_of(engine)
    pages = [reader.read_page(IN_PIECES), reader.read_page(IN_PIECES)]
    with pytest.raises(SourceUnavailable):
        reader.read_page(IN_PIECES)
    assert reader.resumable
    reader.reconnect()
    while not pages[-1].last:
        pages.append(reader.read_page(IN_PIECES))
    assert taken(pages) == list(range(1, 251))
    assert engine.reconnects == 1


class Blocks(SteppedStream):
    """Four blocks of a row, 0.25 s each, of which 0.05 s are the way."""

    def __init__(self, now_s: list[float], times: StatementTimes) -> None:
        self.now_s, self.rows = now_s, 0
        super().__init__(cast(BatchDecoder, None), held=False, times=times)

    @property
    def rows_ready(self) -> int:
        return self.rows

    def _receive(self) -> Steps:
        self._way_s = 0.05
        for _ in range(4):
            self.now_s[0] += 0.25
            self._spent_s += 0.25
            self.rows += 1
            yield


def test_the_source_was_busy_while_a_piece_was_not_taken(monkeypatch) -> None:
    now_s, times = [0.0], StatementTimes()
    monkeypatch.setattr(stream.time, "monotonic", lambda: now_s[0])
    blocks, seconds = Blocks(now_s, times), []
    while not blocks.ended:
        blocks.receive(rows_max=blocks.rows + 1, bytes_max=None)
        seconds.append(round(blocks.statement_s, 2))
        assert times.longest_s == blocks.statement_s
        now_s[0] += 0.5
    # Behind its end nobody waits for us any more.
    assert seconds == [0.2, 0.95, 1.7, 2.45, 2.95]
    assert blocks.seconds == pytest.approx(0.95)


def test_a_page_that_outgrows_its_bytes_is_cut_behind_a_piece() -> None:
    engine = Engine(250)
    reader = reader_of(engine)
    limit = PageLimit(rows_max=100, bytes_max=250, piece_rows_max=30, piece_bytes_max=1 << 20)
    pages = [reader.read_page(limit), reader.read_page(limit)]
    assert [page.complete for page in pages] == [False, True]
    assert engine.statements[0].abandoned
    while not pages[-1].last:
        pages.append(reader.read_page(limit))
    assert taken(pages) == list(range(1, 251))


class Pacer:
    def __init__(self) -> None:
        self.log: list[str] = []

    def wait(self, seconds) -> None:
        self.log.append(f"wait {seconds:g}")

    def allowance(self) -> Allowance:
        self.log.append("page")
        return Allowance()

    def retry_in_s(self, wait_s: float, lost_bytes: int, answer_bytes: int = 0) -> float:
        return wait_s

    def retried(self, error, attempt, wait_s) -> None:
        self.log.append("retried")


def extracted(tmp_path, reader, pacer, on_page=lambda progress: None, **tuning):
    plan = FormatPlan(format="parquet")
    return extract_chunk(
        reader=reader,
        part_format=registry.open_format(plan),
        format_plan=plan,
        tuning=TuningPlan(target_statement_ms=10_000, batch_bytes_max=2_000, **tuning),
        spool_path=lambda number: tmp_path / f"p{number}.parquet",
        pacer=pacer,
        on_page=on_page,
        jitter=lambda: 0.0,
    ).finish()


def test_nothing_rests_while_a_statement_is_open(tmp_path) -> None:
    """One allowance and one rest a page, in proportion to all of its rows."""
    engine, pacer, seen = Engine(3000), Pacer(), []
    progress = seen.append
    result = extracted(tmp_path, reader_of(engine), pacer, progress, throttle_ms=10.0)
    assert sorted(read_ids(result)) == list(range(1, 3001))
    assert len(engine.statements) == result.pages < len(seen)
    assert pacer.log.count("page") == result.pages
    assert all(a != b for a, b in zip(pacer.log, pacer.log[1:], strict=False))
    rested = sum(float(entry.split()[1]) for entry in pacer.log if entry.startswith("wait"))
    last = engine.statements[-1]
    rows_of_last = last.wire_bytes // ROW_BYTES
    assert rested == pytest.approx((3000 - rows_of_last) * 0.010 / 10_000)


def test_a_statement_that_fails_between_pieces_is_tried_again_behind_them(tmp_path) -> None:
    engine, pacer = Engine(3000), Pacer()
    engine.fails = {1: 520, 3: 700}
    result = extracted(tmp_path, reader_of(engine), pacer)
    assert read_ids(result) == list(range(1, 3001))
    assert pacer.log.count("retried") == engine.reconnects == 2
    for failed in (1, 3):  # and with a smaller page
        assert engine.asked[failed + 1] < engine.asked[failed]


def test_a_stop_between_pieces_ends_the_statement(tmp_path) -> None:
    engine = Engine(3000)
    reader = reader_of(engine)

    with pytest.raises(StopRequested):
        extracted(tmp_path, reader, Pacer(), _stop_inside)
    reader.close()
    assert engine.statements[-1].abandoned
    assert list(tmp_path.iterdir()) == []


def _stop_inside(progress) -> None:
    if progress.rows_total > 700:
        raise StopRequested("stop")
