"""The same table over links as users have them: plain or encrypted, near or far, wide or narrow.

A Toxiproxy lies between the contenders and the server, so each of them has the same link, and it
takes its part of the machine. MariaDB speaks TLS itself. The PostgreSQL that the benchmark starts
does not: a PgBouncer before it does, as such servers are often reached.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench.contenders import (
    CHUNKS_PER_WORKER,
    CONNECTORX,
    FLOOR,
    FLOOR_NAMES,
    RIVET,
    Contender,
    by_key,
    peer,
    scanner_of,
    words,
)
from bench.fleet import URL_VARIABLE, chunks, run_command
from bench.peers_env import PeersEnvironment
from bench.rivet_cli import RIVET_CLI, rivet_command
from bench.rounds import Bench, Contest, Limits, run_rounds, say
from bench.schema import Engine
from bench.sources.server import Address, LoadedTable, SourceServer
from chaos.wire import Toxiproxy, ToxiproxyMissing, toxiproxy
from tests.servers.pgbouncer import PgBouncerMissing, pgbouncer
from tests.servers.tls import certificate

RTTS_MS = (0, 10, 50)
MEGABITS_PER_S = (1_000, 100)
WORKERS = (1, 4)
BETWEEN = " · "
"""In a contender's name: first the link, then who."""
_POOL = {
    "pool_mode": "session",
    "default_pool_size": "20",
    # A connection of the server lives as long as its client: what it costs is read behind it.
    "server_lifetime": "0",
    "client_tls_sslmode": "allow",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One way to the server."""

    encrypted: bool
    rtt_ms: int
    megabits_per_s: int

    @property
    def name(self) -> str:
        """As the report's lines begin."""
        how = "TLS" if self.encrypted else "plain"
        return f"{how}, RTT {self.rtt_ms} ms, {self.megabits_per_s:,} Mbit/s"


LINKS = tuple(
    Link(encrypted=encrypted, rtt_ms=rtt_ms, megabits_per_s=wide)
    for wide in MEGABITS_PER_S
    for encrypted in (False, True)
    for rtt_ms in RTTS_MS
)


def over_links(
    bench: Bench, peers: PeersEnvironment, table: LoadedTable, limits: Limits
) -> Contest:
    """Every link by every contender, in turns within a link."""
    contest = Contest()
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            proxy = stack.enter_context(toxiproxy(folder / "toxiproxy.log"))
            ways = stack.enter_context(_ways(bench.server))
            for link in LINKS:
                at = _linked(proxy, ways[link.encrypted], link)
                field = list(_field(bench, peers, link, at))
                found = run_rounds(bench, field, table, limits)
                contest.runs.extend(found.runs)
    except (ToxiproxyMissing, PgBouncerMissing) as absent:
        say(f"links are not measured: {absent}")
    return contest


def tls_settings(engine: Engine, folder: Path) -> dict[str, str]:
    """Server variables with which a server speaks TLS itself; its certificate is in ``folder``."""
    if engine is not Engine.MARIADB:
        return {}
    pem = _readable_certificate(folder)
    return {"ssl_cert": pem, "ssl_key": pem}


def _readable_certificate(folder: Path) -> str:
    """Under root the servers run as somebody else. Nothing but a measurement trusts it."""
    pem = certificate(folder)
    pem.chmod(0o644)
    folder.chmod(0o755)
    return str(pem)


@contextmanager
def _ways(server: SourceServer) -> Iterator[dict[bool, Address]]:
    """Where the server listens, by whether that is encrypted."""
    plain = server.address
    if server.engine is Engine.MARIADB:
        yield {False: plain, True: replace(plain, encrypted=True)}
        return
    with tempfile.TemporaryDirectory() as made:
        pem = _readable_certificate(Path(made))
        files = {"client_tls_key_file": pem, "client_tls_cert_file": pem}
        with pgbouncer(plain.port, **_POOL, **files) as pooler:
            yield {False: plain, True: replace(plain, port=pooler.port, encrypted=True)}


def _linked(proxy: Toxiproxy, way: Address, link: Link) -> Address:
    name = f"{way.port}-{link.encrypted}-{link.rtt_ms}-{link.megabits_per_s}"
    wire = proxy.wire(name, f"tcp://{way.host}:{way.port}")
    wire.lengthen(rtt_ms=link.rtt_ms, kilobytes_per_s=link.megabits_per_s * 1_000 // 8)
    return replace(way, port=wire.port)


def _field(bench: Bench, peers: PeersEnvironment, link: Link, at: Address) -> Iterator[Contender]:
    server = bench.server
    engine = server.engine
    environ = {URL_VARIABLE: at.url(server.scheme)}
    # Not in the builds that can be had: the bundled psql, and ConnectorX's driver for MySQL.
    no_tls = {"psql": Engine.POSTGRES, "ConnectorX's driver": Engine.MARIADB}
    absent = {
        who: f"{who} at hand speaks no TLS"
        for who, where in no_tls.items()
        if link.encrypted and engine is where
    }

    def over(contender: Contender) -> Contender:
        name = f"{link.name}{BETWEEN}{contender.name}"
        return replace(contender, name=name, environ={**contender.environ, **environ})

    yield over(
        Contender(
            name=FLOOR_NAMES[engine],
            group=FLOOR,
            command=lambda job: server.floor_command(job.spec.name, at),
            writes_parquet=False,
            environ=server.client_environ(),
            unavailable=absent.get("psql"),
        )
    )
    for count in WORKERS:
        how = chunks(CHUNKS_PER_WORKER * count)
        ours = partial(run_command, workers=count, how=how)
        plural = "s" if count > 1 else ""
        yield over(
            Contender(name=f"rivet-fleet, {count} worker{plural}", group=RIVET, command=ours)
        )
    scanner = scanner_of(engine)
    yield over(
        Contender(
            name="DuckDB, 2 threads",
            group="duckdb",
            command=peer("duckdb_scanner.py", peers, words("2")),
            unavailable=peers.missing("duckdb", f"duckdb-extension-{scanner}-scanner"),
        )
    )
    yield over(
        Contender(
            name="ConnectorX, streamed",
            group=CONNECTORX,
            command=peer("connectorx_read.py", peers, by_key("stream", "1")),
            unavailable=absent.get("ConnectorX's driver") or peers.missing("connectorx", "pyarrow"),
        )
    )
    yield over(
        Contender(
            name=RIVET_CLI,
            group=RIVET_CLI,
            command=partial(rivet_command, peers=peers, encrypted=at.encrypted),
            unavailable=peers.missing("rivet-cli"),
        )
    )
