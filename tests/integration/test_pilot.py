"""The pilot: fifteen tables of PostgreSQL and MariaDB, by the document and nothing else.

What the document's commands say is compared line by line; the delivered values are compared
with what both databases compute of their own tables, by DuckDB in a process of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rivet_fleet.demo.embedded import EmbeddedPostgres
from tests.integration.documents import follow_document, write_tools
from tests.integration.fleet_cli import COMPILED
from tests.servers.mariadb import EmbeddedMariadb

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorial"

WEBSHOP = {
    "countries": "count(*), count(DISTINCT code), min(name), max(name)",
    "customers": "count(*), count(DISTINCT id), count(country), min(born), max(born)",
    "orders": "count(*), count(DISTINCT id), sum(total), sum(id * customer)",
    "order_lines": "count(*), sum(order_id * 10 + line_no), sum(order_id * quantity)",
    "products": "count(*), count(DISTINCT id), count(tags), sum(weight)",
    "clicks": "count(*), count(DISTINCT seen_at), count(DISTINCT page), max(seen_at)",
    "stock": "count(*), sum(product * pieces), count(DISTINCT warehouse)",
}
BILLING = {
    "currencies": "count(*), count(DISTINCT code), sum(digits)",
    "invoices": "count(*), count(DISTINCT id), sum(total), count(note)",
    "invoice_lines": "count(*), sum(invoice_id * 10 + line_no), sum(amount)",
    "payments": "count(*), count(DISTINCT id), sum(amount), count(details)",
    "contracts": "count(*), count(DISTINCT id), min(biggest), max(biggest)",
    "audit": "count(*), count(DISTINCT done_at), count(DISTINCT payload)",
}
"""What is computed of each table that has rows, in words that all three databases understand."""
EMPTY = {"refunds", "reminders"}
READER = """
import glob, json, os, sys
import duckdb
for line in sys.stdin:
    table, said = line.rstrip("\\n").split("\\t", 1)
    done = [os.path.dirname(one) for one in glob.glob(f"exports/{table}/*/_SUCCESS")]
    assert len(done) == (2 if table == "invoices" else 1), (table, done)
    newest = json.load(open(f"exports/{table}/latest.json"))["files"]
    runs = {file.split("/")[0] for file in newest}
    former = [run for run in done if os.path.basename(run) not in runs]
    parts = [f"exports/{table}/{file}" for file in newest]
    parts += [part for run in former for part in glob.glob(f"{run}/*.parquet")]
    cells = duckdb.sql(f"SELECT {said} FROM read_parquet({parts})").fetchall()[0]
    print(table, *cells, sep="|")
"""


@pytest.fixture
def terminal(
    tmp_path: Path, postgres: EmbeddedPostgres, mariadb: EmbeddedMariadb
) -> Iterator[dict[str, str]]:
    """An environment in which both databases' clients and the program are the right ones."""
    client = mariadb.install
    words = f"--no-defaults --protocol=TCP --host=127.0.0.1 --port={mariadb.port}"
    variables = {**client.environment, "MYSQL_PWD": mariadb.password}
    variables.pop("PATH")
    set_here = " ".join(f'{name}="{value}"' for name, value in variables.items())
    tools = write_tools(
        tmp_path / "tools",
        {
            "rivet-fleet": f'"{sys.executable}" -m rivet_fleet',
            "python": f'"{sys.executable}"',
            "psql": f'"{postgres.bin / "psql"}"',
            "mariadb": f'env {set_here} "{client.client}" {words}',
        },
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RIVET_")}
    yield {**kept, **COMPILED, "PATH": f"{tools}:{kept['PATH']}"}
    postgres.psql("DROP DATABASE IF EXISTS webshop")
    postgres.psql("DROP ROLE IF EXISTS exporter")
    mariadb.sql("DROP DATABASE IF EXISTS billing; DROP USER IF EXISTS exporter")


def test_the_pilot(
    tmp_path: Path,
    terminal: dict[str, str],
    postgres: EmbeddedPostgres,
    mariadb: EmbeddedMariadb,
) -> None:
    place = tmp_path / "pilot"
    shutil.copytree(TUTORIALS / "pilot", place)
    text = (TUTORIALS / "pilot.md").read_text(encoding="utf-8")
    text = text.replace("127.0.0.1:5432", f"127.0.0.1:{postgres.port}")
    text = text.replace("127.0.0.1:3306", f"127.0.0.1:{mariadb.port}")
    follow_document(text, place, terminal)

    folders = {one.name for one in (place / "exports").iterdir()}
    assert folders == {*WEBSHOP, *BILLING, *EMPTY}
    for table in EMPTY:
        assert [*place.glob(f"exports/{table}/*/_SUCCESS")], table
        assert not [*place.glob(f"exports/{table}/*/*.parquet")], table
    assert sorted(_read(place)) == sorted(_computed(postgres, mariadb))


def _read(place: Path) -> list[str]:
    """What DuckDB computes of all runs: of the newest by ``latest.json``, as a repair leaves it."""
    asked = "".join(f"{table}\t{said}\n" for table, said in {**WEBSHOP, **BILLING}.items())
    done = subprocess.run(
        [sys.executable, "-c", READER],
        input=asked,
        cwd=place,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def _computed(postgres: EmbeddedPostgres, mariadb: EmbeddedMariadb) -> list[str]:
    """The same of the tables, by the databases themselves."""
    shop = postgres.psql(
        ";".join(f"SELECT '{table}', {said} FROM {table}" for table, said in WEBSHOP.items()),
        database="webshop",
    )
    billing = mariadb.sql(
        ";".join(f"SELECT '{table}', {said} FROM {table}" for table, said in BILLING.items()),
        database="billing",
    )
    return [*shop.splitlines(), *billing.replace("\t", "|").splitlines()]
