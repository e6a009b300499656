"""PostgreSQL as a source: the folder's whole public face."""

from __future__ import annotations

from rivet_fleet.execution.engines.engine import Engine
from rivet_fleet.execution.sources.postgres.dialect import DEFAULT_PORT, ENGINE_NAMES

ENGINE = Engine(
    folder=__name__,
    names=ENGINE_NAMES,
    default_port=DEFAULT_PORT,
    decoder="copyrows",
    statements="dialect",
)
