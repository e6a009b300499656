"""A verification as plain JSON and as lines for people."""

from __future__ import annotations

from rivet_fleet.verification.findings import Depth, Verification


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
        lines.append(f"  _SUCCESS {verification.success_marker.replace('_', ' ')}")
    lines += [f"  [{f.code.value}] {f.message}" for f in verification.findings]
    return lines
