"""Which secrets a process puts into a query that a plan brings: those of the plan's seals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rivet_fleet.contracts.parameters import Parameter, seal
from rivet_fleet.contracts.plan import ReadPlan
from rivet_fleet.contracts.protection import SignalPlan
from rivet_fleet.coordination import wiring
from rivet_fleet.coordination.secrets import PrivateSource, questions
from rivet_fleet.errors import ConfigError
from tests.campaigns import campaign_plan

LOADED: Any = SimpleNamespace(
    parameters={"tenant": Parameter(value="acme"), "pepper": Parameter(value="s3cr3t")},
    templates=frozenset(),
)


class Asked:
    """Says what it is asked for."""

    def count_rows(self, read: ReadPlan, *_: object) -> str | None:
        return read.query


def reading(query: str, *names: str) -> ReadPlan:
    """A plan that reads this, sealed for these secrets as whoever has their values can."""
    read = campaign_plan(chunks=(1,)).runs[0].plan.read
    place = read.source_identity
    values = {name: LOADED.parameters[name].value for name in names}
    seals = tuple(seal(name, value, place, query) for name, value in values.items())
    return replace(read, relation=None, query=query, secrets=seals)


def test_a_secret_that_the_plan_was_not_sealed_with_is_placed_nowhere() -> None:
    source: Any = PrivateSource(Asked(), "postgres", LOADED)  # type: ignore[arg-type]
    asked = source.count_rows(reading("select ${tenant}", "tenant"), None, 1.0)
    assert asked == "select 'acme'"
    with pytest.raises(ConfigError, match="secret parameter pepper") as refused:
        source.count_rows(reading("select ${pepper}, ${tenant}", "tenant"), None, 1.0)
    assert refused.value.code == "RIVET_PARAMETER_CHANGED"
    unsealed = reading("select ${pepper}")
    assert source.count_rows(unsealed, None, 1.0) == unsealed.query, "nothing is put in"


MONITORED = """\
source: {type: postgres, url_env: U}
source_groups:
  g:
    max_running_chunks: 1
    monitor: {signals: {load: {http: "http://ops:80/load", pause_above: 9}}}
exports:
  - {name: o, table: o, source_group: g, format: parquet, destination: {type: local, path: out}}
"""


def test_who_bounds_what_is_read_calls_no_url_of_the_states_alone(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text(MONITORED)
    loaded = wiring.load(tmp_path / "fleet.yaml", params={}, environ={"U": "postgresql://u@h/d"})
    own = SignalPlan(name="load", kind="http", ask="http://ops:80/load", pause_above=9)
    anybodys = replace(own, ask="http://127.0.0.1:80/delete?all=1")
    assert questions(loaded)("g", anybodys) == anybodys.ask
    bounded = questions(loaded, own_urls=True)
    assert bounded("g", own) == own.ask
    with pytest.raises(ConfigError) as refused:
        bounded("g", anybodys)
    assert refused.value.code == "RIVET_CONFIG_SIGNAL_UNKNOWN"
