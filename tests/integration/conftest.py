"""What the tests at the command line share: a filled shop and a user's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from rivet_fleet.demo.embedded import EmbeddedPostgres
from tests.integration.fleet_cli import ORDERS, Desk, fleet_yaml

ROWS = 200


@pytest.fixture(scope="session")
def shop(postgres: EmbeddedPostgres) -> str:
    """The URL of a database that tests read and never change: ``orders`` with 200 rows."""
    url = postgres.create_database("cli_shop")
    postgres.psql(ORDERS.format(name="orders", rows=ROWS), database="cli_shop")
    return url


@pytest.fixture
def desk(tmp_path: Path, shop: str) -> Desk:
    """A folder with a right configuration of one export, ``orders`` in four chunks."""
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": shop})
    desk.write(fleet_yaml())
    return desk


@pytest.fixture
def own_shop(tmp_path: Path, postgres: EmbeddedPostgres, database: str) -> tuple[Desk, str]:
    """A desk with a shop of its own, to be changed; and that database's name."""
    name = database.rpartition("/")[2]
    postgres.psql(ORDERS.format(name="orders", rows=ROWS), database=name)
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": database})
    desk.write(fleet_yaml())
    return desk, name
