"""What a verification can find, by code, and how it is told. Codes are append-only."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from rivet_fleet.errors import ExitCode


class Depth(Enum):
    """How deep a verification looks."""

    LIGHT = "light"
    """The manifest and ``_SUCCESS`` alone."""
    SAMPLE = "sample"
    """And one listing: presence and size of every part, untracked objects."""
    FULL = "full"
    """And all bytes and values: fingerprint, MD5, row count and column checksums of every part."""


class VerifyCode(Enum):
    """Machine-readable findings. Documented in docs/reference/verification.md."""

    PART_MISSING = "RIVET_VERIFY_PART_MISSING"
    PART_SIZE_MISMATCH = "RIVET_VERIFY_PART_SIZE_MISMATCH"
    PART_CHECKSUM_MISMATCH = "RIVET_VERIFY_PART_CHECKSUM_MISMATCH"
    VALUE_CHECKSUM = "RIVET_VERIFY_VALUE_CHECKSUM"
    """The part cannot be decoded."""
    PART_ROW_COUNT = "RIVET_VERIFY_PART_ROW_COUNT"
    COLUMN_CHECKSUM = "RIVET_VERIFY_COLUMN_CHECKSUM"
    """Columns do not hold the values that were read from the source."""
    SUCCESS_MALFORMED = "RIVET_VERIFY_SUCCESS_MALFORMED"
    SUCCESS_STALE = "RIVET_VERIFY_SUCCESS_STALE"
    MANIFEST_INCONSISTENT = "RIVET_VERIFY_MANIFEST_INCONSISTENT"
    MANIFEST_REQUIRED = "RIVET_VERIFY_MANIFEST_REQUIRED"
    RUN_NOT_SUCCESSFUL = "RIVET_VERIFY_RUN_NOT_SUCCESSFUL"
    """The manifest itself says that its run did not succeed."""
    CONTENT_UNMET = "RIVET_VERIFY_CONTENT_UNMET"
    """``verify: content`` was asked for, and some parts were compared by size only."""
    LEDGER_MISMATCH = "RIVET_VERIFY_LEDGER_MISMATCH"
    """The manifest does not list what the state accepted."""
    MANIFEST_READ_ERROR = "RIVET_VERIFY_MANIFEST_READ_ERROR"
    SUCCESS_READ_ERROR = "RIVET_VERIFY_SUCCESS_READ_ERROR"
    LIST_ERROR = "RIVET_VERIFY_LIST_ERROR"
    PART_READ_ERROR = "RIVET_VERIFY_PART_READ_ERROR"
    PART_TOO_LARGE = "RIVET_VERIFY_PART_TOO_LARGE"
    """Its values take more memory than a verification does."""
    UNTRACKED_OBJECT = "RIVET_VERIFY_UNTRACKED_OBJECT"


COULD_NOT_VERIFY = frozenset(
    {
        VerifyCode.MANIFEST_READ_ERROR,
        VerifyCode.SUCCESS_READ_ERROR,
        VerifyCode.LIST_ERROR,
        VerifyCode.PART_READ_ERROR,
        VerifyCode.PART_TOO_LARGE,
    }
)
ADVISORY = frozenset({VerifyCode.UNTRACKED_OBJECT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, or could not be checked, or is merely worth knowing."""

    code: VerifyCode
    message: str
    path: str | None = None

    @property
    def kind(self) -> str:
        """``verified_wrong``, ``could_not_verify`` or ``advisory``."""
        if self.code in ADVISORY:
            return "advisory"
        return "could_not_verify" if self.code in COULD_NOT_VERIFY else "verified_wrong"


@dataclass(slots=True, kw_only=True)
class Verification:
    """The verdict on one prefix. ``success_marker`` is ``consistent``, ``inconsistent``,
    ``absent``, ``not_judged`` (a run that is not the canonical one) or ``unread``."""

    depth: Depth
    run_id: str | None = None
    manifest_found: bool = False
    manifest_self_consistent: bool = False
    manifest_status: str | None = None
    success_marker: str = "unread"
    parts_verified: int = 0
    parts_md5_verified: int = 0
    parts_checksums_verified: int = 0
    """Parts whose columns were compared by their values."""
    parts_failed: int = 0
    rows: int = 0
    export_name: str | None = None
    """As the manifest has it."""
    ledger: str = "not_asked"
    """``consistent``, ``differs``, or ``unknown_run``: the state does not know it."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def failures(self) -> list[Finding]:
        """Findings that are not merely advisory."""
        return [f for f in self.findings if f.code not in ADVISORY]

    @property
    def passed(self) -> bool:
        """A manifest was found and nothing speaks against it."""
        return self.manifest_found and not self.failures

    @property
    def exit_code(self) -> ExitCode:
        """3 when something is proven wrong, 1 when something could not be checked, else 0."""
        kinds = {f.kind for f in self.failures}
        if "verified_wrong" in kinds:
            return ExitCode.DATA_INTEGRITY
        return ExitCode.GENERIC if kinds else ExitCode.OK

    def find(self, code: VerifyCode, message: str, path: str | None = None) -> None:
        """Add a finding."""
        self.findings.append(Finding(code=code, message=message, path=path))


# ------------------------------------------------------------------------------------------
# A verification as plain JSON and as lines for people.


def verdict_name(verification: Verification) -> str:
    """``PASSED``, ``FAILED``, ``UNVERIFIED`` (could not be checked) or ``NO MANIFEST``."""
    if verification.passed:
        return "PASSED"
    kinds = {finding.kind for finding in verification.failures}
    if "verified_wrong" in kinds:
        return "FAILED"
    return "UNVERIFIED" if kinds else "NO MANIFEST"


def verification_plain(
    export_name: str, resolved_prefix: str, verification: Verification
) -> dict[str, object]:
    """One entry of ``exports[]`` in ``validate --json``."""
    return {
        "export_name": export_name,
        "resolved_prefix": resolved_prefix,
        "verdict": verdict_name(verification),
        "verification": {
            "run_id": verification.run_id,
            "depth_level": verification.depth.value,
            "manifest_found": verification.manifest_found,
            "manifest_status": verification.manifest_status,
            "manifest_self_consistent": verification.manifest_self_consistent,
            "success_marker": verification.success_marker,
            "success_marker_consistent": verification.success_marker == "consistent",
            "ledger": verification.ledger,
            "rows": verification.rows,
            "parts_verified": verification.parts_verified,
            "parts_md5_verified": verification.parts_md5_verified,
            "parts_checksums_verified": verification.parts_checksums_verified,
            "parts_failed": verification.parts_failed,
            "passed": verification.passed,
            "failures": [
                {"code": f.code.value, "kind": f.kind, "path": f.path, "message": f.message}
                for f in verification.findings
            ],
        },
    }


def verification_lines(
    export_name: str, resolved_prefix: str, verification: Verification
) -> list[str]:
    """What ``validate`` prints for one prefix."""
    lines = [f"{export_name}: {verdict_name(verification)} ({verification.depth.value})"]
    lines.append(f"  at {resolved_prefix}")
    if verification.manifest_found:
        by_bytes = verification.parts_md5_verified
        by_size = verification.parts_verified - by_bytes
        lines.append(
            f"  run {verification.run_id}: {verification.rows} rows, "
            f"{verification.parts_verified} parts verified ({by_bytes} by bytes, {by_size} by "
            f"size), {verification.parts_failed} failed"
        )
        if verification.depth is Depth.FULL:
            lines.append(
                f"  column checksums: {verification.parts_checksums_verified} parts compared"
            )
        if verification.ledger != "not_asked":
            lines.append(f"  ledger {verification.ledger.replace('_', ' ')}")
        lines.append(f"  _SUCCESS {verification.success_marker.replace('_', ' ')}")
    lines += [f"  [{f.code.value}] {f.message}" for f in verification.findings]
    return lines
