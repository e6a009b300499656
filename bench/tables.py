"""The data: TPC-H lineitem, its first rows as smaller tables, and a wide table."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from rivet_fleet.demo.embedded import EmbeddedPostgres

_SQL = Path(__file__).parent / "sql"
_LINEITEM_KEY = "(l_orderkey, l_linenumber)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One filled table of the source. ``heap_bytes`` counts its TOAST, not its indexes."""

    name: str
    rows: int
    heap_bytes: int


def load_lineitem(server: EmbeddedPostgres, tpchgen: Path, scale: float) -> Table:
    """lineitem at ``scale`` (1: 6,001,215 rows), with its primary key. Raises RuntimeError."""
    server.psql((_SQL / "lineitem.sql").read_text())
    generate = [str(tpchgen), "csv", "-s", str(scale), "-T", "lineitem", "--stdout", "-q"]
    copy = [
        *(str(server.bin / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1"),
        *("-c", "COPY lineitem FROM STDIN (FORMAT csv, HEADER)", server.url()),
    ]
    with subprocess.Popen(generate, stdout=subprocess.PIPE) as source:
        loaded = subprocess.run(copy, stdin=source.stdout, check=False, capture_output=True)
    if source.returncode or loaded.returncode:
        raise RuntimeError(f"loading lineitem failed: {loaded.stderr.decode().strip()}")
    server.psql(f"ALTER TABLE lineitem ADD PRIMARY KEY {_LINEITEM_KEY}")
    return _settled(server, "lineitem")


def load_wide(server: EmbeddedPostgres, rows: int) -> Table:
    """``rows`` rows of about 4 KB, the same on every machine."""
    server.psql(f"\\set rows {rows}\n" + (_SQL / "wide.sql").read_text())
    return _settled(server, "wide")


def first_rows(server: EmbeddedPostgres, lineitem: Table, rows: int) -> Table:
    """A table of lineitem's first ``rows`` rows, or lineitem itself when it is no larger."""
    if rows >= lineitem.rows:
        return lineitem
    name = f"lineitem_{rows}"
    server.psql(
        f"CREATE TABLE {name} (LIKE lineitem);"
        f"INSERT INTO {name} SELECT * FROM lineitem ORDER BY {_LINEITEM_KEY[1:-1]} LIMIT {rows};"
        f"ALTER TABLE {name} ADD PRIMARY KEY {_LINEITEM_KEY}"
    )
    return _settled(server, name)


def _settled(server: EmbeddedPostgres, name: str) -> Table:
    """Vacuumed and analyzed, so that no contender pays for hint bits or bad statistics."""
    server.psql(f"VACUUM (ANALYZE, FREEZE) {name}")
    rows, heap_bytes = server.psql(f"SELECT count(*), pg_table_size('{name}') FROM {name}").split(
        "|"
    )
    return Table(name=name, rows=int(rows), heap_bytes=int(heap_bytes))
