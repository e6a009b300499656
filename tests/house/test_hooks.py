"""Hooks of tests act behind two switches, and through one door."""

from __future__ import annotations

from pathlib import Path

import pytest

import rivet_fleet
from rivet_fleet.cli import environment
from rivet_fleet.contracts import killpoints

PACKAGE = Path(rivet_fleet.__file__).parent
DOOR = PACKAGE / "cli" / "environment.py"
ARMING = "page.read:kill:3"


def test_no_other_module_knows_a_hook() -> None:
    knows = {
        path
        for path in PACKAGE.rglob("*.py")
        if any(word in path.read_text() for word in ("RIVET_FLEET_TEST", "parse_armings("))
    }
    assert knows == {DOOR, PACKAGE / "contracts" / "killpoints.py"}
    assert "RIVET_FLEET_TEST" not in (PACKAGE / "contracts" / "killpoints.py").read_text()


@pytest.mark.parametrize("switch", [None, "", "0", "true"])
def test_a_hook_alone_is_ignored_aloud(
    switch: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    armed: list[object] = []
    monkeypatch.setattr(environment, "arm", armed.append)
    monkeypatch.setenv(environment.TEST_KILL, ARMING)
    monkeypatch.setenv(environment.TEST_HOST_ID, "elsewhere")
    monkeypatch.delenv(environment.TESTING, raising=False)
    if switch is not None:
        monkeypatch.setenv(environment.TESTING, switch)
    assert environment.read_environment().host_id is None
    assert armed == [()]
    assert "is ignored" in capsys.readouterr().err


def test_behind_both_switches_it_acts_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    armed: list[object] = []
    monkeypatch.setattr(environment, "arm", armed.append)
    monkeypatch.setenv(environment.TESTING, "1")
    assert environment.read_environment().host_id is None
    assert armed == [()] and not capsys.readouterr().err
    monkeypatch.setenv(environment.TEST_KILL, ARMING)
    monkeypatch.setenv(environment.TEST_HOST_ID, "elsewhere")
    assert environment.read_environment().host_id == "elsewhere"
    assert armed[1:] == [killpoints.parse_armings(ARMING)]
    assert "a hook of tests acts here" in capsys.readouterr().err
