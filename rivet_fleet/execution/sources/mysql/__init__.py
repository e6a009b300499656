"""MySQL and MariaDB as a source: the folder's whole public face."""

from rivet_fleet.execution.sources.mysql.dialect import DEFAULT_PORT, ENGINE_NAMES
from rivet_fleet.execution.sources.mysql.source import open_source

__all__ = ["DEFAULT_PORT", "ENGINE_NAMES", "open_source"]
