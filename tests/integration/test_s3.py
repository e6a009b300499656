"""Campaigns into a bucket: the README's first example with another destination block, and all that
is done to a delivery. The files are read by pyarrow's own S3 client, never by our code."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import FileSelector, S3FileSystem

from tests.integration.fleet_cli import Desk
from tests.servers.versitygw import Versitygw

ROWS = """
CREATE TABLE orders (id bigint PRIMARY KEY, day date NOT NULL, note text);
INSERT INTO orders SELECT i, date '2026-01-01' + (i % 3)::int, repeat('n', 20) || i
FROM generate_series(1, 300) i;
CREATE TABLE nothing (id bigint PRIMARY KEY);
ANALYZE;
"""
README = Path(__file__).parents[2] / "README.md"
FOLDER = "{type: local, path: ./out/orders}"
MORE = """\
    chunk_count: 3
  - {{name: days, table: orders, partition_by: day, format: csv, destination: {days}}}
  - {{name: nothing, table: nothing, skip_empty: true, format: csv, destination: {nothing}}}
campaign: {{workers: 2}}
"""


def first_example() -> str:
    """The README's configuration."""
    found = re.search(r"<<'EOF'\n(.*?)EOF\n", README.read_text(), re.DOTALL)
    assert found is not None and FOLDER in found[1]
    return found[1]


class Lake:
    """One bucket as somebody else reads it, and its user's folder."""

    def __init__(self, server: Versitygw, bucket: str, desk: Desk) -> None:
        self.bucket = server.make_bucket(bucket)
        self.desk = desk
        self._server = server
        self._files = S3FileSystem(
            access_key=server.access_key,
            secret_key=server.secret_key,
            endpoint_override=f"127.0.0.1:{server.port}",
            scheme="http",
            region="us-east-1",
        )

    def block(self, prefix: str) -> str:
        """A destination of it."""
        return (
            f"{{type: s3, bucket: {self.bucket}, prefix: '{prefix}', endpoint: "
            f"'{self._server.endpoint}', access_key_env: LAKE_KEY, secret_key_env: LAKE_SECRET}}"
        )

    def names(self, prefix: str) -> list[str]:
        """Keys below a prefix, without it."""
        found = self._files.get_file_info(
            FileSelector(f"{self.bucket}/{prefix}", recursive=True, allow_not_found=True)
        )
        start = len(f"{self.bucket}/{prefix}/")
        return sorted(info.path[start:] for info in found if info.is_file)

    def ids(self, prefix: str) -> Counter[int]:
        """Every row of every file beside a ``_SUCCESS``."""
        ids: Counter[int] = Counter()
        names = self.names(prefix)
        done = {name.rpartition("/")[0] for name in names if name.endswith("/_SUCCESS")}
        for name in names:
            if name.rpartition("/")[0] in done and name.endswith((".parquet", ".csv")):
                with self._files.open_input_file(f"{self.bucket}/{prefix}/{name}") as file:
                    whole = pq.read_table(file) if name.endswith("t") else csv.read_csv(file)
                ids.update(whole["id"].to_pylist())
        return ids

    def delete(self, prefix: str, name: str) -> None:
        """Behind our back."""
        self._files.delete_file(f"{self.bucket}/{prefix}/{name}")


@pytest.fixture(scope="module")
def lake(postgres, versitygw, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """A campaign that was delivered."""
    database = postgres.create_database("s3_campaign")
    postgres.psql(ROWS, database="s3_campaign")
    environment = {"DATABASE_URL": database, **versitygw.variables}
    desk = Desk(folder=tmp_path_factory.mktemp("s3"), environment=environment)
    lake = Lake(versitygw, "lake", desk)
    text = first_example().replace(FOLDER, lake.block("raw/orders"))
    names = {"days": "raw/{partition}", "nothing": "raw/nothing"}
    desk.write(text + MORE.format(**{name: lake.block(prefix) for name, prefix in names.items()}))
    said = desk.cli("run").said
    assert "recycled" not in said, "the library has room of its own beside worker_memory_mb"
    yield lake


EVERY = Counter(range(1, 301))


def test_every_row_is_there_once(lake: Lake) -> None:
    assert lake.ids("raw/orders") == EVERY
    assert sum((lake.ids(f"raw/day=2026-01-0{day}") for day in (1, 2, 3)), Counter()) == EVERY
    assert lake.names("raw/nothing") == []


def test_what_lies_beside_the_rows(lake: Lake) -> None:
    names = lake.names("raw/orders")
    run_id = next(name.partition("/")[0] for name in names if name.endswith(".parquet"))
    assert {"manifest.json", "_SUCCESS", f"{run_id}/_SUCCESS"} < set(names)
    assert f"_reports/{run_id}/summary.json" in names


def test_it_validates_at_every_depth(lake: Lake) -> None:
    for depth in ("sample", "full"):
        report = lake.desk.cli("validate", "--depth", depth, "--json").json
        assert json.dumps(report).count('"passed": true') >= 4, depth


def test_a_lost_part_is_found_and_extracted_again(lake: Lake) -> None:
    part = next(name for name in lake.names("raw/orders") if name.endswith(".parquet"))
    lake.delete("raw/orders", part)
    lake.desk.cli("validate", code=3)
    assert "1 lost" in lake.desk.cli("requeue", "--lost").said
    lake.desk.cli("resume")
    lake.desk.cli("validate", "--depth", "full")
    assert lake.ids("raw/orders") == EVERY


def test_no_secret_is_kept_or_said(lake: Lake, versitygw: Versitygw) -> None:
    for path in sorted(lake.desk.folder.rglob("*")):
        if path.is_file():
            assert versitygw.secret_key.encode() not in path.read_bytes(), path
    told = lake.desk.cli("doctor").said
    assert versitygw.secret_key not in told and versitygw.access_key not in told


def test_gc_takes_what_nobody_needs_and_only_ours(lake: Lake, versitygw: Versitygw) -> None:
    from rivet_fleet.execution import registry
    from rivet_fleet.execution.parts import digest_file

    here = registry.open_destination(versitygw.connection(lake.bucket, "raw/orders"))
    part = Path(lake.desk.folder) / "left"
    part.write_bytes(b"left")
    here.stage(part, "orders_1/orders-c000000-p000-f1.parquet", digest_file(part, 1))
    here.stage(part, "backup/archive.tar", digest_file(part, 1))
    assert "removed 1 staged files" in lake.desk.cli("gc", "--min-age-s", "0").said
    left = [one.key for one in here._store.list_staged("raw/orders/")]
    assert left == ["raw/orders/backup/archive.tar"]
