"""Where a source is: every way to say it, and what is said when a piece is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from rivet_fleet.contracts.url import Login
from rivet_fleet.errors import ConfigError
from rivet_fleet.planning.config.connections import SourceConnection, source_connection
from tests.unit.planning.conftest import Loader

EXPORT = """\
exports:
  - {name: a, table: t, format: parquet, destination: {type: local, path: out}}
"""


def connect(load_text: Loader, lines: str, **environ: str) -> SourceConnection:
    body = "".join(f"  {line}\n" for line in lines.splitlines())
    loaded = load_text(f"source:\n  type: postgres\n{body}{EXPORT}", environ=environ)
    return source_connection(loaded, "default")


def test_every_way_to_name_a_database_gives_the_same_identity(
    load_text: Loader, tmp_path: Path
) -> None:
    url = "postgresql://ann:p%40ss@127.0.0.1/shop"
    (tmp_path / "url").write_text(f"\n{url}\n")
    found = [
        connect(load_text, f"url: {url}"),
        connect(load_text, "url_env: U", U=url.replace("postgresql", "postgres")),
        connect(load_text, "url_file: url"),
        connect(
            load_text,
            "host: 127.0.0.1\nuser: ann\ndatabase: shop\npassword_env: P",
            P="p@ss",
        ),
        connect(
            load_text, "host: 127.0.0.1\nport: 5432\nuser: ann\ndatabase: shop\npassword: p@ss"
        ),
    ]
    assert {one.identity for one in found} == {"postgres://ann@127.0.0.1:5432/shop"}
    assert {one.url.password for one in found} == {"p@ss"}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("url_env: NOPE", ("fleet.yaml:3:12", "NOPE is not set", "export NOPE=")),
        ("url_file: nope", ("url_file", "No such file", "put the URL")),
        (
            "host: localhost\nuser: u\ndatabase: d\npassword_env: NOPE",
            ("fleet.yaml:6:17", "NOPE is not set", "export NOPE="),
        ),
        ("url: localhost/d", ("fleet.yaml:3:8", "not a URL", "percent-encoded")),
        ("url: postgresql://u@localhost:x/d", ("port or host",)),
    ],
)
def test_what_is_missing_is_said_with_a_hint(
    load_text: Loader, lines: str, words: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as caught:
        connect(load_text, lines)
    said = f"{caught.value.message} {caught.value.hint}"
    assert all(word in said for word in words), said


def test_an_empty_url_file_is_refused(load_text: Loader, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        connect(load_text, "url_file: url")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]"])
def test_loopback_needs_no_tls(load_text: Loader, host: str) -> None:
    assert connect(load_text, f"url: 'postgresql://u@{host}/d'").tls_mode is None


@pytest.mark.parametrize(
    "host", ["db.example", "10.0.0.1", "localhost.example", "127.evil.example"]
)
def test_a_remote_host_needs_a_tls_block(load_text: Loader, host: str) -> None:
    with pytest.raises(ConfigError, match="remote and there is no tls"):
        connect(load_text, f"url: postgresql://u@{host}/d")
    with pytest.raises(ConfigError, match="remote"):
        connect(load_text, f"host: {host}\nuser: u\ndatabase: d")


@pytest.mark.parametrize(
    ("block", "mode"),
    [
        ("{}", "verify-full"),
        ("{mode: require}", "require"),
        ("{mode: verify-ca}", "verify-ca"),
        ("{mode: disable}", "disable"),
        ("{mode: disable, accept_invalid_certs: true}", "disable"),
        ("{accept_invalid_hostnames: true}", "verify-ca"),
        ("{accept_invalid_certs: true}", "require"),
    ],
)
def test_tls_modes(load_text: Loader, block: str, mode: str) -> None:
    found = connect(load_text, f"url: postgresql://u@db.example/d\ntls: {block}")
    assert found.tls_mode == mode


def test_a_ca_file_is_beside_the_configuration(load_text: Loader, tmp_path: Path) -> None:
    found = connect(load_text, "url: postgresql://u@db.example/d\ntls: {ca_file: ca.pem}")
    assert found.tls_ca_file == str(tmp_path / "ca.pem")


def test_an_option_cannot_smuggle_in_a_remote_host(load_text: Loader) -> None:
    for option in ("host=db.example", "hostaddr=10.0.0.1", "service=elsewhere"):
        with pytest.raises(ConfigError, match="remote"):
            connect(load_text, f"url: 'postgresql://u@localhost/d?{option}'")


def test_an_unknown_source_is_refused(load_text: Loader) -> None:
    loaded = load_text(f"source: {{type: postgres, url_env: U}}\n{EXPORT}")
    with pytest.raises(ConfigError, match="is not configured; known: default"):
        source_connection(loaded, "defualt")


def test_the_parts_of_a_url_may_stand_in_its_options(load_text: Loader) -> None:
    found = connect(
        load_text, "url: 'postgresql:///d?host=127.0.0.1&port=39432&user=ann&password=p%20s'"
    )
    assert found.identity == "postgres://ann@127.0.0.1:39432/d"
    assert found.url.password == "p s"


def test_an_at_sign_in_an_option_sends_nobody_elsewhere(load_text: Loader) -> None:
    url = "postgresql://u:secret@127.0.0.1:39432/d?application_name=me@corp"
    found = connect(load_text, f"url: '{url}'")
    assert found.identity == "postgres://u@127.0.0.1:39432/d"
    with pytest.raises(ConfigError, match="an @ stands") as caught:
        connect(load_text, "url: 'postgresql://u:p@ss@127.0.0.1/d'")
    assert "%40" in caught.value.message and "p@ss" not in str(caught.value)


def test_several_hosts_are_one_target(load_text: Loader) -> None:
    found = connect(load_text, "url: 'postgresql://u@127.0.0.1:1,localhost/d'")
    assert found.identity == "postgres://u@127.0.0.1:1,localhost:5432/d"
    with pytest.raises(ConfigError, match="remote"):
        connect(load_text, "url: 'postgresql://u@127.0.0.1,db.example/d'")


def test_a_service_is_named_where_its_host_is_not_known(load_text: Loader) -> None:
    with pytest.raises(ConfigError, match="service shop may be remote and there is no tls"):
        connect(load_text, "url: 'postgresql:///?service=shop'")
    found = connect(load_text, "url: 'postgresql:///?service=shop'\ntls: {mode: disable}")
    assert found.identity == "postgres://@service=shop/"
    assert found.url.port is None and found.url.host == ""


def test_the_urls_own_word_about_tls_counts(load_text: Loader) -> None:
    for decided in ("require", "verify-full", "disable"):
        found = connect(load_text, f"url: 'postgresql://u@db.example/d?sslmode={decided}'")
        assert found.tls_mode is None
    for open_to_all in ("prefer", "allow", "bogus"):
        with pytest.raises(ConfigError, match="takes what comes"):
            connect(load_text, f"url: 'postgresql://u@db.example/d?sslmode={open_to_all}'")
    with pytest.raises(ConfigError, match="sslmode=disable and tls: says verify-full"):
        connect(load_text, "url: 'postgresql://u@db.example/d?sslmode=disable'\ntls: {}")
    assert connect(
        load_text, "url: 'postgresql://u@db.example/d?sslmode=verify-full'\ntls: {}"
    ).tls_mode


def test_a_url_file_may_begin_with_a_byte_order_mark(load_text: Loader, tmp_path: Path) -> None:
    (tmp_path / "url").write_bytes(b"\xef\xbb\xbfpostgresql://u@127.0.0.1/d\r\n")
    assert connect(load_text, "url_file: url").identity == "postgres://u@127.0.0.1:5432/d"
    assert connect(load_text, "url_env: U", U="\ufeffpostgresql://u@127.0.0.1/d").engine


def test_what_a_login_may_give_away_is_said_beside_tls(load_text: Loader) -> None:
    plain = connect(load_text, "url: postgresql://u@127.0.0.1/d").login
    assert plain == Login()
    said = "{mode: disable, server_public_key_file: k.pem, allow_cleartext_password: true}"
    told = connect(load_text, f"url: postgresql://u@127.0.0.1/d\ntls: {said}").login
    assert told.cleartext and Path(told.server_key_file or "").is_absolute()
    assert Path(told.server_key_file or "").name == "k.pem"
