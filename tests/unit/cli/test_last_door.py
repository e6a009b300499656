"""What nobody foresaw leaves the program as a sentence, too: nothing of what a library said."""

from __future__ import annotations

import json
import threading

import pytest

from rivet_fleet.cli import main
from rivet_fleet.errors import ExitCode

SAID = "could not convert 'anna@example.org' \x1b[2J postgresql://u:hunter2@h/d"


def fall(**_options: object) -> None:
    raise RuntimeError(SAID)


def test_a_defect_is_told_without_what_was_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main.cli, "main", fall)
    assert main._main(["check"]) == ExitCode.GENERIC
    told = capsys.readouterr().err
    assert "error [RIVET_UNEXPECTED]: unexpected RuntimeError" in told and "in fall" in told
    assert not any(word in told for word in ("anna", "hunter2", "\x1b"))


def test_as_json_it_is_one_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main.cli, "main", fall)
    assert main._main(["--json-errors", "check"]) == ExitCode.GENERIC
    body = json.loads(capsys.readouterr().err)
    assert (body["code"], body["error_class"]) == ("RIVET_UNEXPECTED", "RuntimeError")


def test_a_thread_that_ends_is_told_without_what_was_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def begin(**_options: object) -> int:
        thread = threading.Thread(target=fall, name="beside")
        thread.start()
        thread.join()
        return 0

    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(main.cli, "main", begin)
    assert main._main(["check"]) == ExitCode.OK
    told = capsys.readouterr().err
    assert "unexpected RuntimeError in beside" in told and "in fall" in told
    assert not any(word in told for word in ("anna", "hunter2", "\x1b"))
