"""PostgreSQL → Parquet and CSV → pyarrow and DuckDB: what arrives is what the server prints.

A few seconds by default, by a seed that is printed; the whole proof, at least 100,000 values:
``pytest -m soak tests/property/test_round_trip_postgres.py``. Replay: ``RIVET_FLEET_TEST_SEED``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import psycopg
import pytest

from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import MalformedData, UnsupportedType
from rivet_fleet.execution.source import PageLimit
from rivet_fleet.execution.sources.postgres import ENGINE as POSTGRES
from rivet_fleet.execution.sources.postgres import decoder
from tests.conftest import missing
from tests.integration.postgres_source_kit import drain, facts_of, read_plan
from tests.property.roundtrip import driver, readers
from tests.property.roundtrip.driver import Mismatch, Way
from tests.property.roundtrip.families import Column
from tests.property.roundtrip.postgres import SCALARS, PostgresTables, family
from tests.property.roundtrip.product import extract

ENGINE = "postgres"
# The same tables every time; `make fuzz` draws others.
SEED = int(os.environ.get("RIVET_FLEET_TEST_SEED", "314388553"))
SOAK_VALUES = 100_000


@pytest.fixture(scope="module")
def tables(postgres) -> Iterator[PostgresTables]:
    opened = PostgresTables(postgres.create_database("round_trip"))
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


def one_table(folder: Path, tables: PostgresTables, seed: int, *, rows: int, columns: int) -> int:
    rng = Random(seed)
    way = driver.random_way(rng)
    made = driver.random_columns(rng, family, rows, columns=columns, unfit=way.coerce)
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
    with pytest.raises(UnsupportedType, match="column c ") as caught:
        driver.there_and_back(tmp_path, tables, [driver.key_column(2), column], way)
    assert caught.value.code == "RIVET_VALUE_NOT_REPRESENTABLE"
    coerced = replace(way, coerce=True)
    assert driver.there_and_back(tmp_path, tables, [driver.key_column(2), column], coerced)


BYTES = [b"plain", b"a\xffb", b"\xc3", b"\xe2\x82x", b"\xed\xa0\x80", "é\U0001f600".encode()]


def ascii_database(postgres, name: str) -> str:
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0 "
            "LC_COLLATE 'C' LC_CTYPE 'C'"
        )
    return str(postgres.url(name))


def test_bytes_that_are_no_text_are_replaced_and_counted(postgres, decoding, tmp_path) -> None:
    url = ascii_database(postgres, f"ascii_{decoding}")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, s text, a text[])")
        for number, raw in enumerate(BYTES):
            text = f"convert_from('\\x{raw.hex()}'::bytea, 'SQL_ASCII')"
            connection.execute(f"INSERT INTO t VALUES ({number}, {text}, ARRAY[{text}, NULL])")
    export = {"name": "t", "table": "public.t", "format": "parquet"}
    with pytest.raises(MalformedData, match="not valid UTF-8"):
        extract(tmp_path, PostgresTables.source, url, [dict(export)])
    policy = {"on_unrepresentable": "coerce"}
    (done,) = extract(tmp_path, PostgresTables.source, url, [dict(export)], defaults=policy)
    _, texts, lists = readers.parquet_by_pyarrow(done.paths, done.plan.read.columns)
    expected = [raw.decode("utf-8", "replace") for raw in BYTES]
    assert texts == expected
    assert lists == [[text, None] for text in expected]
    broken = sum(text.encode() != raw for text, raw in zip(expected, BYTES, strict=True))
    assert done.changed == {"s": broken, "a": broken}


def test_a_key_that_is_no_text_is_followed_by_its_bytes(postgres, decoding) -> None:
    """The value is coerced and counted; the place in the order is the server's own."""
    url = ascii_database(postgres, f"keys_{decoding}")
    source = POSTGRES.open_source(parse_database_url(url), application_name="rivet-test")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE k (s text PRIMARY KEY)")
        facts = facts_of(source, "k")
        for raw in BYTES:
            text = f"convert_from('\\x{raw.hex()}'::bytea, 'SQL_ASCII')"
            connection.execute(f"INSERT INTO k VALUES ({text})")
    read = replace(read_plan(facts), on_unrepresentable="coerce")
    chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("s",))
    reader = source.open_chunk(read, chunk, TuningPlan())
    found = drain(reader, PageLimit(rows_max=1, bytes_max=1 << 20)).column("s").to_pylist()
    source.close()
    assert sorted(found) == sorted(raw.decode("utf-8", "replace") for raw in BYTES)


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
