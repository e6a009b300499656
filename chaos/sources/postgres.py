"""Frozen tables on a real PostgreSQL, and how its server says a value's canonical text."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import psycopg

from chaos.source_data import (
    DEVICES,
    KEYLESS,
    LINES,
    ORDERS,
    SLIM,
    Frozen,
    SourceColumn,
    SourceServer,
    SourceTable,
    write_digest,
)
from rivet_fleet.demo.embedded import EmbeddedPostgres, embedded_postgres

_DATABASE = "frozen"

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

_ORDERS = SourceTable(
    name=ORDERS,
    columns=(
        SourceColumn(name="id", definition="bigint PRIMARY KEY", filled="g"),
        *_PAYLOAD,
        *_RICH,
    ),
    key=("id",),
    read="mode: chunked, chunk_column: id",
)
_DEVICES = SourceTable(
    name=DEVICES,
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
_LINES = SourceTable(
    name=LINES,
    columns=(
        SourceColumn(name="region", definition="text", filled="chr(97 + (g % 26)::int) || 'ß'"),
        SourceColumn(name="line_no", definition="int", filled="(g / 26)::int"),
        *_PAYLOAD,
    ),
    key=("region", "line_no"),
    read="mode: chunked, chunk_by_key: [region, line_no]",
    constraint=", PRIMARY KEY (region, line_no)",
)
_KEYLESS = SourceTable(
    name=KEYLESS,
    columns=(
        # Every fourth row is an exact twin of another one: multisets, not sets.
        SourceColumn(name="word", definition="text", filled="md5((g - (g % 4) / 3)::text)"),
        SourceColumn(name="size", definition="int", filled="((g - (g % 4) / 3) % 1000)::int"),
    ),
    key=(),
    read="mode: chunked",
)
_SLIM = SourceTable(
    name=SLIM,
    columns=(SourceColumn(name="id", definition="bigint PRIMARY KEY", filled="g"), *_PAYLOAD),
    key=("id",),
    read="mode: chunked, chunk_column: id",
)
_TABLES = {table.name: table for table in (_ORDERS, _DEVICES, _LINES, _KEYLESS, _SLIM)}


class PostgresSource:
    """PostgreSQL as the source."""

    name = "postgres"

    def server(self) -> contextlib.AbstractContextManager[SourceServer]:
        """A server that nobody has promised to survive a power cut."""
        return embedded_postgres(settings={"fsync": "off"})

    def build(
        self, server: SourceServer, folder: Path, *, rows: int, tables: Sequence[str]
    ) -> Frozen:
        """Create, fill and freeze the tables in a database of their own."""
        url = cast(EmbeddedPostgres, server).create_database(_DATABASE)
        chosen = {name: _TABLES[name] for name in tables}
        digests = {}
        with psycopg.connect(url, autocommit=True) as connection:
            for name, table in chosen.items():
                _fill(connection, table, rows)
                digests[name] = write_digest(table, folder, _hashed_rows(connection, table))
        return Frozen(url=url, tables=chosen, digests=digests)


def _fill(connection: psycopg.Connection, table: SourceTable, rows: int) -> None:
    columns = ", ".join(f"{c.name} {c.definition}" for c in table.columns)
    filled = ", ".join(c.filled for c in table.columns)
    connection.execute(f"CREATE TABLE {table.name} ({columns}{table.constraint})".encode())
    connection.execute(
        f"INSERT INTO {table.name} SELECT {filled} "
        f"FROM generate_series(1::bigint, {rows}) AS g".encode()
    )
    connection.execute(f"VACUUM ANALYZE {table.name}".encode())


def _hashed_rows(connection: psycopg.Connection, table: SourceTable) -> Iterator[bytes]:
    key = [c for c in table.columns if c.name in table.key]
    select = f"SELECT {_cells(key)}, md5({_cells(table.columns)}) FROM {table.name}"
    copy_out = f"COPY ({select}) TO STDOUT (FORMAT csv, FORCE_QUOTE *)".encode()
    with connection.cursor() as cursor, cursor.copy(copy_out) as copy:
        for block in copy:
            yield bytes(block)


def _cells(columns: Sequence[SourceColumn]) -> str:
    """The canonical text of these columns as an SQL expression."""
    cells = []
    for column in columns:
        text = _CANONICAL[column.kind].format(column.name)
        cells.append(f"coalesce(octet_length({text}) || ':' || {text}, '-')")
    return "concat_ws(','" + "".join(f", {cell}" for cell in cells) + ")" if cells else "'keyless'"
