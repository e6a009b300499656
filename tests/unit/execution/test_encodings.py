"""The layout of each Parquet column: chosen by what is smallest, and exact whatever is chosen."""

from __future__ import annotations

import random
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rivet_fleet.contracts.plan import FormatPlan
from rivet_fleet.execution.formats.parquet import open_format
from rivet_fleet.execution.formats.parquet.encodings import choose_encodings

ROWS = 20_000
SCATTERED = [(row * 2_654_435_761) % 1_000_003 for row in range(ROWS)]
_CHANCE = random.Random(7)
RANDOM64 = [_CHANCE.getrandbits(64) - 2**63 for _ in range(ROWS)]
I64, U64 = (-(2**63), 2**63 - 1), (0, 2**64 - 1)
# Neighbours as far apart as the type allows: every difference wraps around.
EXTREMES: dict[str, tuple[pa.DataType, tuple[object, ...]]] = {
    "int16": (pa.int16(), (-(2**15), 2**15 - 1, 0, 1)),
    "int32": (pa.int32(), (-(2**31), 2**31 - 1, 0, 1)),
    "int64": (pa.int64(), (*I64, 0, 1, -1)),
    "uint64": (pa.uint64(), (*U64, 1, 2**63)),
    "date": (pa.date32(), (date(1, 1, 1), date(9999, 12, 31), date(1970, 1, 1))),
    "time": (pa.time64("us"), (time(0), time(23, 59, 59, 999999), time(12))),
    "timestamp": (pa.timestamp("us"), (datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59))),
    "decimal9": (pa.decimal128(9, 2), (Decimal("-9999999.99"), Decimal("9999999.99"))),
    "decimal18": (pa.decimal128(18, 0), (Decimal(-(10**18) + 1), Decimal(10**18 - 1))),
}


Layouts = Literal["auto", "classic"]
CLASSIC = {"PLAIN", "PLAIN_DICTIONARY", "RLE_DICTIONARY", "RLE"}
"""What every reader knows; RLE is that of levels and of a dictionary's places."""


def chosen(**columns: pa.Array) -> dict[str, str]:
    table = pa.table(columns)
    found = choose_encodings(table, differences=True)
    assert choose_encodings(table, differences=True) == found
    return {
        **dict.fromkeys(columns, "plain"),
        **dict.fromkeys((path.split(".")[0] for path in found.dictionary), "dictionary"),
        **dict.fromkeys((path.split(".")[0] for path in found.delta), "delta"),
    }


def test_every_column_gets_its_smallest_layout() -> None:
    days = pa.array([number % 2_500 for number in SCATTERED], pa.int32()).cast(pa.date32())
    assert chosen(
        ascending=pa.array(range(ROWS), pa.int64()),
        scattered=pa.array(SCATTERED, pa.int64()),
        days=days,
        money=pa.array([Decimal(n) / 100 for n in SCATTERED], pa.decimal128(15, 2)),
        few=pa.array([Decimal(n % 50) for n in SCATTERED], pa.decimal128(15, 2)),
        words=pa.array([f"word {n % 7}" for n in SCATTERED]),
        texts=pa.array([f"text {n}" for n in SCATTERED]),
        random=pa.array(RANDOM64, pa.int64()),
        wide=pa.array([Decimal(n) for n in RANDOM64], pa.decimal128(38, 0)),
        flags=pa.array([n % 3 == 0 for n in SCATTERED]),
        lists=pa.array([[n, n + 1] for n in SCATTERED], pa.list_(pa.int64())),
    ) == {
        "ascending": "delta",
        "scattered": "delta",
        "days": "delta",
        "money": "delta",
        "few": "dictionary",
        "words": "dictionary",
        "texts": "plain",
        "random": "plain",
        "wide": "plain",
        "flags": "plain",
        "lists": "delta",
    }


def every_kind() -> pa.Table:
    """Columns for which differences are the smallest, one of each type that has them."""
    columns: dict[str, pa.Array] = {
        "ascending": pa.array(range(ROWS), pa.int64()),
        "small": pa.array([n % 7_000 for n in SCATTERED], pa.int16()),
        "unsigned": pa.array(SCATTERED, pa.uint64()),
        "days": pa.array([n % 2_500 for n in SCATTERED], pa.int32()).cast(pa.date32()),
        "times": pa.array(SCATTERED, pa.int64()).cast(pa.time64("us")),
        "moments": pa.array(SCATTERED, pa.int64()).cast(pa.timestamp("us", "UTC")),
        "money": pa.array([Decimal(n) / 100 for n in SCATTERED], pa.decimal128(15, 2)),
        "few": pa.array([n % 5 for n in SCATTERED], pa.int64()),
        "lists": pa.array([[n, n + 1] for n in SCATTERED], pa.list_(pa.int64())),
        "structs": pa.array([{"n": n} for n in SCATTERED], pa.struct([("n", pa.int64())])),
    }
    return pa.table(columns)


def layouts(path: Path) -> set[str]:
    """The encodings of all the file's columns."""
    footer = pq.read_metadata(path)
    groups = [footer.row_group(index) for index in range(footer.num_row_groups)]
    return {
        encoding
        for group in groups
        for index in range(group.num_columns)
        for encoding in group.column(index).encodings
    }


def test_differences_are_never_chosen_where_they_are_not_allowed() -> None:
    table = every_kind()
    assert choose_encodings(table, differences=True).delta
    classic = choose_encodings(table, differences=False)
    assert (classic.dictionary, classic.delta) == (("days", "few"), ())


def test_no_classic_file_holds_differences_and_the_default_is_classic(tmp_path: Path) -> None:
    table = every_kind()
    assert FormatPlan(format="parquet").encodings == "classic"
    assert write(tmp_path / "classic", table, "classic") == table
    assert layouts(tmp_path / "classic") <= CLASSIC
    assert write(tmp_path / "auto", table, "auto") == table
    assert layouts(tmp_path / "auto") - CLASSIC == {"DELTA_BINARY_PACKED"}


@pytest.mark.parametrize("encodings", ["auto", "classic"])
def test_equal_tables_give_equal_bytes(tmp_path: Path, encodings: Layouts) -> None:
    paths = [tmp_path / name for name in ("one", "two")]
    for path in paths:
        write(path, every_kind(), encodings)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_table_without_rows_is_plain() -> None:
    assert chosen(number=pa.array([], pa.int64())) == {"number": "plain"}


def test_a_name_with_a_dot_costs_the_layout_and_nothing_else(tmp_path: Path) -> None:
    columns = {"a.b": pa.array(range(ROWS), pa.int64()), "a": pa.array(range(ROWS), pa.int64())}
    assert write(tmp_path / "part.parquet", pa.table(columns)) == pa.table(columns)


@pytest.mark.parametrize("name", EXTREMES)
def test_extreme_neighbours_survive_as_differences(tmp_path: Path, name: str) -> None:
    kind, values = EXTREMES[name]
    # A long quiet stretch makes differences pay; the extremes stand in the midst of it.
    rows = [values[0]] * 5_000 + [*values, None] * 20 + [values[-1]] * 5_000
    ascending = pa.array(range(len(rows)), pa.int64())
    table = pa.table({"value": pa.array(rows, kind), "n": ascending})
    path = tmp_path / "part.parquet"
    forced = {"value": "DELTA_BINARY_PACKED", "n": "DELTA_BINARY_PACKED"}
    pq.write_table(
        table, path, use_dictionary=False, column_encoding=forced, store_decimal_as_integer=True
    )
    assert pq.read_table(path) == table
    assert read_by_duckdb(path) == rows


@pytest.mark.parametrize("name", EXTREMES)
def test_what_is_chosen_is_read_back_by_two_readers(tmp_path: Path, name: str) -> None:
    kind, values = EXTREMES[name]
    rows = [*([values[0]] * 3_000), None, *([values[-1]] * 3_000)]
    path = tmp_path / "part.parquet"
    table = pa.table({"value": pa.array(rows, kind), "n": pa.array(range(len(rows)), pa.int64())})
    assert write(path, table) == table
    assert read_by_duckdb(path) == rows


def write(path: Path, table: pa.Table, encodings: Layouts = "auto") -> pa.Table:
    """Through our own writer; what pyarrow reads from the file."""
    plan = FormatPlan(format="parquet", row_group_bytes=1024 * 1024, encodings=encodings)
    writer = open_format(plan).open(path, table.schema)
    for batch in table.to_batches():
        writer.write(batch)
    writer.close()
    return pq.read_table(path)


def read_by_duckdb(path: Path) -> list[object]:
    found = duckdb.sql(f"SELECT value FROM read_parquet('{path}') ORDER BY n").fetchall()
    return [value for (value,) in found]
