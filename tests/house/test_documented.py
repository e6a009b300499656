"""What users and operators rely on is documented: no name missing, none invented."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from rivet_fleet import errors
from rivet_fleet.contracts.discovery import CursorReason
from rivet_fleet.contracts.doctor import DoctorCode, Gravity
from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.killpoints import KillPoint
from rivet_fleet.contracts.priority import Verdict
from rivet_fleet.contracts.typereport import Origin
from rivet_fleet.errors import ExitCode, RivetFleetError
from rivet_fleet.observability.reasons import ReasonCode
from rivet_fleet.planning import judging
from rivet_fleet.planning.diagnostics import Rule
from rivet_fleet.verification.findings import Depth, Verification, VerifyCode

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
PACKAGE = Path(errors.__file__).parent


def table(page: str, first_header: str) -> list[list[str]]:
    """The rows of the page's table whose first column has this header, cells stripped."""
    rows: list[list[str]] = []
    inside = False
    for line in (REFERENCE / page).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells[0] == first_header:
            inside = True
        elif inside and not set(cells[0]) <= set("-: "):
            rows.append(cells)
    return rows


def assert_same(documented: list[str], real: list[str], what: str) -> None:
    assert len(documented) == len(set(documented)), f"a {what} is documented twice"
    missing, extra = set(real) - set(documented), set(documented) - set(real)
    assert not missing, f"undocumented {what}s: {sorted(missing)}"
    assert not extra, f"documented {what}s that do not exist: {sorted(extra)}"


def test_pages_name_exit_codes_that_there_are() -> None:
    """128 and more are signals."""
    said = re.compile(r"(?:exit(?: code)?|ends? with) (\d+)\b")
    for page in sorted(REFERENCE.parent.rglob("*.md")):
        for number in said.findall(page.read_text(encoding="utf-8")):
            assert int(number) in set(ExitCode) or int(number) > 128, f"{page.name}: {number}"


def test_every_event_says_what_happened_and_somebody_emits_it() -> None:
    """Its page is written from the table (test_reference); names and sentences are the table's."""
    emitted = set()
    readers = (PACKAGE / "contracts" / "events.py", PACKAGE / "observability", PACKAGE / "demo")
    for path in PACKAGE.rglob("*.py"):
        if not any(path.is_relative_to(reader) for reader in readers):
            emitted |= set(re.findall(r"\bEventName\.([A-Z_]+)", path.read_text(encoding="utf-8")))
    for event in EventName:
        assert re.fullmatch(r"[a-z]+\.[a-z_]+", event.value), f"{event.value} is no noun.verb"
        assert event.value.replace(".", "_").upper() == event.name, event.value
        assert event.when and event.by, f"{event.value} does not say when, or by whom"
        assert "|" not in event.when + event.by + event.data, f"{event.value} breaks its row"
        assert event.name in emitted, f"nobody emits {event.value}"
    keys = [event.count.key for event in EventName if event.count]
    assert len(keys) == len(set(keys)), "two events are counted under one key"


def test_every_reason_of_status_is_documented() -> None:
    rows = table("status.md", "code")
    assert_same([r[0].strip("`") for r in rows], [c.value for c in ReasonCode], "reason")


def test_every_exit_code_is_documented() -> None:
    rows = table("exit-codes.md", "code")
    documented = [f"{row[0]} {row[1].strip('`')}" for row in rows]
    assert_same(documented, [f"{c.value} {c.name}" for c in ExitCode], "exit code")
    assert all(all(row) for row in rows), "an exit code leaves a column empty"


def test_the_pod_failure_policy_agrees_with_the_table() -> None:
    text = (REFERENCE / "exit-codes.md").read_text(encoding="utf-8")
    by_action: dict[str, set[int]] = {"Ignore": set(), "FailJob": set()}
    action = ""
    for line in text.splitlines():
        if found := re.search(r"action: (\w+)", line):
            action = found[1]
        if found := re.search(r"values: \[([\d, ]+)\]", line):
            by_action[action] |= {int(code) for code in found[1].split(",")}
    for code, *_rest, policy in table("exit-codes.md", "code"):
        for name, codes in by_action.items():
            assert policy.startswith(f"`{name}`") is (int(code) in codes), f"code {code}"


def test_every_kill_point_is_documented() -> None:
    rows = table("kill-points.md", "point")
    assert_same([r[0].strip("`") for r in rows], [p.value for p in KillPoint], "kill point")
    assert all(all(row) for row in rows), "a kill point leaves a column empty"


def _drawn_tree() -> dict[str, tuple[str | None, int]]:
    """Name → (parent, exit code) as the docstring of ``errors`` draws it."""
    drawn: dict[str, tuple[str | None, int]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^([\s│├└─]*)([A-Z]\w+)\s+(\d)\b", line)
        if not found:
            continue
        depth = (len(found[1]) - 4) // 4
        path[depth:] = [found[2]]
        drawn[found[2]] = (path[depth - 1] if depth else None, int(found[3]))
    return drawn


def test_the_error_tree_is_drawn_as_it_is() -> None:
    real: dict[str, tuple[str | None, int]] = {}
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, RivetFleetError):
            parent = None if kind is RivetFleetError else kind.__mro__[1].__name__
            real[name] = (parent, int(kind.exit_code))
    assert _drawn_tree() == real


def test_every_error_says_what_it_means() -> None:
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, RivetFleetError):
            assert (kind.__doc__ and kind.__doc__ != RivetFleetError.__doc__) or name == (
                "RivetFleetError"
            ), f"{name} has no sentence of its own"


def test_every_code_of_doctor_is_documented() -> None:
    rows = table("doctor.md", "code")
    assert_same([r[0].strip("`") for r in rows], [c.value for c in DoctorCode], "doctor code")
    assert all({*r[1].split(", ")} <= {g.value for g in Gravity} and r[2] for r in rows)


def test_every_origin_of_a_number_and_every_verdict_is_documented() -> None:
    origins = [row[0].strip("`") for row in table("check-report.md", "origin")]
    assert_same(origins, [one.value for one in Origin], "origin")
    documented = [row[0].strip("`") for row in table("check-report.md", "verdict")]
    assert_same(documented, [one.value for one in Verdict], "verdict")


def test_every_warning_of_check_is_documented() -> None:
    written = [row[0].strip("`") for row in table("check-report.md", "warning")]
    sources = [Path(inspect.getsourcefile(one) or "") for one in (judging, judging)]
    raised = {
        code
        for source in sources
        for code in re.findall(r'_warning\(\s*"(\w+)"', source.read_text(encoding="utf-8"))
    }
    assert_same(written, sorted(raised), "warning")


def test_every_reason_of_a_cursor_is_documented() -> None:
    rows = table("discovery.md", "reason")
    assert_same([r[0].strip("`") for r in rows], [r.value for r in CursorReason], "cursor reason")


def test_every_verification_code_is_documented_with_its_exit_code():
    rows = table("verification.md", "code")
    assert_same([row[0] for row in rows], [code.value for code in VerifyCode], "finding")
    for code, _, exit_code in rows:
        verification = Verification(depth=Depth.FULL, manifest_found=True)
        verification.manifest_self_consistent = True
        verification.find(VerifyCode(code), "found")
        assert int(verification.exit_code) == int(exit_code), code


def test_rules_of_diagnostics_are_documented() -> None:
    told = set(re.findall(r"`([a-z-]+)`", (REFERENCE / "check-report.md").read_text()))
    assert {rule.value for rule in Rule} <= told


def test_what_is_said_of_rivet_stands_on_its_page() -> None:
    page = (REFERENCE.parent / "explanation" / "rivet-compatibility.md").read_text()
    sections = set(re.findall(r"^## (.+)$", page, re.MULTILINE))
    cited = {
        section
        for path in PACKAGE.rglob("*.py")
        for section in re.findall(r"\(Rivet: ([A-Z][a-z ]+[a-z])\)", path.read_text())
    }
    assert cited
    assert cited <= sections
