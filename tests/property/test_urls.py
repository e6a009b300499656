"""A PostgreSQL URL means to us what it means to libpq, or it is refused by name."""

from __future__ import annotations

from urllib.parse import quote

import psycopg
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from psycopg import conninfo

from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import StateRefused
from rivet_fleet.persistence.open import dialect_of

TARGET = ("host", "port", "dbname", "user", "password")
TEXTS = st.text(
    st.sampled_from("ab1@:/?#[]%&=+, ;'\"\\ñ😀~"),
    min_size=1,
    max_size=6,
)
HOSTS = st.sampled_from(
    ["localhost", "127.0.0.1", "[::1]", "h1:5433", "h1,h2", "h1:1,h2:2", "[::1]:5433", "", ":5432"]
)
OPTIONS = st.sampled_from(
    ["host", "port", "user", "password", "dbname", "application_name", "options", "sslmode",
     "connect_timeout", "service", "hostaddr", "target_session_attrs", "passfile"]
)  # fmt: skip
VALUES = {"host": HOSTS, "port": st.sampled_from(["1", "5433"]), "sslmode": st.just("require")}


@st.composite
def urls(draw: st.DrawFn) -> str:
    """As people write them: some parts encoded, some raw."""

    def part(text: str) -> str:
        return quote(text, safe="") if draw(st.booleans()) else text

    text = draw(st.sampled_from(["postgresql://", "postgres://"]))
    if draw(st.booleans()):
        text += part(draw(TEXTS))
        if draw(st.booleans()):
            text += ":" + part(draw(TEXTS))
        text += "@"
    text += draw(HOSTS)
    if draw(st.booleans()):
        text += "/" + part(draw(TEXTS))
    names = draw(st.lists(OPTIONS, max_size=3, unique=True))
    options = [f"{name}={part(draw(VALUES.get(name, TEXTS)))}" for name in names]
    return text + ("?" + "&".join(options) if options else "")


def libpqs(text: str) -> dict[str, str] | None:
    try:
        return {name: str(value) for name, value in conninfo.conninfo_to_dict(text).items()}
    except (psycopg.ProgrammingError, UnicodeDecodeError):
        return None


def ours(text: str) -> dict[str, str] | None:
    try:
        url = parse_database_url(text)
    except ValueError:
        return None
    return {**url.target, **{name: value for name, value in url.options if value}}


@given(text=urls())
@example("postgresql:///db?host=127.0.0.1&port=39432&user=postgres")
@example("postgresql:///db?host=/run/sockets&port=39432&user=postgres&password=x%20y")
@example("postgresql://u:secret@127.0.0.1:39432/db?application_name=me@corp")
@example("postgresql://u:a[b@h/db")
@example("postgresql://u@h1:5432,h2:5433/db")
@example("postgresql://u@h1:5432,h2/db")
@example("postgresql://u@h/db?ssl=true")
@example("postgresql://%2Frun%2Fsockets/db")
def test_a_url_means_what_it_means_to_libpq(text: str) -> None:
    theirs, found = libpqs(text), ours(text)
    if found is None:
        # We refuse more: what may be a password that was not encoded, and a port that is none.
        return
    assert theirs is not None, f"libpq refuses what is taken as {found}"
    wanted = {name: value for name, value in theirs.items() if value}
    ports = wanted.pop("port", "")
    if ports.replace(",", ""):
        # One port is every host's.
        several = wanted.get("host", "").count(",") + 1 if "," not in ports else 1
        wanted["port"] = ",".join([ports] * several)
    assert found == wanted


@given(text=urls())
def test_nothing_behind_a_stray_at_sign_is_a_host(text: str) -> None:
    assume("service=" not in text)
    found = ours(text)
    for host in (found or {}).get("host", "").split(","):
        assert "@" not in host and "?" not in host


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:p@ss@h/db",
        "postgresql://u:1/b@h/db",
        "postgresql://h:5432?application_name=me@corp",
        "postgresql://h/db?options=a%zz",
        "postgresql://h/db?x",
        "postgresql://h/%00",
        "postgresql://h/%ff",
        "postgresql://h:99999/db",
        "postgresql://h:1,h2:2/db?port=1,2,3",
        "localhost/db",
    ],
)
def test_what_cannot_be_read_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_database_url(text)
    assert "ss@h" not in str(caught.value) and "me@corp" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        *("postgresql://u:pw@%2Fnone%2Cfar.example/db", "mysql://u:pw@%2Fnone%2Cfar.example/db"),
        *("postgresql://u:pw@127.0.0.1%2Cfar.example/db", "postgresql://u:pw@h%40far.example/db"),
        *(
            "postgresql://u:pw@h%20far/db",
            "postgresql://u:pw@h%0Afar/db",
            "postgresql://u@%40a%2Cb/d",
        ),
    ],
)
def test_one_host_is_one_host(url: str) -> None:
    """libpq would divide it at the comma, and dial what nobody looked at."""
    with pytest.raises(ValueError, match="a host of the URL holds"):
        parse_database_url(url)
    with pytest.raises(StateRefused):
        dialect_of(url)
