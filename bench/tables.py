"""Filling the source: each table once per scale, kept in the server's data folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.checks import Dialect, statement
from bench.schema import EVENTS, LINEITEM, WIDE, Engine, TableSpec
from bench.sources.server import LoadedTable, SourceServer

EVENTS_ROWS = 10_000_000
WIDE_ROWS = 100_000
_STAMPS = "bench_loaded"
_DIALECTS = {Engine.POSTGRES: Dialect.POSTGRES, Engine.MARIADB: Dialect.MARIADB}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is loaded. ``scale`` 1: 6,001,215 rows of lineitem, 10 million events."""

    scale: float
    events_rows: int | None = None

    @property
    def rows(self) -> dict[str, int]:
        """Rows of the generated tables by name; lineitem's are tpchgen's affair."""
        events = self.events_rows or round(EVENTS_ROWS * self.scale)
        return {EVENTS.name: max(1, events), WIDE.name: max(1, round(WIDE_ROWS * self.scale))}


def load(server: SourceServer, spec: TableSpec, sizes: Sizes, tpchgen: Path) -> LoadedTable:
    """The table as it is wanted: found from an earlier run, or generated now."""
    rows = str(sizes.rows.get(spec.name, sizes.scale))
    known = _known(server, spec, rows)
    if known is None:
        _say(f"loading {spec.name} into {server.engine.value} …")
        server.load(spec, _generator(server.engine, spec, sizes, tpchgen))
        known = _settled(server, spec, rows)
    return known


def first_rows(server: SourceServer, table: LoadedTable, rows: int) -> LoadedTable:
    """A table of the first ``rows`` rows, or the table itself when it is no larger."""
    if rows >= table.rows:
        return table
    spec = table.spec.first(rows)
    # What it was cut from counts, too: a reloaded table's subsets are made anew.
    wanted = f"{rows} of {table.rows}"
    known = _known(server, spec, wanted)
    if known is None:
        server.fill_from(spec, rows)
        known = _settled(server, spec, wanted)
    return known


def _generator(engine: Engine, spec: TableSpec, sizes: Sizes, tpchgen: Path) -> Sequence[str]:
    if spec.name == LINEITEM.name:
        scale = str(sizes.scale)
        return [str(tpchgen), "csv", "-s", scale, "-T", spec.name, "--stdout", "-q"]
    rows = str(sizes.rows[spec.name])
    return [sys.executable, "-m", "bench.generate", spec.name, rows, engine.value]


def _known(server: SourceServer, spec: TableSpec, rows: str) -> LoadedTable | None:
    """From the stamp that ``_settled`` left, when it is of this very content."""
    server.query(
        f"CREATE TABLE IF NOT EXISTS {_STAMPS} (name varchar(100) PRIMARY KEY, "
        "digest varchar(100), row_count bigint, source_bytes bigint, checks text)"
    )
    digest = _digest(server, spec, rows)
    found = server.query(
        f"SELECT row_count, source_bytes, checks FROM {_STAMPS} "
        f"WHERE name = '{spec.name}' AND digest = '{digest}'"
    )
    if not found:
        return None
    row_count, source_bytes, checks = found[0]
    return LoadedTable(
        spec=spec,
        rows=int(row_count),
        source_bytes=int(source_bytes),
        checks=tuple(json.loads(checks)),
    )


def _settled(server: SourceServer, spec: TableSpec, rows: str) -> LoadedTable:
    """Statistics, the source's own figures, and the stamp that says the load is whole."""
    server.settle(spec.name)
    checks = tuple(server.query(_figures(server, spec))[0])
    table = LoadedTable(
        spec=spec,
        rows=int(checks[0]),
        source_bytes=server.table_bytes(spec.name),
        checks=checks,
    )
    server.query(f"DELETE FROM {_STAMPS} WHERE name = '{spec.name}'")
    server.query(
        f"INSERT INTO {_STAMPS} VALUES ('{spec.name}', '{_digest(server, spec, rows)}', "
        f"{table.rows}, {table.source_bytes}, '{json.dumps(checks)}')"
    )
    return table


def _figures(server: SourceServer, spec: TableSpec) -> str:
    return statement(spec.columns, _DIALECTS[server.engine], server.engine, spec.name)


def _digest(server: SourceServer, spec: TableSpec, rows: str) -> str:
    """Of what is loaded and of what is then asked about it."""
    return spec.digest(server.engine, rows, _figures(server, spec))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
