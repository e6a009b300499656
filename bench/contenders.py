"""Who is measured, and by which command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.peers_env import PeersEnvironment
from rivet_fleet.demo.embedded import EmbeddedPostgres

FLOOR = "psql COPY binary > /dev/null"
_PEERS = Path(__file__).parent / "peers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to extract and where to: ``folder`` is empty and removed after the run."""

    url: str
    table: str
    folder: Path

    @property
    def output(self) -> Path:
        """Where the Parquet files go; exists."""
        return self.folder / "output"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A name for the table and the way to its command. ``workers`` 0: one process."""

    name: str
    workers: int = 0
    writes_parquet: bool = True
    arguments: tuple[str, ...] = ()

    def command(self, job: Job) -> list[str]:
        """The command that extracts ``job``; writes a configuration first when it needs one."""
        if self.workers:
            return fleet_command(job, workers=self.workers, export=FAST)
        values = {"url": job.url, "table": job.table, "output": str(job.output / "all.parquet")}
        return [argument.format(**values) for argument in self.arguments]


FAST = "    mode: chunked\n    tuning: {profile: fast}\n"
"""The profile without throttle; the statement target is the same in every profile."""
DEFAULTS_ONE_CHUNK = "    mode: full\n"
"""Nothing is tuned, and the whole table is one chunk of one part: the hard case for memory."""

_CONFIG = """\
source: {{type: postgres, url: "{url}"}}
campaign: {{workers: {workers}}}
spool_dir: "{folder}/spool"
exports:
  - name: {table}
    table: public.{table}
    format: parquet
    compression: zstd
    compression_level: 3
    destination: {{type: local, path: output}}
{export}"""


def fleet_command(job: Job, *, workers: int, export: str) -> list[str]:
    """rivet-fleet's own ``run`` with SQLite state beside a fresh configuration in the folder."""
    config = job.folder / "fleet.yaml"
    config.write_text(
        _CONFIG.format(
            url=job.url, folder=job.folder, workers=workers, table=job.table, export=export
        )
    )
    return [sys.executable, "-m", "rivet_fleet", "run", "-c", str(config), "--json"]


def contenders(
    server: EmbeddedPostgres, peers: PeersEnvironment | None, workers: Sequence[int]
) -> list[Contender]:
    """In the order of a round. Without ``peers``: the floor and rivet-fleet alone."""
    copy = "COPY {table} TO STDOUT (FORMAT binary)"
    floor = Contender(
        name=FLOOR,
        writes_parquet=False,
        arguments=(str(server.bin / "psql"), "-X", "-q", "-c", copy, "{url}"),
    )
    fleets = [
        Contender(name=f"rivet-fleet, {n} worker{'s' if n > 1 else ''}", workers=n) for n in workers
    ]
    return [floor, *fleets, *(_peers(peers) if peers else [])]


def _peers(peers: PeersEnvironment) -> list[Contender]:
    python = str(peers.python)
    scanner = (python, str(_PEERS / "duckdb_scanner.py"), "{url}", "{table}", "{output}")
    stream = (python, str(_PEERS / "connectorx_stream.py"), "{url}", "{table}", "{output}")
    return [
        Contender(name="DuckDB postgres scanner, default threads", arguments=(*scanner, "0")),
        Contender(name="DuckDB postgres scanner, 1 thread", arguments=(*scanner, "1")),
        Contender(name="ConnectorX, streamed + pyarrow", arguments=stream),
    ]
