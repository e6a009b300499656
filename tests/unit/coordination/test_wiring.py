"""What the installed plug-ins know reaches the checks of a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from rivet_fleet.coordination import wiring
from rivet_fleet.errors import ConfigError
from rivet_fleet.execution import registry

WATCHED = """\
source: {{type: {engine}, url: "{engine}://reader@localhost/shop"}}
source_groups:
  shop: {{max_running_chunks: 2, monitor: {{signals: {{{signals}}}}}}}
exports:
  - {{name: orders, table: orders, format: parquet, destination: {{type: local, path: out}}}}
"""


@pytest.mark.parametrize("engine", registry.engine_names())
def test_an_engines_own_signals_are_accepted_and_others_refused(
    tmp_path: Path, engine: str
) -> None:
    path = tmp_path / "fleet.yaml"
    own = ", ".join(f"{name}: {{pause_above: 1}}" for name in registry.signal_specs(engine))
    path.write_text(WATCHED.format(engine=engine, signals=own))
    wiring.load(path, params={}, environ={})
    path.write_text(WATCHED.format(engine=engine, signals="lock_wait: {pause_above: 1}"))
    with pytest.raises(ConfigError, match=r"fleet\.yaml:3:\d+: .*lock_wait: ") as refused:
        wiring.load(path, params={}, environ={})
    assert refused.value.hint == "did you mean 'lock_waits'?"
