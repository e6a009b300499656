"""The answer of ``doctor``, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from rivet_fleet.contracts.codec import to_plain
from rivet_fleet.contracts.doctor import DoctorCode, DoctorFinding, DoctorReport, Gravity
from rivet_fleet.contracts.foreign import printable_json
from rivet_fleet.observability.redaction import safe_line

_MARKS = {
    Gravity.OK: "ok     ",
    Gravity.INFO: "info   ",
    Gravity.WARNING: "WARNING",
    Gravity.ERROR: "ERROR  ",
}

_FOLDED_FROM = 4
"""So many destinations that are fine are told in one line."""


def doctor_json(report: DoctorReport, redact: Callable[[str], str]) -> str:
    """One JSON object; its shape is in docs/reference/doctor.md."""
    return printable_json(redact(json.dumps(to_plain(report), ensure_ascii=False, indent=2)))


def render_doctor(report: DoctorReport, redact: Callable[[str], str]) -> str:
    """One line for what is fine, up to three for what is not; the verdict last."""
    well = [one for one in report.findings if one.code is DoctorCode.DESTINATION_WRITABLE]
    shown = [one for one in report.findings if len(well) < _FOLDED_FROM or one not in well[1:]]
    lines = [line for finding in shown for line in _lines(finding)]
    if len(shown) < len(report.findings):
        lines.append(f"{_MARKS[Gravity.OK]}  and {len(well) - 1} more destinations as well")
    counts = {
        gravity: sum(1 for one in report.findings if one.gravity is gravity) for gravity in Gravity
    }
    verdict = "a run can start" if report.all_ok else "a run would not succeed"
    said = f"{counts[Gravity.ERROR]} error(s), {counts[Gravity.WARNING]} warning(s): {verdict}"
    return "\n".join(safe_line(line, redact) for line in [*lines, "", said])


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
