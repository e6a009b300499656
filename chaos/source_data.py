"""Frozen source tables on a real PostgreSQL, and their digest by the server alone.

The digest of a table is one line per row: the canonical text of its key and the MD5 of the
canonical text of the whole row, both computed in SQL. Nothing of rivet_fleet decodes anything
here; ``chaos/oracle.py`` says the same canonical text from the Parquet files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

_CANONICAL = {
    "text": "{0}::text",
    "uuid": "{0}::text",
    "bytes": "encode({0}, 'hex')",
    "date": "({0} - date '1970-01-01')::text",
    "timestamp": "(extract(epoch from {0}) * 1000000)::bigint::text",
    "array": "array_to_json({0})::text",
    "double": "encode(float8send({0}), 'hex')",
}
"""Canonical text of a value by kind, as the server says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceColumn:
    """One column: its SQL definition, how it is filled from ``g`` (1, 2, 3 …), and its kind."""

    name: str
    definition: str
    filled: str
    kind: str = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTable:
    """One frozen table. ``key`` empty means that it has none. ``read`` is how the
    configuration asks for it."""

    name: str
    columns: tuple[SourceColumn, ...]
    key: tuple[str, ...]
    read: str
    constraint: str = ""


_PAYLOAD = (
    SourceColumn(
        name="amount",
        definition="numeric(14,4)",
        filled="CASE WHEN g % 11 = 0 THEN NULL ELSE ((g * 7919) % 100000003)::numeric / 10000 END",
    ),
    SourceColumn(
        name="note",
        definition="text",
        filled="CASE g % 5 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE 'nöte \"' || md5(g::text) END",
    ),
    SourceColumn(
        name="seen_at",
        definition="timestamptz",
        filled="timestamptz '2021-03-04 05:06:07.000008+00' + g * interval '1 second 17 us'",
        kind="timestamp",
    ),
)
_RICH = (
    SourceColumn(
        name="local_at",
        definition="timestamp",
        filled="CASE WHEN g % 13 = 0 THEN NULL ELSE timestamp '1969-12-31 23:59:59.999999' "
        "+ g * interval '1 minute' END",
        kind="timestamp",
    ),
    SourceColumn(
        name="born",
        definition="date NOT NULL",
        filled="date '1970-02-28' + (g % 9000)::int - 4000",
        kind="date",
    ),
    SourceColumn(
        name="doc",
        definition="jsonb",
        filled="CASE WHEN g % 7 = 0 THEN NULL ELSE "
        "jsonb_build_object('g', g, 'ä', NULL, 'list', jsonb_build_array(1.50, 'x')) END",
    ),
    SourceColumn(
        name="tags",
        definition="text[]",
        filled="CASE g % 4 WHEN 0 THEN NULL WHEN 1 THEN '{}' ELSE ARRAY['a\"' || g, NULL, 'é'] END",
        kind="array",
    ),
    SourceColumn(
        name="counts",
        definition="int[]",
        filled="ARRAY[(g % 1000)::int, NULL, -(g % 7)::int]",
        kind="array",
    ),
    SourceColumn(name="score", definition="float8", filled="sqrt(g)", kind="double"),
    SourceColumn(
        name="raw", definition="bytea", filled="decode(md5(g::text), 'hex')", kind="bytes"
    ),
    SourceColumn(name="paid", definition="bool", filled="NULLIF(g % 3, 2) = 1"),
)

ORDERS = SourceTable(
    name="orders",
    columns=(
        SourceColumn(name="id", definition="bigint PRIMARY KEY", filled="g"),
        *_PAYLOAD,
        *_RICH,
    ),
    key=("id",),
    read="mode: chunked, chunk_column: id",
)
DEVICES = SourceTable(
    name="devices",
    columns=(
        SourceColumn(
            name="device_id",
            definition="uuid PRIMARY KEY",
            filled="md5('device' || g)::uuid",
            kind="uuid",
        ),
        *_PAYLOAD,
    ),
    key=("device_id",),
    read="mode: chunked, chunk_by_key: [device_id]",
)
LINES = SourceTable(
    name="lines",
    columns=(
        SourceColumn(name="region", definition="text", filled="chr(97 + (g % 26)::int) || 'ß'"),
        SourceColumn(name="line_no", definition="int", filled="(g / 26)::int"),
        *_PAYLOAD,
    ),
    key=("region", "line_no"),
    read="mode: chunked, chunk_by_key: [region, line_no]",
    constraint=", PRIMARY KEY (region, line_no)",
)
KEYLESS = SourceTable(
    name="keyless",
    columns=(
        # Every fourth row is an exact twin of another one: multisets, not sets.
        SourceColumn(name="word", definition="text", filled="md5((g - (g % 4) / 3)::text)"),
        SourceColumn(name="size", definition="int", filled="((g - (g % 4) / 3) % 1000)::int"),
    ),
    key=(),
    read="mode: chunked",
)
TABLES = (ORDERS, DEVICES, LINES, KEYLESS)

SLIM = SourceTable(
    name="slim",
    columns=(SourceColumn(name="id", definition="bigint PRIMARY KEY", filled="g"), *_PAYLOAD),
    key=("id",),
    read="mode: chunked, chunk_column: id",
)
"""For millions of rows."""


def build(
    url: str, folder: Path, *, rows: int, tables: Sequence[SourceTable] = TABLES
) -> dict[str, Path]:
    """Create and fill the tables, freeze them, and write their digests into ``folder``.

    Returns the digest file of each table by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digests = {}
    with psycopg.connect(url, autocommit=True) as connection:
        for table in tables:
            _fill(connection, table, rows)
            digests[table.name] = _digest(connection, table, folder)
    return digests


def _fill(connection: psycopg.Connection, table: SourceTable, rows: int) -> None:
    columns = ", ".join(f"{c.name} {c.definition}" for c in table.columns)
    filled = ", ".join(c.filled for c in table.columns)
    connection.execute(f"CREATE TABLE {table.name} ({columns}{table.constraint})".encode())
    connection.execute(
        f"INSERT INTO {table.name} SELECT {filled} "
        f"FROM generate_series(1::bigint, {rows}) AS g".encode()
    )
    connection.execute(f"VACUUM ANALYZE {table.name}".encode())


def _digest(connection: psycopg.Connection, table: SourceTable, folder: Path) -> Path:
    key = [c for c in table.columns if c.name in table.key]
    select = f"SELECT {_cells(key)}, md5({_cells(table.columns)}) FROM {table.name}"
    hashes = folder / f"{table.name}.csv"
    with hashes.open("wb") as file, connection.cursor() as cursor:
        with cursor.copy(f"COPY ({select}) TO STDOUT (FORMAT csv, FORCE_QUOTE *)".encode()) as copy:
            for block in copy:
                file.write(block)
        rows = cursor.rowcount
    spec = {
        "table": table.name,
        "rows": rows,
        "key": list(table.key),
        "columns": [{"name": c.name, "kind": c.kind} for c in table.columns],
        "hashes": hashes.name,
    }
    path = folder / f"{table.name}.json"
    path.write_text(json.dumps(spec, indent=1) + "\n")
    return path


def _cells(columns: Sequence[SourceColumn]) -> str:
    """The canonical text of these columns as an SQL expression."""
    cells = []
    for column in columns:
        text = _CANONICAL[column.kind].format(column.name)
        cells.append(f"coalesce(octet_length({text}) || ':' || {text}, '-')")
    return "concat_ws(','" + "".join(f", {cell}" for cell in cells) + ")" if cells else "'keyless'"
