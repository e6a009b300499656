"""A file whose few bytes stand for more than memory: refused by name, and within a bound."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rivet_fleet.contracts.manifest import ChecksumState
from rivet_fleet.contracts.plan import FormatPlan
from rivet_fleet.errors import DataIntegrityError
from rivet_fleet.execution import registry
from rivet_fleet.execution.formats.csv import writer as csv_writing
from rivet_fleet.execution.parts import digest_file
from rivet_fleet.verification import apart
from rivet_fleet.verification.findings import VerifyCode
from rivet_fleet.verification.validate import validate_prefix
from tests.unit.verification.test_validate import Dataset, codes

MB = 1024 * 1024
TAKEN_BYTES_MAX = 96 * MB
SLACK_MB = 32
DAMAGED = int(os.environ.get("DAMAGED", "60"))
FORMAT = registry.open_format(FormatPlan(format="parquet"))
WIDE = "x" * (4 * MB)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="address spaces are limited here")


def parquet(path: Path, column: pa.Array, **options: object) -> int:
    table = pa.table({"id": column})
    pq.write_table(table, path, compression="zstd", **options)
    return table.num_rows


def twice(path: Path, kind: pa.DataType, value: object, rows: int) -> int:
    """The same row in one group, few at a time while it is written."""
    batch = pa.record_batch([pa.array([value], kind)], names=["id"])
    with pq.ParquetWriter(path, batch.schema, compression="zstd") as writer:
        writer.write_table(pa.Table.from_batches([batch] * rows))
    return rows


PARQUET: dict[str, Callable[[Path], int]] = {
    "large text": lambda path: twice(path, pa.large_string(), WIDE, 60),
    "a list of text": lambda path: twice(path, pa.list_(pa.string()), [WIDE] * 2, 30),
    "a list of lists": lambda path: twice(
        path, pa.list_(pa.list_(pa.string())), [[WIDE], [WIDE]], 30
    ),
    "a list in a struct": lambda path: twice(
        path, pa.struct([("b", pa.list_(pa.string()))]), {"b": [WIDE] * 2}, 30
    ),
    "bytes of one width": lambda path: twice(path, pa.binary(4 * MB), b"y" * (4 * MB), 60),
    "one list of numbers": lambda path: parquet(
        path, pa.ListArray.from_arrays([0, 14_000_000], pa.repeat(pa.scalar(7), 14_000_000))
    ),
    "a plain page": lambda path: parquet(path, pa.array([WIDE] * 40), use_dictionary=False),
}


def replaced(dataset: Dataset, write: Callable[[Path], int]) -> Path:
    """The first part is what ``write`` makes, and the manifest says so."""
    (name, *_) = dataset.publish("run-1")
    path = dataset.folder / name
    path.unlink()
    rows = write(path)
    digest = digest_file(path, rows)
    dataset.edit_first_part(
        rows=rows,
        size_bytes=digest.size_bytes,
        content_fingerprint=digest.fingerprint,
        content_md5=digest.md5_base64,
    )
    dataset.edit_manifest(checksums=ChecksumState.TOTALS.value)
    return path


_READ = """
import json, resource, sys
from pathlib import Path
from rivet_fleet.contracts.plan import FormatPlan
from rivet_fleet.execution import registry
from rivet_fleet.verification import apart

apart.READING_BYTES_MAX = int(sys.argv[1])
reader = apart.PartReader(registry.open_format(FormatPlan(format="parquet")))
said = {}
for path in map(Path, sys.argv[2:]):
    try:
        said[path.name] = reader.checksums(path)
    except MemoryError:
        said[path.name] = "too large"
used = [resource.getrusage(who).ru_maxrss for who in (0, -1)]
print(json.dumps([said, used]))
"""


def test_what_a_parquet_file_blows_up_to_is_not_read(tmp_path: Path) -> None:
    """Measured by the system, at whoever reads."""
    paths = [tmp_path / name for name in PARQUET]
    for path in paths:
        PARQUET[path.name](path)
        assert path.stat().st_size < 400_000
    command = [sys.executable, "-c", _READ, str(TAKEN_BYTES_MAX), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said, (own_kb, children_kb) = json.loads(done.stdout)
    assert said == dict.fromkeys(PARQUET, "too large")
    assert (children_kb - own_kb) / 1024 < TAKEN_BYTES_MAX / MB + SLACK_MB
    assert not done.stderr


def test_what_takes_too_much_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spool").mkdir()
    dataset = Dataset(tmp_path / "out", tmp_path / "spool", "parquet")
    replaced(dataset, PARQUET["one list of numbers"])
    monkeypatch.setattr(apart, "READING_BYTES_MAX", 32 * MB)
    verdict = validate_prefix(dataset.open())
    assert VerifyCode.PART_TOO_LARGE in codes(verdict) and not verdict.passed


def test_a_csv_file_of_one_line_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spool").mkdir()
    dataset = Dataset(tmp_path / "out", tmp_path / "spool", "csv")

    def one_line(path: Path) -> int:
        path.write_bytes(b"id\n" + b"1" * (40 * MB) + b"\n")
        return 1

    replaced(dataset, one_line)
    # By a process of its own alone: what its parser asks for in vain ends it.
    monkeypatch.setattr(apart, "READING_BYTES_MAX", TAKEN_BYTES_MAX)
    verdict = validate_prefix(dataset.open())
    # Where this process has given back as much before, it is read within that, and found out.
    refused = {VerifyCode.PART_TOO_LARGE, VerifyCode.VALUE_CHECKSUM}
    assert not verdict.passed
    assert set(codes(verdict)) & {*refused, VerifyCode.MANIFEST_INCONSISTENT}


def test_no_name_makes_a_csv_file_a_compressed_one(tmp_path: Path) -> None:
    path = tmp_path / "part.csv.gz"
    path.write_bytes(b"id\n1\n")
    assert list(csv_writing.file_checksums(path)) == ["id"]


def test_a_damaged_parquet_file_ends_nobody_but_its_reader(tmp_path: Path) -> None:
    """Sizes, counts and statistics of the footer among the rest: it is nearly all of the file."""
    path, chance = tmp_path / "part.parquet", random.Random(20)
    column = pa.array([None if i % 7 == 0 else str(i % 20) for i in range(2000)])
    parquet(path, column, row_group_size=500)
    whole, refused, ended = path.read_bytes(), 0, 0
    for _ in range(DAMAGED):
        body = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            body[-chance.randint(1, len(body))] = chance.choice(
                [0, 0x7F, 0xFF, chance.randrange(256)]
            )
        path.write_bytes(body)
        try:
            apart._apart(lambda: (FORMAT.count_rows(path), dict(FORMAT.checksums(path))))
        except (DataIntegrityError, MemoryError) as error:
            refused += 1
            ended += "its reader was ended" in str(error)
    assert refused > DAMAGED // 4
    assert ended, "a footer that contradicts itself ends its reader, and nobody else"


@pytest.mark.parametrize("said", [b"", b'{"found": {"a": "12', b'{"found": "\xc3'])
def test_a_reader_that_ends_while_it_speaks_is_a_finding(said: bytes) -> None:
    with pytest.raises(DataIntegrityError, match="ended by SIGKILL"):
        apart._given(said, 9)
