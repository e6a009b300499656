"""The engines that can be the source under chaos; each module holds all that differs."""

from __future__ import annotations

from chaos.source_data import SourceEngine
from chaos.sources.mariadb import MariadbSource
from chaos.sources.postgres import PostgresSource
from rivet_fleet.demo.embedded import EmbeddedPostgresMissing
from tests.servers.mariadb import EmbeddedMariadbMissing

ENGINES: dict[str, SourceEngine] = {
    engine.name: engine for engine in (PostgresSource(), MariadbSource())
}
SOURCES = tuple(ENGINES)
MISSING = (EmbeddedPostgresMissing, EmbeddedMariadbMissing)
"""Raised where a server is not to be had."""
