"""MySQL and MariaDB as a source: the folder's whole public face."""

from __future__ import annotations

from rivet_fleet.execution.engines.engine import Engine
from rivet_fleet.execution.sources.mysql.dialect import DEFAULT_PORT, ENGINE_NAMES
from rivet_fleet.execution.sources.mysql.driver import import_driver

ENGINE = Engine(
    folder=__name__,
    names=ENGINE_NAMES,
    default_port=DEFAULT_PORT,
    decoder="packetrows",
    statements="statements",
    import_driver=import_driver,
)
