"""Configurations and facts as the planner sees them: plain values, no server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from rivet_fleet.execution import registry
from rivet_fleet.planning.config.load import Installed, load_config
from rivet_fleet.planning.config.loaded import LoadedConfig

HEAD = """\
source:
  type: postgres
  url: postgresql://reader@localhost:5432/shop
exports:
"""
TAIL = "    format: parquet\n    destination: {type: local, path: 'out/{export}'}\n"


def load(
    path: Path,
    *,
    params: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> LoadedConfig:
    return load_config(
        path,
        params=params or {},
        environ=environ or {},
        installed=Installed(
            engines=frozenset({"postgres"}),
            destinations=registry.destination_kinds(),
            formats=frozenset({"parquet", "csv"}),
            engine_signals=lambda engine: frozenset({"lock_waits", "running_sessions"}),
            default_ports={"postgres": 5432, "postgresql": 5432},
            place_parameters=registry.place_parameters,
        ),
    )


Loader = Callable[..., LoadedConfig]


@pytest.fixture
def load_text(tmp_path: Path) -> Loader:
    """Load a configuration from text."""

    def run(text: str, **more: Mapping[str, str]) -> LoadedConfig:
        path = tmp_path / "fleet.yaml"
        path.write_text(text)
        return load(path, **more)

    return run


@pytest.fixture
def load_exports(load_text: Loader) -> Loader:
    """Load a configuration from export entries: name → extra lines of YAML."""

    def run(**exports: str) -> LoadedConfig:
        text = HEAD
        for name, lines in exports.items():
            text += f"  - name: {name}\n{TAIL}"
            text += "".join(f"    {line}\n" for line in lines.splitlines())
        return load_text(text)

    return run
