"""Bad input gets an error that names the thing, a documented exit code, and loses nothing.

Every case goes through the real program; afterwards the input is put right and every row is
delivered.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rivet_fleet.demo.embedded import EmbeddedPostgres
from tests.integration.fleet_cli import (
    FAILURE_FIELDS,
    FAILURE_KEYS,
    Desk,
    Done,
    fleet_yaml,
    may_mount,
    mounted,
    run_sqlite,
)

ALL = list(range(1, 201))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One wrong input and what must be said about it."""

    name: str
    named: tuple[str, ...]
    hint: str
    code: int = 1
    yaml: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ("run",)
    error_class: str | None = None


def check(desk: Desk, case: Case) -> None:
    """The case's own configuration beside the right one, the same folder and state."""
    own = Desk(folder=desk.folder, environment={**desk.environment, **case.environment})
    config = desk.folder / f"{case.name}.yaml"
    config.write_text(fleet_yaml(**case.yaml), encoding="utf-8")
    done = own.bare("--json-errors", *case.arguments, "--json", "-c", str(config), code=None)
    where = f"{case.name}:\n{done.said}"
    assert done.code == case.code, where
    error = done.error
    assert set(error) == {"error", "error_class", *FAILURE_FIELDS}, where
    # On the stream that success uses it is the same, and alone.
    assert done.json == {key: error[key] for key in FAILURE_FIELDS}, where
    assert set(error["failures"][0]) == {"export_name", *FAILURE_KEYS}, where
    assert error["exit_code"] == case.code, where
    for name in case.named:
        assert name in error["error"], where
    assert case.hint in (error["hint"] or ""), where
    assert case.error_class in (None, error["error_class"]), where
    assert "Traceback" not in done.said, where


def check_all(desk: Desk, cases: list[Case]) -> None:
    """All of them, two at a time; nothing may have been submitted or delivered by any."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(lambda case: check(desk, case), cases))
    assert list(desk.folder.rglob("*.parquet")) == []
    if desk.state.exists():
        tables = "SELECT count(*) FROM sqlite_master WHERE name = 'campaign'"
        if run_sqlite(desk.state, tables)[0][0]:
            assert run_sqlite(desk.state, "SELECT campaign_id FROM campaign") == []


def assert_works(desk: Desk, *arguments: str) -> Done:
    """The right input, from the same folder and the same state."""
    done = desk.cli(*(arguments or ("run",)))
    assert desk.delivered() == ALL
    return done


# ---------------------------------------------------------------- source


@pytest.fixture
def locked_door(postgres: EmbeddedPostgres, shop: str) -> Iterator[str]:
    """A role that must show a password, and the URL it has to use."""
    hba = postgres.directory / "data" / "pg_hba.conf"
    before = hba.read_text()
    postgres.psql(
        "SET password_encryption = 'scram-sha-256'; DROP ROLE IF EXISTS guarded;"
        "CREATE ROLE guarded LOGIN PASSWORD 'right'; GRANT SELECT ON orders TO guarded;",
        database="cli_shop",
    )
    hba.write_text("host all guarded 127.0.0.1/32 scram-sha-256\n" + before)
    postgres.psql("SELECT pg_reload_conf()")
    try:
        yield shop.replace("postgres@", "guarded:{}@")
    finally:
        hba.write_text(before)
        postgres.psql("SELECT pg_reload_conf()")


def test_a_source_that_cannot_be_reached(
    desk: Desk, postgres: EmbeddedPostgres, locked_door: str
) -> None:
    def url(name: str, value: str, *named: str, hint: str, **more: Any) -> Case:
        return Case(name=name, named=named, hint=hint, environment={"SHOP_URL": value}, **more)

    check_all(
        desk,
        [
            url(
                "nobody-listens",
                "postgresql://u:hidden@127.0.0.1:1/x",
                "postgresql://u@127.0.0.1:1/x",
                hint="is the server running",
                code=2,
                error_class="SourceUnavailable",
            ),
            url(
                "other-scheme",
                "mysql://u:hidden@127.0.0.1:1/x",
                "source.url_env",
                "mysql://",
                hint="postgres://",
                error_class="ConfigError",
            ),
            url(
                "port-is-a-word",
                "postgresql://u:hidden@127.0.0.1:port/x",
                "source.url_env",
                "port",
                hint="scheme://user@host:port/database",
            ),
            url("no-url", "hidden", "source.url_env", hint="scheme://user@host:port/database"),
            url("unset", "", "source.url_env", "SHOP_URL", hint="export SHOP_URL="),
            url(
                "no-tls",
                "postgresql://u:hidden@db.example/x",
                "db.example",
                hint="tls: {mode: verify-full}",
            ),
            url(
                "no-database",
                postgres.url("nowhere"),
                "/nowhere",
                "does not exist",
                hint="check the database name",
                error_class="SourceRefused",
            ),
            url(
                "no-role",
                postgres.url("cli_shop", user="stranger"),
                "stranger",
                hint="check the user name",
            ),
            url(
                "wrong-password",
                locked_door.format("hidden"),
                "guarded@",
                "password authentication failed",
                hint="the user name and the password",
                error_class="SourceRefused",
            ),
        ],
    )
    desk.environment["SHOP_URL"] = locked_door.format("right")
    assert_works(desk)


@pytest.fixture(scope="module")
def odd_tables(postgres: EmbeddedPostgres, shop: str) -> None:
    postgres.psql(
        "DROP ROLE IF EXISTS looker; CREATE ROLE looker LOGIN;"
        "CREATE TABLE odd (id bigint PRIMARY KEY, place point, area box, found tsvector);"
        "CREATE TABLE holes (id bigint, note text);"
        "INSERT INTO holes VALUES (1, 'a'), (NULL, 'b'), (2, 'c'), (2, 'd');"
        "CREATE UNIQUE INDEX holes_id ON holes (id) WHERE id < 2;",
        database="cli_shop",
    )


def test_a_table_that_cannot_be_read(
    desk: Desk, postgres: EmbeddedPostgres, odd_tables: None
) -> None:
    looker = {"SHOP_URL": postgres.url("cli_shop", user="looker")}
    bad_query = fleet_yaml().replace("table: orders", "query: selekt 1")

    def key(setting: str) -> dict[str, Any]:
        return {"extra": f"mode: chunked, {setting}"}

    check_all(
        desk,
        [
            Case(
                name="missing-table",
                yaml={"table": "ordres"},
                named=("ordres", "does not exist"),
                hint="did you mean public.orders?",
                error_class="SourceRefused",
            ),
            Case(
                name="no-privilege",
                environment=looker,
                named=('"looker"', "public.orders"),
                hint='GRANT SELECT ON "public"."orders" TO "looker"',
                error_class="SourceRefused",
            ),
            Case(
                name="no-type",
                yaml={"table": "odd"},
                named=(
                    "3 column(s)",
                    "odd.place (point)",
                    "columns: {place: text}",
                    "columns: {area: text}",
                    "columns: {found: text}",
                ),
                hint="add the casts",
                error_class="UnsupportedType",
            ),
            Case(
                name="key-with-nulls",
                yaml={"table": "holes", **key("chunk_by_key: id")},
                named=("holes", "chunk_by_key", "partial"),
                hint="remove chunk_by_key",
            ),
            Case(
                name="key-not-unique",
                yaml=key("chunk_by_key: note"),
                named=("orders", "chunk_by_key", "orders_pkey (id)"),
                hint="write chunk_by_key: [id]",
            ),
            Case(
                name="key-missing",
                yaml=key("chunk_by_key: idd"),
                named=("orders", '"idd"'),
                hint="id, note, total",
            ),
            Case(
                name="column-missing",
                yaml=key("chunk_column: idd"),
                named=("orders", '"idd"'),
                hint="id, note, total",
            ),
            Case(
                name="cast-missing",
                yaml={"extra": "columns: {notes: text}"},
                named=("orders", "notes"),
                hint="id, note, total",
            ),
        ],
    )
    config = desk.folder / "bad-query.yaml"
    config.write_text(bad_query)
    error = desk.bare("--json-errors", "run", "-c", str(config), code=1).error
    assert "selekt" in error["error"] and "42601" in error["error"]
    assert "not valid SQL" in error["hint"]
    assert_works(desk)


def test_null_keys_of_a_chunk_column_have_their_own_chunk(desk: Desk, odd_tables: None) -> None:
    desk.write(fleet_yaml(table="holes", extra="mode: chunked, chunk_column: id, chunk_size: 1"))
    desk.cli("run")
    assert len(list(desk.out.rglob("*.parquet"))) > 0
    said = desk.cli("state", "show", "--json").json
    assert said[0]["runs"][0]["rows"] == 4


# ---------------------------------------------------------------- destination, spool


def test_a_destination_that_cannot_be_written(desk: Desk) -> None:
    (desk.folder / "occupied").write_text("a file, not a folder")
    check_all(
        desk,
        [
            Case(
                name="file-in-the-way",
                yaml={"destination": "./occupied/orders"},
                named=("destination", "/occupied/orders", "a file, not a folder"),
                hint="this user may write there",
                error_class="DestinationRefused",
            ),
            Case(
                name="leaves-the-folder",
                yaml={"destination": "../elsewhere"},
                named=("exports[0].destination.path", "must not hold '..'"),
                hint="give the folder itself",
            ),
        ],
    )
    with unwritable(desk.folder / "sealed") as sealed:
        check_all(
            desk,
            [
                Case(
                    name="not-writable",
                    yaml={"destination": str(sealed / "orders")},
                    named=("destination", "/sealed/orders"),
                    hint="this user may write there",
                    error_class="DestinationRefused",
                )
            ],
        )
    assert_works(desk)


@contextmanager
def unwritable(folder: Path) -> Iterator[Path]:
    """A folder this very user cannot write to: root needs a read-only filesystem for that."""
    if os.geteuid() != 0:
        folder.mkdir(mode=0o555)
        yield folder
        folder.chmod(0o755)
        return
    need_mounts()
    with mounted(folder, "size=1m,ro,mode=0755"):
        yield folder


def need_mounts() -> None:
    """Skip where this process may not mount a small or read-only filesystem."""
    if not may_mount():
        pytest.skip("needs the right to mount a tmpfs")


# ---------------------------------------------------------------- state database


def test_a_state_database_that_cannot_be_used(desk: Desk, postgres: EmbeddedPostgres) -> None:
    (desk.folder / "corrupt.db").write_bytes(b"this is not a database" * 500)

    def state(name: str, url: str, *named: str, hint: str, **more: Any) -> Case:
        return Case(
            name=name, named=named, hint=hint, arguments=("run", "--state-url", url), **more
        )

    cases = [
        state(
            "state-is-away",
            "postgresql://u:hidden@127.0.0.1:1/fleet",
            "state database postgresql://u@127.0.0.1:1/fleet",
            hint="RIVET_FLEET_STATE_URL",
            code=2,
            error_class="StateUnavailable",
        ),
        state(
            "no-state-database",
            postgres.url("no_fleet"),
            "/no_fleet",
            hint="create the state database",
            error_class="StateRefused",
        ),
        state("no-directory", "sqlite:////not/there/x.db", "/not/there", hint="must exist"),
        state("corrupt", f"sqlite:///{desk.folder}/corrupt.db", "corrupt.db", hint="not a SQLite"),
        state("no-state-url", "hidden", "state URL", hint="three slashes"),
        state(
            "two-slashes", "sqlite://hidden.db", "begins with sqlite:", hint="sqlite:///state.db"
        ),
        state("other-engine", "mysql://u:hidden@h/x", "'mysql'", hint="postgresql://user@host"),
    ]
    check_all(desk, cases)
    if may_mount():
        with unwritable(desk.folder / "sealed") as sealed:
            url = f"sqlite:///{sealed}/state.db"
            check_all(desk, [state("read-only", url, "/sealed", hint="must exist and be writable")])
    assert_works(desk)


def test_a_state_schema_newer_than_the_program(desk: Desk) -> None:
    desk.cli("submit")
    before = run_sqlite(desk.state, "SELECT version_num FROM rivet_fleet_version")[0][0]
    run_sqlite(desk.state, "UPDATE rivet_fleet_version SET version_num = '9998'")
    for command in (("run",), ("status",), ("state", "migrate")):
        error = desk.refused(*command, code=1, named="9998", hint="upgrade rivet-fleet")
        assert before in error["error"], "both versions are named"
        assert error["code"] == "RIVET_STATE_SCHEMA_NEWER"
    run_sqlite(desk.state, "UPDATE rivet_fleet_version SET version_num = ?", (before,))
    assert_works(desk, "resume")


# ---------------------------------------------------------------- command line, configuration


def test_wrong_words_on_the_command_line(desk: Desk) -> None:
    for arguments, named, hint in (
        (("rnu",), "Did you mean 'run'?", "--help"),
        (("run", "--worker", "2", "-c", "x"), "Did you mean '--workers'?", "run --help"),
        (("run", "-c", "nowhere.yaml"), "nowhere.yaml", "check the path"),
        (("run", "-w", "many", "-c", "x"), "--workers", "run --help"),
    ):
        done = desk.bare("--json-errors", *arguments, code=1)
        assert named in done.error["error"], done.said
        assert hint in done.error["hint"], done.said
        assert done.error["exit_class"] == "generic"
    words = desk.bare("rnu", code=1)
    assert words.err.startswith("error [RIVET_USAGE]: ") and "\n  hint: " in words.err
    desk.refused("run", "-p", "x", code=1, named="NAME=VALUE", hint="--param day=")
    config = fleet_yaml(extra="mode: chunked, chunk_sise: 50, shedule: daily")
    desk.write(config)
    error = desk.refused("run", code=1, named="chunk_sise", hint="")
    assert "fleet.yaml:4:" in error["error"] and "shedule" in error["error"]
    assert "did you mean 'chunk_size'?" in error["error"] + (error["hint"] or "")


def test_a_campaign_that_does_not_exist(desk: Desk) -> None:
    desk.refused("resume", code=1, named="no campaign here (looked at", hint="rivet-fleet submit")
    desk.cli("submit", "--campaign-id", "known-1")
    for command in ("resume", "status", "validate", "requeue", "journal", "worker"):
        desk.refused(command, "--campaign-id", "never", code=1, named="never", hint="known-1")
    desk.refused("requeue", "-e", "ordres", code=1, named="ordres", hint="orders")
    desk.refused("state", "chunks", "-e", "ordres", code=1, named="ordres", hint="orders")
    assert_works(desk, "resume", "--campaign-id", "known-1")


def test_a_configuration_changed_between_submit_and_resume(desk: Desk) -> None:
    two = fleet_yaml().rstrip() + "\n  - {name: again, table: orders, format: csv,\n"
    two += "     destination: {type: local, path: ./out/again}}\n"
    desk.write(two)
    desk.cli("submit")
    desk.write(two.replace("chunk_size: 50", "chunk_size: 10"))
    error = desk.refused("run", code=1, named="orders", hint="rivet-fleet resume")
    assert error["code"] == "RIVET_CONFIG_CHANGED"
    assert "again" not in error["error"], "only the changed export is named"
    assert_works(desk, "resume")
    runs = desk.cli("state", "show", "--json").json[0]["runs"]
    assert {r["export_name"]: r["expected_tasks"] for r in runs} == {"orders": 4, "again": 1}
