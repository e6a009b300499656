"""What the tests of the MySQL and MariaDB source share: fixtures, plans from facts, draining."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pymysql
import pytest

from rivet_fleet.contracts.facts import FactsRequest, SourceFacts
from rivet_fleet.contracts.keys import RelationName
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.execution.source import Source
from rivet_fleet.execution.sources.mysql import ENGINE as MYSQL
from tests.integration.postgres_source_kit import (
    LIMIT,
    drain,
    partition_by_key,
    random_cuts,
    read_all,
    read_plan,
)

__all__ = ["LIMIT", "drain", "partition_by_key", "random_cuts", "read_all", "read_plan"]


class Sql:
    """A plain connection of the driver's, beside the source's own."""

    def __init__(self, url: str) -> None:
        target = parse_database_url(url)
        self.database = target.database
        self.connection = pymysql.connect(
            host=target.host,
            port=target.port or 3306,
            user=target.user,
            password=(target.password or "").encode(),
            database=target.database,
            autocommit=True,
            charset="utf8mb4",
        )

    def execute(self, text: str, values: Any = None) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(text, values)
            return list(cursor.fetchall())

    def numbers(self, most: int) -> None:
        """A table ``numbers`` with ``i`` from 1: what both servers can select from."""
        self.execute("CREATE TABLE numbers (i bigint NOT NULL PRIMARY KEY)")
        with self.connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO numbers VALUES (%s)", [(i,) for i in range(1, most + 1)]
            )

    @property
    def mariadb(self) -> bool:
        return "mariadb" in str(self.execute("SELECT VERSION()")[0][0]).lower()


@pytest.fixture
def sql(mysql_url_any: str) -> Iterator[Sql]:
    opened = Sql(mysql_url_any)
    yield opened
    opened.connection.close()


@pytest.fixture
def source(mysql_url_any: str) -> Iterator[Source]:
    opened = MYSQL.open_source(parse_database_url(mysql_url_any), application_name="rivet-test")
    yield opened
    opened.close()


def facts_of(source: Source, name: str, *keys: str, casts=(), boundaries: int = 100) -> SourceFacts:
    return source.introspect(
        FactsRequest(
            export_name=name,
            relation=RelationName(schema="", name=name),
            query=None,
            key_columns=keys,
            casts=casts,
            boundaries_max=boundaries,
        )
    )
