"""Random identifiers and folders: what is named is what is read, on both engines, page by page."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import psycopg
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from psycopg import sql as composed

from rivet_fleet.contracts.facts import FactsRequest
from rivet_fleet.contracts.keys import ChunkRange, RangeKind, RelationName, parse_relation
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.execution.source import PageLimit, Source
from rivet_fleet.execution.sources.mysql import ENGINE as MYSQL
from rivet_fleet.execution.sources.postgres import ENGINE as POSTGRES
from rivet_fleet.persistence.open import dialect_of, sqlite_path, store_exists
from tests.integration.mysql_source_kit import Sql
from tests.integration.postgres_source_kit import drain, read_plan

PIECES = st.sampled_from(
    [
        *(".", "%", "%s", "'", '"', "`", "\\", ";", "--", "/*", "*/", "#", "$", "${X}", "{export}"),
        *(" ", "select", "A", "a", "é", "e\u0301", "📦", "\n", "\t", "?", "&", ":", "(", ")", "@"),
        "x" * 20,
    ]
)
PAGE = PageLimit(rows_max=3, bytes_max=1 << 20)
_numbers = itertools.count(1)


def _names(bytes_max: int) -> st.SearchStrategy[str]:
    made = st.lists(PIECES, min_size=1, max_size=6).map("".join)
    return made.filter(lambda name: len(name.encode()) <= bytes_max and name.strip() == name)


def _read(source: Source, relation: RelationName, key: str, other: str) -> list[tuple[int, str]]:
    """Through the name as a configuration writes it, cut in the middle, in pages of three rows."""
    written = parse_relation(str(relation))
    assert written == relation
    facts = source.introspect(
        FactsRequest(export_name="x", relation=written, query=None, key_columns=(key,))
    )
    plan = read_plan(facts)
    found: list[tuple[int, str]] = []
    for lower, upper in ((None, ("5",)), (("5",), None)):
        chunk = ChunkRange(kind=RangeKind.KEYSET, columns=(key,), lower=lower, upper=upper)
        table = drain(source.open_chunk(plan, chunk, TuningPlan()), PAGE)
        found += list(
            zip(table.column(key).to_pylist(), table.column(other).to_pylist(), strict=True)
        )
    return found


ROWS = [(number, "here") for number in range(1, 11)]
SETTINGS = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@SETTINGS
@given(schema=_names(63), table=_names(63), key=_names(63), other=_names(60), domain=_names(63))
def test_random_names_of_postgres(
    database: str, schema: str, table: str, key: str, other: str, domain: str
) -> None:
    assume(key != other and not schema.startswith("pg_"))
    place = composed.Identifier(schema, table)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            composed.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(composed.Identifier(schema))
        )
        connection.execute(composed.SQL("DROP TABLE IF EXISTS {}").format(place))
        kind = composed.Identifier(schema, f"{domain[:20]}_{next(_numbers)}")
        connection.execute(composed.SQL("CREATE DOMAIN {} AS int").format(kind))
        names = [composed.Identifier(key), composed.Identifier(other)]
        connection.execute(
            composed.SQL("CREATE TABLE {} ({} {} PRIMARY KEY, {} text)").format(
                place, names[0], kind, names[1]
            )
        )
        connection.execute(
            composed.SQL("INSERT INTO {} SELECT i, 'here' FROM generate_series(1, 10) i").format(
                place
            )
        )
        connection.execute(composed.SQL("ANALYZE {}").format(place))
    source = POSTGRES.open_source(parse_database_url(database), application_name="rivet-test")
    try:
        assert _read(source, RelationName(schema=schema, name=table), key, other) == ROWS
    finally:
        source.close()


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


@SETTINGS
@given(schema=_names(40), table=_names(40), key=_names(40), other=_names(40))
def test_random_names_of_mysql(
    mysql_database: str, schema: str, table: str, key: str, other: str
) -> None:
    # These servers have no characters beyond the basic plane in names, and no names of columns
    # that differ in case alone.
    assume(all(ord(one) < 0x10000 for one in schema + table + key + other))
    assume(key.casefold() != other.casefold())
    sql = Sql(mysql_database)
    database = f"{schema}{next(_numbers)}"
    place = f"{_quoted(database)}.{_quoted(table)}"
    sql.execute(f"CREATE DATABASE {_quoted(database)} CHARACTER SET utf8mb4")
    try:
        sql.execute(f"CREATE TABLE {place} ({_quoted(key)} int PRIMARY KEY, {_quoted(other)} text)")
        for number, text in ROWS:
            sql.execute(f"INSERT INTO {place} VALUES ({number}, '{text}')")
        source = MYSQL.open_source(
            parse_database_url(mysql_database), application_name="rivet-test"
        )
        try:
            assert _read(source, RelationName(schema=database, name=table), key, other) == ROWS
        finally:
            source.close()
    finally:
        sql.execute(f"DROP DATABASE {_quoted(database)}")
        sql.connection.close()


@settings(max_examples=40, deadline=None)
@given(folder=_names(100), file=_names(100))
def test_random_folders_of_a_state(folder: str, file: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        path = Path(root) / f"f{folder.replace('/', '_')}" / f"{file.replace('/', '_')}.db"
        path.parent.mkdir()
        url = f"sqlite:///{path}"
        assert sqlite_path(url) == path and not store_exists(url)
        dialect = dialect_of(url)
        try:
            with dialect.engine(1).connect() as connection:
                connection.exec_driver_sql("CREATE TABLE t (i int)")
        finally:
            dialect.close()
        assert store_exists(url)
        made = {one.name for one in path.parent.iterdir()}
        assert path.name in made and all(name.startswith(path.name) for name in made)
