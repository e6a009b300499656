"""The demo, told step by step: fill, extract, kill -9, rescue, validate, read independently."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from rivet_fleet.contracts.events import EventName
from rivet_fleet.demo.embedded import EmbeddedPostgres, EmbeddedPostgresMissing, embedded_postgres
from rivet_fleet.demo.shop import SCHEMA, TABLES, fill_sql, fleet_yaml
from rivet_fleet.errors import ExitCode, RivetFleetError, StateError, UsageError
from rivet_fleet.persistence.open import open_store
from rivet_fleet.persistence.store import Store

_STATE_FILE = ".rivet_fleet_state.db"


def run_demo(output: Path, *, rows: int, workers: int) -> int:
    """Run the whole story; 0 when every row arrived exactly once.

    ``output`` is made anew. The embedded server and its data are gone afterwards; the files
    and the state stay.
    """
    started_s = time.monotonic()
    output = _fresh(output.resolve())
    try:
        password = secrets.token_hex(16)
        with embedded_postgres(settings={"fsync": "off"}, password=password) as server:
            code = _tell(server, output, rows=rows, workers=workers)
    except EmbeddedPostgresMissing as error:
        raise RivetFleetError(str(error), code="RIVET_DEMO_FAILED") from None
    _say(f"\nDone in {time.monotonic() - started_s:.0f} s, the server is stopped and removed.")
    return code


def _fresh(output: Path) -> Path:
    """Only a folder that an earlier demo made is replaced."""
    if output.exists() and any(output.iterdir()):
        if not (output / "fleet.yaml").exists():
            raise UsageError(
                f"{output} is not empty and was not made by the demo",
                hint="choose another place with --output",
            )
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
    return output


def _tell(server: EmbeddedPostgres, output: Path, *, rows: int, workers: int) -> int:
    _say(
        f"1. A real PostgreSQL runs on 127.0.0.1:{server.port}; filling a shop ({rows:,} rows in "
        "its largest table):"
    )
    server.psql(SCHEMA + fill_sql(rows))
    for table in TABLES:
        count = int(server.psql(f"SELECT count(*) FROM {table.name}"))
        _say(f"     {table.name:<12} {count:>9,} rows   {table.story}")
    config = output / "fleet.yaml"
    config.write_text(fleet_yaml(workers))
    environment = {**os.environ, "SHOP_URL": server.url()}
    _say(f"\n2. Extracting with {workers} worker processes: rivet-fleet run -c {config}")
    coordinator = _command("run", "-c", str(config), environment=environment)
    try:
        victim = _kill_one(coordinator, output / _STATE_FILE)
        code = coordinator.wait()
    finally:
        if coordinator.poll() is None:
            coordinator.terminate()
            coordinator.wait(timeout=60)
    if code != ExitCode.OK:
        _say(f"the campaign ended with exit code {code}")
        return code
    _tell_rescue(output / _STATE_FILE, victim)
    return _prove(output, config, environment)


def _command(*arguments: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "rivet_fleet", *arguments], env=dict(environment)
    )


def _kill_one(coordinator: subprocess.Popen[bytes], state: Path) -> int | None:
    """Wait until the campaign is well under way, then SIGKILL a worker that holds a chunk."""
    while coordinator.poll() is None:
        pid = _busy_worker(state) if state.exists() else None
        children = {child.pid for child in _children(coordinator.pid)}
        if pid is not None and pid in children:
            os.kill(pid, signal.SIGKILL)
            _say(f"\n3. kill -9 {pid}: a worker dies in the middle of its chunk, without a word.\n")
            return pid
        time.sleep(0.05)
    return None


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _busy_worker(state: Path) -> int | None:
    """The pid of a worker with a running chunk, once a good part of the work is done."""
    try:
        store = open_store(f"sqlite:///{state}")
        try:
            store.check_version()
            return _busy_pid(store)
        finally:
            store.close()
    except StateError:
        return None  # the coordinator is still creating it


def _busy_pid(store: Store) -> int | None:
    campaigns = store.campaigns(active_only=True)
    if not campaigns:
        return None
    runs = store.runs(campaigns[0].campaign_id)
    done = sum(run.counts.completed for run in runs)
    if done * 5 < sum(run.expected_tasks for run in runs):
        return None
    busy = [w.pid for w in store.workers() if w.running_task is not None]
    return busy[0] if busy else None


def _tell_rescue(state: Path, victim: int | None) -> None:
    store = open_store(f"sqlite:///{state}")
    try:
        campaign = store.campaigns()[0]
        reaped = [
            entry
            for entry in store.journal(campaign_id=campaign.campaign_id, limit=100_000)
            if entry.event == EventName.CHUNK_REAPED.value
        ]
    finally:
        store.close()
    _say("\n4. What the journal says about the kill:")
    for entry in reaped:
        _say(f"     chunk {entry.chunk_index} of {entry.export_name}: {entry.message or 'reaped'}")
    if victim is not None and not reaped:
        _say(f"     worker {victim} died between two chunks: there was nothing to rescue")


def _prove(output: Path, config: Path, environment: Mapping[str, str]) -> int:
    _say("\n5. rivet-fleet validate: every byte against the manifests")
    validated = _command("validate", "-c", str(config), environment=environment).wait()
    _say("\n6. An independent reader (DuckDB, another process) against the source's own answers:")
    reader = [sys.executable, "-m", "rivet_fleet.demo.reader", str(output / "files")]
    read = subprocess.run(reader, env=dict(environment), check=False).returncode
    if validated == 0 and read == 0:
        _say("\nEvery row of every table is in exactly one file, although a worker was killed.")
    else:
        _say("\nThe files are NOT what the source holds.")
    _say(f"     files   {output / 'files'}/<table>/<run>/*.parquet, manifest.json, _SUCCESS")
    _say(f"     state   {output / _STATE_FILE}")
    _say(f"     config  {config}")
    _say(f"   Ask it: rivet-fleet state chunks -c {config} (SHOP_URL can be anything now)")
    return validated or read


def _say(line: str) -> None:
    print(line, flush=True)
