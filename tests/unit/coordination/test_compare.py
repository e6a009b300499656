"""A range compared by a worker: over the in-memory store and destination, without a server."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.plan import FormatPlan
from rivet_fleet.contracts.reconcile import RangeVerdict, ReconcileDepth, ReconcilePlan
from rivet_fleet.contracts.state import CampaignStatus, RunStatus
from rivet_fleet.coordination import compare
from rivet_fleet.coordination.commit import Published, deliver_chunk, deliver_result
from rivet_fleet.coordination.compare import Approach, compare_chunk
from rivet_fleet.coordination.delivered import validate_campaign
from rivet_fleet.coordination.finalize import finalize_run
from rivet_fleet.coordination.operate import collect_garbage
from rivet_fleet.coordination.tend import tend
from rivet_fleet.errors import SourceUnavailable, StateRefused
from rivet_fleet.execution.encoder import SpooledPart
from rivet_fleet.execution.extract import ExtractResult
from rivet_fleet.execution.formats.parquet.writer import ParquetFormat
from rivet_fleet.execution.parts import digest_file
from rivet_fleet.execution.servo import Allowance, PageServo
from rivet_fleet.execution.source import Page
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
    packed = False

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
