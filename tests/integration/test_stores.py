"""Campaigns into buckets: the README's first example with another destination block, and all that
is done to a delivery. A real S3 server, and services that the tests play; the files are read by
pyarrow's own clients, never by our code."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import FileSelector

from rivet_fleet.execution import registry
from rivet_fleet.execution.parts import digest_file
from tests.integration.fleet_cli import Desk
from tests.servers.azure_fake import AzureAccount, Blob, azure_account
from tests.servers.web import Answer, Asked

ROWS = """
CREATE TABLE orders (id bigint PRIMARY KEY, day date NOT NULL, note text);
INSERT INTO orders SELECT i, date '2026-01-01' + (i % 3)::int, repeat('n', 20) || i
FROM generate_series(1, 300) i;
CREATE TABLE nothing (id bigint PRIMARY KEY);
ANALYZE;
"""
EVERY = Counter(range(1, 301))
README = Path(__file__).parents[2] / "README.md"
FOLDER = "{type: local, path: ./out/orders}"
MORE = """\
    chunk_count: 3
  - {{name: days, table: orders, partition_by: day, format: csv, destination: {days}}}
  - {{name: nothing, table: nothing, skip_empty: true, format: csv, destination: {nothing}}}
campaign: {{workers: 2}}
"""
ELSEWHERE = {
    "s3": {"AWS_ENDPOINT_URL": "http://evil.example"},
    "azure": {
        "AZURE_STORAGE_CONNECTION_STRING": "DefaultEndpointsProtocol=https;AccountName=evil;"
        "AccountKey=AAAA;EndpointSuffix=evil.example",
    },
    "gcs": {"STORAGE_EMULATOR_HOST": "http://evil.example"},
}
"""They would win over what is configured."""


def first_example() -> str:
    """The README's configuration."""
    found = re.search(r"<<'EOF'\n(.*?)EOF\n", README.read_text(), re.DOTALL)
    assert found is not None and FOLDER in found[1]
    return found[1]


class Lake:
    """One bucket as somebody else reads it, and its user's folder."""

    def __init__(self, store: Any, desk: Desk) -> None:
        self.store = store
        self.desk = desk
        self.bucket = store.make_bucket("campaign")

    def block(self, prefix: str) -> str:
        """A destination of it."""
        words = {"type": self.store.kind, "bucket": self.bucket, "prefix": prefix}
        words |= self.store.settings
        return "{" + ", ".join(f"{name}: '{text}'" for name, text in words.items()) + "}"

    def names(self, prefix: str) -> list[str]:
        """Keys below a prefix, without it."""
        found = self.store.reader().get_file_info(
            FileSelector(f"{self.bucket}/{prefix}", recursive=True, allow_not_found=True)
        )
        start = len(f"{self.bucket}/{prefix}/")
        return sorted(info.path[start:] for info in found if info.is_file)

    def parts(self, prefix: str) -> list[str]:
        """Names of files with rows."""
        return [name for name in self.names(prefix) if name.endswith((".parquet", ".csv"))]

    def ids(self, prefix: str) -> Counter[int]:
        """Every row of every file beside a ``_SUCCESS``."""
        ids: Counter[int] = Counter()
        done = {n.rpartition("/")[0] for n in self.names(prefix) if n.endswith("/_SUCCESS")}
        files = self.store.reader()
        for name in self.parts(prefix):
            if name.rpartition("/")[0] in done:
                # All at once: who parses holds the lock that a service within this process needs.
                with files.open_input_stream(f"{self.bucket}/{prefix}/{name}") as stream:
                    body = io.BytesIO(stream.read())
                whole = pq.read_table(body) if name.endswith("t") else csv.read_csv(body)
                ids.update(whole["id"].to_pylist())
        return ids


@pytest.fixture(scope="module")
def database(postgres) -> str:
    url = postgres.create_database("stores_campaign")
    postgres.psql(ROWS, database="stores_campaign")
    return url


@pytest.fixture(scope="module", params=["versitygw", "azure", "gcs"])
def lake(request, database: str, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A campaign that was delivered."""
    store = request.getfixturevalue(request.param)
    environment = {"DATABASE_URL": database, **store.variables, **ELSEWHERE[store.kind]}
    desk = Desk(folder=tmp_path_factory.mktemp(store.kind), environment=environment)
    lake = Lake(store, desk)
    text = first_example().replace(FOLDER, lake.block("raw/orders"))
    names = {"days": "raw/{partition}", "nothing": "raw/nothing"}
    desk.write(text + MORE.format(**{name: lake.block(prefix) for name, prefix in names.items()}))
    said = desk.cli("run").said
    assert "recycled" not in said, "the library has room of its own beside worker_memory_mb"
    return lake


def test_every_row_is_there_once_and_nothing_is_left_staged(lake: Lake) -> None:
    assert lake.ids("raw/orders") == EVERY
    assert sum((lake.ids(f"raw/day=2026-01-0{day}") for day in (1, 2, 3)), Counter()) == EVERY
    assert lake.names("raw/nothing") == []
    assert lake.store.staged(lake.bucket) == []


def test_what_lies_beside_the_rows(lake: Lake) -> None:
    names = lake.names("raw/orders")
    run_id = lake.parts("raw/orders")[0].partition("/")[0]
    assert {"manifest.json", "_SUCCESS", f"{run_id}/_SUCCESS"} < set(names)
    assert f"_reports/{run_id}/summary.json" in names


def test_a_lost_part_is_found_and_extracted_again(lake: Lake) -> None:
    report = lake.desk.cli("validate", "--depth", "sample", "--json").json
    assert json.dumps(report).count('"passed": true') >= 4
    lake.store.lose(lake.bucket, f"raw/orders/{lake.parts('raw/orders')[0]}")
    lake.desk.cli("validate", code=3)
    assert "1 lost" in lake.desk.cli("requeue", "--lost").said
    lake.desk.cli("resume")
    report = lake.desk.cli("validate", "--depth", "full", "--json").json
    assert json.dumps(report).count('"passed": true') >= 4
    assert lake.ids("raw/orders") == EVERY


def test_no_secret_is_kept_or_said(lake: Lake) -> None:
    told = lake.desk.cli("doctor").said
    secrets = [*lake.store.variables.values(), getattr(lake.store, "token", "")]
    for secret in filter(None, secrets):
        assert secret not in told
        for path in sorted(lake.desk.folder.rglob("*")):
            if Path(path).is_file():
                assert secret.encode() not in path.read_bytes(), path
    assert all(name in told for name in ELSEWHERE[lake.store.kind])


def test_gc_takes_what_nobody_needs_and_only_ours(lake: Lake) -> None:
    here = registry.open_destination(lake.store.connection(lake.bucket, "raw/orders"))
    part = Path(lake.desk.folder) / "left"
    part.write_bytes(b"left")
    here.stage(part, "orders_1/orders-c000000-p000-f1.parquet", digest_file(part, 1))
    here.stage(part, "backup/archive.tar", digest_file(part, 1))
    assert "removed 1 staged files" in lake.desk.cli("gc", "--min-age-s", "0").said
    (left,) = lake.store.staged(lake.bucket)
    assert "backup/archive.tar" in left


def test_what_was_forgotten_is_delivered_anew_beside_it(lake: Lake) -> None:
    """The ledger is the state's, and names what lies in the bucket; forgetting it removes
    nothing there."""
    if lake.store.kind != "s3":
        pytest.skip("the state has no part in what a store is")
    before = lake.parts("raw/orders")
    ledger = lake.desk.cli("state", "files", "-e", "orders", "--json").json
    assert sorted(part["path"] for part in ledger) == before
    lake.desk.cli("state", "reset", "-e", "orders", "--yes")
    assert lake.parts("raw/orders") == before
    lake.desk.cli("run", "-e", "orders")
    told = lake.desk.cli("files", "-e", "orders").out
    fresh = sorted(set(lake.parts("raw/orders")) - set(before))
    assert fresh and all(name in told for name in fresh)
    assert not any(name in told for name in before)
    assert lake.ids("raw/orders") == EVERY + EVERY


def test_credentials_that_expire_in_the_middle_cost_a_restart(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is changed right behind the first part. Workers end as unfit and say why; with the
    new key the rest is delivered."""
    put = AzureAccount._put

    def put_once(account: AzureAccount, blob: Blob, asked: Asked, comp: str) -> Answer:
        answer = put(account, blob, asked, comp)
        if asked.path.endswith(".parquet"):
            account.key = b"another"
        return answer

    monkeypatch.setattr(AzureAccount, "_put", put_once)
    with azure_account() as account:
        environment = {"DATABASE_URL": database, **account.variables}
        lake = Lake(account, Desk(folder=tmp_path, environment=environment))
        text = first_example().replace(FOLDER, lake.block("raw/orders"))
        lake.desk.write(f"{text}    chunk_count: 6\ncampaign: {{workers: 2}}\n")
        assert "AuthenticationFailed (403)" in lake.desk.cli("run", code=9).said
        assert len(lake.parts("raw/orders")) == 1
        lake.desk.environment |= account.variables
        lake.desk.cli("resume")
        assert lake.ids("raw/orders") == EVERY
