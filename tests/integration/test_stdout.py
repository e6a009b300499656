"""Standard output as a destination: one file, whole, and nothing else on that stream."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from tests.integration.fleet_cli import Desk

FLEET = """\
source: {{type: postgres, url_env: SHOP_URL}}
spool_dir: spool
exports:
  - {{name: orders, table: orders, format: {format}, destination: {{type: stdout}}}}
"""


@pytest.fixture
def desk(shop: str, tmp_path: Path) -> Desk:
    return Desk(folder=tmp_path, environment={"SHOP_URL": shop})


def streamed(desk: Desk, *arguments: str) -> tuple[int, bytes, str]:
    """Exit code, what was delivered, what was said."""
    process = desk.start("run", "-c", str(desk.config), *arguments)
    assert process.stdout is not None and process.stderr is not None
    out = process.stdout.buffer.read()  # type: ignore[attr-defined]
    err = process.stderr.read()
    return process.wait(60), out, err


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_the_file_and_nothing_else(desk: Desk, format: str) -> None:
    desk.write(FLEET.format(format=format))
    code, out, err = streamed(desk)
    assert code == 0, err
    read = csv.read_csv if format == "csv" else pq.read_table
    assert sorted(read(io.BytesIO(out))["id"].to_pylist()) == list(range(1, 201))
    assert f"{len(out):,} bytes went to standard output, whole" in err
    assert not list(desk.folder.rglob("*.db")), "nothing is remembered"
    assert list((desk.folder / "spool").iterdir()) == []


def test_what_cannot_be_done_with_a_stream_is_refused_with_a_reason(desk: Desk) -> None:
    desk.write(FLEET.format(format="csv"))
    for command in ("submit", "status", "resume"):
        desk.refused(command, code=1, named="nobody can look at again", hint="`run` does it")
    desk.refused("run", "--json", code=1, named="would share standard output", hint="leave --json")
    desk.cli("check")
