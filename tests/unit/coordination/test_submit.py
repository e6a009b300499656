"""Going on with a stored campaign: what a worker does not make, an operator's word makes anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rivet_fleet.contracts.plan import DestinationPlan
from rivet_fleet.coordination.submit import go_on
from tests.campaigns import campaign_plan
from tests.model.store import MemoryStore
from tests.unit.coordination.fleets import CAMPAIGN, DatabaseClock, make_fleet


def test_folders_of_partitions_that_are_gone_are_made_again(tmp_path: Path) -> None:
    """Each of its own: one of a family does not speak for the others, and what is wrong with one
    is its workers' to tell."""
    plan = campaign_plan(chunks=(1, 1, 1))
    folders = [tmp_path / "out" / run.plan.export_name for run in plan.runs]
    runs = tuple(
        replace(
            run,
            plan=replace(
                run.plan,
                family="orders",
                destination=DestinationPlan(kind="local", prefix=str(folder)),
            ),
        )
        for run, folder in zip(plan.runs, folders, strict=True)
    )
    store = MemoryStore(DatabaseClock())
    store.submit(replace(plan, runs=runs))
    (tmp_path / "out").mkdir()
    folders[1].write_text("a file in the way")
    loaded: Any = SimpleNamespace(config=SimpleNamespace(source_groups={}))
    go_on(make_fleet(store, tmp_path), loaded, CAMPAIGN)
    assert [folder.is_dir() for folder in folders] == [True, False, True]
