"""What becomes of a comparison behind a run: by the command line, by each export's own word."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rivet_fleet.cli import reconcile
from rivet_fleet.cli.failure import ending
from rivet_fleet.contracts.reconcile import (
    RECONCILE_MISMATCH,
    RECONCILE_UNKNOWN,
    RECONCILE_UNSETTLED,
    RangeVerdict,
)
from rivet_fleet.errors import ExitCode
from rivet_fleet.planning.config.models import ExportConfig

FAILURES = {
    "mismatch": ending(ExitCode.DATA_INTEGRITY, "m", code=RECONCILE_MISMATCH),
    "unknown": ending(ExitCode.GENERIC, "u", code=RECONCILE_UNKNOWN),
    "unsettled": ending(ExitCode.RETRYABLE, "s", code=RECONCILE_UNSETTLED),
    "match": None,
    "altered": ending(ExitCode.SCHEMA_DRIFT, "a"),
    "mismatch, stopped": ending(ExitCode.DATA_INTEGRITY, "m", code=RECONCILE_MISMATCH),
}
ENDED = {"altered": ExitCode.SCHEMA_DRIFT, "mismatch, stopped": ExitCode.STOPPED}
"""How the comparing ended; the others came to their end."""


def export(**more: Any) -> ExportConfig:
    place = {"type": "local", "path": "out"}
    return ExportConfig.model_validate(
        {"name": "orders", "table": "orders", "format": "parquet", "destination": place, **more}
    )


@pytest.mark.parametrize(
    ("words", "option", "ends", "code"),
    [
        ({}, None, "mismatch", 0),
        ({}, "hash", "mismatch", 3),
        ({"reconcile": {}}, None, "mismatch", 3),
        ({"reconcile": {}}, None, "unknown", 1),
        ({"reconcile": {}}, None, "unsettled", 0),
        ({"reconcile": {}}, None, "match", 0),
        ({"reconcile": {"on_mismatch": "warn"}}, None, "mismatch", 0),
        ({"reconcile": {"on_mismatch": "warn"}}, None, "unknown", 0),
        ({"reconcile": {"on_mismatch": "warn"}}, None, "altered", 4),
        ({"reconcile": {"on_mismatch": "warn"}}, None, "mismatch, stopped", 6),
        ({"reconcile": {"on_mismatch": "repair"}}, None, "mismatch", 0),
        ({"reconcile": {"on_mismatch": "repair"}}, None, "mismatch", 5),
        ({"reconcile": {"on_mismatch": "repair"}}, None, "unknown", 1),
        ({"reconcile": {"on_mismatch": "repair"}}, None, "unsettled", 0),
        ({"reconcile": {"on_mismatch": "repair"}}, None, "mismatch, stopped", 3),
        ({"reconcile_required": True}, None, "mismatch", 3),
        ({"reconcile_required": False}, None, "mismatch", 0),
    ],
)
def test_a_run_ends_as_its_exports_ask(words, option, ends, code, monkeypatch) -> None:
    asked: list[Any] = []
    repaired = ExitCode(code)  # the repair's end is the command's
    run = SimpleNamespace(export_name="orders", plan=SimpleNamespace(written_name="orders"))

    def look(invocation: Any, fleet: Any, runs: Any, settings: Any) -> Any:
        asked.append(reconcile._asked(invocation.loaded, settings, runs[0]).depth.value)
        kind = ends.partition(",")[0]
        verdict = next((one for one in RangeVerdict if one.value == kind), RangeVerdict.UNKNOWN)
        one = SimpleNamespace(export_name="orders", comparison=SimpleNamespace(verdict=verdict))
        return SimpleNamespace(
            failure=FAILURES[ends],
            exit_code=ENDED.get(ends, ExitCode.OK),
            found=[one],
            campaign_id="c1/reconcile",
            path=Path("report"),
        )

    def repair(campaign_id: Any, names: Any) -> ExitCode:
        assert (campaign_id, names, ends) == ("c1/reconcile", {"orders"}, "mismatch")
        return repaired

    monkeypatch.setattr(reconcile, "look", look)
    monkeypatch.setattr(reconcile, "tell", lambda *_, **__: None)
    monkeypatch.setattr(reconcile.comparisons, "runs_of", lambda *_: [run])
    loaded = SimpleNamespace(config=SimpleNamespace(exports=[export(**words)]))
    settings = reconcile.Settings(depth=option) if option else None
    found = reconcile.compare_delivered(
        SimpleNamespace(loaded=loaded), SimpleNamespace(), "c1", (), settings, repair
    )
    assert found == code
    asks = option or next(iter(words.values()), None) not in (None, False)
    depth = "count" if "reconcile_required" in words else "hash"
    assert asked == ([depth] if asks else [])


def test_the_report_is_redacted_as_the_terminal_is(monkeypatch) -> None:
    report = {"partitions": [{"note": "no hunter22", "rows": [{"key": ["hunter22"]}], "looks": 2}]}
    found = [SimpleNamespace(report=report)]
    monkeypatch.setattr(reconcile, "known_redactor", lambda: lambda t: t.replace("hunter22", "*"))
    assert reconcile._body("c1", found) == {
        "campaign_id": "c1",
        "exports": [{"partitions": [{"note": "no *", "rows": [{"key": ["*"]}], "looks": 2}]}],
    }
