"""The arithmetic of the application's latencies, and the configurations that are compared."""

from __future__ import annotations

import pytest
import yaml

from bench.oltp.application import arrivals
from bench.oltp.arms import Arm, arms
from bench.oltp.figures import Window, figures, percentile, table
from rivet_fleet.planning.config_models import FleetConfig


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert [percentile(values, wanted) for wanted in (50, 95, 99)] == [50.0, 95.0, 99.0]
    assert percentile([7.0], 99) == 7.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_arrivals_are_the_same_for_every_way_bounded_and_at_the_rate() -> None:
    once = [*arrivals(20.0, 60.0, seed=7)]
    assert once == [*arrivals(20.0, 60.0, seed=7)] != [*arrivals(20.0, 60.0, seed=8)]
    assert once == sorted(once) and once[0] > 0 and once[-1] < 60.0
    assert 1000 < len(once) < 1400


def test_the_figures_are_medians_of_windows_not_of_all_values() -> None:
    quiet = Window(took_s=(0.001,) * 99, due=99, seconds=2.0, rows=200)
    loud = Window(took_s=(0.5,) * 1, due=2, seconds=2.0, rows=400)
    found = figures([quiet, loud, quiet])
    assert found.percentiles_ms == (1.0, 1.0, 1.0)
    assert (found.done, found.due, found.rows_per_s) == (199, 200, 100.0)
    assert "| loud | 500.0 | 500.0 | 500.0 | 1 | 50.0% | 200 |" in table({"loud": [loud]})


@pytest.mark.parametrize("engine", ["postgres", "mariadb"])
@pytest.mark.parametrize("arm", [arm for arm in arms() if arm.extracts], ids=lambda arm: arm.name)
def test_every_way_is_a_configuration(arm: Arm, engine: str) -> None:
    found = FleetConfig.model_validate(yaml.safe_load(arm.config(engine)))
    assert found.source_groups and len(found.exports) > 1
