"""Claims per second and their p99 from many processes: ``python -m tests.bench.claims``.

Every process claims, and returns nothing: a claim is the whole unit of work, so that the state
database is the only thing measured. Processes start together and stop at the same moment.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

from rivet_fleet.contracts.keys import CampaignId, WorkerId
from rivet_fleet.contracts.state import WorkerIdentity
from rivet_fleet.demo.embedded import embedded_postgres
from rivet_fleet.errors import RivetFleetError
from rivet_fleet.persistence.open import open_store
from tests.campaigns import campaign_plan

_CAMPAIGN = CampaignId("bench")


def _claim_for(
    url: str, number: int, seconds: float, barrier: Barrier, results: multiprocessing.Queue
) -> None:
    store = open_store(url, pool_size=1)
    worker = WorkerIdentity(
        worker_id=WorkerId(f"w{number}"),
        name=f"w{number}",
        host_id="bench",
        pid=os.getpid(),
        pid_started_at_s=0.0,
    )
    store.now_s()  # connected before the clock starts
    barrier.wait()
    began_s = time.monotonic()
    latencies_s: list[float] = []
    errors: list[str] = []
    empty = 0
    while time.monotonic() - began_s < seconds:
        sent_s = time.monotonic()
        try:
            if store.claim(_CAMPAIGN, worker, 60.0) is None:
                empty += 1
                break
        except RivetFleetError as error:
            errors.append(error.message)
            continue
        latencies_s.append(time.monotonic() - sent_s)
    results.put((latencies_s, errors, empty, time.monotonic() - began_s))
    store.close()


@contextlib.contextmanager
def _state(kind: str) -> Iterator[str]:
    if kind == "sqlite":
        with tempfile.TemporaryDirectory(prefix="rivet-fleet-bench-") as directory:
            yield f"sqlite:///{Path(directory) / 'state.db'}"
        return
    with embedded_postgres() as server:
        yield server.create_database("bench")


def measure(kind: str, *, processes: int, tasks: int, seconds: float) -> dict[str, object]:
    """One measurement on a fresh state database."""
    context = multiprocessing.get_context("spawn")
    with _state(kind) as url:
        store = open_store(url)
        store.migrate()
        store.submit(campaign_plan(campaign_id=_CAMPAIGN, chunks=(tasks,)))
        store.close()
        barrier = context.Barrier(processes)
        results: multiprocessing.Queue = context.Queue()
        children = [
            context.Process(target=_claim_for, args=(url, n, seconds, barrier, results))
            for n in range(processes)
        ]
        for child in children:
            child.start()
        answers = [results.get(timeout=seconds + 120) for _ in children]
        for child in children:
            child.join(timeout=30)
    latencies_ms = sorted(1000 * s for answer in answers for s in answer[0])
    errors = [message for answer in answers for message in answer[1]]
    wall_s = max(answer[3] for answer in answers)
    return {
        "state": kind,
        "processes": processes,
        "tasks": tasks,
        "claims": len(latencies_ms),
        "wall_s": round(wall_s, 2),
        "claims_per_s": round(len(latencies_ms) / wall_s, 1),
        "p50_ms": round(statistics.median(latencies_ms), 2),
        "p99_ms": round(latencies_ms[int(len(latencies_ms) * 0.99)], 2),
        "max_ms": round(latencies_ms[-1], 2),
        "fewest_by_one_process": min(len(answer[0]) for answer in answers),
        "most_by_one_process": max(len(answer[0]) for answer in answers),
        "errors": len(errors),
        "database_is_locked": sum("locked" in message for message in errors),
        "cpus": os.cpu_count(),
    }


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", choices=("sqlite", "postgres"), required=True)
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args()
    found = measure(
        arguments.state,
        processes=arguments.processes,
        tasks=arguments.tasks,
        seconds=arguments.seconds,
    )
    if arguments.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:24} {value}")


if __name__ == "__main__":
    main()
