"""Campaigns into stores that the tests play themselves, which keep their objects where a test can
read them without our code."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.integration.fleet_cli import Desk

FLEET = """\
source: {{type: postgres, url_env: DATABASE_URL}}
campaign: {{workers: 2}}
exports:
  - name: orders
    table: orders
    mode: chunked
    chunk_count: 3
    format: parquet
    destination:
      type: {kind}
      bucket: {bucket}
      prefix: raw/orders
{settings}
"""
EVERY = Counter(range(1, 301))


class Lake:
    """One bucket of a store, as its disk shows it, and its user's folder."""

    def __init__(self, kind: str, store, desk: Desk) -> None:
        self.kind = kind
        self.bucket = store.make_bucket("campaign")
        self.desk = desk
        self.store = store
        settings = "\n".join(f"      {name}: '{text}'" for name, text in store.settings.items())
        desk.write(FLEET.format(kind=kind, bucket=self.bucket, settings=settings))

    def ids(self) -> Counter[int]:
        """Of every file that can be seen beside a ``_SUCCESS``."""
        ids: Counter[int] = Counter()
        bodies = self.store.bodies(self.bucket)
        for name, body in bodies.items():
            if name.endswith(".parquet") and f"{name.rpartition('/')[0]}/_SUCCESS" in bodies:
                ids.update(pq.read_table(io.BytesIO(body))["id"].to_pylist())
        return ids

    def parts(self) -> list[str]:
        """Names of files."""
        return sorted(one for one in self.store.bodies(self.bucket) if one.endswith(".parquet"))


@pytest.fixture(scope="module")
def database(postgres) -> str:
    url = postgres.create_database("stores_campaign")
    postgres.psql(
        "CREATE TABLE orders (id bigint PRIMARY KEY, note text); INSERT INTO orders "
        "SELECT i, repeat('n', 20) || i FROM generate_series(1, 300) i; ANALYZE;",
        database="stores_campaign",
    )
    return url


@pytest.fixture(scope="module", params=["azure", "gcs"])
def lake(request, database: str, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A campaign that was delivered."""
    store = request.getfixturevalue(request.param)
    variables = getattr(store, "variables", {})
    elsewhere = {
        # They would win over what is configured.
        "AZURE_STORAGE_CONNECTION_STRING": "DefaultEndpointsProtocol=https;AccountName=evil;"
        "AccountKey=AAAA;EndpointSuffix=evil.example",
        "STORAGE_EMULATOR_HOST": "http://evil.example",
    }
    desk = Desk(
        folder=tmp_path_factory.mktemp(request.param),
        environment={"DATABASE_URL": database, **variables, **elsewhere},
    )
    lake = Lake(request.param, store, desk)
    said = desk.cli("run").said
    assert "recycled" not in said, "the library has room of its own beside worker_memory_mb"
    return lake


def test_every_row_is_there_once_and_nothing_is_left_staged(lake: Lake) -> None:
    assert lake.ids() == EVERY
    assert not [name for name in lake.store.bodies(lake.bucket) if "/.staging/" in name]


def test_a_lost_part_is_found_and_extracted_again(lake: Lake) -> None:
    lake.desk.cli("validate", "--depth", "full")
    if lake.kind == "azure":
        return  # the rest is the same for every store
    lake.store.lose(lake.bucket, lake.parts()[0])
    lake.desk.cli("validate", code=3)
    assert "1 lost" in lake.desk.cli("requeue", "--lost").said
    lake.desk.cli("resume")
    assert lake.ids() == EVERY


def test_no_secret_is_kept_or_said(lake: Lake) -> None:
    told = lake.desk.cli("doctor").said
    secrets = [*getattr(lake.store, "variables", {}).values(), getattr(lake.store, "token", "")]
    for secret in filter(None, secrets):
        assert secret not in told
        for path in sorted(lake.desk.folder.rglob("*")):
            if Path(path).is_file():
                assert secret.encode() not in path.read_bytes(), path
    assert {"azure": "AZURE_STORAGE_CONNECTION_STRING", "gcs": "STORAGE_EMULATOR_HOST"}[
        lake.kind
    ] in told
