"""Names and messages of a source that mean to command a terminal: none of it gets there."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest

from tests.integration.fleet_cli import Desk

NAME = "col\x1b]0;OWNED\x07\u202egnp\x9b31m"
MESSAGE = "row\x1b]0;OWNED\x07\x1b[2J\x1b[31mFAKE: all good\x1b[0m \u202egnp.exe"
COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
VERBS = (
    *(("check",), ("check", "--type-report"), ("check", "--json"), ("doctor",), ("plan",)),
    *(("run",), ("status",), ("status", "--json"), ("state", "chunks"), ("journal",)),
    *(("state", "chunks", "--json"), ("--json-errors", "run"), ("validate",), ("state", "show")),
)


@pytest.fixture
def desk(tmp_path: Path, database: str) -> Desk:
    with psycopg.connect(database, autocommit=True) as sql:
        quoted = '"' + NAME + '"'
        sql.execute(f"CREATE TABLE orders (id bigint PRIMARY KEY, {quoted} int)")
        sql.execute("INSERT INTO orders SELECT i, i FROM generate_series(1, 50) i")
        literal = "E'" + "".join(f"\\u{ord(one):04x}" for one in MESSAGE) + "'"
        sql.execute(
            "CREATE FUNCTION late(i bigint) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$ BEGIN "
            f"IF i > 30 THEN RAISE EXCEPTION USING message = {literal}; END IF; RETURN i; END $$"
        )
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": database})
    desk.write(
        "errors: {row_values: shown}\n"
        "source: {type: postgres, url_env: SHOP_URL, tuning: {retry_backoff_ms: 20}}\n"
        "campaign: {workers: 1, max_chunk_attempts: 1}\n"
        "exports:\n"
        "  - {name: orders, table: orders, format: parquet,"
        " destination: {type: local, path: ./out/orders}}\n"
        "  - {name: late, query: 'select late(id) as v, id from orders', format: csv,"
        " destination: {type: local, path: ./out/late}}\n"
    )
    return desk


def test_no_escape_of_a_server_reaches_the_terminal(desk: Desk) -> None:
    shown = ""
    for verb in VERBS:
        done = desk.cli(*verb, code=None)
        shown += done.said
        found = COMMANDS.findall(done.said)
        assert not found, f"{verb}: {found!r} in {done.said!a}"
    assert "FAKE: all good" in shown and "gnp" in shown, "the hostile words were never shown"
    for log in desk.folder.rglob("*.log"):
        assert not COMMANDS.findall(log.read_text("utf-8")), log
