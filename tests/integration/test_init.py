"""``rivet-fleet init``: what it writes loads, is green in check, and delivers every row."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from tests.integration.fleet_cli import Desk
from tests.integration.mysql_source_kit import Sql

POSTGRES = """
CREATE TABLE orders (id bigint PRIMARY KEY, total numeric(10,2), updated_at timestamptz,
                     created_at timestamptz NOT NULL, doc jsonb);
INSERT INTO orders SELECT i, i, now(), now(), '{"a": 1}' FROM generate_series(1, 120000) i;
CREATE TABLE lines (order_id bigint, line int, qty int, PRIMARY KEY (order_id, line));
INSERT INTO lines SELECT i / 4, i % 4, 1 FROM generate_series(0, 399) i;
CREATE TABLE people (who uuid PRIMARY KEY, paid money, host inet, many numeric, "a.b" int4range);
INSERT INTO people SELECT gen_random_uuid(), 12.5, '10.0.0.1/8', 1.25, '[1,5)'
FROM generate_series(1, 30);
CREATE TABLE heap (a int, note text);
INSERT INTO heap SELECT i % 7, 'x' FROM generate_series(1, 90) i;
CREATE TABLE parted (id int, at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
INSERT INTO parted SELECT i, date '2024-06-01' + i FROM generate_series(1, 300) i;
CREATE TABLE nothing_in (id int PRIMARY KEY);
CREATE TABLE no_columns ();
CREATE TABLE "Order Items; --" ("the id" int PRIMARY KEY, at timestamp);
INSERT INTO "Order Items; --" SELECT i, now() FROM generate_series(1, 12) i;
CREATE VIEW recent AS SELECT id, total FROM orders WHERE id <= 25;
CREATE SCHEMA other;
CREATE TABLE other.orders (id int PRIMARY KEY); INSERT INTO other.orders VALUES (1), (2);
ANALYZE;
"""
POSTGRES_ROWS = {
    "orders": 120_000,
    "lines": 400,
    "people": 30,
    "heap": 90,
    "parted": 300,
    "nothing_in": 0,
    "Order_Items": 12,
    "recent": 25,
    "other_orders": 2,
}
MARIADB = (
    "CREATE TABLE orders (id bigint unsigned PRIMARY KEY, note varchar(20), updated_at "
    "timestamp NOT NULL DEFAULT current_timestamp, doc json)",
    "INSERT INTO orders SELECT i, 'x', now(), '{}' FROM numbers",
    "CREATE TABLE pairs (a int, b varchar(10) CHARACTER SET ascii, PRIMARY KEY (a, b))",
    "INSERT INTO pairs SELECT i % 9, concat('k', i) FROM numbers WHERE i <= 50",
    "CREATE TABLE places (id uuid PRIMARY KEY, at point, shape geometry)",
    "INSERT INTO places VALUES (uuid(), point(1, 2), null)",
    "CREATE TABLE keyless (a int, b text)",
    "INSERT INTO keyless SELECT i % 3, 'x' FROM numbers WHERE i <= 40",
    "CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id) "
    "(PARTITION a VALUES LESS THAN (10), PARTITION b VALUES LESS THAN MAXVALUE)",
    "INSERT INTO parted SELECT i FROM numbers WHERE i <= 33",
    "CREATE TABLE nothing_in (id int PRIMARY KEY)",
    "CREATE TABLE `strange ``name` (id int PRIMARY KEY)",
    "INSERT INTO `strange ``name` VALUES (1), (2), (3)",
    "CREATE VIEW some AS SELECT id FROM orders WHERE id <= 7",
)
MARIADB_ROWS = {
    "orders": 2_000,
    "pairs": 50,
    "places": 1,
    "keyless": 40,
    "parted": 33,
    "nothing_in": 0,
    "strange_name": 3,
    "some": 7,
}


def rows_of(desk: Desk) -> dict[str, int]:
    """Rows in every folder that says ``_SUCCESS``, by export."""
    found = {}
    for success in sorted((desk.folder / "exports").glob("*/*/_SUCCESS")):
        parts = sorted(success.parent.glob("*.parquet"))
        found[success.parent.parent.name] = sum(pq.read_metadata(p).num_rows for p in parts)
    return found


def scaffold(desk: Desk, *arguments: str) -> dict:
    """Write the file and read it back with another reader of YAML."""
    desk.config.unlink(missing_ok=True)
    desk.bare("init", "--source-url-env", "SHOP_DB_URL", "-o", "fleet.yaml", *arguments)
    return yaml.safe_load(desk.config.read_text())


@pytest.fixture
def shop_desk(tmp_path: Path, postgres, database: str) -> Desk:
    postgres.psql(POSTGRES, database=database.rpartition("/")[2])
    return Desk(folder=tmp_path, environment={"SHOP_DB_URL": database})


def test_what_is_scaffolded_is_green_and_delivers_every_row(shop_desk: Desk) -> None:
    written = scaffold(shop_desk, "--include", "*", "--exclude", "numbers")
    exports = {one["name"]: one for one in written["exports"]}
    assert set(exports) == set(POSTGRES_ROWS)
    assert list(written["sources"]) == ["shop"]
    assert written["sources"]["shop"] == {"type": "postgresql", "url_env": "SHOP_DB_URL"}
    assert exports["orders"]["mode"] == "chunked"
    # Its only moment may be NULL: rows without one would never be read.
    assert exports["Order_Items"]["mode"] == "full"
    assert exports["orders"]["chunk_by_key"] == ["id"]
    assert exports["orders"]["chunk_size"] == 100_000
    assert exports["people"]["columns"] == {
        "paid": "text",
        "host": "text",
        "many": "decimal(38,18)",
        "people.a.b": "text",
    }
    text = shop_desk.config.read_text()
    assert (
        "cursor candidate updated_at: 73 (timestamp_type, name_suggests_updated, nullable)" in text
    )
    assert "REVIEW" in text
    assert "it has no columns" in text
    checked = shop_desk.cli("check", "--json").json
    assert [one["refused"] for one in checked["exports"]] == [[]] * len(exports)
    shop_desk.cli("run")
    assert rows_of(shop_desk) == POSTGRES_ROWS
    shop_desk.cli("validate")


def test_the_same_on_another_engine(tmp_path: Path, mysql_database: str) -> None:
    sql = Sql(mysql_database)
    sql.numbers(2_000)
    for statement in MARIADB:
        sql.execute(statement)
    sql.execute("ANALYZE TABLE orders, pairs, keyless")
    desk = Desk(folder=tmp_path, environment={"SHOP_DB_URL": mysql_database})
    written = scaffold(desk, "--include", "*", "--exclude", "numbers")
    exports = {one["name"]: one for one in written["exports"]}
    assert set(exports) == set(MARIADB_ROWS)
    assert exports["orders"]["table"] == "orders"
    # Small: what is proposed for a larger one stands in comments.
    assert exports["orders"]["mode"] == "full"
    assert "# cursor_column: updated_at" in desk.config.read_text()
    assert exports["places"]["columns"]["at"] == "binary"
    assert exports["strange_name"]["table"] == '"strange `name"'
    checked = desk.cli("check", "--json").json
    assert [one["refused"] for one in checked["exports"]] == [[]] * len(exports)
    desk.cli("run")
    assert rows_of(desk) == MARIADB_ROWS


RENTALS = """
CREATE TABLE rental (rental_id int PRIMARY KEY, rental_date timestamp NOT NULL,
                     last_update timestamp NOT NULL DEFAULT now());
INSERT INTO rental SELECT i, timestamp '2005-01-01' + i * interval '1 hour', now()
FROM generate_series(1, 120000) i;
CREATE INDEX ON rental (last_update); CREATE INDEX ON rental (rental_date);
CREATE FUNCTION last_updated() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN NEW.last_update = CURRENT_TIMESTAMP; RETURN NEW; END';
CREATE TRIGGER last_updated BEFORE UPDATE ON rental FOR EACH ROW EXECUTE FUNCTION last_updated();
CREATE TABLE hire (LIKE rental INCLUDING ALL); INSERT INTO hire SELECT * FROM rental;
CREATE TABLE film AS SELECT * FROM rental LIMIT 16; ALTER TABLE film ADD PRIMARY KEY (rental_id);
CREATE TRIGGER last_updated BEFORE UPDATE ON film FOR EACH ROW EXECUTE FUNCTION last_updated();
CREATE TABLE odd ("new.x" int PRIMARY KEY, "at (now)" timestamp NOT NULL, seen timestamp NOT NULL);
CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN IF NEW.seen = OLD.seen THEN NEW."at (now)" := now(); END IF; RETURN NEW; END';
CREATE TRIGGER odd BEFORE UPDATE ON odd FOR EACH ROW EXECUTE FUNCTION odd();
ANALYZE;
"""
HIRES = (
    "CREATE TABLE rental (rental_id int PRIMARY KEY, rental_date datetime NOT NULL, last_update "
    "timestamp NOT NULL DEFAULT current_timestamp ON UPDATE current_timestamp, KEY (last_update))",
    "INSERT INTO rental SELECT seq, '2005-01-01' + INTERVAL seq SECOND, now() FROM seq_1_to_120000",
    "ANALYZE TABLE rental",
)


def cursors(desk: Desk) -> dict[str, tuple[str, str | None, list[str]]]:
    found = desk.bare("init", "--source-url-env", "SHOP_DB_URL", "--discover").json["exports"]
    return {
        one["export_name"]: (
            one["mode"],
            one["cursor_column"],
            [c["column"] for c in one["cursor_candidates"] if "set_on_update" in c["reasons"]],
        )
        for one in found
    }


def test_a_cursor_is_proposed_where_the_server_keeps_it(
    tmp_path: Path, postgres, database: str, mysql_database: str
) -> None:
    postgres.psql(RENTALS, database=database.rpartition("/")[2])
    desk = Desk(folder=tmp_path, environment={"SHOP_DB_URL": database})
    assert cursors(desk) == {
        "rental": ("incremental", "last_update", ["last_update"]),
        # The same table without its trigger: nothing says that any moment is an update's.
        "hire": ("chunked", "last_update", []),
        "film": ("full", "last_update", ["last_update"]),
        "odd": ("full", "at (now)", ["at (now)"]),
    }
    written = scaffold(desk)
    modes = {one["name"]: one.get("cursor_column") for one in written["exports"]}
    assert modes == {"rental": "last_update", "hire": None, "film": None, "odd": None}
    sql = Sql(mysql_database)
    for statement in HIRES:
        sql.execute(statement)
    desk.environment["SHOP_DB_URL"] = mysql_database
    assert cursors(desk) == {"rental": ("incremental", "last_update", ["last_update"])}


def test_only_tables_are_taken_unless_asked(shop_desk: Desk) -> None:
    written = scaffold(shop_desk)
    names = {one["name"] for one in written["exports"]}
    assert "recent" not in names
    assert "public.recent: a view; --include 'public.recent' takes it" in (
        shop_desk.config.read_text()
    )
    written = scaffold(shop_desk, "--include", "other.*", "--include", "line?")
    assert {one["name"] for one in written["exports"]} == {"lines", "other_orders"}


def test_discover_prints_the_same_as_json(shop_desk: Desk) -> None:
    done = shop_desk.bare("init", "--source-url-env", "SHOP_DB_URL", "--discover")
    found = done.json
    assert found["discovery_version"] == 1
    exports = {one["export_name"]: one for one in found["exports"]}
    best = exports["orders"]["cursor_candidates"][0]
    assert (best["column"], best["score"]) == ("updated_at", 73)
    assert exports["orders"]["cursor_fallback"] == "created_at"
    assert exports["heap"]["mode"] == "full"
    assert exports["orders"]["row_estimate_from"] == "statistics"
    assert any(one["reason"] == "it has no columns" for one in found["skipped"])
    assert list(shop_desk.folder.iterdir()) == []


def test_sources_of_a_configuration_are_taken_without_their_secrets(
    shop_desk: Desk, database: str
) -> None:
    secret = re.sub(r"//([^@:]*)(:[^@]*)?@", r"//\1:hidden-word@", database)
    shop_desk.write(
        f"source: {{type: postgres, url: '{secret}'}}\nexports:\n"
        "  - {name: a, table: lines, format: parquet, destination: {type: local, path: out}}\n"
    )
    done = shop_desk.cli("init", "--include", "lines")
    assert "hidden-word" not in done.said
    assert yaml.safe_load(done.out)["sources"]["default"]["url_env"] == "DEFAULT_URL"


def test_what_cannot_be_done_is_said(shop_desk: Desk) -> None:
    done = shop_desk.bare("init", code=1)
    assert "--source-url-env" in done.err
    done = shop_desk.bare("init", "--source-url-env", "NOT_SET", code=1)
    assert "NOT_SET is not set" in done.err
    done = shop_desk.bare("init", "--source-url-env", "SHOP_DB_URL", "--include", "zzz", code=1)
    assert "no relation to export" in done.err
    shop_desk.write("x")
    done = shop_desk.bare("init", "--source-url-env", "SHOP_DB_URL", "-o", "fleet.yaml", code=1)
    assert "fleet.yaml exists" in done.err
    shop_desk.environment["FAR_URL"] = "postgres://me@db.example.com/shop"
    done = shop_desk.bare("init", "--source-url-env", "FAR_URL", code=1)
    assert "--tls" in done.err


def test_a_relation_without_privilege_is_left_out_with_its_grant(
    shop_desk: Desk, postgres, database: str
) -> None:
    role = f"init_{os.getpid()}"
    name = database.rpartition("/")[2]
    postgres.psql(f"CREATE ROLE {role} LOGIN; GRANT SELECT ON lines TO {role}", database=name)
    shop_desk.environment["SHOP_DB_URL"] = re.sub(r"//[^@]*@", f"//{role}@", database)
    found = json.loads(shop_desk.bare("init", "--source-url-env", "SHOP_DB_URL", "--discover").out)
    assert [one["export_name"] for one in found["exports"]] == ["lines"]
    reasons = {one["relation"]["name"]: one["reason"] for one in found["skipped"]}
    assert 'GRANT SELECT ON "public"."heap"' in reasons["heap"]
