"""Every key type that the server orders, under any search path and role setting, in pages of a few
rows: each row once, in the server's own order."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.demo.embedded import EmbeddedPostgres
from rivet_fleet.execution.sources.postgres import ENGINE as POSTGRES
from tests.integration.postgres_keys_kit import (
    EXTRA,
    HOSTILE,
    NO_KEYS,
    OWN_TYPE,
    POLYMORPHIC,
    VALUES,
    Sql,
    facts_of_key,
    fill,
    numbers,
    plan_of,
)

CLASSES = """
SELECT DISTINCT t.typname FROM pg_opclass o JOIN pg_am a ON a.oid = o.opcmethod
JOIN pg_type t ON t.oid = o.opcintype WHERE a.amname = 'btree' AND o.opcdefault
"""
COLLATIONS = "SELECT quote_ident(collname) FROM pg_collation WHERE collencoding IN (-1, 6)"
PATHS = ("public", "''", "evil, pg_catalog, public", "ext, public", "evil, ext, pg_catalog")
SETTINGS = {
    "DateStyle": ("'SQL, DMY'", "'German'", "'Postgres, MDY'"),
    "IntervalStyle": ("sql_standard", "postgres_verbose"),
    "bytea_output": ("escape",),
    "extra_float_digits": ("-15",),
    "TimeZone": ("'America/St_Johns'", "'+13'"),
    "lc_monetary": ("'C'",),
    "quote_all_identifiers": ("on",),
    "standard_conforming_strings": ("off",),
    "enable_indexscan": ("off",),
    "transform_null_equals": ("on",),
    "array_nulls": ("off",),
    "default_transaction_isolation": ("serializable",),
}


@pytest.fixture(scope="module")
def keyed(postgres: EmbeddedPostgres) -> Iterator[tuple[str, Sql, dict[str, list[int]]]]:
    """A role's URL, and a table for each type and collation with its rows in the server's order."""
    url = postgres.create_database("every_key")
    with psycopg.connect(url, autocommit=True) as sql:
        sql.execute((OWN_TYPE + HOSTILE + EXTRA).encode())
        tables = {}
        for number, (native, values) in enumerate(VALUES.items()):
            if native != "oidvector":
                declared = {"bit": "bit(3)", "bpchar": "char(4)", "numeric": "numeric"}
                tables[f"t{number}_{native.rpartition('.')[2]}"] = (native, values, "")
                fill(sql, list(tables)[-1], declared.get(native, native), values)
        for number, (name,) in enumerate(sql.execute(COLLATIONS).fetchall()):
            try:
                sql.execute(f"SELECT 'a' < 'b' COLLATE {name}".encode())
            except psycopg.Error:
                continue  # one that this build of the server does not have
            for native in ("text", "varchar", "ext.ci"):
                table = f"c{number}_{native.rpartition('.')[2]}"
                fill(sql, table, native, VALUES[native], f"COLLATE {name}")
                tables[table] = (native, "", str(name))
        sql.execute(
            "CREATE ROLE every_key_reader LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO "
            "every_key_reader"
        )
        orders = {
            table: [row[0] for row in sql.execute(f"SELECT v FROM {table} ORDER BY k".encode())]
            for table in tables
        }
        yield url.replace("//postgres@", "//every_key_reader@"), sql, orders
        sql.execute("DROP OWNED BY every_key_reader; DROP ROLE every_key_reader")


def test_every_type_that_the_server_orders_is_decided_upon(keyed) -> None:
    _, sql, _ = keyed
    known = set(VALUES) | NO_KEYS | set(POLYMORPHIC) | {"ci"}
    assert {row[0] for row in sql.execute(CLASSES)} <= known


@given(
    path=st.sampled_from(PATHS),
    role=st.dictionaries(st.sampled_from(sorted(SETTINGS)), st.integers(0, 9), max_size=4),
    rows=st.integers(1, 3),
    data=st.data(),
)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_each_row_comes_once_in_the_servers_order(keyed, path, role, rows, data) -> None:
    url, sql, orders = keyed
    sql.execute("ALTER ROLE every_key_reader RESET ALL")
    sql.execute(f"ALTER ROLE every_key_reader SET search_path = {path}".encode())
    for name, choice in role.items():
        value = SETTINGS[name][choice % len(SETTINGS[name])]
        sql.execute(f"ALTER ROLE every_key_reader SET {name} = {value}".encode())
    source = POSTGRES.open_source(parse_database_url(url), application_name="rivet-test")
    try:
        for table in data.draw(st.lists(st.sampled_from(sorted(orders)), min_size=4, max_size=4)):
            facts = facts_of_key(source, table)
            assert [key.columns for key in facts.keys] == [("k",)], (table, facts.warnings)
            read = plan_of(facts)
            assert numbers(source, read, rows=rows) == orders[table], table
            cuts = facts.keys[0].boundaries
            if cuts:
                cut = data.draw(st.sampled_from(cuts))
                halves = numbers(source, read, rows=rows, upper=cut)
                halves += numbers(source, read, rows=rows, lower=cut)
                assert halves == orders[table], (table, cut)
    finally:
        source.close()


def test_every_table_at_least_once_under_the_most_hostile_path(keyed) -> None:
    url, sql, orders = keyed
    sql.execute("ALTER ROLE every_key_reader RESET ALL")
    sql.execute("ALTER ROLE every_key_reader SET search_path = evil, pg_catalog")
    source = POSTGRES.open_source(parse_database_url(url), application_name="rivet-test")
    for table, order in orders.items():
        facts = facts_of_key(source, table)
        assert [key.columns for key in facts.keys] == [("k",)], (table, facts.warnings)
        assert numbers(source, plan_of(facts)) == order, table
    source.close()
