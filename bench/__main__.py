"""``python -m bench``: load the data, measure what was asked for, judge, print one report."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.claims import STATES, measure_claims
from bench.contenders import contenders
from bench.goals import judge
from bench.links import over_links, tls_settings
from bench.machine import machine_facts, moment_facts
from bench.odbc import OdbcDrivers, odbc_drivers
from bench.options import Options, parse_options
from bench.parts import MEMORY_ROWS, many_chunks, memory, servo, startup
from bench.peers_env import PeersEnvironment, peers_environment
from bench.render import render, write_docs
from bench.results import merged, read_results, results_path, write_results
from bench.rounds import Bench, Limits, run_rounds, say
from bench.schema import TABLES, Engine
from bench.small import small
from bench.sources.mariadb import mariadb_server
from bench.sources.postgres import postgres_server
from bench.sources.server import LoadedTable, SourceServer
from bench.stores import into_store
from bench.tables import Sizes, load
from bench.values import Section, TableFacts
from rivet_fleet.demo.embedded import EmbeddedPostgresMissing
from tests.servers.mariadb import EmbeddedMariadbMissing

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "explanation" / "benchmarks.md"
OUTPUT = ROOT / "bench-output"
LOAD_WARNING = 0.5
_SERVERS: dict[Engine, Callable[..., AbstractContextManager[SourceServer]]] = {
    Engine.POSTGRES: postgres_server,
    Engine.MARIADB: mariadb_server,
}
_WITH_TABLES = ("contest", "chunks", "servo", "stores", "links", "memory")
_WITH_SERVER = (*_WITH_TABLES, "small")


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """What every part needs to know."""

    options: Options
    peers: PeersEnvironment
    odbc: OdbcDrivers
    environ: dict[str, str]
    context: dict[str, str]
    deadline_s: float
    output: Path


def main(arguments: Sequence[str] | None = None, output: Path = OUTPUT) -> int:
    """Everything; 0 even when a goal is missed, unless ``--strict``."""
    options = parse_options(sys.argv[1:] if arguments is None else arguments)
    # As Ctrl-C does: servers are stopped and folders removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    path = results_path(output, options.scale)
    results = read_results(path, options.scale)
    if not options.render_only:
        invocation = _invocation(options, output)
        machine = {**machine_facts(), **_versions(invocation)}
        for section in _measured(invocation):
            # Written after each: what was measured survives an interruption.
            results = merged(results, machine, [section])
            write_results(path, results)
    report = render(results)
    path.with_suffix(".md").write_text(report)
    print(report)
    if options.write_docs:
        write_docs(DOCS, results)
    say(f"every run: {path.name} in {output.name}")
    failed = [goal for goal in judge(results) if goal.passed is False]
    return 1 if failed and options.strict else 0


def _invocation(options: Options, output: Path) -> Invocation:
    load_before = os.getloadavg()[0]
    if load_before > LOAD_WARNING:
        say(f"warning: the machine is not quiet (load {load_before:.2f})")
    output.mkdir(exist_ok=True)
    # Nobody shall compile its modules anew in every process.
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return Invocation(
        options=options,
        peers=peers_environment(ROOT),
        odbc=odbc_drivers(ROOT),
        environ=environ,
        context={**moment_facts(ROOT, load_before=load_before), "command": options.command},
        deadline_s=time.monotonic() + options.budget_s,
        output=output,
    )


def _versions(invocation: Invocation) -> dict[str, str]:
    named = {**invocation.peers.versions, **invocation.odbc.versions}
    return {f"peers' {k}" if k == "pyarrow" else k: v for k, v in named.items()}


def _measured(invocation: Invocation) -> Iterator[Section]:
    """Every part that was asked for, as soon as it is there."""
    options, context = invocation.options, invocation.context
    if set(options.parts) & set(_WITH_SERVER):
        for engine in options.engines:
            yield from _of_engine(invocation, engine)
    if "startup" in options.parts:
        yield Section(key="startup", context=context, startup=(startup(invocation.environ),))
    if "claims" in options.parts:
        say("claims per second …")
        rates = tuple(measure_claims(ROOT, state) for state in STATES)
        yield Section(key="claims", context=context, claims=rates)


def _of_engine(invocation: Invocation, engine: Engine) -> Iterator[Section]:
    folder = invocation.output / "servers" / f"scale-{invocation.options.scale:g}"
    try:
        with ExitStack() as stack:
            settings = {}
            if "links" in invocation.options.parts:
                made = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                settings = tls_settings(engine, made)
            server = stack.enter_context(_SERVERS[engine](folder, **settings))
            invocation.context[engine.value] = server.version()
            yield from _of_server(invocation, server)
    except (EmbeddedPostgresMissing, EmbeddedMariadbMissing) as absent:
        say(f"{engine.value} is not measured: {absent}")


def _of_server(invocation: Invocation, server: SourceServer) -> Iterator[Section]:
    options = invocation.options
    bench = Bench(server=server, environ=invocation.environ)
    sizes = Sizes(scale=options.scale, events_rows=options.events_rows)
    limits = Limits(rounds=options.rounds, deadline_s=invocation.deadline_s)
    field = contenders(
        server,
        invocation.peers,
        invocation.odbc,
        workers=options.workers,
        groups=options.contenders,
    )
    if "small" in options.parts:
        found = tuple(small(bench, invocation.peers, limits))
        key = f"small/{server.engine.value}"
        yield Section(key=key, context=_context(invocation, server), runs=found)
    if not set(options.parts) & set(_WITH_TABLES):
        return
    for name in options.tables:
        table = load(server, TABLES[name], sizes, invocation.peers.tpchgen)

        section = partial(_section, invocation, server, table)
        if "contest" in options.parts:
            contest = run_rounds(bench, field, table, limits)
            yield section("contest", runs=contest.runs, fidelity=contest.fidelity)
        if "chunks" in options.parts and name == "lineitem":
            contest, times = many_chunks(bench, table, limits)
            yield section("chunks", runs=contest.runs, lifecycles=times)
        if "servo" in options.parts:
            yield section("servo", runs=servo(bench, table, limits).runs)
        if "stores" in options.parts and name == "lineitem":
            runs = into_store(bench, invocation.peers, table, limits).runs
            yield section("stores", runs=runs)
        if "links" in options.parts and name == "lineitem":
            yield section("links", runs=over_links(bench, invocation.peers, table, limits).runs)
        if "memory" in options.parts and name in MEMORY_ROWS:
            yield section("memory", memory=memory(bench, table))


def _section(
    invocation: Invocation,
    server: SourceServer,
    table: LoadedTable,
    kind: str,
    **found: Sequence[Any],
) -> Section:
    facts = TableFacts(
        engine=server.engine.value,
        name=table.spec.name,
        rows=table.rows,
        source_bytes=table.source_bytes,
    )
    lists: dict[str, Any] = {name: tuple(values) for name, values in found.items()}
    return Section(
        key=f"{kind}/{server.engine.value}/{table.spec.name}",
        context=_context(invocation, server),
        table=facts,
        **lists,
    )


def _context(invocation: Invocation, server: SourceServer) -> dict[str, str]:
    others = {engine.value for engine in Engine} - {server.engine.value}
    return {k: v for k, v in invocation.context.items() if k not in others}


if __name__ == "__main__":
    sys.exit(main())
