"""Files with the right bytes, sizes and row counts, and other values: found by column."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rivet_fleet.contracts import manifest
from rivet_fleet.contracts.destination import DestinationConnection
from rivet_fleet.contracts.manifest import (
    LedgerPart,
    PartStatus,
    RunWindow,
    build_manifest,
    success_line,
)
from rivet_fleet.contracts.plan import ExportPlan
from rivet_fleet.execution import registry
from rivet_fleet.execution.encoder import Parts
from rivet_fleet.execution.parts import digest_file, fingerprint_bytes
from rivet_fleet.verification.findings import (
    Verification,
    VerifyCode,
    verification_lines,
    verification_plain,
)
from rivet_fleet.verification.validate import validate_prefix
from tests.unit.verification.test_validate import a_plan

SCHEMA = pa.schema([("id", pa.int64()), ("paid", pa.string()), ("owed", pa.string())])
Row = list[object]
ROWS: list[list[Row]] = [
    [[1, "a", "b"], [2, None, ""], [3, "same", "same"]],
    [[4, "x, y", "z"], [5, "c", None]],
]
PATHS = ["run-1/p0", "run-1/p1"]


@dataclass
class Dataset:
    """One run of two parts, whose files can be written anew behind their manifest's back."""

    folder: Path
    plan: ExportPlan

    def publish(self, change: Callable[[list[LedgerPart]], list[LedgerPart]] = list) -> None:
        parts = [self._part(index, rows) for index, rows in enumerate(ROWS)]
        body = build_manifest(
            self.plan,
            change(parts),
            window=RunWindow(started_at="2024-01-01T00:00:00Z", finished_at="2024-01-01T00:01:00Z"),
            destination_uri="file:///data",
            schema_fingerprint="xxh3:0000000000000000",
        )
        self._write_manifest(json.loads(body))

    def _part(self, index: int, rows: list[Row]) -> LedgerPart:
        path = self.folder / PATHS[index]
        path.unlink(missing_ok=True)
        part_format = registry.open_format(self.plan.format)
        parts = Parts(SCHEMA, part_format, lambda _: path, file_bytes_max=None)
        for row in rows:
            parts.write(
                pa.RecordBatch.from_pylist([dict(zip(SCHEMA.names, row, strict=True))], SCHEMA), {}
            )
        parts.rotate()
        return LedgerPart(
            run_id="run-1",
            export_name="orders",
            chunk_index=index,
            part_number=0,
            fence=1,
            path=PATHS[index],
            digest=digest_file(path, len(rows)),
            receipt={},
            status=PartStatus.PUBLISHED,
            columns=parts.finished[0].columns,
        )

    def manifest(self) -> dict:
        return json.loads((self.folder / "manifest.json").read_text())

    def _write_manifest(self, plain: dict) -> None:
        body = json.dumps(plain).encode()
        (self.folder / "manifest.json").write_bytes(body)
        (self.folder / "_SUCCESS").write_bytes(success_line(fingerprint_bytes(body)))

    def edit(self, change: Callable[[dict], None]) -> None:
        plain = self.manifest()
        change(plain)
        self._write_manifest(plain)

    def rewrite(self, *parts: list[Row], names: list[str] = SCHEMA.names) -> None:
        """By other programs than ours; the manifest is told the new bytes, as a forger would."""
        plain = self.manifest()
        for path, rows, told in zip(PATHS, parts, plain["parts"], strict=True):
            file = self.folder / path
            if self.plan.format.format == "csv":
                file.write_text("".join(",".join(map(cell, row)) + "\n" for row in [names, *rows]))
            else:
                columns = [pa.array(column) for column in zip(*rows, strict=True)]
                pq.write_table(pa.table(columns, names=names), file)
            digest = digest_file(file, len(rows))
            told["size_bytes"] = digest.size_bytes
            told["content_fingerprint"] = digest.fingerprint
            told["content_md5"] = digest.md5_base64
        self._write_manifest(plain)

    def validate(self) -> Verification:
        place = DestinationConnection(kind="local", prefix=str(self.folder))
        return validate_prefix(registry.open_destination(place))


def cell(value: object) -> str:
    """With quotes where our writer needs none."""
    return "" if value is None else f'"{value}"'


@pytest.fixture(params=registry.format_names())
def dataset(request, tmp_path: Path) -> Dataset:
    (tmp_path / "run-1").mkdir()
    return Dataset(tmp_path, a_plan("run-1", request.param))


def found(verdict: Verification) -> list[tuple[VerifyCode, str | None, str]]:
    return [(f.code, f.path, f.message.rpartition("read: ")[2]) for f in verdict.findings]


def one(path: str | None, columns: str) -> list[tuple[VerifyCode, str | None, str]]:
    return [(VerifyCode.COLUMN_CHECKSUM, path, columns)]


def copied() -> list[list[Row]]:
    return [[list(row) for row in rows] for rows in ROWS]


def test_the_same_values_in_another_order_by_another_writer_pass(dataset: Dataset) -> None:
    dataset.publish()
    dataset.rewrite(*(rows[::-1] for rows in copied()))
    verdict = dataset.validate()
    assert (verdict.findings, verdict.parts_checksums_verified) == ([], 2)
    plain = verification_plain("orders", "file:///data", verdict)
    assert plain["verification"]["parts_checksums_verified"] == 2
    told = verification_lines("orders", "file:///data", verdict)
    assert "  column checksums: 2 parts compared" in told


def changed_value(rows: list[list[Row]]) -> None:
    rows[1][0][2] = "Z"


def null_for_nothing(rows: list[list[Row]]) -> None:
    rows[0][1][2] = None


def swapped_columns(rows: list[list[Row]]) -> None:
    row = rows[0][0]
    row[1], row[2] = row[2], row[1]


def swapped_rows_of_parts(rows: list[list[Row]]) -> None:
    rows[0][2], rows[1][1] = rows[1][1], rows[0][2]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (changed_value, one(PATHS[1], 'column "owed"')),
        (null_for_nothing, one(PATHS[0], 'column "owed"')),
        (swapped_columns, one(PATHS[0], 'columns "paid", "owed"')),
        (
            swapped_rows_of_parts,
            [found for path in PATHS for found in one(path, 'columns "id", "paid", "owed"')],
        ),
    ],
)
def test_another_value_is_found_by_file_and_column(
    dataset: Dataset, change: Callable[[list[list[Row]]], None], expected: object
) -> None:
    dataset.publish()
    rows = copied()
    change(rows)
    dataset.rewrite(*rows)
    verdict = dataset.validate()
    assert found(verdict) == expected
    assert verdict.exit_code.value == 3


def test_a_column_that_has_another_name_is_found(dataset: Dataset) -> None:
    dataset.publish()
    dataset.rewrite(*copied(), names=["id", "owed", "Paid"])
    assert found(dataset.validate()) == [
        found for path in PATHS for found in one(path, 'columns "paid", "owed"')
    ]


def test_where_there_are_too_many_parts_the_whole_is_compared(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "PART_CHECKSUMS_MAX", 5)
    dataset.publish()
    plain = dataset.manifest()
    assert plain["checksums"] == "totals"
    assert not any("checksums" in part for part in plain["parts"])
    assert dataset.validate().findings == []
    assert dataset.validate().parts_checksums_verified == 2
    rows = copied()
    swapped_rows_of_parts(rows)
    dataset.rewrite(*rows)
    assert dataset.validate().findings == []
    changed_value(rows)
    dataset.rewrite(*rows)
    assert found(dataset.validate()) == one(None, 'column "owed"')
    (dataset.folder / PATHS[0]).unlink()
    assert [f.code for f in dataset.validate().findings] == [VerifyCode.PART_MISSING]
    dataset.publish(lambda parts: [without_checksums(parts[0]), *parts[1:]])
    plain = dataset.manifest()
    assert plain["checksums"] == "partial"
    assert not any("checksums" in part for part in plain["parts"])


def without_checksums(part: LedgerPart) -> LedgerPart:
    return replace(part, columns=tuple(replace(c, checksum=None) for c in part.columns))


def test_parts_without_checksums_are_said_to_have_none(dataset: Dataset) -> None:
    """Their receipts were kept before there were any, or their worker had no compiled code."""
    dataset.publish(lambda parts: [without_checksums(parts[0]), *parts[1:]])
    plain = dataset.manifest()
    assert plain["checksums"] == "partial"
    assert plain["parts"][0]["checksums"] == [None] * 3
    assert [column["checksum"] for column in plain["columns"]] == [None] * 3
    assert (dataset.validate().findings, dataset.validate().parts_checksums_verified) == ([], 1)
    rows = copied()
    changed_value(rows)
    dataset.rewrite(*rows)
    assert found(dataset.validate()) == one(PATHS[1], 'column "owed"')
    dataset.publish(lambda parts: [without_checksums(part) for part in parts])
    assert dataset.manifest()["checksums"] == "unavailable"
    assert (dataset.validate().findings, dataset.validate().parts_checksums_verified) == ([], 0)


def test_an_older_manifest_and_a_newer_kind_of_sum_pass(dataset: Dataset) -> None:
    def newer(plain: dict) -> None:
        for holder in plain["parts"]:
            holder["checksums"] = ["sum128" + c[c.index(":") :] for c in holder["checksums"]]
        for column in plain["columns"]:
            column["checksum"] = "sum128" + column["checksum"][column["checksum"].index(":") :]

    def older(plain: dict) -> None:
        del plain["checksums"]
        for holder in plain["parts"]:
            del holder["checksums"]
        for column in plain["columns"]:
            del column["checksum"]

    dataset.publish()
    dataset.edit(newer)
    assert (dataset.validate().findings, dataset.validate().parts_checksums_verified) == ([], 0)
    dataset.edit(older)
    assert (dataset.validate().findings, dataset.validate().parts_checksums_verified) == ([], 0)


@pytest.mark.parametrize(
    ("holder", "value", "said"),
    [
        ("part", [None], "1 checksums for 3 columns"),
        ("part", "x", "checksums"),
        ("part", [1, 2, 3], "<kind>:<16 hexadecimal digits>"),
        ("column", "value64:0", "<kind>:<16 hexadecimal digits>"),
        ("column", "value64:0123456789abcdef", "checksums of column id do not add up"),
        ("column", None, "checksums of column id do not add up"),
    ],
)
def test_a_manifest_whose_checksums_cannot_be_is_found(
    dataset: Dataset, holder: str, value: object, said: str
) -> None:
    def spoil(plain: dict) -> None:
        if holder == "part":
            plain["parts"][0]["checksums"] = value
        else:
            plain["columns"][0]["checksum"] = value

    dataset.publish()
    dataset.edit(spoil)
    finding = dataset.validate().findings[0]
    assert finding.code is VerifyCode.MANIFEST_INCONSISTENT
    assert said in finding.message
