"""Any value in any place of a query comes back from real servers as exactly that value."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pymysql
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rivet_fleet.contracts.parameters import Parameter, ParameterType
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import ConfigError
from rivet_fleet.execution import registry

HOSTILE = ("'", '"', "`", "\\", "\n", "\r", "--", "/*", "*/", ";", "$$", "%", "{", "#", "@", ")")
VALUES = st.lists(
    st.one_of(
        st.sampled_from(HOSTILE),
        st.characters(min_codepoint=1, max_codepoint=0x2FFF, exclude_categories=("Cs",)),
    ),
    max_size=8,
).map("".join)
TEXTS = ("select '${x}'", "select 'a ''${x}' ", "select concat('<', ${x}, '${x}>')", "select\t${x}")
"""The last two: as a declared text."""
MODES = ("", "NO_BACKSLASH_ESCAPES", "ANSI_QUOTES", "ANSI_QUOTES,NO_BACKSLASH_ESCAPES")
EXAMPLES = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
Ask = Callable[[str], tuple[str, str]]
"""SQL → (the one value, its column's name)."""


def sql(engine: str, template: str, value: str, kind: ParameterType | None = None) -> str:
    return registry.place_parameters(engine, template, {"x": Parameter(value=value, type=kind)}).sql


def check(engine: str, template: str, value: str, asks: list[Ask]) -> None:
    wanted = {TEXTS[1]: f"a '{value}", TEXTS[2]: f"<{value}{value}>"}.get(template, value)
    try:
        text = sql(engine, template, value, ParameterType.TEXT)
    except ConfigError as refused:
        # The one thing that no text can hold under each of the server's settings.
        assert refused.code == "RIVET_PARAMETER_VALUE", refused
        assert "\\" in value, refused
        return
    for ask in asks:
        assert ask(text)[0] == wanted, text


def check_name(engine: str, template: str, value: str, asks: list[Ask]) -> None:
    # Servers cut long names, and take no empty one and none that ends with a blank.
    name = f"n{value[:6]}n"
    for ask in asks:
        assert ask(sql(engine, template, name))[1] == name


@pytest.fixture
def ask_postgres(database: str) -> Iterator[list[Ask]]:
    with psycopg.connect(database, autocommit=True) as connection:

        def ask(text: str) -> tuple[str, str]:
            cursor = connection.execute(text.encode(), prepare=False)
            assert cursor.description is not None
            return str((cursor.fetchone() or ("",))[0]), cursor.description[0].name

        yield [ask]


@pytest.fixture
def ask_mysql(mysql_database: str) -> Iterator[list[Ask]]:
    """One connection for each way in which a server may read quotes and backslashes."""
    url = parse_database_url(mysql_database)
    connections = [
        pymysql.connect(
            host=url.host,
            port=url.port or 3306,
            user=url.user,
            password=url.password or "",
            charset="utf8mb4",
            sql_mode=mode,
        )
        for mode in MODES
    ]

    def asking(connection: pymysql.connections.Connection[pymysql.cursors.Cursor]) -> Ask:
        def ask(text: str) -> tuple[str, str]:
            with connection.cursor() as cursor:
                cursor.execute(text)
                return str((cursor.fetchone() or ("",))[0]), str(cursor.description[0][0])

        return ask

    yield [asking(one) for one in connections]
    for one in connections:
        one.close()


def test_postgres_gives_back_every_value(ask_postgres: list[Ask]) -> None:
    @EXAMPLES
    @given(VALUES, st.sampled_from((*TEXTS, "select E'${x}'")))
    def judged(value: str, template: str) -> None:
        check("postgres", template, value, ask_postgres)
        check_name("postgres", 'select 1 as "${x}"', value, ask_postgres)

    judged()


def test_mysql_gives_back_every_value_in_every_mode(ask_mysql: list[Ask]) -> None:
    @EXAMPLES
    @given(VALUES, st.sampled_from(TEXTS))
    def judged(value: str, template: str) -> None:
        check("mysql", template, value, ask_mysql)
        check_name("mysql", "select 1 as `${x}`", value, ask_mysql)

    judged()


def test_a_number_stays_a_number(ask_postgres: list[Ask], ask_mysql: list[Ask]) -> None:
    for number in ("0", "-17", "+5", "1234567890123", "1.50", "007", "2e3"):
        for engine, asks in (("postgres", ask_postgres), ("mysql", ask_mysql)):
            for ask in asks:
                found = ask(sql(engine, "select 10 -${x}", number))[0]
                assert float(found) == pytest.approx(10 - float(number))
