"""Frozen tables on a real MariaDB, and how its server says a value's canonical text.

The same five tables as on PostgreSQL, with what only this engine has: unsigned keys beyond the
signed range, text keys under a collation that takes ``A`` and ``a`` for the same, ``bit``,
``set``, ``time`` and zero-filled precision. The fleet reads as a user that may read and nothing
else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import pymysql
from pymysql.cursors import SSCursor

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
from tests.servers.mariadb import EmbeddedMariadb, embedded_mariadb

_DATABASE = "frozen"
_READER = "reader"
_BLOCK_ROWS = 5000

_TEXT = "CAST({0} AS CHAR CHARACTER SET utf8mb4)"
_CANONICAL = {
    "text": _TEXT,
    "bool": "CASE {0} WHEN 0 THEN 'false' WHEN 1 THEN 'true' END",
    "bits": _TEXT.format("{0} + 0"),
    "bytes": "LOWER(HEX({0}))",
    "date": _TEXT.format("DATEDIFF({0}, '1970-01-01')"),
    "timestamp": _TEXT.format("TIMESTAMPDIFF(MICROSECOND, '1970-01-01', {0})"),
    "time": _TEXT.format("CAST(TIME_TO_SEC({0}) * 1000000 AS SIGNED)"),
    "digits": _TEXT,
}
"""Canonical text of a value by kind, as the server says it."""

_PAYLOAD = (
    SourceColumn(
        name="amount",
        definition="decimal(14,4)",
        filled="CASE WHEN g % 11 = 0 THEN NULL ELSE ((g * 7919) % 100000003) / 10000 END",
    ),
    SourceColumn(
        name="note",
        definition="text",
        filled="CASE g % 5 WHEN 0 THEN NULL WHEN 1 THEN '' "
        "ELSE concat('nöte \"', elt(1 + g % 3, '😀', '\\\\', '\\t'), md5(g)) END",
    ),
    SourceColumn(
        name="seen_at",
        definition="timestamp(6) NULL",
        filled="timestamp '2021-03-04 05:06:07.000008' + interval g second "
        "+ interval 17 * g microsecond",
        kind="timestamp",
    ),
)
_RICH = (
    SourceColumn(
        name="local_at",
        definition="datetime(6)",
        filled="CASE WHEN g % 13 = 0 THEN NULL ELSE "
        "timestamp '1969-12-31 23:59:59.999999' + interval g minute END",
        kind="timestamp",
    ),
    SourceColumn(
        name="born",
        definition="date NOT NULL",
        filled="date '1970-02-28' + interval (g % 9000) - 4000 day",
        kind="date",
    ),
    SourceColumn(
        name="doc",
        definition="json",
        filled="CASE WHEN g % 7 = 0 THEN NULL ELSE "
        "json_object('g', g, 'ä', NULL, 'list', json_array(1.50, 'x')) END",
    ),
    SourceColumn(
        name="tags",
        definition="set('a', 'é', 'z')",
        filled="CASE g % 4 WHEN 0 THEN NULL WHEN 1 THEN '' "
        "ELSE elt(1 + g % 3, 'a,é', 'z', 'a') END",
    ),
    SourceColumn(name="mood", definition="enum('gut', 'schön') NOT NULL", filled="1 + g % 2"),
    SourceColumn(name="flags", definition="bit(12)", filled="nullif(g % 4096, 1)", kind="bits"),
    SourceColumn(
        name="spent",
        definition="time(6)",
        filled="CASE WHEN g % 17 = 0 THEN NULL ELSE "
        "sec_to_time((g * 7919) % 86400 + (g % 1000003) * 0.000001) END",
        kind="time",
    ),
    SourceColumn(name="score", definition="double", filled="sqrt(g)", kind="digits"),
    SourceColumn(name="raw", definition="varbinary(40)", filled="unhex(md5(g))", kind="bytes"),
    SourceColumn(
        name="paid",
        definition="tinyint(1)",
        filled="CASE g % 3 WHEN 2 THEN NULL ELSE g % 3 END",
        kind="bool",
    ),
)

_ORDERS = SourceTable(
    name=ORDERS,
    columns=(
        SourceColumn(
            name="id",
            definition="bigint unsigned NOT NULL PRIMARY KEY",
            # Half of them lie beyond the signed range.
            filled="9223372036854775807 - 1500 + CAST(g AS unsigned)",
        ),
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
            definition="varchar(60) COLLATE utf8mb4_unicode_ci NOT NULL PRIMARY KEY",
            filled="concat(elt(1 + g % 5, 'A', 'a', 'Ä', 'ß', 'Ss'), md5(concat('device', g)))",
        ),
        *_PAYLOAD,
    ),
    key=("device_id",),
    read="mode: chunked, chunk_by_key: [device_id]",
)
_LINES = SourceTable(
    name=LINES,
    columns=(
        SourceColumn(
            name="region",
            definition="varchar(20) COLLATE utf8mb4_bin NOT NULL",
            filled="concat(char(97 + g % 26 USING utf8mb4), 'ß')",
        ),
        SourceColumn(name="line_no", definition="int NOT NULL", filled="g DIV 26"),
        *_PAYLOAD,
    ),
    key=("region", "line_no"),
    read="mode: chunked, chunk_by_key: [region, line_no]",
    constraint=", PRIMARY KEY (region, line_no)",
)
_KEYLESS = SourceTable(
    name=KEYLESS,
    columns=(
        SourceColumn(name="word", definition="varchar(40)", filled="md5(g - (g % 4) DIV 3)"),
        SourceColumn(name="size", definition="int", filled="(g - (g % 4) DIV 3) % 1000"),
    ),
    key=(),
    # No blocks to cut by: one chunk, one statement.
    read="mode: chunked",
)
_SLIM = SourceTable(
    name=SLIM,
    columns=(
        SourceColumn(name="id", definition="bigint NOT NULL PRIMARY KEY", filled="g"),
        *_PAYLOAD,
    ),
    key=("id",),
    read="mode: chunked, chunk_column: id",
)
_TABLES = {table.name: table for table in (_ORDERS, _DEVICES, _LINES, _KEYLESS, _SLIM)}


class MariadbSource:
    """MariaDB as the source."""

    name = "mariadb"

    def server(self) -> contextlib.AbstractContextManager[SourceServer]:
        """A server that keeps what it committed when it is killed."""
        return embedded_mariadb()

    def build(
        self, server: SourceServer, folder: Path, *, rows: int, tables: Sequence[str]
    ) -> Frozen:
        """Create and fill the tables in a database of their own, and a user who may read them."""
        maria = cast(EmbeddedMariadb, server)
        maria.create_database(_DATABASE)
        maria.sql(
            f"CREATE USER '{_READER}'@'127.0.0.1'; "
            f"GRANT SELECT ON {_DATABASE}.* TO '{_READER}'@'127.0.0.1'"
        )
        chosen = {name: _TABLES[name] for name in tables}
        digests = {}
        with contextlib.closing(_connect(maria.url(_DATABASE))) as connection:
            for name, table in chosen.items():
                _fill(connection, table, rows)
                digests[name] = write_digest(table, folder, _hashed_rows(connection, table))
        return Frozen(url=maria.url(_DATABASE, user=_READER), tables=chosen, digests=digests)


def _connect(url: str) -> pymysql.Connection[pymysql.cursors.Cursor]:
    target = urlsplit(url)
    return pymysql.connect(
        host=target.hostname or "",
        port=target.port or 0,
        user=target.username,
        password=target.password or "",
        database=target.path.lstrip("/"),
        charset="utf8mb4",
        autocommit=True,
        init_command="SET time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES'",
    )


def _fill(
    connection: pymysql.Connection[pymysql.cursors.Cursor], table: SourceTable, rows: int
) -> None:
    columns = ", ".join(f"{c.name} {c.definition}" for c in table.columns)
    filled = ", ".join(c.filled for c in table.columns)
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE `{table.name}` ({columns}{table.constraint})")
        cursor.execute(
            f"INSERT INTO `{table.name}` SELECT {filled} "
            f"FROM (SELECT CAST(seq AS signed) AS g FROM seq_1_to_{rows}) AS numbers"
        )
        cursor.execute(f"ANALYZE TABLE `{table.name}`")


def _hashed_rows(
    connection: pymysql.Connection[pymysql.cursors.Cursor], table: SourceTable
) -> Iterator[bytes]:
    key = [c for c in table.columns if c.name in table.key]
    with connection.cursor(SSCursor) as cursor:
        cursor.execute(f"SELECT {_cells(key)}, md5({_cells(table.columns)}) FROM `{table.name}`")
        while block := cursor.fetchmany(_BLOCK_ROWS):
            yield "".join(f'"{_quoted(key)}","{row_hash}"\n' for key, row_hash in block).encode()


def _quoted(text: str) -> str:
    return text.replace('"', '""')


def _cells(columns: Sequence[SourceColumn]) -> str:
    """The canonical text of these columns as an SQL expression."""
    cells = []
    for column in columns:
        text = _CANONICAL[column.kind].format(column.name)
        cells.append(f"coalesce(concat(octet_length({text}), ':', {text}), '-')")
    return "concat_ws(','" + "".join(f", {cell}" for cell in cells) + ")" if cells else "'keyless'"
