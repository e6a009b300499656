"""A range compared by a worker: over the in-memory store and destination, without a server."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rivet_fleet.contracts.aggregates import asked_of
from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.contracts.facts import Measure
from rivet_fleet.contracts.keys import CampaignId, ChunkRange, RangeKind, RelationName, RunId
from rivet_fleet.contracts.plan import FormatPlan
from rivet_fleet.contracts.reconcile import Moment, RangeVerdict, ReconcileDepth, ReconcilePlan
from rivet_fleet.contracts.state import CampaignStatus, RunStatus
from rivet_fleet.coordination import compare
from rivet_fleet.coordination.commit import Published, deliver_chunk, deliver_result
from rivet_fleet.coordination.compare import COMPARING_BYTES, Approach, compare_chunk
from rivet_fleet.coordination.delivered import validate_campaign
from rivet_fleet.coordination.finalize import finalize_run
from rivet_fleet.coordination.garbage import collect_garbage
from rivet_fleet.coordination.tend import tend
from rivet_fleet.coordination.worker import Worker
from rivet_fleet.errors import SourceUnavailable, StateRefused
from rivet_fleet.execution.encoder import SpooledPart
from rivet_fleet.execution.extract import ExtractResult
from rivet_fleet.execution.formats.parquet.writer import ParquetFormat
from rivet_fleet.execution.parts import digest_file
from rivet_fleet.execution.servo import Allowance, PageServo
from rivet_fleet.execution.source import Page
from rivet_fleet.execution.totals import Measured
from rivet_fleet.execution.types import arrow_schema
from rivet_fleet.verification.findings import Depth
from tests.model.store import MemoryStore
from tests.unit.coordination.fleets import (
    CAMPAIGN,
    DatabaseClock,
    make_fleet,
    memory_plan,
    spooled,
)

COMPARING = CampaignId("c2")
ID = ColumnSpec(name="id", native_type="bigint", type=ColumnType(kind=TypeKind.INT64), key=True)


class Reader:
    """All rows in one page."""

    resumable, piecewise, lost_bytes, changed = False, False, 0, {}
    packed, reached = False, None

    def __init__(self, rows):
        self.batch = pa.RecordBatch.from_arrays(
            [pa.array(range(rows), pa.int64())], schema=arrow_schema((ID,))
        )

    def pack(self):
        self.packed = True

    def read_page(self, limit):
        return Page(batch=self.batch, statement_s=0.1, pace_s=0.1, wire_bytes=80, last=True)

    def prove(self):
        return ()


class Silent:
    """A source that does not say what time it is."""

    def read_counters(self):
        raise SourceUnavailable("away")

    def measure(self, read, chunk_range, asked, tuning):
        return (Decimal(10), *(Decimal(0) for _ in asked))


def approach_of(rows, waits):
    pacer = SimpleNamespace(allowance=Allowance, wait=waits.append)
    return Approach(
        source=Silent(),
        opened=lambda read, chunk_range: nullcontext(Reader(rows)),
        pacer=pacer,
        servo=lambda reader: PageServo(150, 1 << 20, None, piecewise=False),
        on_page=lambda progress: None,
        breathe=lambda: None,
    )


def begun(tmp_path, *made, form="parquet", depth=ReconcileDepth.HASH):
    """One export of two chunks is delivered as ``made``, and a comparison of it is stored."""
    store = MemoryStore(DatabaseClock())
    plan = memory_plan()
    (run,) = plan.runs
    read = replace(run.plan.read, columns=(ID,))
    run = replace(run, plan=replace(run.plan, read=read, format=FormatPlan(format=form)))
    store.submit(replace(plan, runs=(run,)))
    fleet = make_fleet(store, tmp_path)
    for one in made:
        claim = store.claim(CAMPAIGN, fleet.identity, 30.0)
        deliver_chunk(fleet, claim, fleet.planned_run(claim.run_id).plan, one)
    tend(fleet, CAMPAIGN)
    assert store.run(RunId("c1-e0")).status is RunStatus.COMPLETED
    asked = ReconcilePlan(of_run=run.plan.run_id, campaign_name="shop", depth=depth)
    again = replace(run, plan=replace(run.plan, run_id=RunId("c2-e0"), reconcile=asked))
    compares = replace(plan, campaign_id=COMPARING, campaign_name="shop/reconcile")
    store.submit(replace(compares, runs=(again,)))
    return fleet


@pytest.fixture
def fleet(tmp_path):
    """Of two chunks of ten rows."""
    fleet = begun(tmp_path, *(spooled(tmp_path / "spool") for _ in range(2)))
    yield fleet
    fleet.close()


def compared(fleet, rows, waits=None):
    claim = fleet.store.claim(COMPARING, fleet.identity, 30.0)
    plan = fleet.planned_run(claim.run_id).plan
    approach = approach_of(rows, [] if waits is None else waits)
    return claim, compare_chunk(fleet, claim, plan, approach)


def test_a_comparison_ends_as_a_run_that_delivers_nothing(fleet) -> None:
    before = sorted(info.path for info in fleet.destination(RunId("c1-e0")).list_visible())
    for rows, verdict in ((10, RangeVerdict.MATCH), (9, RangeVerdict.MISMATCH)):
        waits: list[float] = []
        claim, result = compared(fleet, rows, waits)
        assert result.verdict is verdict and waits == [5.0] * (result.looks - 1)
        assert result.source.begun.at_s is None and result.files.begun.at_s > 0
        assert deliver_result(fleet, claim, result, 0.1) is Published.COMPLETED
    assert finalize_run(fleet, RunId("c2-e0"))
    assert tend(fleet, COMPARING).status is CampaignStatus.COMPLETED
    found = [one.result.verdict for one in fleet.store.comparison(RunId("c2-e0"))]
    assert found == [RangeVerdict.MATCH, RangeVerdict.MISMATCH]
    assert sorted(info.path for info in fleet.destination(RunId("c1-e0")).list_visible()) == before


def test_what_is_being_delivered_anew_is_unknown(fleet) -> None:
    """Its rows are in no file at this moment: that is no difference."""
    task = fleet.store.task(RunId("c1-e0"), 0)
    fleet.store.reopen(task.task_id, task.fence, "repaired")
    _, result = compared(fleet, 10)
    assert result.verdict is RangeVerdict.UNKNOWN and "not delivered" in result.sentence


def test_no_garbage_is_looked_for_by_a_comparison(fleet, tmp_path) -> None:
    """At its place lies what others have staged, and its own campaigns know nothing of that."""
    destination = fleet.destination(RunId("c1-e0"))
    (part,) = spooled(tmp_path / "spool").parts
    destination.stage(part.path, "c1-e0/late.parquet", digest_file(part.path, 10))
    assert collect_garbage(fleet, COMPARING, min_age_s=0.0).staged_files == 0
    assert len(list(destination.list_staged())) == 1
    with pytest.raises(StateRefused, match="no finished run"):
        validate_campaign(fleet, COMPARING, depth=Depth.LIGHT, export_name=None)


def made_of(path, body):
    """A part of two rows whose file holds this, as an extraction leaves it behind."""
    path.write_bytes(body)
    part = SpooledPart(part_number=0, path=path, rows=2, columns=())
    return ExtractResult(parts=(part,), rows=2, pages=1, bytes=0, longest_statement_s=0.0)


MISCOUNTED = b"id,note\n1,a\n2,4111-1111,\n"
DAMAGED = "the files: it cannot be {}"


@pytest.mark.parametrize(
    ("form", "body", "said"),
    [
        ("csv", MISCOUNTED, "read: Row #3: Expected 2 columns, got 3"),
        ("csv", b'id,note\n1,a\n"4111-1111\n', "read: Row #3: Expected 2 columns, got 1"),
        ("csv", b"", "read: it is damaged"),
        ("parquet", MISCOUNTED, "decoded: it is damaged"),
    ],
)
def test_no_value_of_a_damaged_file_is_told(tmp_path, form, body, said) -> None:
    """What pyarrow says of a record quotes it; state, journal and report are for others' eyes."""
    parts = (made_of(tmp_path / f"{n}.{form}", body) for n in range(2))
    fleet = begun(tmp_path, *parts, form=form)
    claim, result = compared(fleet, 2)
    assert (result.verdict, result.sentence) == (RangeVerdict.UNKNOWN, DAMAGED.format(said))
    assert deliver_result(fleet, claim, result, 0.1) is Published.COMPLETED
    (found, _) = fleet.store.comparison(RunId("c2-e0"))
    assert found.result.sentence == DAMAGED.format(said)
    journal = [repr(one) for one in fleet.store.journal(campaign_id=COMPARING)]
    assert journal and "4111" not in "".join(journal)
    fleet.close()


@pytest.mark.parametrize("depth", ReconcileDepth)
def test_a_file_that_is_not_what_was_written_is_never_decoded(tmp_path, monkeypatch, depth) -> None:
    """A few bytes may stand for more than all memory, or end whoever reads them; equal rows in
    other bytes are another file, too."""
    fleet = begun(tmp_path, *(spooled(tmp_path / "spool") for _ in range(2)), depth=depth)
    (part, _) = fleet.store.parts(RunId("c1-e0"))
    pq.write_table(pa.table({"id": list(range(10))}), tmp_path / "other", compression="none")
    fleet.destination(RunId("c1-e0")).put_atomic(part.path, (tmp_path / "other").read_bytes())
    asked = []
    for name in ("rows", "count_rows"):
        monkeypatch.setattr(ParquetFormat, name, lambda *_: asked.append(1) or iter(()))
    _, result = compared(fleet, 10)
    assert (result.verdict, asked) == (RangeVerdict.MISMATCH, [])
    assert result.sentence == f"the bytes of {part.path} are not those that were written"
    fleet.close()


def test_a_file_with_the_same_quick_fingerprint_is_not_decoded_either(
    tmp_path, monkeypatch
) -> None:
    """One can be made on purpose: all that is known of the bytes is compared."""
    fleet = begun(tmp_path, *(spooled(tmp_path / "spool") for _ in range(2)))
    (part, _) = fleet.store.parts(RunId("c1-e0"))
    forged = replace(part.digest, md5_base64="another")
    monkeypatch.setattr(compare, "digest_file", lambda *_: forged)
    _, result = compared(fleet, 10)
    assert result.verdict is RangeVerdict.MISMATCH
    fleet.close()


@pytest.mark.parametrize("depth", ReconcileDepth)
def test_a_file_that_takes_all_memory_ends_no_worker(tmp_path, monkeypatch, depth) -> None:
    def too_large(*_):
        raise MemoryError

    fleet = begun(tmp_path, *(spooled(tmp_path / "spool") for _ in range(2)), depth=depth)
    for name in ("rows", "count_rows"):
        monkeypatch.setattr(ParquetFormat, name, too_large)
    _, result = compared(fleet, 10)
    assert result.verdict is RangeVerdict.UNKNOWN and "more memory" in result.sentence
    fleet.close()


@pytest.mark.parametrize(("has_compared", "beside"), [(False, 0), (True, COMPARING_BYTES)])
def test_a_worker_that_compares_has_room_beside_what_delivering_takes(has_compared, beside) -> None:
    """Without it each chunk of a comparison is read by a new process."""
    settings = SimpleNamespace(worker_memory_bytes=150)
    worker = SimpleNamespace(_fleet=SimpleNamespace(settings=settings), _compared=has_compared)
    assert Worker._ceiling_bytes.fget(worker) == 150 + beside


class Stepping(Reader):
    """Ten rows a page, in the order of their key."""

    def __init__(self, rows):
        super().__init__(10)
        self.left, self.read, self.reached = rows // 10, 0, None

    def read_page(self, limit):
        self.read += 1
        self.reached = (str(10 * self.read),)
        return replace(super().read_page(limit), last=self.read == self.left)


class Measuring(Silent):
    """A server that says what a range holds of the keys 1 to 100, and when it was slow."""

    def __init__(self, seconds=()):
        self.asked, self.seconds = [], list(seconds)

    def measure(self, read, chunk_range, asked, tuning):
        low = int(chunk_range.lower[0]) if chunk_range.lower else 1
        high = int(chunk_range.upper[0]) if chunk_range.upper else 101
        self.asked.append((low, high))
        keys = [Decimal(key) for key in range(low, high)]
        names = {
            Measure.NULLS: Decimal(0),
            Measure.LEAST: min(keys, default=None),
            Measure.MOST: max(keys, default=None),
            Measure.SUM: sum(keys, Decimal(0)),
        }
        return (Decimal(len(keys)), *(names[one.measure] for one in asked))


def measured(fleet, source, chunk_range, **changes):
    """Rows and measures of a range of the fleet's key; None where it is read."""
    claim = fleet.store.claim(COMPARING, fleet.identity, 30.0)
    plan = fleet.planned_run(claim.run_id).plan
    read = replace(plan.read, **changes)
    approach = replace(
        approach_of(0, []),
        source=source,
        opened=lambda read, chunk_range: nullcontext(Stepping(100)),
    )
    looks = compare._Looks(fleet, claim, plan, approach)
    pieces = looks.measured(read, chunk_range, asked_of([ID]))
    if pieces is None:
        return None
    found = Measured(asked_of([ID]), None)
    for rows, *values in pieces:
        found.join(int(rows), values)
    return found.side(Moment(), Moment()).rows, found.totals.values


KEYS = ChunkRange(kind=RangeKind.KEYSET, columns=("id",))


def test_a_range_is_measured_in_pieces_that_are_no_gap_and_no_overlap(tmp_path) -> None:
    fleet = begun(tmp_path, *(spooled(tmp_path / "spool") for _ in range(2)))
    source = Measuring()
    rows, values = measured(fleet, source, KEYS)
    assert (rows, [str(one) for one in values]) == (100, ["0", "1", "100", "5050"])
    assert source.asked[0] == (1, 10) and len(source.asked) > 3
    assert all(one[1] == other[0] for one, other in pairwise(source.asked))
    assert (source.asked[0][0], source.asked[-1][1]) == (1, 101)
    fleet.close()


@pytest.mark.parametrize(
    ("chunk_range", "changes"),
    [
        (ChunkRange(kind=RangeKind.WHOLE), {}),
        (ChunkRange(kind=RangeKind.BLOCKS), {}),
        (replace(KEYS, relation=RelationName(schema="s", name="child")), {}),
        (KEYS, {"relation": None, "query": "SELECT 1"}),
        (KEYS, {"on_unrepresentable": "coerce"}),
    ],
)
def test_what_no_short_statement_can_measure_is_read(tmp_path, chunk_range, changes) -> None:
    """Nothing is asked that would walk a whole table, or mean other rows than were read."""
    fleet = begun(tmp_path, *(spooled(tmp_path / "spool") for _ in range(2)))
    source = Measuring()
    assert measured(fleet, source, chunk_range, **changes) is None and not source.asked
    fleet.close()


@pytest.mark.parametrize(
    ("steps", "taken_s", "following"), [(1, 0.0, 2), (4, 0.01, 8), (8, 0.15, 4), (4, 9.0, 1)]
)
def test_a_statement_covers_so_many_steps_as_half_a_pages_time_allows(
    steps, taken_s, following
) -> None:
    assert compare.pieces_next(steps, taken_s, 0.15) == following
