"""Who is measured, in which configuration, and what stands in the way of those who are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.fleet import Job, chunks, decode_command, engine_type, run_command
from bench.odbc import OdbcDrivers
from bench.peers_env import PeersEnvironment
from bench.schema import Engine, Kind
from bench.sources.server import SourceServer

FLOOR, DECODE, RIVET, CONNECTORX = "floor", "decode", "rivet", "connectorx"
GROUPS = (FLOOR, DECODE, RIVET, CONNECTORX, "duckdb", "adbc", "arrow-odbc", "sling", "dlt")
"""What ``--contenders`` takes."""
PEERS = tuple(group for group in GROUPS if group not in (FLOOR, DECODE, RIVET))

FLOOR_NAMES = {
    Engine.POSTGRES: "psql COPY binary > /dev/null",
    Engine.MARIADB: "mariadb --quick > /dev/null",
}
_PEERS = Path(__file__).parent / "peers"
_SLOW_ROUNDS = 1
CHUNKS_PER_WORKER = 4
"""Enough that nobody waits for the last one; a further chunk only costs its beginning and end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A name for the table and the way to its command.

    ``rounds_max``: the slow ones do not run in every round. ``unavailable``: why it cannot run.
    ``fetch``: brings what a measured run has written elsewhere to the job's output.
    """

    name: str
    group: str
    command: Callable[[Job], list[str]]
    writes_parquet: bool = True
    environ: Mapping[str, str] = field(default_factory=dict)
    rounds_max: int | None = None
    unavailable: str | None = None
    fetch: Callable[[Job], None] | None = None


def contenders(
    server: SourceServer,
    peers: PeersEnvironment,
    odbc: OdbcDrivers,
    *,
    workers: Sequence[int],
    groups: Sequence[str],
) -> list[Contender]:
    """The chosen ``groups`` for this engine, in the order of a round; the floor always runs."""
    engine = server.engine
    found = [_floor(server), _decode(engine), *(_fleet(engine, count) for count in workers)]
    found.append(_fleet(engine, 1, more="parquet: {encodings: auto}"))
    found += [*_connectorx(engine, peers), *_duckdb(engine, peers), _adbc(engine, peers)]
    found += [_arrow_odbc(engine, peers, odbc), _sling(peers), *_dlt(engine, peers)]
    return [each for each in found if each.group in {FLOOR, *groups}]


def _floor(server: SourceServer) -> Contender:
    return Contender(
        name=FLOOR_NAMES[server.engine],
        group=FLOOR,
        command=lambda job: server.floor_command(job.spec.name),
        writes_parquet=False,
        environ=server.client_environ(),
    )


def _no_source(engine: Engine) -> str | None:
    known = engine_type(engine) is not None
    return None if known else f"this build has no source for {engine.value}"


def _decode(engine: Engine) -> Contender:
    return Contender(
        name="rivet-fleet's decoder alone, rows dropped",
        group=DECODE,
        command=decode_command,
        writes_parquet=False,
        unavailable=_no_source(engine),
    )


def _fleet(engine: Engine, workers: int, *, more: str = "") -> Contender:
    how = chunks(CHUNKS_PER_WORKER * workers) + (f"\n    {more}" if more else "")
    name = f"rivet-fleet, {workers} worker{'s' if workers > 1 else ''}"
    return Contender(
        name=f"{name}, {more}" if more else name,
        group=RIVET,
        command=partial(run_command, workers=workers, how=how),
        unavailable=_no_source(engine),
    )


def peer(
    script: str,
    peers: PeersEnvironment,
    options: Callable[[Job], Sequence[str]],
    output: Callable[[Job], str] = lambda job: str(job.output),
) -> Callable[[Job], list[str]]:
    """A peer's script with its arguments: engine, table, where to, ``options``."""

    def command(job: Job) -> list[str]:
        fixed = (job.engine.value, job.spec.name, output(job))
        return [str(peers.python), str(_PEERS / script), *fixed, *options(job)]

    return command


def words(*texts: str) -> Callable[[Job], Sequence[str]]:
    """The same options for every job."""
    return lambda _job: texts


def by_key(*words: str) -> Callable[[Job], Sequence[str]]:
    """Options that end with the column by which a table may be split."""
    return lambda job: (*words, job.spec.key[0])


def _connectorx(engine: Engine, peers: PeersEnvironment) -> list[Contender]:
    ways = {
        "streamed": ("stream", "1"),
        "whole": ("whole", "1"),
        "whole, 2 connections": ("whole", "2"),
    }
    return [
        Contender(
            name=f"ConnectorX, {name}",
            group=CONNECTORX,
            command=peer("connectorx_read.py", peers, by_key(*way)),
            unavailable=peers.missing("connectorx", "pyarrow"),
        )
        for name, way in ways.items()
    ]


def scanner_of(engine: Engine) -> str:
    """DuckDB's name for it."""
    return "postgres" if engine is Engine.POSTGRES else "mysql"


def _duckdb(engine: Engine, peers: PeersEnvironment) -> list[Contender]:
    scanner = scanner_of(engine)
    needed = ("duckdb", f"duckdb-extension-{scanner}-scanner")
    return [
        Contender(
            name=f"DuckDB {scanner} scanner, {label}",
            group="duckdb",
            command=peer("duckdb_scanner.py", peers, words(count)),
            unavailable=peers.missing(*needed),
        )
        for label, count in (("2 threads", "2"), ("1 thread", "1"))
    ]


def _adbc(engine: Engine, peers: PeersEnvironment) -> Contender:
    no_driver = None if engine is Engine.POSTGRES else "ADBC has no driver for this engine on PyPI"
    return Contender(
        name="ADBC, numerics cast",
        group="adbc",
        command=peer("adbc_read.py", peers, _numerics),
        unavailable=no_driver or peers.missing("adbc-driver-postgresql"),
    )


def _numerics(job: Job) -> list[str]:
    """``column:precision:scale``, from the type a faithful file has."""
    decimals = [column for column in job.spec.columns if column.kind is Kind.DECIMAL]
    sizes = [column.arrives.removeprefix("DECIMAL(").rstrip(")").split(",") for column in decimals]
    return [
        f"{column.name}:{size[0]}:{size[1]}" for column, size in zip(decimals, sizes, strict=True)
    ]


def _arrow_odbc(engine: Engine, peers: PeersEnvironment, odbc: OdbcDrivers) -> Contender:
    return Contender(
        name=f"arrow-odbc, {odbc.driver(engine).name}",
        group="arrow-odbc",
        command=peer("arrow_odbc_read.py", peers, lambda job: (str(odbc.driver(job.engine)),)),
        environ={"LD_LIBRARY_PATH": str(odbc.libraries)},
        unavailable=odbc.missing or peers.missing("arrow-odbc"),
    )


def _sling(peers: PeersEnvironment) -> Contender:
    return Contender(
        name="sling",
        group="sling",
        command=peer("sling_load.py", peers, words()),
        rounds_max=_SLOW_ROUNDS,
        unavailable=peers.missing("sling-linux-amd64"),
    )


def _dlt(engine: Engine, peers: PeersEnvironment) -> list[Contender]:
    driver = "psycopg2-binary" if engine is Engine.POSTGRES else "pymysql"
    return [
        Contender(
            name=f"dlt, {backend} backend",
            group="dlt",
            command=peer("dlt_load.py", peers, words(backend)),
            rounds_max=_SLOW_ROUNDS,
            unavailable=peers.missing("dlt", "sqlalchemy", driver),
        )
        for backend in ("pyarrow", "connectorx")
    ]
