"""Repairs that are killed on the way, one after the other, over both states, into a folder and into
a bucket: who reads all the while finds one generation whole, and what was begun is ended."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from rivet_fleet.contracts.manifest import LATEST_NAME, MANIFEST_NAME
from rivet_fleet.demo.embedded import EmbeddedPostgres
from tests.integration.fleet_cli import Desk, fleet_yaml

Rows = dict[int, str]
KILLED = {
    "sqlite": ("repair.begun", "success.written"),
    "postgres": ("manifest.written",),
}


class Place:
    """A dataset, as somebody else reads it."""

    def __init__(self, desk: Desk, files: fs.FileSystem, root: str) -> None:
        self.desk, self._files, self._root = desk, files, root

    def read(self, path: str) -> bytes:
        # This library asks a store how large an object is, then for so many bytes: of one that was
        # replaced between the two it has a piece, and asks again.
        while True:
            with self._files.open_input_stream(f"{self._root}/{path}") as stream:
                body = bytes(stream.read())
            if self._files.get_file_info(f"{self._root}/{path}").size == len(body):
                return body

    def by(self, name: str) -> Rows:
        said = json.loads(self.read(name))
        files = said["files"] if name == LATEST_NAME else [p["path"] for p in said["parts"]]
        found: list[tuple[int, str]] = []
        for path in files:
            table = pq.read_table(io.BytesIO(self.read(path)), columns=["id", "note"])
            found += zip(*(table.column(n).to_pylist() for n in ("id", "note")), strict=True)
        assert len(found) == len(dict(found)), "rows twice"
        return dict(found)

    @contextmanager
    def read_all_the_while(self) -> Iterator[list[Rows]]:
        """What was found by either name, each once."""
        found: list[Rows] = []
        over, failed = threading.Event(), []

        def look() -> None:
            try:
                while not over.is_set():
                    for name in (MANIFEST_NAME, LATEST_NAME):
                        if (rows := self.by(name)) not in found:
                            found.append(rows)
                    over.wait(0.01)
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


@pytest.fixture(scope="module", params=KILLED)
def place(
    request: pytest.FixtureRequest,
    postgres: EmbeddedPostgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> Place:
    """Delivered once; over SQLite into a folder, over PostgreSQL into a bucket."""
    state, name = request.param, f"repair_kills_{request.param}"
    url = postgres.create_database(name)
    postgres.psql(
        "CREATE TABLE orders (id bigint PRIMARY KEY, note text);"
        "INSERT INTO orders SELECT i, 'first' FROM generate_series(1, 90) i; ANALYZE orders;",
        database=name,
    )
    desk = Desk(folder=tmp_path_factory.mktemp(name), environment={"SHOP_URL": url})
    text = fleet_yaml(extra="mode: chunked, chunk_size: 30", campaign="workers: 1, lease_ttl_s: 1")
    if state == "sqlite":
        place = Place(desk, fs.LocalFileSystem(), str(desk.out / "orders"))
    else:
        store: Any = request.getfixturevalue("versitygw")
        words = {"type": store.kind, "bucket": store.make_bucket("repairs"), "prefix": "orders"}
        block = ", ".join(f"{k}: '{v}'" for k, v in (words | store.settings).items())
        text = text.replace("{type: local, path: ./out/orders}", f"{{{block}}}")
        state_url = postgres.create_database("repair_kills_state")
        desk.environment |= {**store.variables, "RIVET_FLEET_STATE_URL": state_url}
        place = Place(desk, store.reader(), f"{words['bucket']}/orders")
    desk.write(text)
    desk.cli("run")
    return place


def test_repairs_that_are_killed_leave_one_generation_to_read_and_are_ended(
    place: Place, postgres: EmbeddedPostgres
) -> None:
    desk = place.desk
    database = desk.environment["SHOP_URL"].rpartition("/")[2]
    before = dict.fromkeys(range(1, 91), "first")
    assert place.by(MANIFEST_NAME) == place.by(LATEST_NAME) == before
    state = database.rpartition("_")[2]
    for generation, point in enumerate(KILLED[state], start=2):
        change = f"UPDATE orders SET note = '{point}' WHERE id IN (5, {generation * 20})"
        postgres.psql(change, database=database)
        after = before | {5: point, generation * 20: point}
        desk.cli("reconcile", "--confirm-after", "0", "--report", "found.json", code=3)
        marker = desk.folder / f"killed-{generation}"
        desk.environment["RIVET_FLEET_TEST_KILL"] = f"{point}:kill:1:{marker}"
        with place.read_all_the_while() as seen:
            # The coordinator dies with the command, a worker is replaced.
            done = desk.cli("repair", "--report", "found.json", "--execute", code=None)
            assert marker.exists() and done.code in (0, -9), done.said
            if done.code:
                desk.refused(
                    *("repair", "--report", "found.json"),
                    code=1,
                    named="is in progress",
                    hint="resume",
                )
                desk.cli("resume")
        assert seen in ([before, after], [before]), point
        assert place.by(MANIFEST_NAME) == place.by(LATEST_NAME) == after
        assert json.loads(place.read(MANIFEST_NAME))["generation"] == generation
        before = after
    marker = desk.folder / "killed-gc"
    desk.environment["RIVET_FLEET_TEST_KILL"] = f"replaced.removed:kill:1:{marker}"
    swept = ("gc", "--replaced-after-s", "0", "--json")
    desk.cli(*swept, code=-9)
    desk.cli(*swept)
    assert marker.exists()
    assert place.by(MANIFEST_NAME) == place.by(LATEST_NAME) == before
    desk.cli("validate")
    give_up(place, postgres, database, before)


def give_up(place: Place, postgres: EmbeddedPostgres, database: str, before: Rows) -> None:
    """A repair dies and is cancelled: what was delivered is known as before, and what is wrong of
    it is mended by the next one."""
    desk = place.desk
    postgres.psql("UPDATE orders SET note = 'late' WHERE id IN (6, 70)", database=database)
    desk.cli("reconcile", "--confirm-after", "0", "--report", "found.json", code=3)
    marker = desk.folder / "killed-cancelled"
    desk.environment["RIVET_FLEET_TEST_KILL"] = f"repair.begun:kill:1:{marker}"
    desk.cli("repair", "--report", "found.json", "--execute", code=-9)
    assert marker.exists()
    campaign_id = json.loads(place.read(MANIFEST_NAME))["run_id"].partition("_")[2]
    done = desk.cli("cancel", "--yes", "--json", "--campaign-id", campaign_id).json
    assert done["status"] == "completed"
    assert place.by(MANIFEST_NAME) == place.by(LATEST_NAME) == before
    desk.cli("validate")
    desk.cli("files")
    desk.cli("reconcile", "--confirm-after", "0", "--report", "found.json", code=3)
    desk.cli("repair", "--report", "found.json", "--execute")
    after = before | {6: "late", 70: "late"}
    assert place.by(MANIFEST_NAME) == place.by(LATEST_NAME) == after
    desk.cli("validate")
