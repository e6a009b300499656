"""Names of every kind, from the catalogue to the file and back: ``init``, ``check``, ``run``."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pyarrow.parquet as pq
import pytest
import yaml
from psycopg import sql

from rivet_fleet.contracts.facts import FactsRequest
from rivet_fleet.contracts.keys import RelationName
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import SourceRefused
from rivet_fleet.execution.sources.mysql import ENGINE as MYSQL
from rivet_fleet.execution.sources.postgres import ENGINE as POSTGRES
from tests.integration.fleet_cli import Desk
from tests.integration.mysql_source_kit import Sql

NAMES = (
    "sales.orders",
    "100%",
    "%s%(a)s",
    "box 📦",
    'double"quote',
    "it's",
    "back`tick",
    "back\\slash",
    "semi;colon -- x",
    "/* c */ #",
    "${HOME}",
    "{export}{date}",
    "e\u0301",
    "\u00e9",
    "select",
    "Orders",
    "orders",
    "new\nline",
    "a: b",
    "~",
    "x" * 63,
)
"""Each becomes a table, a key, a column and the text in it."""
BLANKS = (" lead", "trail ")
"""Names that only one of the engines has."""
ROWS = 40


def mysql_identifier(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def delivered(desk: Desk) -> dict[str, list[str]]:
    """What the rows say they are from, by export."""
    found: dict[str, list[str]] = {}
    for success in sorted((desk.folder / "exports").glob("*/*/_SUCCESS")):
        for part in sorted(success.parent.glob("*.parquet")):
            table = pq.read_table(part)
            found.setdefault(success.parent.parent.name, []).extend(
                table.column(table.column_names[1]).to_pylist()
            )
    return found


def tables_of(desk: Desk) -> dict[str, str]:
    """export → table: as the scaffold has it."""
    exports = yaml.safe_load(desk.config.read_text())["exports"]
    return {one["name"]: one["table"].replace("${$}", "$") for one in exports}


def everything(desk: Desk, wanted: dict[str, str]) -> None:
    """``init`` to ``validate``: each table's rows, and no other's, in its own export."""
    desk.bare("init", "--source-url-env", "SHOP_DB_URL", "-o", "fleet.yaml")
    text = desk.config.read_text()
    # Cut by the key wherever there is one: its literals and its statistics are names' hardest way.
    desk.config.write_text(
        text.replace("    mode: full", "    mode: chunked\n    chunk_count: 3\n    #")
    )
    checked = desk.cli("check", "--json").json
    refused = {one["export_name"]: one["refused"] for one in checked["exports"] if one["refused"]}
    assert refused == {}
    desk.cli("run")
    desk.cli("validate")
    desk.cli("status")
    tables = tables_of(desk)
    assert sorted(tables.values()) == sorted(wanted)
    found = delivered(desk)
    for export, table in tables.items():
        assert found[export] == [wanted[table]] * ROWS, table


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(folder=tmp_path)


def test_postgres_reads_exactly_the_table_that_is_named(desk: Desk, database: str) -> None:
    wanted = {}
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute('CREATE SCHEMA sales; CREATE SCHEMA "a.b"; CREATE DOMAIN "dom%" AS int')
        places = [("public", name) for name in (*NAMES, *BLANKS)]
        for schema, name in [*places, ("sales", "orders"), ("a.b", 'c"."d')]:
            table, said = sql.Identifier(schema, name), f"{schema} | {name}"
            key, other = sql.Identifier(name), sql.Identifier(f"{name[:60]}2")
            connection.execute(
                sql.SQL('CREATE TABLE {} ({} "dom%" PRIMARY KEY, {} text)').format(
                    table, key, other
                )
            )
            connection.execute(
                sql.SQL("INSERT INTO {} SELECT g, {} FROM generate_series(1, {}) g").format(
                    table, said, ROWS
                )
            )
            wanted[written(schema, name, "public")] = said
        connection.execute("ANALYZE")
    desk.environment["SHOP_DB_URL"] = database
    everything(desk, wanted)


def test_mariadb_reads_exactly_the_table_that_is_named(desk: Desk, mysql_database: str) -> None:
    wanted = {}
    server = Sql(mysql_database)
    for name in (*NAMES, " lead"):
        if any(ord(letter) > 0xFFFF for letter in name):
            continue  # this server's names hold no such character
        table, said = mysql_identifier(name), f"here | {name}"
        server.execute(
            f"CREATE TABLE {table} ({table} int PRIMARY KEY, "
            f"{mysql_identifier(name[:60] + '2')} varchar(200)) CHARACTER SET utf8mb4"
        )
        with server.connection.cursor() as cursor:
            text = server.connection.escape(said)
            for number in range(1, ROWS + 1):
                cursor.execute(f"INSERT INTO {table} VALUES ({number}, {text})")
        wanted[written("", name, "")] = said
    desk.environment["SHOP_DB_URL"] = mysql_database
    everything(desk, wanted)


def test_a_name_is_no_name_that_only_begins_alike(database: str) -> None:
    """PostgreSQL cuts names at 63 bytes: what is longer names nothing."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f'CREATE TABLE "{"x" * 63}" (i int)')
    source = POSTGRES.open_source(parse_database_url(database), application_name="t")
    try:
        for schema in ("", "public"):
            with pytest.raises(SourceRefused, match="does not exist"):
                source.introspect(asked(RelationName(schema=schema, name="x" * 64)))
    finally:
        source.close()


def test_databases_that_differ_by_case_are_two(mariadb, mysql_database: str) -> None:
    server, upper = Sql(mysql_database), Sql(mysql_database).database.upper()
    if server.execute("SELECT @@lower_case_table_names")[0][0] != 0:
        pytest.skip("this server does not tell case")
    server.execute(f"CREATE DATABASE `{upper}`")
    try:
        server.execute(f"CREATE TABLE `{upper}`.t (wrong int)")
        server.execute("CREATE TABLE t (here int)")
        server.execute("CREATE TABLE `tête` (accent int)")
        source = MYSQL.open_source(parse_database_url(mysql_database), application_name="t")
        try:
            for schema, column in (("", "here"), (server.database, "here"), (upper, "wrong")):
                facts = source.introspect(asked(RelationName(schema=schema, name="t")))
                assert [one.name for one in facts.columns] == [column]
            with pytest.raises(SourceRefused, match="does not exist"):
                source.introspect(asked(RelationName(schema="", name="tete")))
        finally:
            source.close()
    finally:
        server.execute(f"DROP DATABASE `{upper}`")


def asked(relation: RelationName) -> FactsRequest:
    return FactsRequest(export_name="t", relation=relation, query=None)


def written(schema: str, name: str, home: str) -> str:
    """The name as SQL has it, by rules of the test's own."""
    parts = [name] if schema == home else [schema, name]
    plain = (part.isascii() and part.isidentifier() for part in parts)
    quoted = ('"' + part.replace('"', '""') + '"' for part in parts)
    return ".".join(p if ok else q for ok, p, q in zip(plain, parts, quoted, strict=True))
