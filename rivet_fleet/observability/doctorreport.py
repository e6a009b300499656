"""The answer of ``doctor``, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from rivet_fleet.contracts.codec import to_plain
from rivet_fleet.contracts.doctor import DoctorFinding, DoctorReport, Gravity

_MARKS = {
    Gravity.OK: "ok     ",
    Gravity.INFO: "info   ",
    Gravity.WARNING: "WARNING",
    Gravity.ERROR: "ERROR  ",
}


def doctor_json(report: DoctorReport, redact: Callable[[str], str]) -> str:
    """One JSON object; its shape is in docs/reference/doctor.md."""
    return redact(json.dumps(to_plain(report), ensure_ascii=False, indent=2))


def render_doctor(report: DoctorReport, redact: Callable[[str], str]) -> str:
    """One line for what is fine, up to three for what is not; the verdict last."""
    lines = [line for finding in report.findings for line in _lines(finding)]
    counts = {
        gravity: sum(1 for one in report.findings if one.gravity is gravity) for gravity in Gravity
    }
    verdict = "a run can start" if report.all_ok else "a run would not succeed"
    said = f"{counts[Gravity.ERROR]} error(s), {counts[Gravity.WARNING]} warning(s): {verdict}"
    return redact("\n".join([*lines, "", said]))


def _lines(finding: DoctorFinding) -> Iterator[str]:
    loud = finding.gravity in (Gravity.WARNING, Gravity.ERROR)
    code = f" [{finding.code.value}]" if loud else ""
    yield f"{_MARKS[finding.gravity]}  {finding.subject}: {finding.what}{code}"
    if finding.gravity is Gravity.OK:
        return
    if finding.why:
        yield f"           why: {finding.why}"
    if finding.hint:
        yield f"           fix: {finding.hint}" if loud else f"           see: {finding.hint}"
