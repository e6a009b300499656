"""MySQL and MariaDB → Parquet and CSV → pyarrow and DuckDB: what arrives is what they print.

A few seconds by default, by a seed that is printed; the whole proof, at least 100,000 values:
``pytest -m soak tests/property/test_round_trip_mysql.py``. Replay: ``RIVET_FLEET_TEST_SEED``.
MySQL itself runs where ``RIVET_FLEET_TEST_MYSQL_URL`` points.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from rivet_fleet.errors import MalformedData, UnsupportedType
from rivet_fleet.execution.sources.mysql import decoder
from tests.conftest import MYSQL_URL_VARIABLE, missing
from tests.property.roundtrip import driver
from tests.property.roundtrip.driver import Mismatch, Way
from tests.property.roundtrip.families import Column
from tests.property.roundtrip.mysql import SCALARS, MysqlTables, family, mariadb_family

ENGINE = "mysql"
# The same tables every time; `make fuzz` draws others.
SEED = int(os.environ.get("RIVET_FLEET_TEST_SEED", "314388553"))
SOAK_VALUES = 100_000


@pytest.fixture(scope="module", params=["mariadb", "mysql"])
def tables(request: pytest.FixtureRequest) -> Iterator[MysqlTables]:
    if request.param == "mariadb":
        url = request.getfixturevalue("mariadb").create_database("round_trip")
    elif not (url := os.environ.get(MYSQL_URL_VARIABLE, "")):
        pytest.skip(f"{MYSQL_URL_VARIABLE} names no server")
    opened = MysqlTables(url)
    yield opened
    opened.close()


@pytest.fixture(params=["reference", "compiled"])
def decoding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both decoders of the wire format."""
    if request.param == "reference":
        monkeypatch.setattr(decoder, "compiled_decoder", lambda: None)
    elif decoder.compiled_decoder() is None:
        missing("the compiled decoder was not built")
    return request.param


def nameable(column: Column) -> Column:
    """These servers know no identifiers beyond the first 65,536 characters."""
    return replace(column, name="".join(c if c < "\U00010000" else "?" for c in column.name))


def as_in_a_query(column: Column) -> Column:
    """MariaDB describes JSON and UUID in a query as text: the values are the same."""
    family = column.family
    if family.override is None and family.ddl in ("json", "uuid"):
        family = replace(family, canonical="string")
    return replace(column, family=family)


def one_table(folder: Path, tables: MysqlTables, seed: int, *, rows: int, columns: int) -> int:
    rng = Random(seed)
    way = driver.random_way(rng)
    universe = mariadb_family if tables.mariadb else family
    made = driver.random_columns(rng, universe, rows, columns=columns, unfit=way.coerce)
    made = [nameable(column) for column in made]
    if way.query and tables.mariadb:
        made = [as_in_a_query(column) for column in made]
    try:
        return driver.there_and_back(folder, tables, made, way)
    except Mismatch as found:
        small = driver.minimised(folder, tables, found, way)
        kept = driver.keep(ENGINE, small, way)
        pytest.fail(f"seed {seed}: {small}\nkept as {kept.name}", pytrace=False)


def test_random_tables_arrive(tables, decoding, tmp_path) -> None:
    print(f"seed {SEED} (replay: RIVET_FLEET_TEST_SEED={SEED})")
    for number in range(6):
        one_table(tmp_path, tables, SEED + number, rows=120, columns=10)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_values_arrive(tables, decoding, tmp_path) -> None:
    print(f"seed {SEED} (replay: RIVET_FLEET_TEST_SEED={SEED})")
    values, number = 0, 0
    while values < SOAK_VALUES:
        values += one_table(tmp_path, tables, SEED + number, rows=250, columns=12)
        number += 1
    print(f"{values} values in {number} tables arrived, decoder: {decoding}")


UNFIT = [(f, value) for f in SCALARS for value in f.unfit]


@pytest.mark.parametrize(("kind", "value"), UNFIT, ids=[f"{f.ddl} {v}" for f, v in UNFIT])
def test_without_a_policy_nothing_unfit_arrives(tables, decoding, tmp_path, kind, value) -> None:
    column = Column(name="c", family=kind, values=[None, value])
    way = Way(coerce=False, chunked={"mode": "full"}, keyed=True, batch_size=100)
    with pytest.raises((UnsupportedType, MalformedData), match="column c"):
        driver.there_and_back(tmp_path, tables, [driver.key_column(2), column], way)
    coerced = replace(way, coerce=True)
    assert driver.there_and_back(tmp_path, tables, [driver.key_column(2), column], coerced)


def test_a_changed_value_is_counted_once_where_a_page_gives_rows_back(
    tables, decoding, tmp_path
) -> None:
    dates = next(one for one in SCALARS if one.ddl == "date")
    column = Column(name="c", family=dates, values=[dates.unfit[0], "2024-01-01"] * 50)
    by_column = {"mode": "chunked", "chunk_column": driver.KEY, "chunk_count": 3}
    way = Way(coerce=True, chunked=by_column, keyed=False, batch_size=7)
    assert driver.there_and_back(tmp_path, tables, [driver.key_column(100), column], way)


@pytest.mark.parametrize("path", driver.fixtures(ENGINE), ids=lambda path: path.stem)
def test_what_was_wrong_once_stays_right(tables, decoding, tmp_path, path) -> None:
    assert driver.replay(tmp_path, tables, path)
