"""`reconcile` over real servers: delivered files of every strategy against their source."""

from __future__ import annotations

import re
import signal
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
import pytest

from rivet_fleet.demo.embedded import EmbeddedPostgres
from tests.integration.fleet_cli import Desk, ended, fleet_yaml, run_sqlite
from tests.servers.mariadb import EmbeddedMariadb
from tests.waiting import until

POSTGRES = """
CREATE TABLE orders (id bigint PRIMARY KEY, note text, total numeric(10,2), share float8,
                     paid_at timestamptz, ref uuid, marks int[]);
INSERT INTO orders SELECT i, CASE i WHEN 11 THEN '' ELSE 'note ' || i END, i / 100.0,
    CASE WHEN i = 8 THEN 0 ELSE i / 7.0 END, '2024-05-01Z'::timestamptz + i * interval '1 hour',
    md5(i::text)::uuid, ARRAY[i, NULL] FROM generate_series(1, 200) i;
CREATE TABLE spans (bucket int, note text);
INSERT INTO spans SELECT i % 50, 'n' || i FROM generate_series(1, 200) i;
CREATE INDEX ON spans (bucket);
CREATE TABLE heap (note text);
INSERT INTO heap SELECT repeat('x', 200) || i FROM generate_series(1, 400) i;
CREATE TABLE events (id bigint PRIMARY KEY, at timestamptz NOT NULL, note text);
INSERT INTO events SELECT i, '2024-05-01Z'::timestamptz + i * interval '1 hour', 'e' || i
    FROM generate_series(1, 100) i;
CREATE INDEX ON events (at, id);
CREATE DOMAIN amount AS numeric(50,6);
CREATE TABLE things (id bigint PRIMARY KEY, flag bool, small smallint, big bigint, total amount,
    tiny real, share float8, day date, at timestamp, seen timestamptz, clock time, note text,
    pad char(6), raw bytea, ref uuid, doc jsonb, marks int[]);
INSERT INTO things SELECT 2 * i, i % 3 = 0, -i, 9223372036854775807 - i,
    -12345678901234567890123456789012345678901234.654321 + i, i / 3.0,
    CASE WHEN i = 75 THEN 0 WHEN i = 3 THEN '-Infinity' ELSE i / 7.0 END,
    '0044-03-15 BC'::date + i, '1900-01-01 00:00:00.000001'::timestamp + i * interval '1 year',
    '2024-05-01Z'::timestamptz + i * interval '1 hour 1 microsecond', '10:00',
    CASE i WHEN 105 THEN '' ELSE 'né ' || i END, 'p' || i, decode('00ff', 'hex'),
    md5(i::text)::uuid, '{"a": 1}', ARRAY[i] FROM generate_series(1, 120) i;
UPDATE things SET big = -9223372036854775808, day = NULL, note = NULL WHERE id = 8;
ANALYZE;
"""
MARIADB = """
CREATE TABLE orders (id bigint NOT NULL PRIMARY KEY, note text, total numeric(10,2), share double,
                     paid_at timestamp NULL);
INSERT INTO orders SELECT seq, if(seq = 11, '', concat('note ', seq)), seq / 100,
    if(seq = 8, 0, seq / 7), '2024-05-01' + interval seq hour FROM seq_1_to_200;
CREATE TABLE spans (bucket int, note text, KEY (bucket));
INSERT INTO spans SELECT seq % 50, concat('n', seq) FROM seq_1_to_200;
CREATE TABLE heap (note text);
INSERT INTO heap SELECT concat(repeat('x', 200), seq) FROM seq_1_to_400;
CREATE TABLE events (id bigint NOT NULL PRIMARY KEY, at datetime NOT NULL, note text, KEY (at, id));
INSERT INTO events SELECT seq, '2024-05-01' + interval seq hour, concat('e', seq) FROM seq_1_to_100;
CREATE TABLE things (id bigint NOT NULL PRIMARY KEY, flag bool, small smallint unsigned,
    big bigint unsigned, total decimal(50,6), tiny float, share double, day date, at datetime(6),
    seen timestamp(6) NULL, clock time(6), note text CHARACTER SET latin1, pad char(6), raw blob,
    bits bit(5), age year);
INSERT INTO things SELECT 2 * seq, seq % 3 = 0, seq, 18446744073709551615 - seq,
    -12345678901234567890123456789012345678901234.654321 + seq, seq / 3, if(seq = 75, 0, seq / 7),
    '0101-01-01' + interval seq day, '1900-01-01 00:00:00.000001' + interval seq year,
    '2024-05-01 00:00:00.000001' + interval seq hour, '10:00',
    if(seq = 105, '', concat(char(233 using latin1), ' ', seq)), concat('p', seq), x'00ff',
    seq % 32, 2000 + seq % 50 FROM seq_1_to_120;
UPDATE things SET big = 0, day = NULL, note = NULL WHERE id = 8;
ANALYZE TABLE orders, spans, heap, events, things;
"""
EXPORTS = {
    "orders": "table: orders, mode: chunked, chunk_size: 60",
    "spans": "table: spans, mode: chunked, chunk_column: bucket, chunk_size: 80",
    "heap": "table: heap, mode: chunked, chunk_size: 100",
    "whole": "table: events, mode: full",
    "joined": 'query: "SELECT o.id, e.note FROM orders o JOIN events e ON e.id = o.id"',
    "selected": 'query: "SELECT id, note FROM orders WHERE id > 20"',
    "fresh": "table: events, mode: incremental, cursor_column: at",
    "lately": "table: events, mode: time_window, time_column: at, days_window: 9000",
    "cells": "table: orders, format: csv",
    "things": "table: things, mode: chunked, chunk_size: 10",
}
CHANGES = """
UPDATE orders SET note = 'note 5 ' WHERE id = 5;
UPDATE orders SET note = 'Note 6' WHERE id = 6;
UPDATE orders SET share = -1 WHERE id = 8;
UPDATE orders SET share = share * 0 WHERE id = 8;
UPDATE orders SET paid_at = paid_at + interval '1' hour WHERE id = 10;
UPDATE orders SET note = NULL WHERE id = 11;
UPDATE orders SET total = CASE id WHEN 20 THEN 0.21 ELSE 0.20 END WHERE id IN (20, 21);
DELETE FROM orders WHERE id = 130;
INSERT INTO orders (id, note) VALUES (0, 'late');
DELETE FROM spans WHERE note = 'n77';
UPDATE heap SET note = 'another' WHERE note LIKE '%xx123';
UPDATE events SET note = 'E50' WHERE id = 50;
DELETE FROM events WHERE id = 60;
UPDATE events SET at = '2024-06-01' WHERE id = 70;
"""
THINGS = """
DELETE FROM things WHERE id = 30;
INSERT INTO things (id, note) VALUES (51, 'x');
UPDATE things SET total = total + 0.000001 WHERE id = 70;
UPDATE things SET small = CASE id WHEN 88 THEN -45 ELSE -44 END WHERE id IN (88, 90);
UPDATE things SET pad = 'P55' WHERE id = 110;
UPDATE things SET note = concat(note, ' ') WHERE id = 130;
UPDATE things SET share = -1 WHERE id = 150;
UPDATE things SET share = share * 0 WHERE id = 150;
UPDATE things SET share = NAN WHERE id = 170;
UPDATE things SET seen = seen + interval '5' hour WHERE id BETWEEN 184 AND 196;
UPDATE things SET note = NULL WHERE id = 210;
"""
"""One change in each range of ten rows, and none in the first and the last."""
BY_ROW = {
    1: {("extra", "30", "")},
    2: {("missing", "51", "")},
    3: {("changed", "70", "total")},
    4: {("changed", "88", "small"), ("changed", "90", "small")},
    5: {("changed", "110", "pad")},
    6: {("changed", "130", "note")},
    7: {("changed", "150", "share")},
    8: {("changed", "170", "share")},
    9: {("changed", str(id_), "seen") for id_ in range(184, 197, 2)},
    10: {("changed", "210", "note")},
}
BY_MEASURE = {
    3: {("total", "sum")},
    6: {("note", "bytes")},
    8: {("share", "max")},
    9: {("seen", "max")},
    10: {("note", "nulls")},
}
"""And the ranges with another number of rows. Two values exchanged, a case and the sign of a zero
are not to be seen."""
SIGN = ("changed", "8", "share")
CHANGED = {
    ("changed", "5", "note"),
    ("changed", "6", "note"),
    SIGN,
    ("changed", "10", "paid_at"),
    ("changed", "11", "note"),
    ("changed", "20", "total"),
    ("changed", "21", "total"),
    ("extra", "130", ""),
    ("missing", "0", ""),
}


@dataclass(frozen=True, slots=True)
class Shop:
    """A desk whose exports are delivered, and how its source is changed."""

    engine: str
    desk: Desk
    execute: Callable[[str], str]

    def compared(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """The reports by export."""
        return compared(self.desk, *arguments, code=code)


def compared(desk: Desk, *arguments: str, code: int = 0) -> dict[str, Any]:
    """The reports of a comparison by export."""
    done = desk.cli("reconcile", "--confirm-after", "0", "--json", *arguments, code=code)
    assert "starts anew" not in done.err, "a comparison has room of its own"
    return {one["export_name"]: one for one in done.json["exports"]}


def config(engine: str) -> str:
    exports = "\n".join(
        f"  - {{name: {name}, {'' if 'format' in shape else 'format: parquet, '}{shape},\n"
        f"     destination: {{type: local, path: ./out/{name}}}}}"
        for name, shape in EXPORTS.items()
    )
    if engine == "postgres":  # whose arrays no cell can hold
        exports = exports.replace("{name: cells,", "{name: cells, columns: {marks: text},")
    return f"""\
source: {{type: {engine}, url_env: SHOP_URL}}
campaign: {{name: shop, workers: 1, lease_ttl_s: 5, prove: all}}
exports:
{exports}
"""


def shop_of(engine: str, url: str, folder: Any, execute: Callable[[str], str]) -> Shop:
    execute(POSTGRES if engine == "postgres" else MARIADB)
    desk = Desk(folder=folder, environment={"SHOP_URL": url})
    desk.write(config(engine))
    desk.cli("run")
    return Shop(engine, desk, execute)


@pytest.fixture(scope="module", params=["postgres", "mariadb"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Delivered once for an engine; what a test changes it leaves to those behind it."""
    folder = tmp_path_factory.mktemp("reconcile")
    server: EmbeddedPostgres | EmbeddedMariadb = request.getfixturevalue(request.param)
    url = server.create_database("reconcile_shop")
    ask = server.psql if isinstance(server, EmbeddedPostgres) else server.sql
    return shop_of(request.param, url, folder, lambda sql: ask(sql, database="reconcile_shop"))


def found(report: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {
        (row["difference"], ",".join(row["key"]), ",".join(row["columns"]))
        for each in report["partitions"]
        for row in each.get("rows", ())
    }


def differs(report: dict[str, Any]) -> set[tuple[str, str]]:
    """Columns and their measures in which a side of some range differs."""
    return {
        (column, measure)
        for each in report["partitions"]
        for column, measures in each.get("measures", {}).items()
        for measure in measures
    }


def test_rc2_rc4_every_strategy_matches_over_the_ranges_of_its_run(shop: Shop) -> None:
    """And nothing but a comparison was begun: no file, no mark, no history is another."""
    before = {path: path.stat().st_mtime_ns for path in shop.desk.out.rglob("*")}
    for depth in ("count", "aggregate", "hash"):
        reports = shop.compared("--depth", depth)
        assert {n: one["verdict"] for n, one in reports.items()} == dict.fromkeys(EXPORTS, "match")
        rows = {name: one["summary"]["total_source_rows"] for name, one in reports.items()}
        assert rows == {
            name: one["summary"]["total_exported_rows"] for name, one in reports.items()
        }
        assert rows["orders"] == 200 and rows["selected"] == 180 and rows["fresh"] == 100
        assert len(reports["orders"]["partitions"]) == 4
        for each in reports["orders"]["partitions"]:
            assert 1e9 < each["source_read_at_s"] <= each["source_read_until_s"]
            assert 1e9 < each["files_read_at_s"] <= each["files_read_until_s"]
        # Where the server says how far it has come, so does the verdict.
        moments = reports["orders"]["moments"]
        assert moments["run_began_s"] < moments["source_begun_s"] <= moments["source_ended_s"]
        if shop.engine == "postgres":
            assert re.fullmatch(r"[0-9A-F]+/[0-9A-F]+", moments["source_begun_position"])
    assert {path: path.stat().st_mtime_ns for path in shop.desk.out.rglob("*")} == before
    (report,) = [p for p in shop.desk.folder.glob("reconcile-*.json") if "hash" in p.read_text()]
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    known = {
        one["progression"]["export_name"]: one["progression"]
        for one in shop.desk.cli("state", "progression", "--json").json
    }
    for name in ("orders", "spans", "fresh"):
        committed, verified = known[name]["committed"], known[name]["verified"]
        assert {**verified, "at_s": 0} == {**committed, "at_s": 0}
    assert run_sqlite(shop.desk.state, "SELECT count(*) FROM export_metrics") == [(len(EXPORTS),)]


@pytest.fixture(scope="module")
def changed(shop: Shop) -> dict[str, dict[str, Any]]:
    """The reports of each depth behind all changes."""
    things = THINGS
    if shop.engine == "mariadb":  # which knows no NaN, and no number below zero here
        things = things.replace("NAN", "share").replace("-44", "44").replace("-45", "45")
    shop.execute(CHANGES + things.replace("NAN", "'NaN'"))
    depths = ("hash", "aggregate", "count")
    return {depth: shop.compared("--depth", depth, code=3) for depth in depths}


def test_each_change_is_found_at_the_depth_that_can_find_it(
    shop: Shop, changed: dict[str, dict[str, Any]]
) -> None:
    """And the depth that cannot says what it cannot see."""
    # MariaDB keeps no sign of a zero, and has no NaN.
    left_out = {7, 8} if shop.engine == "mariadb" else set()
    rows, measures = (
        {index: told for index, told in table.items() if index not in left_out}
        for table in (BY_ROW, BY_MEASURE)
    )
    report = changed["hash"]["things"]
    assert {
        each["chunk_index"]: found({"partitions": [each]})
        for each in report["partitions"]
        if each["status"] != "match"
    } == rows
    report = changed["aggregate"]["things"]
    told = {
        each["chunk_index"]: differs({"partitions": [each]})
        for each in report["partitions"]
        if each["status"] != "match"
    }
    assert {index: told[index] for index in told if index not in (1, 2)} == measures
    assert {("id", "sum"), ("big", "sum")} <= told[1]
    assert {("id", "sum"), ("note", "bytes"), ("day", "nulls")} <= told[2]
    assert "exchanged" in report["cannot_see"] and "case" in report["cannot_see"]
    assert report["measures"]["seen"] == ["nulls", "min", "max"]
    assert report["measures"]["tiny"] == ["nulls"]
    report = changed["count"]["things"]
    differing = [e["chunk_index"] for e in report["partitions"] if e["status"] != "match"]
    assert differing == [1, 2]
    assert "any change that leaves the number" in report["cannot_see"]


def test_what_was_changed_at_the_source_is_named(
    shop: Shop, changed: dict[str, dict[str, Any]]
) -> None:
    reports = changed["hash"]
    # MariaDB keeps no sign of a zero.
    rows = CHANGED - ({SIGN} if shop.engine == "mariadb" else set())
    assert found(reports["orders"]) == rows
    assert found(reports["selected"]) == {("extra", "130", "")}
    assert found(reports["cells"]) == rows
    assert reports["spans"]["verdict"] == reports["heap"]["verdict"] == "mismatch"
    assert reports["spans"]["summary"]["extra"] == 1
    # Its cursor has left what the run was to read: that is no fault.
    assert found(reports["fresh"]) == {("changed", "50", "note"), ("extra", "60", "")}
    assert ("changed", "70", "at") in found(reports["whole"])
    measured = changed["aggregate"]
    assert differs(measured["orders"]) == {
        # Rows 20 and 21 have exchanged their totals, a note only its case: nothing tells.
        *(("note", "bytes"), ("note", "nulls"), ("id", "min"), ("id", "sum"), ("total", "nulls")),
        *(("total", "sum"), ("share", "nulls"), ("paid_at", "nulls")),
        *((("ref", "nulls"), ("marks", "nulls")) if shop.engine == "postgres" else ()),
    }
    counts = changed["count"]
    assert counts["orders"]["summary"]["mismatches"] == 2
    assert counts["joined"]["verdict"] == "mismatch"
    # As many rows as before: what a number cannot tell.
    assert counts["heap"]["verdict"] == "match"


def test_a_comparison_is_killed_and_goes_on_and_finds_what_files_lack(
    own_shop: tuple[Desk, str], postgres: EmbeddedPostgres
) -> None:
    desk, name = own_shop
    more = "mode: chunked, chunk_size: 50, reconcile: {depth: count}"
    desk.write(fleet_yaml(extra=more))
    # The run itself compares what it delivered, because its export asks for it.
    assert "orders: match" in desk.cli("run").out
    comparing = desk.start("reconcile", "--workers", "0", "-c", str(desk.config))
    with ended(comparing):
        known = "SELECT count(*) FROM campaign WHERE campaign_name LIKE '%/reconcile'"
        until(lambda: run_sqlite(desk.state, known) == [(2,)])
        comparing.send_signal(signal.SIGKILL)
        comparing.communicate()
    # Continued as a delivery it would end with 0 whatever it found.
    ((comparison,),) = run_sqlite(
        desk.state,
        "SELECT campaign_id FROM campaign "
        "WHERE campaign_name LIKE '%/reconcile' AND status = 'active'",
    )
    for verb in ("resume", "run", "submit"):
        going = (verb, "--campaign-id", comparison)
        desk.refused(*going, code=1, named="compares delivered files", hint="rivet-fleet reconcile")
    # A worker dies behind a chunk's commit; another one takes its place.
    marker = desk.folder / "killed"
    desk.environment["RIVET_FLEET_TEST_KILL"] = f"chunk.committed:kill:2:{marker}"
    done = desk.cli("reconcile")
    assert marker.exists()
    assert "continuing comparison" in done.err and "orders: match (ranges: 4 match)" in done.out
    assert run_sqlite(desk.state, known) == [(2,)]
    desk.environment.pop("RIVET_FLEET_TEST_KILL")

    asked = ("reconcile", "--settled-by", "note")
    desk.refused(*asked, code=1, named="note is no date or time", hint="all rows are compared")
    # RC1: without a run there is nothing to compare.
    desk.refused("reconcile", "--run", "other", code=1, named="no delivered run", hint="state show")
    (manifest,) = desk.out.glob("orders/manifest-*.json")
    body = manifest.read_text()
    manifest.write_text(body.replace("-c000001-", "-c000009-"))
    desk.refused("reconcile", code=1, named="lists other files", hint="validate")
    manifest.write_text(body)
    # A range of the run that is gone is compared with nothing, and all the others match.
    delivered = "run_id = (SELECT run_id FROM chunk_run ORDER BY created_at_s LIMIT 1)"
    last = f"{delivered} AND chunk_index = 3"
    run_sqlite(desk.state, f"CREATE TABLE kept AS SELECT * FROM chunk_task WHERE {last}")
    assert run_sqlite(desk.state, "SELECT count(*) FROM kept") == [(1,)]
    run_sqlite(desk.state, f"DELETE FROM chunk_task WHERE {last}")
    desk.refused("reconcile", code=3, named="list of chunks", hint="")
    run_sqlite(desk.state, "INSERT INTO chunk_task SELECT * FROM kept")
    run_sqlite(desk.state, "DROP TABLE kept")
    # Nor is a ledger believed that somebody has edited, so that it fits a file of theirs.
    first = "path = (SELECT min(path) FROM file_log)"
    run_sqlite(desk.state, f"UPDATE file_log SET rows = rows - 1 WHERE {first}")
    for depth in ("count", "hash"):
        desk.refused("reconcile", "--depth", depth, code=3, named="seal", hint="")
    run_sqlite(desk.state, f"UPDATE file_log SET rows = rows + 1 WHERE {first}")

    (part,) = desk.out.glob("orders/*/*-c000001-*.parquet")
    whole = part.read_bytes()
    pq.write_table(pq.read_table(part).slice(1), part)
    for depth in ("count", "aggregate", "hash"):
        report = compared(desk, "--depth", depth, code=3)["orders"]
        assert report["summary"]["mismatches"] == 1
        assert report["partitions"][1]["status"] == "mismatch"
        assert "not those that were written" in report["partitions"][1]["note"]
    part.unlink()
    report = compared(desk, code=1)["orders"]
    assert (report["verdict"], report["summary"]["unknown"]) == ("unknown", 1)
    part.write_bytes(whole)
    postgres.psql("ALTER TABLE orders ADD COLUMN more int", database=name)
    assert compared(desk, code=4)["orders"]["verdict"] == "unknown"
    postgres.psql("ALTER TABLE orders DROP COLUMN more", database=name)
    assert compared(desk, "--depth", "hash")["orders"]["verdict"] == "match"
