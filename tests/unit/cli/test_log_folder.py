"""Workers' logs go into no folder that somebody else has made."""

from __future__ import annotations

from pathlib import Path

import pytest

from rivet_fleet.contracts import places
from rivet_fleet.contracts.clock import SystemClock
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.coordination.supervisor import Supervisor, WorkerCommand, log_folder_of
from rivet_fleet.errors import StateRefused, StateTampered
from tests.unit.contracts.test_places import give_away


def test_a_folder_that_somebody_else_made_first_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o1777)
    assert log_folder_of(tmp_path, CampaignId("c")) == tmp_path / ".rivet_fleet" / "logs" / "c"
    theirs = tmp_path / ".rivet_fleet"
    theirs.mkdir()
    give_away(theirs, monkeypatch)
    with pytest.raises(StateRefused, match="belongs to user") as caught:
        log_folder_of(tmp_path, CampaignId("c"))
    assert caught.value.code == "RIVET_LOGS_NOT_OURS"


def test_a_folder_that_somebody_makes_behind_the_look_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faster(folder: Path) -> None:
        folder.mkdir(parents=True)
        give_away(tmp_path / ".rivet_fleet", monkeypatch)

    tmp_path.chmod(0o1777)
    command = WorkerCommand(
        arguments=["/bin/false"],
        environment={},
        log_folder=log_folder_of(tmp_path, CampaignId("c")),
    )
    monkeypatch.setattr(places, "make_private", faster)
    supervisor = Supervisor(command, workers=1, clock=SystemClock(), on_end=lambda end: None)
    with pytest.raises(StateRefused) as caught:
        supervisor.tick()
    assert caught.value.code == "RIVET_LOGS_NOT_OURS"
    assert not supervisor.pids and not list(command.log_folder.iterdir())


@pytest.mark.parametrize("campaign_id", ["../../out", "/out", "..", "", "a/b", "a\0b", "c@../x"])
def test_an_id_that_was_never_given_leads_nowhere(tmp_path: Path, campaign_id: str) -> None:
    with pytest.raises(StateTampered):
        log_folder_of(tmp_path, CampaignId(campaign_id))
