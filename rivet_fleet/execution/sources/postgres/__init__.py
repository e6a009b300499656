"""PostgreSQL as a source: the folder's whole public face."""

from rivet_fleet.execution.sources.postgres.dialect import DEFAULT_PORT, ENGINE_NAMES
from rivet_fleet.execution.sources.postgres.source import open_source

__all__ = ["DEFAULT_PORT", "ENGINE_NAMES", "open_source"]
