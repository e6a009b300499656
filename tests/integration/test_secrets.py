"""A password is nowhere but where its owner put it: every stream, file, table and process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import psutil
import psycopg
import pytest

from rivet_fleet.cli.nursery import PROCESS_NAME
from rivet_fleet.demo.embedded import EmbeddedPostgres
from tests.integration.fleet_cli import Desk, fleet_yaml
from tests.waiting import until

SOURCE_SECRET = "s3cr3t/?#@:% ä"
STATE_SECRET = "st4te&pw/?#@:% ö"
PARAM_SECRET = "p4ram:/secret@x"
SLOW = "tuning: {batch_size: 10, throttle_ms: 150, retry_backoff_ms: 50}"


def spellings(secret: str) -> set[str]:
    """As it is, percent-encoded in every usual way, as JSON, and its telling pieces."""
    return {
        secret,
        quote(secret, safe=""),
        quote(secret),
        quote(secret).lower(),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        secret.split("/")[0],
    }


FORBIDDEN = set().union(*map(spellings, (SOURCE_SECRET, STATE_SECRET, PARAM_SECRET)))


def assert_clean(text: str, where: str) -> None:
    for secret in FORBIDDEN:
        place = text.find(secret)
        assert place < 0, f"a secret in {where}: …{text[max(0, place - 60) : place + 40]}…"


def assert_clean_folder(folder: Path, own: set[str]) -> None:
    """Every byte of every file and every name below ``folder`` but the user's own files."""
    for path in folder.rglob("*"):
        assert_clean(str(path.relative_to(folder)), "a file's name")
        if path.is_file() and path.name not in own:
            body = path.read_bytes()
            for secret in FORBIDDEN:
                assert secret.encode() not in body, f"a secret in {path}"


def assert_clean_database(url: str) -> int:
    """Every row of every table as text; returns how many there were."""
    seen = 0
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        ).fetchall()
        for (table,) in tables:
            rows = connection.execute(f'SELECT t::text FROM "{table}" t').fetchall()  # type: ignore[arg-type]
            for (row,) in rows:
                seen += 1
                # A row's text doubles quotes and backslashes; secrets here hold neither.
                assert_clean(row, f"table {table}")
    return seen


@pytest.fixture(scope="module")
def guarded(postgres: EmbeddedPostgres) -> Iterator[dict[str, str]]:
    """A source and a state that want passwords full of delimiters; roles and databases."""
    hba = postgres.directory / "data" / "pg_hba.conf"
    before = hba.read_text()
    source = postgres.create_database("guarded_shop")
    postgres.create_database("guarded_state")
    postgres.psql(
        "SET password_encryption = 'scram-sha-256';"
        f"CREATE ROLE keeper LOGIN PASSWORD '{SOURCE_SECRET}';"
        f"CREATE ROLE scribe LOGIN PASSWORD '{STATE_SECRET}';"
        "ALTER DATABASE guarded_state OWNER TO scribe;"
    )
    postgres.psql(
        "CREATE TABLE orders (id bigint PRIMARY KEY, note text);"
        "INSERT INTO orders SELECT i, 'n' FROM generate_series(1, 200) i; ANALYZE orders;"
        "CREATE TABLE hidden (id bigint PRIMARY KEY); GRANT SELECT ON orders TO keeper;",
        database="guarded_shop",
    )
    hba.write_text(
        "host all keeper 127.0.0.1/32 scram-sha-256\nhost all scribe 127.0.0.1/32 scram-sha-256\n"
        + before
    )
    postgres.psql("SELECT pg_reload_conf()")
    place = source.partition("@")[2]
    yield {
        "source": f"postgresql://keeper:{quote(SOURCE_SECRET, safe='')}@{place}",
        "wrong": f"postgresql://keeper:{quote(PARAM_SECRET, safe='')}@{place}",
        "state": f"postgresql://scribe:{quote(STATE_SECRET, safe='')}@{place}".replace(
            "guarded_shop", "guarded_state"
        ),
        "state_as_owner": source.replace("guarded_shop", "guarded_state"),
        "host": place.partition(":")[0],
        "port": place.partition(":")[2].partition("/")[0],
    }
    hba.write_text(before)
    postgres.psql("SELECT pg_reload_conf()")


def own_processes(root: int) -> Iterator[psutil.Process]:
    parent = psutil.Process(root)
    yield parent
    yield from parent.children(recursive=True)


def running_chunks(state: str) -> int:
    """How many chunks are being extracted now; 0 while there is no schema yet."""
    try:
        with psycopg.connect(state) as connection:
            asked = "SELECT count(*) FROM chunk_task WHERE status = 'running'"
            found = connection.execute(asked).fetchone()
            return int(found[0]) if found else 0
    except psycopg.errors.UndefinedTable:
        return 0


def test_a_whole_campaign_with_a_killed_worker_leaks_nothing(
    tmp_path: Path, guarded: dict[str, str]
) -> None:
    desk = Desk(folder=tmp_path, environment={"SHOP_PW": quote(SOURCE_SECRET, safe="")})
    desk.environment["FLEET_STATE"] = guarded["state"]
    url = f"postgresql://keeper:${{SHOP_PW}}@127.0.0.1:{guarded['port']}/guarded_shop"
    desk.write(
        fleet_yaml(
            source=f"{{type: postgres, url: '{url}', {SLOW}}}",
            tail="state: {url_env: FLEET_STATE}\nspool_dir: ./spool\n",
        )
    )
    process = desk.start("--log-level", "debug", "run", "-c", str(desk.config))
    until(lambda: running_chunks(guarded["state_as_owner"]), what="a claim")
    victims = []
    for one in own_processes(process.pid):
        assert_clean(" ".join(one.cmdline()), "a command line")
        if "worker" in one.cmdline() or one.name() == PROCESS_NAME:
            victims.append(one)
    assert victims, "no worker was seen"
    victims[0].kill()
    done = desk.finish(process)
    assert desk.delivered() == list(range(1, 201))
    assert_clean(done.said, "what run says")
    for command in (
        ("status",),
        ("status", "--json"),
        ("journal",),
        ("journal", "--json"),
        ("validate", "--json"),
        ("state", "chunks", "--json"),
        ("state", "files", "--json"),
    ):
        assert_clean(desk.cli("--log-level", "debug", *command).said, " ".join(command))
    assert_clean_folder(desk.folder, own={"fleet.yaml"})
    assert assert_clean_database(guarded["state_as_owner"]) > 10


def test_failing_in_every_way_leaks_nothing(tmp_path: Path, guarded: dict[str, str]) -> None:
    desk = Desk(folder=tmp_path)
    (tmp_path / "url.txt").write_text(guarded["source"])
    (tmp_path / "raw.txt").write_text(
        f"postgresql://keeper:{SOURCE_SECRET}@127.0.0.1:{guarded['port']}/nowhere"
    )
    fields = (
        f"{{type: postgres, host: 127.0.0.1, port: {guarded['port']}, user: keeper, "
        "database: guarded_shop, password: '${PW}'}"
    )
    from_file = "{type: postgres, url_file: url.txt}"
    in_query = "select 1 as id, '${PW}'::nothing as x"
    cases: list[tuple[str, tuple[str, ...], dict[str, str]]] = [
        # a wrong password, from --param, percent-encoded in a URL
        (
            fleet_yaml(source="{type: postgres, url: '${URL}'}"),
            ("-p", f"URL={guarded['wrong']}"),
            {},
        ),
        # no privilege; the right password from --param, and from a file
        (fleet_yaml(source=fields, table="hidden"), ("-p", f"PW={SOURCE_SECRET}"), {}),
        (fleet_yaml(source=from_file, table="hidden"), (), {}),
        # a database that is not there, the password raw in a file
        (fleet_yaml(source="{type: postgres, url_file: raw.txt}"), (), {}),
        # SQL that repeats the secret, which the server then quotes
        (
            fleet_yaml(source=fields).replace("table: orders", f'query: "{in_query}"'),
            ("-p", f"PW={SOURCE_SECRET}"),
            {},
        ),
        # a state database that refuses, named on the command line
        (
            fleet_yaml(source=from_file),
            ("--state-url", guarded["state"].replace("guarded_state", "no_state")),
            {},
        ),
        # an unreadable configuration around a secret
        (
            fleet_yaml(source=fields.replace("password", "pasword")),
            ("-p", f"PW={PARAM_SECRET}"),
            {},
        ),
        (fleet_yaml(source="{type: postgres, url: 'x${PW}'}"), ("-p", f"PW={PARAM_SECRET}"), {}),
    ]
    for number, (text, arguments, environment) in enumerate(cases):
        desk.write(text)
        desk.environment = environment
        for form in (("--log-level", "debug"), ("--json-errors", "--log-json")):
            done = desk.bare(*form, "run", "-c", str(desk.config), *arguments, code=1)
            assert_clean(done.said, f"case {number}")
            assert "Traceback" not in done.said
    assert_clean_folder(desk.folder, own={"fleet.yaml", "url.txt", "raw.txt"})


def test_a_param_reaches_workers_without_a_command_line(
    tmp_path: Path, guarded: dict[str, str]
) -> None:
    """A password changed between planning and work: what was refused is stored, the secret is
    not."""
    desk = Desk(folder=tmp_path)
    source = (
        f"{{type: postgres, host: 127.0.0.1, port: {guarded['port']}, user: keeper, "
        "database: guarded_shop, password: '${PW}', tuning: {retry_backoff_ms: 20}}"
    )
    desk.write(fleet_yaml(source=source, campaign="workers: 1, max_chunk_attempts: 1"))
    param = ("-p", f"PW={SOURCE_SECRET}")
    desk.cli("submit", *param)
    wrong = ("-p", f"PW={PARAM_SECRET}")
    done = desk.cli("--log-level", "debug", "resume", *wrong, code=9)
    assert_clean(done.said, "what resume says")
    assert "password authentication failed" in done.said
    assert_clean_folder(desk.folder, own={"fleet.yaml"})
    desk.cli("resume", *param)
    assert desk.delivered() == list(range(1, 201))
    assert_clean_folder(desk.folder, own={"fleet.yaml"})


REPR = """
import os, sys
from pathlib import Path
from rivet_fleet.coordination import wiring
from rivet_fleet.coordination.submit import plan_now
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.codec import dumps
loaded = wiring.load(Path(sys.argv[1]), params={}, environ=dict(os.environ))
options = wiring.ProcessOptions(name="repr")
fleet = wiring.open_fleet(loaded, options, migrate=True)
plan = plan_now(fleet, loaded, CampaignId("repr-1"))
name = next(iter(loaded.sources))
things = [loaded, options, fleet, fleet.settings, fleet.store, fleet.stop, fleet.patience, plan]
things += [loaded.config, loaded.sources[name], fleet._sources, vars(loaded.config)]
for source in fleet._sources.values():
    things += [source, source._session, source._session.url, source._session.connection]
for thing in things:
    print(repr(thing), str(thing))
print(dumps(plan), loaded.config.model_dump(), loaded.config.model_dump_json())
fleet.close()
"""


def test_no_repr_plan_or_schema_holds_a_secret(tmp_path: Path, guarded: dict[str, str]) -> None:
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": guarded["source"]})
    desk.environment["RIVET_FLEET_STATE_URL"] = guarded["state"]
    desk.write(fleet_yaml())
    shown = subprocess.run(
        [sys.executable, "-c", REPR, str(desk.config)],
        env={**os.environ, **desk.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert "keeper" in shown.stdout and len(shown.stdout) > 2000
    assert_clean(shown.stdout + shown.stderr, "a repr")
    assert_clean(desk.bare("schema", "config").out, "the JSON Schema")


def test_what_a_run_leaves_behind_is_its_users_alone(own_shop: tuple[Desk, str]) -> None:
    """Under the most open umask: state, its side files, logs and a plan."""
    desk, _ = own_shop
    before = os.umask(0)
    try:
        desk.cli("plan", "-o", str(desk.folder / "plan.json"))
        desk.cli("run")
    finally:
        os.umask(before)
    kept = [
        desk.folder / "plan.json",
        *desk.folder.glob(".rivet_fleet_state*"),
        *_logs(desk.folder),
    ]
    assert len(kept) >= 3
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in kept if path.is_file()}
    assert set(modes.values()) == {"0o600"}, modes
    own = desk.folder / ".rivet_fleet"
    found = [own, *(one for one in own.rglob("*") if one.is_dir())]
    folders = {str(one): oct(one.stat().st_mode & 0o777) for one in found}
    assert len(folders) >= 3
    assert set(folders.values()) == {"0o700"}, folders


def _logs(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.log") if path.is_file()]
