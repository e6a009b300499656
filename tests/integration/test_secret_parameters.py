"""Secret parameters and the keys of monitors: used, and nowhere to be read."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pymysql
import pytest

from rivet_fleet.contracts.url import parse_database_url
from tests.integration.fleet_cli import Desk

PEPPER = "p3pper'\\x"
KEY = "k3y/of-the&endpoint"
OTHER = "another'one"


class Endpoint(http.server.BaseHTTPRequestHandler):
    """Answers a number to who has the key."""

    asked: list[str]

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        right = self.path == f"/m?api_key={KEY}"
        self.send_response(200 if right else 403)
        self.end_headers()
        self.wfile.write(b"5" if right else b"")

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def endpoint() -> Iterator[tuple[int, list[str]]]:
    class One(Endpoint):
        asked: list[str] = []  # noqa: RUF012

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), One) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], One.asked
        server.shutdown()


@pytest.fixture(params=["postgres", "mysql"])
def shop(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Engine and URL of a database with five orders."""
    table = "CREATE TABLE orders (id int PRIMARY KEY, note varchar(20))"
    rows = "INSERT INTO orders VALUES (1,'a'),(2,'b'),(3,'c'),(4,'d'),(5,'e')"
    if request.param == "postgres":
        url: str = request.getfixturevalue("database")
        with psycopg.connect(url, autocommit=True) as sql:
            sql.execute(table)
            sql.execute(rows)
        return "postgres", url
    url = request.getfixturevalue("mysql_database")
    at = parse_database_url(url)
    with (
        pymysql.connect(
            host=at.host,
            port=at.port or 3306,
            user=at.user,
            password=at.password or "",
            database=at.database,
            autocommit=True,
        ) as link,
        link.cursor() as cursor,
    ):
        cursor.execute(table)
        cursor.execute(rows)
    return "mysql", url


def spelled(secret: str) -> set[bytes]:
    doubled = secret.replace("'", "''")
    texts = {secret, doubled, doubled.replace("\\", "\\\\"), secret.replace("\\", "\\\\")}
    return {text.encode() for text in texts} | {secret.encode().hex().encode()}


def test_a_secret_is_used_and_nowhere_to_be_read(
    tmp_path: Path, shop: tuple[str, str], endpoint: tuple[int, list[str]]
) -> None:
    engine, url = shop
    port, asked = endpoint
    at = parse_database_url(url)
    door = at.password or "d00rW0rd-9"  # a server that trusts us takes any
    desk = Desk(
        folder=tmp_path,
        environment={"DOOR": door, "PEPPER_SECRET": PEPPER, "METRICS_KEY": KEY, "HIDDEN": "2"},
    )
    place = f"{at.scheme}://{at.user}:${{door}}@{at.host}:{at.port}/{at.database}"
    joined = "concat(note, '${PEPPER_SECRET}')"
    desk.write(
        f"source: {{type: {engine}, url: '{place}'}}\n"
        "campaign: {workers: 1, max_chunk_attempts: 1}\n"
        "params: {least: {secret: true, env: HIDDEN, type: number},"
        " door: {secret: true, env: DOOR}}\n"
        "source_groups:\n"
        "  g: {max_running_chunks: 2, monitor: {interval_s: 0.2, signals: {\n"
        f'    load: {{http: "http://127.0.0.1:{port}/m?api_key=${{METRICS_KEY}}",'
        " pause_above: 100},\n"
        "    mine: {sql: \"select length('${PEPPER_SECRET}')\", pause_above: 100}}}}\n"
        "exports:\n"
        f'  - {{name: o, query: "select id, md5({joined}) as h from orders where id > ${{least}}",'
        " source_group: g, format: parquet, destination: {type: local, path: ./out/o}}\n"
    )
    said = desk.cli("doctor", code=None).said
    assert "5 now" in said
    assert f"{len(PEPPER)} now" in said
    said += desk.cli("plan", "--output", str(tmp_path / "plan.json")).said
    said += desk.cli("--log-level", "debug", "submit").said
    # A value that another process has by mistake is refused before a row is read.
    desk.environment["PEPPER_SECRET"] = OTHER
    done = desk.cli("worker", code=9)
    said += done.said + desk.cli("status").said
    assert "has another value here" in done.said
    assert "no attempt is spent" in done.said
    desk.environment["PEPPER_SECRET"] = PEPPER
    said += desk.cli("--log-level", "debug", "resume").said
    said += desk.cli("journal", "--json").said + desk.cli("state", "show", "--json").said
    import pyarrow.parquet as pq

    (part,) = desk.out.glob("o/*/*.parquet")
    rows = pq.read_table(part).to_pylist()
    wanted = [
        {"id": i, "h": hashlib.md5(f"{note}{PEPPER}".encode()).hexdigest()}
        for i, note in ((3, "c"), (4, "d"), (5, "e"))
    ]
    assert sorted(rows, key=lambda row: row["id"]) == wanted
    assert asked
    for secret in (PEPPER, KEY, OTHER, door):
        for one in spelled(secret):
            assert one not in said.encode(), f"{secret} is said"
            for path in tmp_path.rglob("*"):
                if path.is_file():
                    assert one not in path.read_bytes(), f"{secret} is in {path}"
    state = desk.state.read_bytes()
    assert b"${PEPPER_SECRET}" in state
    assert b"${least}" in state


@pytest.mark.parametrize("size", [20, 40, 64, 100])
def test_no_piece_of_a_secret_is_in_an_excerpt(
    tmp_path: Path, shop: tuple[str, str], size: int
) -> None:
    """Whoever cuts the statement for a message cuts secrets in two."""
    engine, url = shop
    secret = "".join(hashlib.sha256(bytes([at])).hexdigest()[:4] for at in range(size // 4))
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": url, "API_TOKEN": secret})
    where = "note = '${API_TOKEN}'"
    wrong = (
        f"select id from orders where {where} and id > 1 and sattus = 1",
        f"select id from orders were {where}",
        'select id from orders where note = "${API_TOKEN}" order by nothing',
    )
    exports = "".join(
        f"  - {{name: e{n}, query: {json.dumps(query)}, format: parquet,"
        f" destination: {{type: local, path: ./out/e{n}}}}}\n"
        for n, query in enumerate(wrong)
    )
    desk.write(f"source: {{type: {engine}, url_env: SHOP_URL}}\nexports:\n{exports}")
    said = desk.cli("check", code=None).said + desk.cli("--json-errors", "plan", code=None).said
    assert "orders" in said or "e0" in said
    pieces = {secret[at : at + 8] for at in range(size - 7)}
    assert not [piece for piece in pieces if piece in said]


def test_a_column_is_not_named_after_a_secret(tmp_path: Path, mysql_database: str) -> None:
    """MySQL names an expression without a name after its text."""
    environment = {"SHOP_URL": mysql_database, "PEPPER_SECRET": "4f9e1cbb71aa"}
    desk = Desk(folder=tmp_path, environment=environment)
    desk.write(
        "source: {type: mysql, url_env: SHOP_URL}\n"
        "exports:\n"
        "  - {name: o, query: \"select 1 as id, md5('${PEPPER_SECRET}')\", format: parquet,"
        " destination: {type: local, path: ./out/o}}\n"
    )
    done = desk.cli("plan", "--output", str(tmp_path / "plan.json"), code=None)
    assert "RIVET_PARAMETER_NAMED" in done.said or "with AS" in done.said
    assert "4f9e1c" not in done.said
    assert not (tmp_path / "plan.json").exists()
