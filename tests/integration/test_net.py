"""The net (ADR 0019) under the mends: each is taken away, and the run must fail loudly by name.

``tests/unmended`` holds what is taken away; processes load it by their environment. Every case is a
real server and the whole program; what is looked at is the exit code, the files, and what was told.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import pyarrow.parquet as pq
import pytest

from rivet_fleet.demo.embedded import EmbeddedPostgres
from tests.integration.fleet_cli import Desk, run_sqlite
from tests.integration.mysql_source_kit import Sql
from tests.waiting import until

UNMENDED = Path(__file__).resolve().parents[1] / "unmended"


@dataclass(slots=True)
class Place:
    """One user's folder and a source."""

    desk: Desk
    engine: str

    def write(self, *exports: str, campaign: str = "workers: 1", tuning: str = "") -> None:
        lines = [
            f"source: {{type: {self.engine}, url_env: SRC{tuning}}}",
            f"campaign: {{name: net, lease_ttl_s: 30, {campaign}}}",
            "defaults: {on_unsupported: text}",
            "exports:",
            *(
                f"  - {{{one}, format: parquet, destination: {{type: local, "
                f"path: out/{one.split(',')[0].removeprefix('name: ')}}}}}"
                for one in exports
            ),
        ]
        self.desk.write("\n".join(lines))

    def unmended(self, *names: str) -> None:
        """From now on, every process of the program is without these mends."""
        self.desk.environment["PYTHONPATH"] = str(UNMENDED)
        self.desk.environment["RIVET_FLEET_TEST_UNMENDED"] = ",".join(names)

    def caught(self, *commands: str, by: str = "") -> dict[str, str]:
        """The run fails with exit 3, nothing is delivered; what was said, by export."""
        done = self.desk.cli(*(commands or ("run",)), code=3)
        assert not list(self.desk.out.rglob("_SUCCESS")), done.said
        assert not list(self.desk.out.rglob("manifest.json")), done.said
        said: dict[str, str] = {}
        for name, error in run_sqlite(self.desk.state, "SELECT export_name, error FROM chunk_run"):
            said[name] = error or ""
        chunks = "SELECT export_name, last_error FROM chunk_task WHERE status = 'failed'"
        for name, error in run_sqlite(self.desk.state, chunks):
            said[name] += error
        return said

    def manifest(self, name: str) -> dict[str, object]:
        (path,) = self.desk.out.glob(f"{name}/manifest.json")
        body: dict[str, object] = json.loads(path.read_text())
        return body

    def rows(self, name: str, column: str) -> list[object]:
        found: list[object] = []
        for part in self.desk.out.glob(f"{name}/**/*.parquet"):
            found += pq.read_table(part, columns=[column]).column(column).to_pylist()
        return found


BETWEEN = "between its bounds"
COUNTS = "RIVET_PROOF_COUNT"
AGAIN = "holds that key again"


# ---------------------------------------------------------------- PostgreSQL


@pytest.fixture
def shop(tmp_path: Path, postgres: EmbeddedPostgres, database: str) -> tuple[Place, str]:
    """A place over a database of its own, read by a plain role; and the database's name."""
    name = database.rpartition("/")[2]
    postgres.psql(
        "DO $$ BEGIN CREATE ROLE net_reader LOGIN; "
        "EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        database=name,
    )
    url = postgres.url(name, user="net_reader")
    return Place(Desk(folder=tmp_path, environment={"SRC": url}), "postgres"), name


RIGHTS = """
CREATE TABLE ledger (id int, v text) PARTITION BY RANGE (id);
CREATE TABLE ledger_a PARTITION OF ledger FOR VALUES FROM (0) TO (5000);
CREATE TABLE ledger_b PARTITION OF ledger FOR VALUES FROM (5000) TO (10001);
INSERT INTO ledger SELECT g, 'v' FROM generate_series(1, 10000) g;
ALTER TABLE ledger_a ENABLE ROW LEVEL SECURITY;
CREATE TABLE doc (id int, tenant int) PARTITION BY RANGE (id);
CREATE TABLE doc_a PARTITION OF doc FOR VALUES FROM (0) TO (5000);
CREATE TABLE doc_b PARTITION OF doc FOR VALUES FROM (5000) TO (10001);
INSERT INTO doc SELECT g, g % 2 FROM generate_series(1, 10000) g;
ALTER TABLE doc ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON doc FOR SELECT TO net_reader USING (tenant = 1);
GRANT SELECT ON ALL TABLES IN SCHEMA public TO net_reader;
ANALYZE;
"""


@pytest.mark.parametrize("prove", ["all", "sampled"])
def test_rights_of_leaves_are_caught_by_the_count(shop, postgres, prove) -> None:
    """Cases 01 and 02: rows lost to a leaf's policy, rows leaked past the parent's."""
    place, name = shop
    postgres.psql(RIGHTS, database=name)
    place.unmended("01", "02", "43")
    place.write("name: ledger, table: ledger", "name: doc, table: doc", campaign=f"prove: {prove}")
    said = place.caught()
    assert COUNTS in said["ledger"] and "5,001 rows were delivered" in said["ledger"]
    assert "counts 10,000" in said["ledger"]
    assert COUNTS in said["doc"] and "10,000 rows were delivered" in said["doc"]
    assert "counts 5,000" in said["doc"]


# A type like citext: with an order of its own (from its last letter), read as text where its
# operators are not on the search path.
TURNED = """
CREATE SCHEMA ext;
CREATE TYPE ext.turned;
CREATE FUNCTION ext.turned_in(cstring) RETURNS ext.turned LANGUAGE internal IMMUTABLE STRICT
  AS 'textin';
CREATE FUNCTION ext.turned_out(ext.turned) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT
  AS 'textout';
CREATE TYPE ext.turned (INPUT = ext.turned_in, OUTPUT = ext.turned_out, LIKE = text,
  CATEGORY = 'S', COLLATABLE = true);
CREATE CAST (ext.turned AS text) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (text AS ext.turned) WITHOUT FUNCTION AS ASSIGNMENT;
CREATE FUNCTION ext.cmp(a ext.turned, b ext.turned) RETURNS int LANGUAGE sql IMMUTABLE STRICT AS
  $$ SELECT pg_catalog.bttextcmp(pg_catalog.reverse(a::text), pg_catalog.reverse(b::text)) $$;
DO $$
DECLARE one record;
BEGIN
  FOR one IN SELECT * FROM (VALUES ('lt', '<', '>', '>='), ('le', '<=', '>=', '>'),
    ('eq', '=', '=', '<>'), ('ne', '<>', '<>', '='), ('ge', '>=', '<=', '<'),
    ('gt', '>', '<', '<=')) v(name, op, commutator, negator)
  LOOP
    EXECUTE format('CREATE FUNCTION ext.%s(a ext.turned, b ext.turned) RETURNS bool LANGUAGE sql '
      'IMMUTABLE STRICT AS $f$ SELECT ext.cmp(a, b) OPERATOR(pg_catalog.%s) 0 $f$',
      one.name, one.op);
    EXECUTE format('CREATE OPERATOR ext.%s (LEFTARG = ext.turned, RIGHTARG = ext.turned, '
      'FUNCTION = ext.%s, COMMUTATOR = OPERATOR(ext.%s), NEGATOR = OPERATOR(ext.%s))',
      one.op, one.name, one.commutator, one.negator);
  END LOOP;
END $$;
CREATE OPERATOR CLASS ext.turned_ops DEFAULT FOR TYPE ext.turned USING btree AS
  OPERATOR 1 ext.<, OPERATOR 2 ext.<=, OPERATOR 3 ext.=, OPERATOR 4 ext.>=, OPERATOR 5 ext.>,
  FUNCTION 1 ext.cmp(ext.turned, ext.turned);
"""
PEOPLE = """
CREATE TABLE people (email ext.turned PRIMARY KEY, v int);
INSERT INTO people SELECT
  md5(g::text)::ext.turned, g FROM generate_series(1, 3000) g;
CREATE TABLE pairs (a ext.turned NOT NULL, b int NOT NULL, v int, PRIMARY KEY (a, b));
INSERT INTO pairs SELECT
  md5((g/3)::text)::ext.turned, g, g FROM generate_series(1, 3000) g;
GRANT USAGE ON SCHEMA ext TO net_reader;
GRANT SELECT ON people, pairs TO net_reader;
ANALYZE;
"""


@pytest.mark.parametrize("prove", ["all", "sampled"])
def test_operators_of_the_search_path_are_caught_by_pages(shop, postgres, prove) -> None:
    """Case 21: the order is the type's, and the comparison text's."""
    place, name = shop
    postgres.psql(TURNED + PEOPLE, database=name)
    place.unmended("21")
    place.write(
        "name: people, table: public.people",
        "name: pairs, table: public.pairs",
        campaign=f"workers: 1, max_chunk_attempts: 1, prove: {prove}",
    )
    said = place.caught()
    assert BETWEEN in said["people"] and "public.people" in said["people"]
    assert BETWEEN in said["pairs"]


@contextmanager
def paused_at_page(place: Place, nth: int) -> Iterator[None]:
    """A run whose worker rests behind its ``nth`` page while the block goes on."""
    marker = place.desk.folder / "marker"
    place.desk.environment["RIVET_FLEET_TEST_KILL"] = f"page.read:stop:{nth}:{marker}"
    process = place.desk.start("run", "-c", str(place.desk.config))
    try:
        until(marker.exists, what="the page")
        worker = until(
            lambda: next(
                (
                    one
                    for one in psutil.Process(process.pid).children(recursive=True)
                    if one.status() == psutil.STATUS_STOPPED
                ),
                None,
            ),
            what="a worker rests",
        )
        yield
        worker.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("prove", ["all", "sampled"])
def test_a_mark_of_another_source_is_caught(shop, postgres, tmp_path, prove: str) -> None:
    """The same table in two databases, and the URL is changed between two runs."""
    place, name = shop
    other = postgres.create_database(f"{name}_other").rpartition("/")[2]
    rows = {name: "1, 100", other: "50, 150"}
    for database, numbers in rows.items():
        postgres.psql(
            "CREATE TABLE log (id int PRIMARY KEY, v text); "
            f"INSERT INTO log SELECT g, 'v' FROM generate_series({numbers}) g; "
            "GRANT SELECT ON log TO net_reader",
            database=database,
        )
    export = f"name: log, table: log, mode: incremental, cursor_column: id, prove: {prove}"
    place.write(export)
    place.desk.cli("run")
    first = {path for path in place.desk.out.rglob("*") if path.is_file()}
    place.desk.environment["SRC"] = postgres.url(other, user="net_reader")
    place.desk.refused("run", code=1, named="source was", hint="state accept")
    place.unmended("mark")
    done = place.desk.cli("run", code=3)
    assert "mark of something else" in done.said, done.said
    more = {path for path in place.desk.out.rglob("*") if path.is_file()} - first
    assert not [path for path in more if path.name in ("_SUCCESS", "manifest.json")], more
    (mark,) = run_sqlite(place.desk.state, "SELECT last_cursor_value FROM export_state")
    assert '"100"' in mark[0] and '"150"' not in mark[0], mark


def test_a_heap_rewritten_under_a_run_is_caught(shop, postgres) -> None:
    """Case 23: block numbers outlive the heap."""
    place, name = shop
    postgres.psql(
        "CREATE TABLE t (v int, p text); "
        "INSERT INTO t SELECT g, repeat('x', 50) FROM generate_series(1, 40000) g; "
        "DELETE FROM t WHERE v <= 10000; GRANT SELECT ON t TO net_reader; ANALYZE t",
        database=name,
    )
    place.unmended("23", "43")
    place.write(
        "name: t, table: t, mode: chunked, chunk_count: 4",
        campaign="workers: 1, prove: all",
        tuning=", tuning: {batch_size: 1000}",
    )
    with paused_at_page(place, 10):
        postgres.psql("VACUUM FULL t", database=name)
    said = place.caught("resume")
    assert COUNTS in said["t"] and "counts 30,000" in said["t"]


# ---------------------------------------------------------------- MySQL and MariaDB


@pytest.fixture
def sql(mysql_database: str) -> Iterator[Sql]:
    opened = Sql(mysql_database)
    yield opened
    opened.connection.close()


@pytest.fixture
def market(tmp_path: Path, mysql_database: str) -> Place:
    return Place(Desk(folder=tmp_path, environment={"SRC": mysql_database}), "mysql")


KEYS = {
    "c32": ("cp932", ["FA54", "81CA", "EEF9", "8161", "A1", "41"]),
    "cp": ("cp1251", ["41", "4198", "4199", "42", "C0"]),
    "b5": (
        "big5 COLLATE big5_bin",
        ["A1C3", "A1C5", "A1FE", "A240", "A2CC", "A451", "A2CE", "A4CA", "A15A", "A1C4"],
    ),
    "sj": (
        "sjis COLLATE sjis_bin",
        ["815F", "5C", "8160", "817C", "8191", "8192", "81CA", "7E", "80", "A1", "B1"],
    ),
}


def fill_keys(sql: Sql) -> None:
    sql.execute("SET SESSION sql_mode = ''")  # some of these bytes are no text: they are keys
    for name, (charset, keys) in KEYS.items():
        sql.execute(
            f"CREATE TABLE {name} (k varchar(40) CHARACTER SET {charset} NOT NULL PRIMARY KEY, "
            "v int)"
        )
        values = ", ".join(f"(X'{key}', {i})" for i, key in enumerate(keys))
        sql.execute(f"INSERT INTO {name} VALUES {values}")
    sql.numbers(3000)
    sql.execute(
        "CREATE TABLE p (k varchar(60) CHARACTER SET sjis COLLATE sjis_bin NOT NULL PRIMARY KEY, "
        "v int)"
    )
    sql.execute("INSERT INTO p SELECT CONCAT(X'433A5C646174615C', LPAD(i, 5, '0')), i FROM numbers")
    sql.execute(f"ANALYZE TABLE p, {', '.join(KEYS)}")


@pytest.mark.parametrize("prove", ["all", "sampled"])
def test_keys_that_come_back_as_others_are_caught(sql, market, prove) -> None:
    """Cases 40 and 41: what is lost, what is doubled, and what never ends."""
    fill_keys(sql)
    market.unmended("40", "41")
    one_row = "mode: chunked, chunk_count: 2, tuning: {batch_size: 1, throttle_ms: 0}"
    market.write(
        "name: p, table: p, mode: chunked, chunk_size: 1000",
        *(f"name: {name}, table: {name}, {one_row}" for name in KEYS),
        campaign=f"workers: 1, max_chunk_attempts: 1, prove: {prove}",
    )
    said = market.caught()
    assert BETWEEN in said["p"]
    for name in KEYS:
        # Which of two chunks fails first, and by which guard, is left to their order.
        assert any(guard in said[name] for guard in (BETWEEN, COUNTS, AGAIN)), name


def test_a_collation_changed_under_a_plan_is_caught(sql, market) -> None:
    """Case 43: chunks cut under one collation are read under another."""
    sql.numbers(8000)
    sql.execute(
        "CREATE TABLE t (k varchar(30) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL "
        "PRIMARY KEY, id int)"
    )
    sql.execute("INSERT INTO t SELECT CONCAT(IF(i % 2, 'B', 'a'), i), i FROM numbers")
    sql.execute("ANALYZE TABLE t")
    market.unmended("43")
    market.write(
        "name: t, table: t, mode: chunked, chunk_count: 4", campaign="workers: 1, prove: all"
    )
    market.desk.cli("submit")
    sql.execute("ALTER TABLE t CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci")
    said = market.caught("resume")
    assert COUNTS in said["t"] and "counts 8,000" in said["t"]


# ---------------------------------------------------------------- no false alarms


@contextmanager
def busy(*writes) -> Iterator[None]:
    """Writers that go on, each on its own connection, while the block does."""
    over, failed = threading.Event(), []

    def go_on(write) -> None:
        i = 0
        try:
            while not over.is_set():
                i += 1
                write(i)
        except Exception as error:  # told by the test, whatever it was
            failed.append(error)

    threads = [threading.Thread(target=go_on, args=(write,)) for write in writes]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not failed, failed


def changes_of(i: int, rows: int) -> tuple[str, ...]:
    """An insert, an update, a delete, and a key that moves behind everything or to the front."""
    at = i * 7919 % rows + 1
    return (
        f"INSERT INTO t (id, note) VALUES ({10 * rows + i}, 'new')",
        f"UPDATE t SET note = 'other {i}' WHERE id = {at}",
        f"DELETE FROM t WHERE id = {at + 1}",
        f"UPDATE t SET id = {20 * rows + i} WHERE id = {at + 2}",
        f"UPDATE t SET id = {-i} WHERE id = {at + 3}",
    )


ROWS = 20_000
EXPORTS = (
    "name: keyed, table: t, mode: chunked, chunk_size: 5000, tuning: {batch_size: 500}",
    "name: span, table: t, mode: chunked, chunk_column: g, chunk_size: 5000, "
    "tuning: {batch_size: 500}",
    "name: whole, table: t",
)


def test_writers_raise_no_alarm_on_postgres(shop, postgres, database) -> None:
    place, name = shop
    postgres.psql(
        "CREATE TABLE t (id bigint PRIMARY KEY, g int NOT NULL DEFAULT 0, note text); "
        f"INSERT INTO t SELECT i, i / 10, 'n' FROM generate_series(1, {ROWS}) i; "
        "CREATE INDEX ON t (g); GRANT SELECT ON t TO net_reader; ANALYZE t",
        database=name,
    )
    place.write(*EXPORTS, campaign="workers: 2, prove: all")
    with psycopg.connect(database, autocommit=True) as connection:

        def write(i: int) -> None:
            for statement in changes_of(i, ROWS):
                connection.execute(statement)

        with busy(write):
            place.desk.cli("run")
    for one in ("keyed", "span", "whole"):
        assert place.manifest(one)["proof"]["outcome"] == "proven"


def test_writers_raise_no_alarm_on_mariadb(sql, market, mysql_database) -> None:
    sql.numbers(ROWS)
    sql.execute(
        "CREATE TABLE t (id bigint PRIMARY KEY, g int NOT NULL DEFAULT 0, note varchar(40), "
        "KEY (g))"
    )
    sql.execute("INSERT INTO t SELECT i, i DIV 10, 'n' FROM numbers")
    sql.execute("ANALYZE TABLE t")
    market.write(*EXPORTS, campaign="workers: 2, prove: all")
    writer = Sql(mysql_database)

    def write(i: int) -> None:
        for statement in changes_of(i, ROWS):
            writer.execute(statement)

    with busy(write):
        market.desk.cli("run")
    writer.connection.close()
    for one in ("keyed", "span", "whole"):
        assert market.manifest(one)["proof"]["outcome"] == "proven"
