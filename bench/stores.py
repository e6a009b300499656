"""The same table into a local S3 server and into a folder, and peers that write to the server.

The server keeps each object as a file: what a run has written is copied from there, behind the
measurement. It runs on the machine that is measured, and takes its part of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from bench.contenders import (
    CHUNKS_PER_WORKER,
    CONNECTORX,
    RIVET,
    Contender,
    by_key,
    peer,
    scanner_of,
    words,
)
from bench.fleet import FOLDER, Job, chunks, run_command
from bench.peers_env import PeersEnvironment
from bench.rounds import Bench, Contest, Limits, run_rounds, say
from bench.schema import Engine
from bench.sources.server import LoadedTable
from tests.servers.versitygw import Versitygw, VersitygwMissing, running_versitygw

LOCAL = "1 worker, to a folder"
STORE = "1 worker, to the store"
PARTS_MANY = 100
MANY_PARTS = f"1 worker, to the store, {PARTS_MANY} parts"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lake:
    """A bucket, and each job's own prefix in it."""

    server: Versitygw
    bucket: str

    @property
    def environ(self) -> dict[str, str]:
        """What a contender needs to get there, ours and the peers'."""
        return {
            **self.server.variables,
            "BENCH_STORE_URL": self.server.endpoint,
            "BENCH_STORE_KEY": self.server.access_key,
            "BENCH_STORE_SECRET": self.server.secret_key,
        }

    def command(self, job: Job, *, workers: int, chunk_count: int) -> list[str]:
        """rivet-fleet into the job's prefix."""
        place = {"type": "s3", "bucket": self.bucket, "prefix": job.folder.name}
        told = ", ".join(f"{k}: '{v}'" for k, v in {**place, **self.server.settings}.items())
        destination = "{" + told + "}"
        return run_command(job, workers=workers, how=chunks(chunk_count), destination=destination)

    def url(self, job: Job) -> str:
        """Where a peer writes."""
        return f"s3://{self.bucket}/{job.folder.name}"

    def fetch(self, job: Job) -> None:
        """Past every client; nothing of it is left there."""
        found = self.server.folder(self.bucket) / job.folder.name
        if found.is_dir():
            shutil.copytree(found, job.output, dirs_exist_ok=True)
            shutil.rmtree(found)


def into_store(
    bench: Bench, peers: PeersEnvironment, table: LoadedTable, limits: Limits
) -> Contest:
    """In turns; the folder is what the store is compared with."""
    try:
        with running_versitygw() as server:
            lake = _Lake(server=server, bucket=server.make_bucket("bench"))
            return run_rounds(bench, list(_field(lake, bench, peers)), table, limits)
    except VersitygwMissing as absent:
        say(f"the stores are not measured: {absent}")
        return Contest()


def _field(lake: _Lake, bench: Bench, peers: PeersEnvironment) -> Iterator[Contender]:
    one = partial(run_command, workers=1, how=chunks(CHUNKS_PER_WORKER), destination=FOLDER)
    yield Contender(name=LOCAL, group=RIVET, command=one)
    for name, workers, chunk_count in (
        (STORE, 1, CHUNKS_PER_WORKER),
        (MANY_PARTS, 1, PARTS_MANY),
        ("2 workers, to the store", 2, 2 * CHUNKS_PER_WORKER),
    ):
        ours = partial(lake.command, workers=workers, chunk_count=chunk_count)
        yield _into(lake, name, RIVET, ours)
    engine = bench.server.engine
    yield _duckdb(lake, engine, peers)
    command = peer("connectorx_read.py", peers, by_key("stream", "1"), lake.url)
    absent = peers.missing("connectorx", "pyarrow", "s3fs")
    yield _into(lake, "ConnectorX, streamed, s3fs", CONNECTORX, command, absent)


def _duckdb(lake: _Lake, engine: Engine, peers: PeersEnvironment) -> Contender:
    scanner = scanner_of(engine)
    absent = peers.missing(
        "duckdb", f"duckdb-extension-{scanner}-scanner", "duckdb-extension-httpfs"
    )
    command = peer("duckdb_scanner.py", peers, words("2"), lake.url)
    return _into(lake, f"DuckDB {scanner} scanner, httpfs", "duckdb", command, absent)


def _into(
    lake: _Lake,
    name: str,
    group: str,
    command: Callable[[Job], list[str]],
    unavailable: str | None = None,
) -> Contender:
    return Contender(
        name=name,
        group=group,
        command=command,
        environ=lake.environ,
        fetch=lake.fetch,
        unavailable=unavailable,
    )
