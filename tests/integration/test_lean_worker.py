"""What a real worker process imports while it works, told by the interpreter itself."""

from __future__ import annotations

import pytest

from tests.integration.fleet_cli import Desk, fleet_yaml

NOT_A_WORKERS = (
    *("alembic", "mako", "rich", "numpy", "pandas", "cryptography", "pymysql", "duckdb"),
    *("pyarrow._s3fs", "pyarrow._gcsfs", "pyarrow._azurefs", "pyarrow._hdfs"),
    "sqlalchemy.dialects.postgresql",
    "rivet_fleet.persistence.schema",
    "rivet_fleet.planning.planner",
    "rivet_fleet.planning.strategy",
    "rivet_fleet.execution.sources.mysql.source",
    "rivet_fleet.observability.progress",
)
"""Of a PostgreSQL source, a SQLite state and Parquet files. A fleet has many workers, and each
pays for every import with time before its first claim and with memory until its end."""


_TELL = """
import os, sys

def tell_and_leave(code, leave=os._exit):
    names = [name for name, module in sys.modules.items() if module is not None]
    with open(os.environ["TOLD"], "w") as told:
        told.write("\\n".join(names))
    leave(code)

os._exit = tell_and_leave
"""
"""The interpreter runs a module called sitecustomize before anything else; the program leaves by
``os._exit``."""


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory, shop: str) -> frozenset[str]:
    """Every module of a worker that has worked through a campaign alone, at its end."""
    desk = Desk(folder=tmp_path_factory.mktemp("lean"), environment={"SHOP_URL": shop})
    desk.write(fleet_yaml())
    desk.cli("submit")
    told = desk.folder / "told"
    (desk.folder / "sitecustomize.py").write_text(_TELL)
    desk.environment |= {"PYTHONPATH": str(desk.folder), "TOLD": str(told)}
    desk.cli("worker")
    assert len(desk.delivered()) == 200
    return frozenset(told.read_text().splitlines())


def test_a_worker_imports_what_it_needs(imported: frozenset[str]) -> None:
    assert {"pyarrow.lib", "psycopg", "rivet_fleet.coordination.worker"} <= imported


@pytest.mark.parametrize("module", NOT_A_WORKERS)
def test_a_worker_does_without(module: str, imported: frozenset[str]) -> None:
    found = [name for name in imported if name == module or name.startswith(f"{module}.")]
    assert not found, f"a worker's process imports {found}"
