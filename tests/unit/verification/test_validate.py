"""Verification of a real prefix, damaged in every way a finding has a code for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.contracts.destination import DestinationConnection
from rivet_fleet.contracts.keys import RelationName, RunId
from rivet_fleet.contracts.manifest import (
    LedgerPart,
    PartStatus,
    RunWindow,
    build_manifest,
    part_path,
    run_manifest_name,
    success_line,
)
from rivet_fleet.contracts.plan import (
    DestinationPlan,
    ExportPlan,
    FormatPlan,
    ReadPlan,
    TuningPlan,
)
from rivet_fleet.errors import DataIntegrityError, DestinationUnavailable, ExitCode
from rivet_fleet.execution import registry
from rivet_fleet.execution.parts import digest_file, fingerprint_bytes
from rivet_fleet.verification import validate
from rivet_fleet.verification.findings import (
    Depth,
    VerifyCode,
    verdict_name,
    verification_lines,
    verification_plain,
)
from rivet_fleet.verification.manifests import ManifestUnreadable, parse_manifest
from rivet_fleet.verification.validate import validate_prefix

SCHEMA = pa.schema([("id", pa.int64())])


def a_plan(run_id: str, format_name: str) -> ExportPlan:
    return ExportPlan(
        export_name="orders",
        run_id=RunId(run_id),
        mode="full",
        strategy="whole",
        reason="small",
        read=ReadPlan(
            source="db",
            engine="some-engine",
            source_identity="db",
            relation=RelationName(schema="public", name="orders"),
            query=None,
            columns=(
                ColumnSpec(name="id", native_type="int8", type=ColumnType(kind=TypeKind.INT64)),
            ),
        ),
        format=FormatPlan(format=format_name),
        destination=DestinationPlan(kind="local", prefix="/unused"),
        tuning=TuningPlan(),
        attempts_max=3,
    )


@dataclass
class Dataset:
    """A prefix with one published run of two parts, and what may be done to it."""

    folder: Path
    spool: Path
    format_name: str

    def open(self):
        place = DestinationConnection(kind="local", prefix=str(self.folder))
        return registry.open_destination(place)

    def publish(self, run_id: str, rows=(3, 4), canonical: bool = True) -> list[str]:
        destination, plan = self.open(), a_plan(run_id, self.format_name)
        parts = [self.part(plan, number, count) for number, count in enumerate(rows)]
        body = build_manifest(
            plan,
            parts,
            window=RunWindow(started_at="2024-01-01T00:00:00Z", finished_at="2024-01-01T00:01:00Z"),
            destination_uri=destination.uri,
            schema_fingerprint="xxh3:0000000000000000",
        )
        destination.put_atomic(run_manifest_name(run_id), body)
        if canonical:
            destination.put_atomic("manifest.json", body)
            destination.put_atomic("_SUCCESS", success_line(fingerprint_bytes(body)))
        return [part.path for part in parts]

    def part(self, plan: ExportPlan, chunk: int, rows: int) -> LedgerPart:
        local = self.spool / f"{plan.run_id}-{chunk}"
        writer = registry.open_format(plan.format).open(local, SCHEMA)
        writer.write(pa.record_batch([pa.array(range(rows), pa.int64())], schema=SCHEMA))
        writer.close()
        digest = digest_file(local, rows)
        path = part_path(
            run_id=plan.run_id,
            export_name="orders",
            chunk_index=chunk,
            part_number=0,
            fence=1,
            extension=self.format_name,
        )
        destination = self.open()
        receipt = destination.stage(local, path, digest)
        destination.publish(receipt, path, digest)
        return LedgerPart(
            run_id=plan.run_id,
            export_name="orders",
            chunk_index=chunk,
            part_number=0,
            fence=1,
            path=path,
            digest=digest,
            receipt=receipt,
            status=PartStatus.PUBLISHED,
        )

    def edit_manifest(self, **changes) -> None:
        path = self.folder / "manifest.json"
        body = json.loads(path.read_text()) | changes
        path.write_text(json.dumps(body))
        fingerprint = fingerprint_bytes(path.read_bytes())
        (self.folder / "_SUCCESS").write_bytes(success_line(fingerprint))

    def edit_first_part(self, **changes) -> None:
        parts = json.loads((self.folder / "manifest.json").read_text())["parts"]
        self.edit_manifest(parts=[parts[0] | changes, *parts[1:]])


@pytest.fixture(params=registry.format_names())
def dataset(request, tmp_path) -> Dataset:
    (tmp_path / "spool").mkdir()
    return Dataset(tmp_path / "out", tmp_path / "spool", request.param)


def codes(verdict) -> list[VerifyCode]:
    return [finding.code for finding in verdict.findings]


@pytest.mark.parametrize("depth", list(Depth))
def test_a_good_dataset_passes_at_every_depth(dataset, depth):
    dataset.publish("run-1")
    verdict = validate_prefix(dataset.open(), depth=depth)
    assert (verdict.passed, verdict.exit_code, verdict.findings) == (True, ExitCode.OK, [])
    assert verdict.success_marker == "consistent"
    assert verdict.rows == 7
    assert verdict.parts_verified == (0 if depth is Depth.LIGHT else 2)
    assert verdict.parts_md5_verified == (2 if depth is Depth.FULL else 0)


def test_a_run_without_parts_passes(dataset):
    dataset.publish("run-1", rows=())
    assert validate_prefix(dataset.open()).passed


def test_the_copy_of_an_older_run_is_verified_by_its_own_manifest(dataset):
    old = dataset.publish("run-1")
    dataset.publish("run-2")
    verdict = validate_prefix(dataset.open(), run_id="run-1", verify="content")
    assert (verdict.passed, verdict.success_marker) == (True, "not_judged")
    (dataset.folder / old[0]).unlink()
    assert codes(validate_prefix(dataset.open(), run_id="run-1")) == [VerifyCode.PART_MISSING]
    assert validate_prefix(dataset.open()).passed


def test_the_parts_of_other_runs_are_tracked_by_their_own_manifests(dataset):
    dataset.publish("run-1")
    dataset.publish("run-2", canonical=False)
    assert validate_prefix(dataset.open()).findings == []


def test_what_no_manifest_lists_is_said_but_does_not_fail(dataset):
    dataset.publish("run-1")
    dataset.open().put_atomic("run-1/stray.bin", b"x")
    verdict = validate_prefix(dataset.open())
    assert codes(verdict) == [VerifyCode.UNTRACKED_OBJECT]
    assert (verdict.passed, verdict.exit_code) == (True, ExitCode.OK)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flipped(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)


@pytest.mark.parametrize(
    ("damage", "code", "least"),
    [
        (Path.unlink, VerifyCode.PART_MISSING, Depth.SAMPLE),
        (truncated, VerifyCode.PART_SIZE_MISMATCH, Depth.SAMPLE),
        (flipped, VerifyCode.PART_CHECKSUM_MISMATCH, Depth.FULL),
    ],
)
def test_a_damaged_part_is_found(dataset, damage, code, least):
    first, _ = dataset.publish("run-1")
    damage(dataset.folder / first)
    verdict = validate_prefix(dataset.open())
    assert codes(verdict) == [code]
    assert verdict.findings[0].path == first
    assert (verdict.parts_verified, verdict.parts_failed) == (1, 1)
    assert verdict.exit_code is ExitCode.DATA_INTEGRITY
    order = list(Depth)
    for depth in order:
        found = code in codes(validate_prefix(dataset.open(), depth=depth))
        assert found == (order.index(depth) >= order.index(least))


def test_a_wrong_row_count_is_found_by_the_file_itself(dataset):
    dataset.publish("run-1")
    dataset.edit_first_part(rows=4)
    dataset.edit_manifest(row_count=8)
    assert codes(validate_prefix(dataset.open())) == [VerifyCode.PART_ROW_COUNT]
    assert validate_prefix(dataset.open(), depth=Depth.SAMPLE).passed


def test_a_part_that_cannot_be_decoded_is_found(dataset):
    dataset.publish("run-1")
    garbage = dataset.spool / "garbage"
    garbage.write_bytes(b'not a "part')
    digest = digest_file(garbage, 3)
    first = json.loads((dataset.folder / "manifest.json").read_text())["parts"][0]["path"]
    (dataset.folder / first).write_bytes(garbage.read_bytes())
    dataset.edit_first_part(
        size_bytes=digest.size_bytes,
        content_fingerprint=digest.fingerprint,
        content_md5=digest.md5_base64,
    )
    assert codes(validate_prefix(dataset.open())) == [VerifyCode.VALUE_CHECKSUM]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"row_count": 8}, "row_count"),
        ({"part_count": 3}, "part_count"),
        ({"manifest_version": 2}, "manifest_version"),
        ({"parts": 7}, "parts"),
        ({"run_id": None}, "run_id"),
        ({"format": "tape"}, "tape"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_found(dataset, changes, said):
    dataset.publish("run-1")
    dataset.edit_manifest(**changes)
    verdict = validate_prefix(dataset.open())
    found = [f for f in verdict.findings if f.code is VerifyCode.MANIFEST_INCONSISTENT]
    assert said in found[0].message
    assert verdict.exit_code is ExitCode.DATA_INTEGRITY


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a\0b", "\ud800"])
def test_an_unsafe_path_in_a_manifest_is_found_and_not_followed(dataset, path):
    dataset.publish("run-1")
    dataset.edit_first_part(path=path)
    assert VerifyCode.MANIFEST_INCONSISTENT in codes(validate_prefix(dataset.open()))


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_none_is_found(dataset, body):
    dataset.open().put_atomic("manifest.json", body)
    verdict = validate_prefix(dataset.open())
    assert codes(verdict) == [VerifyCode.MANIFEST_INCONSISTENT]
    assert not verdict.passed


@pytest.mark.parametrize("status", ["failed", "interrupted", "running"])
def test_a_run_that_says_it_did_not_succeed_never_passes(dataset, status):
    dataset.publish("run-1")
    dataset.edit_manifest(status=status)
    verdict = validate_prefix(dataset.open())
    assert codes(verdict) == [VerifyCode.RUN_NOT_SUCCESSFUL]
    assert not verdict.passed


@pytest.mark.parametrize(
    ("line", "marker", "found"),
    [
        (None, "absent", []),
        (b"xxh3:0123456789abcdef\n", "inconsistent", [VerifyCode.SUCCESS_STALE]),
        (b"done\n", "inconsistent", [VerifyCode.SUCCESS_MALFORMED]),
        (b"\xff", "inconsistent", [VerifyCode.SUCCESS_MALFORMED]),
        (b"x" * 5000, "inconsistent", [VerifyCode.SUCCESS_MALFORMED]),
    ],
)
def test_the_success_marker_is_judged(dataset, line, marker, found):
    dataset.publish("run-1")
    if line is None:
        dataset.open().remove("_SUCCESS")
    else:
        dataset.open().put_atomic("_SUCCESS", line)
    verdict = validate_prefix(dataset.open())
    assert (verdict.success_marker, codes(verdict)) == (marker, found)


def test_an_absent_manifest_fails_only_where_one_is_required(dataset):
    verdict = validate_prefix(dataset.open())
    assert (verdict_name(verdict), verdict.exit_code) == ("NO MANIFEST", ExitCode.OK)
    required = validate_prefix(dataset.open(), manifest_required=True)
    assert codes(required) == [VerifyCode.MANIFEST_REQUIRED]
    assert codes(validate_prefix(dataset.open(), run_id="r")) == [VerifyCode.MANIFEST_REQUIRED]
    assert not dataset.folder.exists()


def test_content_can_be_demanded(dataset):
    dataset.publish("run-1")
    by_size = validate_prefix(dataset.open(), depth=Depth.SAMPLE, verify="content")
    assert codes(by_size) == [VerifyCode.CONTENT_UNMET]
    assert validate_prefix(dataset.open(), verify="content").passed


@pytest.mark.parametrize(
    ("verb", "code"),
    [
        ("read", VerifyCode.MANIFEST_READ_ERROR),
        ("list_visible", VerifyCode.LIST_ERROR),
        ("local_copy", VerifyCode.PART_READ_ERROR),
    ],
)
def test_what_could_not_be_read_is_not_called_wrong(dataset, monkeypatch, verb, code):
    def unavailable(*_args):
        raise DestinationUnavailable("the mount is gone")

    dataset.publish("run-1")
    destination = dataset.open()
    monkeypatch.setattr(type(destination), verb, unavailable)
    verdict = validate_prefix(destination)
    assert code in codes(verdict)
    assert (verdict_name(verdict), verdict.exit_code) == ("UNVERIFIED", ExitCode.GENERIC)


@pytest.mark.parametrize("moment", ["opened", "counted"])
def test_what_is_checked_is_what_was_opened(dataset, tmp_path, monkeypatch, moment):
    """Whoever may write here swaps a part for a link, right after it was opened (what the link
    leads to must not be read), or after its bytes were compared (it must not vouch for it)."""
    first, _ = dataset.publish("run-1", rows=(3, 4))
    (tmp_path / "theirs").write_bytes(b"not for us")
    destination = dataset.open()

    def swap() -> None:
        part = dataset.folder / first
        if not part.is_symlink():
            part.unlink()
            part.symlink_to(tmp_path / "theirs")

    read: list[bytes] = []
    if moment == "opened":
        opened = type(destination).local_copy

        @contextlib.contextmanager
        def swapped(self, path):
            with opened(self, path) as local:
                swap()
                read.append(local.read_bytes())
                yield local

        monkeypatch.setattr(type(destination), "local_copy", swapped)
    else:
        known = validate.digest_file

        def compared(local, rows):
            digest = known(local, rows)
            swap()
            return digest

        monkeypatch.setattr(validate, "digest_file", compared)
    verdict = validate_prefix(destination)
    assert (verdict.findings, verdict.parts_md5_verified) == ([], 2)
    assert b"not for us" not in read
    assert codes(validate_prefix(dataset.open())) == [VerifyCode.PART_MISSING]


def test_the_report_names_every_finding(dataset):
    first, _ = dataset.publish("run-1")
    (dataset.folder / first).unlink()
    verdict = validate_prefix(dataset.open())
    plain = verification_plain("orders", "file:///data", verdict)
    failure = plain["verification"]["failures"][0]
    assert (failure["code"], failure["path"]) == ("RIVET_VERIFY_PART_MISSING", first)
    assert json.loads(json.dumps(plain)) == plain
    text = "\n".join(verification_lines("orders", "file:///data", verdict))
    assert "orders: FAILED (full)" in text
    assert "[RIVET_VERIFY_PART_MISSING]" in text


def test_a_footer_whose_names_are_no_text_is_a_damaged_file(tmp_path):
    """pyarrow says so by an error of Python's own."""
    path = tmp_path / "part.parquet"
    pq.write_table(pa.table({"naïve": [1]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace("naïve".encode(), b"na\xff\xfeve"))
    part_format = registry.open_format(FormatPlan(format="parquet"))
    for look in (part_format.count_rows, part_format.checksums):
        with pytest.raises(DataIntegrityError):
            look(path)


@pytest.mark.parametrize("number", [10**4299, 2**63, -1])
def test_a_number_that_counts_nothing_is_no_manifest(number: int) -> None:
    """Thousands of digits cannot even be shown."""
    body = json.dumps({"manifest_version": number, "parts": []}).encode()
    with pytest.raises(ManifestUnreadable, match="counts nothing"):
        parse_manifest(body)


def test_the_ledger_says_what_was_accepted(dataset: Dataset) -> None:
    """Whoever writes to the destination can make a manifest that fits other files."""
    dataset.publish("orders_c1")
    honest = validate_prefix(dataset.open())
    assert honest.passed and honest.ledger == "not_asked"
    plan = a_plan("orders_c1", dataset.format_name)
    accepted = [dataset.part(plan, number + 10, count) for number, count in enumerate((3, 4))]
    asked: list[str] = []

    def ledger(parts: Sequence[LedgerPart] | None):
        def of(run_id: str, _generation: int) -> Sequence[LedgerPart] | None:
            asked.append(run_id)
            return parts

        return of

    strange = validate_prefix(dataset.open(), ledger=ledger(accepted))
    assert not strange.passed and strange.ledger == "differs"
    assert {one.code for one in strange.failures} == {VerifyCode.LEDGER_MISMATCH}
    assert int(strange.exit_code) == 3 and len(strange.failures) == 4, "both ways"
    unknown = validate_prefix(dataset.open(), ledger=ledger(None))
    assert unknown.passed and unknown.ledger == "unknown_run"
    assert asked == ["orders_c1"] * 2
