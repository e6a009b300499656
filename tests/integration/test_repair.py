"""`repair` over real servers: what differs is replaced, and a reader sees one of the two."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rivet_fleet.contracts.manifest import LATEST_NAME, MANIFEST_NAME
from rivet_fleet.demo.embedded import EmbeddedPostgres
from tests.integration.fleet_cli import Desk, fleet_yaml, run_sqlite
from tests.servers.mariadb import EmbeddedMariadb

ROWS = {
    "postgres": "SELECT i, 'n' || i FROM generate_series(1, 200) i",
    "mariadb": "SELECT seq, concat('n', seq) FROM seq_1_to_200",
}
BEFORE = {i: f"n{i}" for i in range(1, 201)}
AFTER = {**BEFORE, 5: "other", 1000: "added"}
del AFTER[130]
CHANGES = """
UPDATE orders SET note = 'other' WHERE id = 5;
DELETE FROM orders WHERE id = 130;
INSERT INTO orders VALUES (1000, 'added');
"""
REPAIR = ("repair", "--json")


@dataclass(frozen=True, slots=True)
class Shop:
    """A desk whose export is delivered, and how its source is changed."""

    engine: str
    desk: Desk
    execute: Callable[[str], str]

    @property
    def place(self) -> Path:
        return self.desk.out / "orders"

    def by(self, name: str) -> dict[int, str]:
        """What an independent reader finds who goes by one of the two names."""
        said = json.loads((self.place / name).read_bytes())
        files = said["files"] if name == LATEST_NAME else [p["path"] for p in said["parts"]]
        return rows_of(self.place / path for path in files)


def rows_of(paths: Any) -> dict[int, str]:
    found: list[tuple[int, str]] = []
    for path in paths:
        table = pq.ParquetFile(path).read(["id", "note"])
        found += zip(*(table.column(n).to_pylist() for n in ("id", "note")), strict=True)
    assert len(found) == len(dict(found)), "rows twice"
    return dict(found)


@pytest.fixture(scope="module", params=["postgres", "mariadb"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    engine, folder = request.param, tmp_path_factory.mktemp("repair")
    server: EmbeddedPostgres | EmbeddedMariadb = request.getfixturevalue(engine)
    url = server.create_database("repair_shop")
    ask = server.psql if isinstance(server, EmbeddedPostgres) else server.sql

    def execute(sql: str) -> str:
        return ask(sql, database="repair_shop")

    execute(
        "CREATE TABLE orders (id bigint NOT NULL PRIMARY KEY, note varchar(40));"
        f"INSERT INTO orders {ROWS[engine]}; ANALYZE {'TABLE ' * (engine != 'postgres')}orders;"
    )
    desk = Desk(folder=folder, environment={"SHOP_URL": url})
    desk.write(
        fleet_yaml(
            source=f"{{type: {engine}, url_env: SHOP_URL}}", extra="mode: chunked, chunk_size: 40"
        )
    )
    desk.cli("run")
    return Shop(engine, desk, execute)


@contextmanager
def read_all_the_while(shop: Shop) -> Iterator[list[dict[int, str]]]:
    """An oracle that goes by both names without a pause; what it found, once each."""
    found: list[dict[int, str]] = []
    over, failed = threading.Event(), []

    def look() -> None:
        try:
            while not over.is_set():
                for name in (MANIFEST_NAME, LATEST_NAME):
                    rows = shop.by(name)
                    if rows not in found:
                        found.append(rows)
                over.wait(0.005)
        except Exception as error:
            failed.append(error)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        yield found
    finally:
        over.set()
        reader.join()
    assert not failed, failed


def test_what_differs_is_replaced_and_a_reader_sees_one_of_the_two(shop: Shop) -> None:
    """RR2, RR3, M4: nothing without a word, the run's own ranges, both manifests."""
    desk = shop.desk
    shop.execute(CHANGES)
    # And a file that somebody has written anew, with as many rows.
    (part,) = shop.place.glob("*/*-c000001-*.parquet")
    pq.write_table(pq.read_table(part), part, compression="none")
    desk.cli("reconcile", "--confirm-after", "0", "--report", "found.json", code=3)
    shown = desk.cli(*REPAIR, "--report", "found.json").json
    (one,) = shown["exports"]
    assert (shown["executed"], one["generation"], shop.by(MANIFEST_NAME)) == (False, 1, BEFORE)
    assert [each["chunk_index"] for each in one["ranges"]] == [0, 1, 3, 4]
    assert one["rows"] in (160, 161) and one["bytes"] > 0 and one["statements"] >= 4

    marker = desk.folder / "killed"
    desk.environment["RIVET_FLEET_TEST_KILL"] = f"chunk.committed:kill:2:{marker}"
    with read_all_the_while(shop) as seen:
        done = desk.cli(*REPAIR, "--report", "found.json", "--execute")
    desk.environment.pop("RIVET_FLEET_TEST_KILL")
    assert marker.exists() and done.json["compared"][0]["exports"][0]["verdict"] == "match"
    assert seen == [BEFORE, AFTER]
    assert shop.by(MANIFEST_NAME) == shop.by(LATEST_NAME) == AFTER
    manifest = json.loads((shop.place / MANIFEST_NAME).read_bytes())
    former = shop.place / manifest["supersedes"]
    assert manifest["generation"] == 2
    # The former generation is whole yet, by its own copy and by who globs the run's folder.
    listed = [part["path"] for part in json.loads(former.read_bytes())["parts"]]
    assert rows_of(shop.place / path for path in listed) == BEFORE
    assert rows_of(shop.place.glob("*/*.parquet")) == BEFORE
    desk.cli("validate")
    verified = desk.cli("state", "progression", "--json").json[0]["progression"]["verified"]
    assert verified["run_id"] == manifest["run_id"]

    desk.refused(
        *("repair", "--report", "found.json"), code=1, named="was repaired since", hint="compare"
    )
    assert desk.cli("gc", "--json").json["replaced_parts"] == 0
    swept = desk.cli("gc", "--json", "--replaced-after-s", "0", "--min-age-s", "0").json
    assert (swept["replaced_parts"], swept["late_parts"]) == (4, 0)
    assert shop.by(MANIFEST_NAME) == shop.by(LATEST_NAME) == AFTER
    assert len(list(shop.place.glob("*/*.parquet"))) == 1, "the range that did not differ"
    assert not list(shop.place.glob("*/_SUCCESS")), "the folder is not whole by itself any more"
    desk.cli("validate")
    desk.refused("repair", code=1, named="no range of what was compared differs", hint="changed")


@pytest.mark.parametrize("shop", ["postgres"], indirect=True)
def test_a_repair_is_refused_and_nothing_is_changed(shop: Shop) -> None:
    """RR1, RR6: a comparison decides what is read, and nothing that was written into its report."""
    desk = shop.desk
    shop.execute("UPDATE orders SET note = 'third' WHERE id = 60")
    desk.cli("reconcile", "--confirm-after", "0", "--report", "second.json", code=3)
    report = json.loads((desk.folder / "second.json").read_text())
    before = {p: p.stat().st_mtime_ns for p in desk.out.rglob("*")}

    def refused(change: Callable[[dict[str, Any]], object], named: str) -> None:
        edited = json.loads(json.dumps(report))
        change(edited["exports"][0])
        (desk.folder / "edited.json").write_text(json.dumps(edited))
        asked = ("repair", "--execute", "--report", "edited.json")
        desk.refused(*asked, code=1, named=named, hint="reconcile")

    refused(lambda one: one["partitions"][0].update(status="mismatch"), "was edited")
    refused(lambda one: one["partitions"].pop(), "was edited")
    refused(lambda one: one.update(run_id="other"), "was edited")
    refused(lambda one: one.update(reconcile_run_id="../x"), "names no comparison")
    refused(lambda one: one.update(reconcile_run_id=one["run_id"]), "no comparison")
    (desk.folder / "edited.json").write_text("[]")
    desk.refused(
        *("repair", "--report", "edited.json"), code=1, named="no report", hint="reconcile"
    )
    asked = ("repair", "--execute", "--report", "second.json")
    shop.execute("ALTER TABLE orders ADD COLUMN more int")
    desk.refused(*asked, code=4, named="more", hint="")
    shop.execute("ALTER TABLE orders DROP COLUMN more")
    (gone,) = shop.place.glob("*/_g2/*-c000004-*.parquet")
    body = gone.read_bytes()
    gone.unlink()
    desk.refused(*asked, code=1, named="is gone", hint="requeue --lost")
    gone.write_bytes(body)
    assert run_sqlite(desk.state, "SELECT max(generation) FROM chunk_run") == [(2,)]
    now = {p: p.stat().st_mtime_ns for p in desk.out.rglob("*")}
    assert {p for p in before if p.is_file()} == {p for p in now if p.is_file()}


MODES = {
    "heap": "table: heap, mode: chunked, chunk_size: 100",
    "whole": "table: events, mode: full, format: csv",
    "joined": 'query: "SELECT e.id, h.note FROM events e JOIN heap h ON h.id = e.id"',
    "fresh": "table: events, mode: incremental, cursor_column: id",
    "days": "table: events, partition_by: day, format: csv",
}
TABLES = """
CREATE TABLE heap (id int, note text);
INSERT INTO heap SELECT i, repeat('x', 200) || i FROM generate_series(1, 400) i;
CREATE TABLE events (id bigint PRIMARY KEY, day date NOT NULL, note text);
INSERT INTO events SELECT i, date '2026-01-01' + (i % 2)::int, 'e' || i
    FROM generate_series(1, 100) i;
ANALYZE;
"""


def test_every_mode_is_repaired_and_an_older_run_moves_no_mark(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    """RR4, RR7: what is committed stays where it is, in every mode."""

    def execute(sql: str) -> str:
        return postgres.psql(sql, database="repair_modes")

    desk = Desk(folder=tmp_path)
    desk.environment["SHOP_URL"] = postgres.create_database("repair_modes")
    execute(TABLES)
    exports = "\n".join(
        f"  - {{name: {name}, {'' if 'format' in shape else 'format: parquet, '}{shape},\n"
        f"     destination: {{type: local, path: './out/{name}"
        f"{'/{partition}' if 'partition_by' in shape else ''}'}}}}"
        for name, shape in MODES.items()
    )
    desk.write(
        "source: {type: postgres, url_env: SHOP_URL}\n"
        f"campaign: {{name: modes, workers: 1, prove: all}}\nexports:\n{exports}\n"
    )
    desk.cli("run")
    ((former,),) = run_sqlite(
        desk.state, "SELECT run_id FROM chunk_run WHERE export_name = 'fresh'"
    )
    execute("INSERT INTO events VALUES (101, '2026-01-01', 'new'), (102, '2026-01-02', 'new')")
    desk.cli("run")
    place = tmp_path / "out" / "fresh"
    known = (MANIFEST_NAME, LATEST_NAME, "_SUCCESS")
    newest = [(place / name).read_bytes() for name in known]
    mark = run_sqlite(desk.state, "SELECT last_cursor_value FROM export_state")
    execute(
        "UPDATE events SET note = 'other' WHERE id = 50; DELETE FROM events WHERE id = 20;"
        "UPDATE heap SET note = 'moved' WHERE id IN (20, 60)"
    )

    def repaired(*which: str) -> dict[str, Any]:
        compare = ("reconcile", "--confirm-after", "0", "--report", "found.json", *which)
        desk.cli(*compare, code=3)
        done = desk.cli(*REPAIR, "--report", "found.json", "--execute").json
        verdicts = {
            one["export_name"]: one["verdict"]
            for each in done["compared"]
            for one in each["exports"]
        }
        assert {*verdicts.values()} == {"match"}
        return {one["export_name"]: one for one in done["exports"]}

    found = repaired()
    assert {name.partition("__")[0] for name in found} == {"heap", "whole", "joined", "days"}, found
    assert len(found["heap"]["ranges"]) > 1, "all blocks of it are judged together"
    assert "fresh" not in found, "its newest run has the two rows that were added"
    assert (place / MANIFEST_NAME).read_bytes() == newest[0]
    older = repaired("--run", former)["fresh"]
    assert older["run_id"] == former
    assert [(place / name).read_bytes() for name in known] == newest
    assert run_sqlite(desk.state, "SELECT last_cursor_value FROM export_state") == mark
    said = json.loads((place / f"manifest-{former}.g2.json").read_bytes())
    assert said["row_count"] == 99 and said["supersedes"] == f"manifest-{former}.json"
    assert rows_of(place / part["path"] for part in said["parts"])[50] == "other"
    desk.cli("validate")
