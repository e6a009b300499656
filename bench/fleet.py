"""rivet-fleet as a contender: its configuration for one job, and the commands that run it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.schema import Engine, TableSpec
from rivet_fleet.execution.registry import engine_names

URL_VARIABLE = "BENCH_URL"
_NAMES = {Engine.POSTGRES: ("postgres", "postgresql"), Engine.MARIADB: ("mariadb", "mysql")}
SCHEMAS = {Engine.POSTGRES: "public", Engine.MARIADB: "bench"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to extract and where to: ``folder`` is fresh and removed after the run."""

    engine: Engine
    spec: TableSpec
    folder: Path

    @property
    def output(self) -> Path:
        """Where the Parquet files go; exists."""
        return self.folder / "output"

    @property
    def config(self) -> Path:
        """rivet-fleet's configuration; see ``configure``."""
        return self.folder / "fleet.yaml"


ONE_CHUNK = "mode: full"
"""Nothing is tuned, and the whole table is one chunk: the hard case for memory."""
ONE_CHUNK_FAST = "mode: full\n    tuning: {profile: fast}"

FOLDER = "{type: local, path: output}"

_CONFIG = """\
source: {{type: {engine}, url_env: {variable}}}
campaign: {{workers: {workers}}}
spool_dir: "{folder}/spool"
exports:
  - name: {name}
    {what}
    format: parquet
    compression: zstd
    compression_level: 3
    destination: {destination}
    {how}
"""


def engine_type(engine: Engine) -> str | None:
    """The source type this build knows the engine by; None when it has no such source."""
    return next((name for name in _NAMES[engine] if name in engine_names()), None)


def chunks(count: int) -> str:
    """Exactly so many chunks, and the profile without throttle; the statement target is the same in
    every profile."""
    return f"mode: chunked\n    chunk_count: {count}\n    tuning: {{profile: fast}}"


def configure(
    job: Job, *, workers: int, how: str, query: bool = False, destination: str = FOLDER
) -> Path:
    """Write the configuration; ``query``: the table as a SELECT, which is one statement."""
    name = job.spec.name
    table = f"table: {SCHEMAS[job.engine]}.{name}"
    text = _CONFIG.format(
        engine=engine_type(job.engine),
        variable=URL_VARIABLE,
        workers=workers,
        folder=job.folder,
        name=name,
        what=f"query: SELECT * FROM {name}" if query else table,
        how=how,
        destination=destination,
    )
    job.config.write_text(text)
    return job.config


def run_command(
    job: Job, *, workers: int, how: str, query: bool = False, destination: str = FOLDER
) -> list[str]:
    """``rivet-fleet run`` with SQLite state beside a fresh configuration."""
    config = configure(job, workers=workers, how=how, query=query, destination=destination)
    return [sys.executable, "-m", "rivet_fleet", "run", "-c", str(config), "--json"]


def decode_command(job: Job) -> list[str]:
    """Read and decode in pages, keep nothing: what reading alone costs."""
    config = configure(job, workers=1, how=ONE_CHUNK_FAST)
    return [sys.executable, "-m", "bench.decode_only", str(config)]


def chunk_times(job: Job, environ: Mapping[str, str]) -> dict[str, list[float]]:
    """Event name → when it happened, by the journal of the finished run. Raises RuntimeError."""
    command = [sys.executable, "-m", "rivet_fleet", "journal", "-c", str(job.config)]
    done = subprocess.run(
        [*command, "--last", "1000000", "--json"],
        check=False,
        capture_output=True,
        text=True,
        env=dict(environ),
    )
    if done.returncode:
        raise RuntimeError(f"no journal: {done.stderr.strip()[-300:]}")
    return event_times(json.loads(done.stdout))


def event_times(journal: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """From the journal's JSON: event name → its moments in seconds, ascending."""
    times: dict[str, list[float]] = {}
    for entry in journal:
        times.setdefault(entry["event"], []).append(float(entry["at_s"]))
    return {name: sorted(moments) for name, moments in times.items()}
