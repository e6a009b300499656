"""A fleet in one process: real coordination over the in-memory store and destination."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rivet_fleet.contracts.clock import SystemClock
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.plan import CampaignPlan, DestinationPlan, PlannedRun
from rivet_fleet.coordination.fleet import (
    Fleet,
    FleetSettings,
    Patience,
    StopFlag,
    new_worker_id,
    this_process,
)
from rivet_fleet.execution.encoder import SpooledPart
from rivet_fleet.execution.extract import ExtractResult
from tests.campaigns import campaign_plan
from tests.model.destination import open_destination
from tests.model.store import MemoryStore

CAMPAIGN = CampaignId("c1")
_prefixes = itertools.count()


class DatabaseClock:
    """The state database's clock, moved by the test."""

    def __init__(self):
        self.time_s = time.time()

    def __call__(self):
        return self.time_s


def memory_plan(chunks=(2,)) -> CampaignPlan:
    """One export into a fresh in-memory prefix."""
    plan = campaign_plan(chunks=chunks)
    prefix = f"memory-{next(_prefixes)}"

    def into_memory(run: PlannedRun) -> PlannedRun:
        destination = DestinationPlan(kind="memory", prefix=f"{prefix}/{run.plan.export_name}")
        return replace(run, plan=replace(run.plan, destination=destination))

    return replace(plan, runs=tuple(into_memory(run) for run in plan.runs))


def open_store(clock, chunks=(2,)) -> MemoryStore:
    """A store with one campaign."""
    store = MemoryStore(clock)
    store.submit(memory_plan(chunks))
    return store


def make_fleet(store, spool: Path, name="worker") -> Fleet:
    """One process of the fleet; several may share a store."""
    clock = SystemClock()
    stop = StopFlag(clock, grace_s=5.0)
    events = []

    def refuse(source, identity):
        raise AssertionError("these tests read no source")

    return Fleet(
        store=store,
        open_store=lambda: store,
        open_source=refuse,
        open_destination=open_destination,
        emit=events.append,
        clock=clock,
        stop=stop,
        identity=this_process(name, worker_id=new_worker_id()),
        # How large the tests' own process is ends no worker in it.
        settings=FleetSettings(
            lease_ttl_s=30.0, spool_root=spool, worker_memory_bytes=1 << 50, full_patience_s=0.0
        ),
        patience=Patience(clock, stop, events.append, limit_s=5.0),
        redact=lambda text: text,
    )


def spooled(folder: Path, parts=1, rows=10) -> ExtractResult:
    """What an extraction leaves behind: finished local files."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(parts):
        path = folder / f"{new_worker_id()}-{number}.parquet"
        pq.write_table(pa.table({"id": list(range(rows))}), path)
        made.append(SpooledPart(part_number=number, path=path, rows=rows, columns=()))
    return ExtractResult(
        parts=tuple(made), rows=rows * parts, pages=1, bytes=0, longest_statement_s=0.0
    )
