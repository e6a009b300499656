"""rivet-cli as a contender over one table: the program that the configuration's words come from."""

from __future__ import annotations

from pathlib import Path

from bench.fleet import SCHEMAS, URL_VARIABLE, Job
from bench.peers_env import PeersEnvironment
from bench.schema import Engine

RIVET_CLI = "rivet-cli"
RIVET_TYPES = {Engine.POSTGRES: "postgres", Engine.MARIADB: "mysql"}
"""Its words for the engines, which rivet-fleet knows, too."""
_CONFIG = """\
source: {{type: {engine}, url_env: {variable}{tls}}}
exports:
  - name: {name}
    table: {schema}.{name}
    mode: full
    format: parquet
    compression: zstd
    compression_level: 3
    tuning: {{profile: fast}}
    destination: {{type: local, path: "{output}"}}
"""


def program(peers: PeersEnvironment) -> Path:
    """From its wheel."""
    return peers.folder / "bin" / "rivet"


def rivet_command(job: Job, peers: PeersEnvironment, *, encrypted: bool = False) -> list[str]:
    """``rivet run`` on one thread, beside a fresh configuration; its state lies there, too."""
    job.config.write_text(
        _CONFIG.format(
            engine=RIVET_TYPES[job.engine],
            variable=URL_VARIABLE,
            tls=", tls: {mode: require}" if encrypted else "",
            name=job.spec.name,
            schema=SCHEMAS[job.engine],
            output=job.output.resolve(),
        )
    )
    return [str(program(peers)), "run", "-c", str(job.config)]
