"""URLs that reach a real server the way psql does, and those that are refused before anything
is resolved."""

from __future__ import annotations

from pathlib import Path

import pytest

from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.demo.embedded import free_port
from rivet_fleet.errors import ConfigError
from rivet_fleet.execution.sources.mysql.session import Session as MysqlSession
from rivet_fleet.execution.sources.postgres import ENGINE as POSTGRES
from rivet_fleet.persistence.open import open_store
from tests.integration.fleet_cli import Desk, fleet_yaml


def spelled(url: str) -> dict[str, str]:
    """One server and database, in every spelling that psql takes."""
    target = parse_database_url(url)
    port, name, user = target.port, target.database, target.user
    password = f"&password={target.password}" if target.password else ""
    return {
        "options": f"postgresql:///{name}?host=127.0.0.1&port={port}&user={user}{password}",
        "dbname": f"postgresql://{user}@127.0.0.1:{port}/other?dbname={name}{password}",
        "second host": f"postgresql://{user}@127.0.0.1:{free_port()},127.0.0.1:{port}/{name}"
        f"?connect_timeout=5{password}",
        "hostaddr": f"postgresql://{user}@localhost:{port}/{name}?hostaddr=127.0.0.1{password}",
        "at sign": f"{url}{'&' if '?' in url else '?'}application_name=me@corp.invalid",
        "service": "postgresql:///?service=shop",
    }


@pytest.mark.parametrize(
    "spelling", ["options", "dbname", "second host", "hostaddr", "at sign", "service"]
)
def test_every_spelling_reaches_the_same_database(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    target = parse_database_url(database)
    service = tmp_path / "services.conf"
    service.write_text(
        f"[shop]\nhost=127.0.0.1\nport={target.port}\nuser={target.user}\n"
        f"dbname={target.database}\n" + (f"password={target.password}\n" if target.password else "")
    )
    monkeypatch.setenv("PGSERVICEFILE", str(service))
    url = parse_database_url(spelled(database)[spelling])
    source = POSTGRES.open_source(url, application_name="rivet-test")
    try:
        with source._session.reading((), doing="asking", timeout_s=10) as cursor:
            row = cursor.execute("SELECT current_database(), current_user").fetchone()
        assert row == (target.database, target.user)
    finally:
        source.close()


def test_a_campaign_runs_by_a_services_name(
    own_shop: tuple[Desk, str], database: str, tmp_path: Path
) -> None:
    desk, _ = own_shop
    target = parse_database_url(database)
    service = tmp_path / "services.conf"
    service.write_text(
        f"[shop]\nhost=127.0.0.1\nport={target.port}\nuser={target.user}\n"
        f"dbname={target.database}\n" + (f"password={target.password}\n" if target.password else "")
    )
    desk.environment |= {"SHOP_URL": "postgresql:///?service=shop", "PGSERVICEFILE": str(service)}
    desk.write(fleet_yaml(source="{type: postgres, url_env: SHOP_URL, tls: {mode: disable}}"))
    desk.cli("run")
    assert desk.delivered() == list(range(1, 201))


def test_an_unknown_tls_mode_is_a_mistake_of_the_configuration(
    own_shop: tuple[Desk, str], database: str
) -> None:
    desk, _ = own_shop
    desk.environment["SHOP_URL"] = f"{database}?sslmode=bogus"
    desk.refused("run", code=1, named="sslmode", hint="tls")


def test_a_password_that_is_not_encoded_is_refused_before_anything_is_resolved(
    desk: Desk,
) -> None:
    desk.environment["SHOP_URL"] = "postgresql://u:s3cret@h@127.0.0.1:5432/d"
    error = desk.refused("run", code=1, named="an @ stands", hint="percent-encoded")
    assert "s3cret" not in str(error)


@pytest.mark.parametrize("spelling", ["options", "second host", "at sign"])
def test_the_state_is_reached_by_the_same_grammar(database: str, spelling: str) -> None:
    store = open_store(spelled(database)[spelling])
    try:
        store.migrate()
        store.check_version()
    finally:
        store.close()


def test_what_an_engine_cannot_honour_is_refused_by_name() -> None:
    for options, named in (
        ("client_encoding=LATIN1", "client_encoding"),
        ("replication=database", "replication"),
    ):
        url = parse_database_url(f"postgresql://u@127.0.0.1/d?{options}")
        with pytest.raises(ConfigError, match=named):
            POSTGRES.open_source(url, application_name="x")
    for text, named in (
        ("mysql://u@127.0.0.1,127.0.0.1/d", "several hosts"),
        ("mysql://u@127.0.0.1/d?charset=latin1", "charset"),
        ("mysql://u@127.0.0.1/d?foo=1", "foo"),
    ):
        with pytest.raises(ConfigError, match=named):
            MysqlSession(
                parse_database_url(text), tls_mode=None, tls_ca_file=None, application_name="x"
            )
