"""Workers' logs go into no folder that somebody else has made."""

from __future__ import annotations

from pathlib import Path

import pytest

from rivet_fleet.cli.campaign import _log_folder
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.errors import StateRefused
from tests.unit.contracts.test_places import give_away


def test_a_folder_that_somebody_else_made_first_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o1777)
    assert _log_folder(tmp_path, CampaignId("c")) == tmp_path / ".rivet_fleet" / "logs" / "c"
    theirs = tmp_path / ".rivet_fleet"
    theirs.mkdir()
    give_away(theirs, monkeypatch)
    with pytest.raises(StateRefused, match="belongs to user") as caught:
        _log_folder(tmp_path, CampaignId("c"))
    assert caught.value.code == "RIVET_LOGS_NOT_OURS"
