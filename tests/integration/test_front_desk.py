"""What `run` would refuse, `check` refuses and `doctor` names: over every configuration that the
tests, the documents and the examples hold, and over everything that only a server can refuse."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from rivet_fleet.contracts.doctor import Gravity
from rivet_fleet.contracts.identity import new_campaign_id
from rivet_fleet.coordination import wiring
from rivet_fleet.coordination.check import check_exports
from rivet_fleet.coordination.doctor import examine
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.coordination.submit import plan_now
from rivet_fleet.errors import ConfigError, RivetFleetError
from rivet_fleet.planning.change import refuse_drift
from rivet_fleet.planning.config.loaded import LoadedConfig
from tests.integration.corpus import configurations, settings
from tests.integration.mysql_source_kit import Sql
from tests.integration.rivet_shapes import RIVET_SHAPED, WHOLE

NOW_S = 1_767_225_600.0
COLUMNS = """
id bigint NOT NULL PRIMARY KEY, order_id bigint NOT NULL, line_no int NOT NULL, region int NOT NULL,
device_id bigint NOT NULL UNIQUE, a int, b int, n int, note varchar(40), code varchar(40) NOT NULL,
c varchar(40), found varchar(40), email varchar(40), status varchar(40), share double precision,
total numeric(12,2), many numeric(30,4), d date, made date, at timestamp, created_at timestamp,
updated_at timestamp NOT NULL, UNIQUE (order_id, line_no), UNIQUE (region, line_no)
"""
ROW = "1, 1, 1, 1, 1, 1, 1, 1, 'n', 'c', 'c', 'f', 'e', 's', 0.5, 1.5, 1.5, '2024-01-01', "
ROW += "'2024-01-02', '2024-01-03', '2024-01-04', '2024-01-05'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A folder for configurations and one state, and a database of each engine."""

    folder: Path
    urls: Mapping[str, str]

    @property
    def options(self) -> wiring.ProcessOptions:
        return wiring.ProcessOptions(name="test", state_url=f"sqlite:///{self.folder}/state.db")

    def load(self, config: Mapping[str, Any], engine: str) -> LoadedConfig:
        """With our sources in the place of its own. Raises ConfigError."""
        path = self.folder / "fleet.yaml"
        path.write_text(yaml.safe_dump(_ours(config, engine), sort_keys=False, allow_unicode=True))
        environ = {"PG": self.urls["postgres"], "MY": self.urls["mysql"]}
        return wiring.load(path, params={}, environ=environ)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, postgres, mariadb) -> Place:
    urls = {
        "postgres": postgres.create_database("front_desk"),
        "mysql": mariadb.create_database("front_desk"),
    }
    sql = Sql(urls["mysql"])
    with psycopg.connect(urls["postgres"], autocommit=True) as pg:
        for say, mark, more in (
            (lambda text: pg.execute(text.encode()), '"', " INCLUDING ALL"),
            (sql.execute, "`", ""),
        ):
            say(f"CREATE TABLE orders ({COLUMNS})")
            say(f"INSERT INTO orders VALUES ({ROW})")
            for name in sorted(_tables() - {"orders", "hard"}):
                say(f"CREATE TABLE {mark}{name}{mark} (LIKE orders{more})")
            say("CREATE TABLE hard (id bigint PRIMARY KEY, place point, area polygon)")
        pg.execute("ANALYZE")
    return Place(folder=tmp_path_factory.mktemp("desk"), urls=urls)


def _tables() -> set[str]:
    """What the configurations read, but for what a test wants to be missing."""
    read = {export.get("table") for one in configurations() for export in one["exports"]}
    return {str(name) for name in read if name != "nowhere" and re.fullmatch("[a-z_]+", str(name))}


def _ours(config: Mapping[str, Any], engine: str) -> dict[str, Any]:
    source = {"type": engine, "url_env": "PG" if engine == "postgres" else "MY"}
    kept = {k: v for k, v in config.items() if k in ("campaign", "defaults", "source_groups")}
    if config in RIVET_SHAPED:
        kept = {k: v for k, v in config.items() if k not in ("source", "exports")}
        source |= config.get("source", {})
    for group in (kept.get("source_groups") or {}).values():
        group.pop("monitor", None)  # doctor would ask it
    exports = []
    for given in config["exports"]:
        export = {"format": "parquet", **given}
        where = export.get("destination")
        path = where.get("path") if isinstance(where, dict) else where
        export |= {"destination": {"type": "local", "path": path or "out/{export}"}}
        export.pop("source", None)
        exports.append(export)
    return {"source": source, "spool_dir": "spool", **kept, "exports": exports}


# ---------------------------------------------------------------- what each of them says


def said(error: RivetFleetError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message


def checked(place: Place, loaded: LoadedConfig) -> dict[str, str | None]:
    """By export: what `check` refuses it for, None where it would be run."""
    found = check_exports(
        loaded,
        place.options,
        names=(),
        targets=(),
        campaign_id=new_campaign_id(NOW_S),
        now_s=NOW_S,
    )
    reports = found.report.exports
    assert (found.exit_code == 0) is not any(one.refused for one in reports)
    return {one.export_name: "; ".join(one.refused) or None for one in reports}


def planned(
    place: Place, loaded: LoadedConfig, told: Mapping[str, str | None]
) -> dict[str, str | None]:
    """By export: what a run refuses it for. Those that `check` would run, all at once; every other
    alone."""
    with closing(wiring.open_fleet(loaded, place.options, migrate=True)) as fleet:
        fine = [name for name, why in told.items() if why is None]
        found = dict.fromkeys(told, _ends(fleet, loaded, fine) if fine else None)
        refused = [name for name, why in told.items() if why is not None]
        return found | {name: _ends(fleet, loaded, [name]) for name in refused}


def _ends(fleet: Fleet, loaded: LoadedConfig, names: Sequence[str]) -> str | None:
    """What a run of these exports ends with before it stores its plan, or what it would not
    deliver; None: neither."""
    try:
        plan, left_out = plan_now(fleet, loaded, new_campaign_id(NOW_S), names)
        refuse_drift(plan)
    except RivetFleetError as error:
        return said(error)
    families = {run.plan.family or run.plan.export_name for run in plan.runs}
    assert families | {one.export_name for one in left_out} == set(names)
    return "; ".join(one.reason for one in left_out) or None


def named(place: Place, loaded: LoadedConfig) -> set[str]:
    """Exports that `doctor` finds an error about."""
    found = examine(loaded, place.options, now_s=NOW_S)
    errors = [one.subject for one in found if one.gravity is Gravity.ERROR]
    return {one.rpartition(" ")[2] for one in errors if one.startswith(("export ", "destination "))}


def agreed(place: Place, loaded: LoadedConfig) -> dict[str, str | None]:
    """What `check` says, once `run` and `doctor` are found to say the same."""
    told = checked(place, loaded)
    assert planned(place, loaded, told) == told
    if refused := {name for name, why in told.items() if why}:
        assert named(place, loaded) == refused
    return told


# ---------------------------------------------------------------- what the repository holds


def _loadable(place: Place, found: Iterator[dict[str, Any]], engine: str) -> Iterator[LoadedConfig]:
    for config in found:
        try:
            yield place.load(config, engine)
        except (ConfigError, AttributeError, TypeError):
            continue  # refused before anything is asked, by every command alike


def _in_tens(place: Place, engine: str) -> Iterator[dict[str, Any]]:
    """The settings of an export that can be loaded, ten exports a file."""
    exports = []
    for number, one in enumerate(settings()):
        table = "hard" if {"place", "area"} & set(one.get("columns") or ()) else "orders"
        export = {"name": f"e{number}", "table": table, **{k: v for k, v in one.items() if v}}
        if list(_loadable(place, iter([{"exports": [export]}]), engine)):
            exports.append(export)
    for start in range(0, len(exports), 10):
        yield {"exports": exports[start : start + 10]}


@pytest.mark.parametrize("engine", ["postgres", "mysql"])
def test_every_configuration_of_the_repository_is_refused_by_all_or_by_none(
    place: Place, engine: str
) -> None:
    # Either engine is asked the same questions in the same order: the second one about fewer.
    corpus = [*configurations()[:: 1 if engine == "postgres" else 2]]
    corpus += _in_tens(place, engine) if engine == "postgres" else ()
    shapes = [place.load(one, engine) for one in RIVET_SHAPED]
    told = [agreed(place, loaded) for loaded in (*shapes, *_loadable(place, iter(corpus), engine))]
    assert WHOLE.isdisjoint(name for one in told[: len(shapes)] for name, why in one.items() if why)
    reasons = [why for one in told for why in one.values()]
    # What is collected, and that some of it is refused: a property of nothing holds as well.
    least, refused = (100, 15) if engine == "postgres" else (12, 4)
    assert len(reasons) >= least and len([why for why in reasons if why]) >= refused
    shared = [why for why in reasons if why and "has the same destination as export" in why]
    assert len(shared) >= 3


# ---------------------------------------------------------------- what only a server can refuse

REFUSED = {
    "person": "person",
    "secret": "secret",
    "view": "view",
    "nowhere": "does not exist",
    "hard": "cannot be carried exactly",
    "hard_csv": "cannot be carried exactly",
    "cut": "gone",
    "moved": "cursor_column",
    "twice": "has the same destination as export fine",
}


def _difficult() -> dict[str, Any]:
    exports: list[dict[str, Any]] = [
        {"name": name, "table": name} for name in ("person", "secret", "view", "nowhere", "hard")
    ]
    exports += [
        {"name": "fine", "table": "orders"},
        {"name": "hard_csv", "table": "hard", "format": "csv"},
        {"name": "cut", "table": "orders", "columns": {"gone": "text"}},
        {"name": "moved", "table": "orders", "mode": "incremental", "cursor_column": "note"},
        {"name": "twice", "table": "orders", "destination": "out/fine"},
    ]
    return {"exports": exports}


@pytest.mark.parametrize("engine", ["postgres", "mysql"])
def test_what_a_server_refuses_is_refused_by_all_and_named(place: Place, engine: str) -> None:
    """Rights on columns and tables, views that cannot be read, tables that are not there, types,
    columns, cursors and shared folders, in one file beside an export that is fine."""
    with reader(place, engine) as url:
        other = replace(place, urls={**place.urls, engine: url})
        told = agreed(other, other.load(_difficult(), engine))
    assert told.pop("fine") is None
    assert set(told) == set(REFUSED)
    for name, words in REFUSED.items():
        assert words in str(told[name]), (name, told[name])


@contextmanager
def reader(place: Place, engine: str) -> Iterator[str]:
    """A user who may read two columns of ``person``, and a view of what is not there any more."""
    url = place.urls[engine]
    user = f"front_desk_{os.getpid()}"
    person = "id bigint PRIMARY KEY, name varchar(40), ssn varchar(40)"
    if engine == "postgres":
        with psycopg.connect(url, autocommit=True) as pg:
            pg.execute(
                f"""CREATE TABLE person ({person}); CREATE TABLE secret (id int PRIMARY KEY);
                CREATE MATERIALIZED VIEW "view" AS SELECT 1 AS id WITH NO DATA;
                CREATE ROLE {user} LOGIN; GRANT SELECT (id, name) ON person TO {user};
                GRANT SELECT ON orders, hard, "view" TO {user}""".encode()
            )
            yield url.replace("//postgres@", f"//{user}@")
            pg.execute(f"DROP OWNED BY {user}; DROP ROLE {user}".encode())
        return
    sql = Sql(url)
    for text in (
        f"CREATE TABLE person ({person})",
        "CREATE TABLE secret (id int PRIMARY KEY)",
        "CREATE TABLE below (id int PRIMARY KEY)",
        "CREATE VIEW view AS SELECT id FROM below",
        "DROP TABLE below",
        f"CREATE USER {user}@'%' IDENTIFIED BY 'pw'",
        f"GRANT SELECT (id, name) ON person TO {user}@'%'",
        *(f"GRANT SELECT ON {name} TO {user}@'%'" for name in ("orders", "hard", "view")),
    ):
        sql.execute(text)
    yield f"mysql://{user}:pw@{url.rpartition('@')[2]}"
    sql.execute(f"DROP USER {user}@'%'")
    sql.connection.close()


def test_what_refuses_every_export_is_said_of_each(place: Place) -> None:
    """A group's monitor reads a source whose variable is not set: no export can be planned."""
    text = """
sources: {shop: {type: postgres, url_env: PG}, away: {type: postgres, url_env: AWAY}}
spool_dir: spool
source_groups:
  g: {max_running_chunks: 1, monitor: {source: away, signals: {lock_waits: {pause_above: 9}}}}
exports:
  - {name: a, source: shop, source_group: g, table: orders, format: parquet,
     destination: {type: local, path: out/a}}
  - {name: b, source: shop, table: nowhere, format: parquet,
     destination: {type: local, path: out/b}}
"""
    path = place.folder / "fleet.yaml"
    path.write_text(text)
    told = agreed(place, wiring.load(path, params={}, environ={"PG": place.urls["postgres"]}))
    assert "AWAY" in str(told["a"]) and "nowhere does not exist" in str(told["b"])
