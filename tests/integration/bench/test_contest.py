"""The benchmark itself at a tiny scale: real servers, real processes, real files.

The peers are not part of it: they need an environment of their own, and ``make bench`` reports
each one that cannot run.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from bench.checks import of_column, same
from bench.contenders import DECODE, FLOOR, RIVET, Contender
from bench.fidelity import compare, parquet_files
from bench.fleet import Job, chunks, decode_command, engine_type, run_command
from bench.parts import startup
from bench.rounds import Bench, Limits, run_once, run_rounds
from bench.schema import EVENTS, WIDE, Engine, Kind
from bench.sources.mariadb import mariadb_server
from bench.sources.postgres import postgres_server
from bench.sources.server import LoadedTable, SourceServer
from bench.tables import Sizes, first_rows, load
from rivet_fleet.demo.embedded import EmbeddedPostgresMissing
from tests.conftest import missing
from tests.servers.mariadb import EmbeddedMariadbMissing

SIZES = Sizes(scale=0.001, events_rows=3000)
NOWHERE = Path("not/needed")
STARTERS = {Engine.POSTGRES: postgres_server, Engine.MARIADB: mariadb_server}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    # Not pytest's tmp_path: that is private to root, and the servers run as somebody else.
    where = Path(tempfile.mkdtemp(prefix="rivet-fleet-test-bench-"))
    where.chmod(0o755)
    yield where
    shutil.rmtree(where, ignore_errors=True)


@pytest.fixture(scope="module", params=Engine, ids=lambda engine: engine.value)
def server(request: pytest.FixtureRequest, folder: Path) -> Iterator[SourceServer]:
    try:
        with STARTERS[request.param](folder) as started:
            yield started
    except (EmbeddedPostgresMissing, EmbeddedMariadbMissing) as absent:
        missing(str(absent))


def bench_of(server: SourceServer) -> Bench:
    return Bench(server=server, environ=dict(os.environ))


def floor_of(server: SourceServer) -> Contender:
    return Contender(
        name="floor",
        group=FLOOR,
        command=lambda job: server.floor_command(job.spec.name),
        writes_parquet=False,
        environ=server.client_environ(),
    )


def fleet_of(server: SourceServer) -> Contender:
    if engine_type(server.engine) is None:
        pytest.skip(f"this build has no source for {server.engine.value}")
    return Contender(
        name="fleet", group=RIVET, command=partial(run_command, workers=1, how=chunks(4))
    )


def soon() -> Limits:
    return Limits(rounds=1, deadline_s=time.monotonic() + 600)


@pytest.fixture(scope="module")
def checks() -> dict[str, dict[Engine, LoadedTable]]:
    return {"events": {}, "wide": {}}


@pytest.mark.parametrize("spec", [EVENTS, WIDE], ids=lambda spec: spec.name)
def test_both_engines_hold_the_same(server, checks, spec):
    loaded = checks[spec.name]
    loaded[server.engine] = load(server, spec, SIZES, NOWHERE)
    assert loaded[server.engine].rows == SIZES.rows[spec.name]
    if len(loaded) < 2:
        return
    one, other = loaded.values()
    for position, column in enumerate(spec.columns):
        # jsonb writes its keys in an order of its own; arrays have two forms.
        if column.kind is not Kind.LIST and column.postgres != "jsonb":
            mine, theirs = of_column(one.checks, position), of_column(other.checks, position)
            assert same(column.kind, mine, theirs), column.name


def test_a_loaded_table_is_found_again_and_its_subset_is_its_beginning(server):
    table = load(server, EVENTS, SIZES, NOWHERE)
    size = server.statement_log.stat().st_size
    assert load(server, EVENTS, SIZES, NOWHERE) == table
    assert b"INSERT" not in server.statement_log.read_bytes()[size:]
    some = first_rows(server, table, 10)
    assert server.query(f"SELECT count(*), max(event_id) FROM {some.spec.name}") == [["10", "10"]]
    assert first_rows(server, table, 10_000) is table


def test_other_sizes_are_loaded_anew(server):
    load(server, WIDE, SIZES, NOWHERE)
    smaller = load(server, WIDE, replace(SIZES, scale=0.0005), NOWHERE)
    assert smaller.rows == 50


def test_the_floor_is_measured_by_client_and_server(server):
    table = load(server, EVENTS, SIZES, NOWHERE)
    found = run_once(bench_of(server), floor_of(server), table, number=1)
    assert found.error is None
    assert 0 < found.longest_statement_s < found.wall_s
    assert found.statements >= 1
    assert found.tree_rss_bytes >= found.peak_rss_bytes


def test_the_fleet_delivers_what_the_source_holds(server):
    table = load(server, WIDE, SIZES, NOWHERE)
    contest = run_rounds(bench_of(server), [floor_of(server), fleet_of(server)], table, soon())
    floor, fleet = contest.runs
    assert (floor.error, fleet.error) == (None, None)
    (fidelity,) = contest.fidelity
    assert (fidelity.types, fidelity.values, fidelity.unreadable) == ({}, (), ())
    # A coordinator and a worker: together more than the larger of the two.
    assert fleet.tree_rss_bytes > fleet.peak_rss_bytes
    assert fleet.statements > 1


def test_the_decoder_alone_reads_without_writing(server):
    fleet_of(server)
    table = load(server, EVENTS, SIZES, NOWHERE)
    decode = Contender(name="decode", group=DECODE, command=decode_command, writes_parquet=False)
    found = run_once(bench_of(server), decode, table, number=1)
    assert (found.error, found.output_bytes) == (None, 0)
    assert found.statements > 1


def test_a_changed_value_and_a_changed_type_are_noticed(server, tmp_path):
    table = load(server, EVENTS, SIZES, NOWHERE)
    contender = fleet_of(server)
    kept: list[Path] = []

    def keep(job: Job, _result: object) -> None:
        kept.extend(Path(shutil.copy(path, tmp_path)) for path in parquet_files(job.output))

    run_once(bench_of(server), contender, table, number=1, inspect=keep)
    whole = pa.concat_tables(pq.read_table(path) for path in kept)
    plus = pc.add(whole["user_id"], pa.array([1] + [0] * (len(whole) - 1), pa.int32()))
    changed = whole.set_column(whole.schema.get_field_index("user_id"), "user_id", plus)
    wider = changed["kind"].cast(pa.int64())
    changed = changed.set_column(whole.schema.get_field_index("kind"), "kind", wider)
    pq.write_table(changed, tmp_path / "changed.parquet")
    found = compare("x", server.engine, table, [tmp_path / "changed.parquet"])
    assert (found.values, found.types) == (("user_id",), {"kind": "BIGINT"})


def test_rows_that_are_missing_are_an_error(server):
    table = load(server, EVENTS, SIZES, NOWHERE)
    nothing = Contender(name="nothing", group="dlt", command=lambda _job: ["true"])
    found = run_once(bench_of(server), nothing, table, number=1)
    assert found.error == "0 rows written instead of 3,000"


def test_who_cannot_run_says_why_and_no_secret_is_told(server):
    table = load(server, EVENTS, SIZES, NOWHERE)
    absent = Contender(name="x", group="dlt", command=lambda _job: [], unavailable="no driver")
    found = run_once(bench_of(server), absent, table, number=1)
    assert found.error == "not available: no driver"
    told = Contender(
        name="x", group="dlt", command=lambda _: ["sh", "-c", 'echo "at $BENCH_URL" >&2; exit 3']
    )
    error = run_once(bench_of(server), told, table, number=1).error
    assert error is not None and error.startswith("exit code 3: at ")
    assert not server.address.password or server.address.password not in error


def test_start_up_is_measured():
    found = startup(dict(os.environ))
    assert len(found.wall_s) > 5 and min(found.wall_s) > 0
