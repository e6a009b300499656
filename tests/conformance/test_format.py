"""The format contract, run against every format; values are read back by an independent reader."""

from __future__ import annotations

import datetime as dt
import os
import uuid
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rivet_fleet.contracts.plan import FormatPlan
from rivet_fleet.errors import (
    ConfigError,
    DataIntegrityError,
    DestinationFull,
    DestinationRefused,
    UnsupportedType,
)
from rivet_fleet.execution import registry

NAMES = registry.format_names()
UTC = dt.UTC


def field(name, kind, **metadata):
    return pa.field(name, kind, metadata={f"rivet.{k}": v for k, v in metadata.items()} or None)


SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False, metadata={"rivet.native_type": "bigint"}),
        field("b", pa.bool_()),
        field("i2", pa.int16()),
        field("u8", pa.uint64()),
        field("f8", pa.float64()),
        field("n", pa.decimal128(38, 10)),
        field("d", pa.date32()),
        field("t", pa.time64("us")),
        field("ts", pa.timestamp("us")),
        field("tz", pa.timestamp("us", "UTC")),
        field("s", pa.string()),
        field("x", pa.binary()),
        field("u", pa.uuid(), native_type="uuid"),
        field("j", pa.json_(), native_type="jsonb", fidelity="logical_string"),
    ]
)
DUCKDB_TYPES = {
    "id": "BIGINT",
    "b": "BOOLEAN",
    "i2": "SMALLINT",
    "u8": "UBIGINT",
    "f8": "DOUBLE",
    "n": "DECIMAL(38,10)",
    "d": "DATE",
    "t": "TIME",
    "ts": "TIMESTAMP",
    "tz": "TIMESTAMPTZ",
    "s": "VARCHAR",
    "x": "VARCHAR",
    "u": "UUID",
    "j": "JSON",
}
TZ = SCHEMA.get_field_index("tz")
EPOCH = dt.datetime(1970, 1, 1, tzinfo=UTC)
BEFORE_1970 = dt.datetime(1969, 12, 31, 23, 59, 59, 999_999)
ROWS = [
    (1, True, -32768, 2**64 - 1, 0.1, Decimal("0.0000000001"), dt.date(1, 1, 1),
     dt.time(0, 0, 0, 1), BEFORE_1970, BEFORE_1970.replace(tzinfo=UTC), 'say "hi",\nthen\r\n go ',
     b"\x00\xff", uuid.UUID(int=2**128 - 1), '{"a": "b,\\"c"}'),
    (2, False, 32767, 0, float("inf"), Decimal("-9999999999999999999999999999.9999999999"),
     dt.date(9999, 12, 31), dt.time(23, 59, 59, 999_999), dt.datetime(1, 1, 1),
     dt.datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), "", b"", uuid.UUID(int=0), "null"),
    (3,) + (None,) * 13,
    (4, True, 0, 1, -1e300, Decimal("0E-10"), dt.date(1970, 1, 1), dt.time(0), dt.datetime(2024, 2,
     29), dt.datetime(2024, 2, 29, tzinfo=UTC), "NULL", b"\n", uuid.UUID(int=7), "[]"),
]  # fmt: skip


def batch_of(rows, schema=SCHEMA):
    columns = []
    for index, column in enumerate(schema):
        values = [row[index] for row in rows]
        if isinstance(column.type, pa.BaseExtensionType):
            raw = [v.bytes if isinstance(v, uuid.UUID) else v for v in values]
            storage = pa.array(raw, column.type.storage_type)
            columns.append(pa.ExtensionArray.from_storage(column.type, storage))
        else:
            columns.append(pa.array(values, column.type))
    return pa.record_batch(columns, schema=schema)


def write(part_format, path, *batches, schema=SCHEMA):
    """Written, and read back for its checksums: every test proves them on the way."""
    writer = part_format.open(path, schema)
    for batch in batches:
        writer.write(batch)
    writer.close()
    told = writer.checksums()
    assert told.keys() == set(schema.names)
    assert part_format.checksums(path) == told
    return path


def read_by_duckdb(name: str, path: Path) -> list[tuple]:
    """All rows as DuckDB sees them; ``x`` comes as bytes."""
    if name == "csv":
        source = (
            f"read_csv('{path}', header = true, delim = ',', quote = '\"', escape = '\"', "
            f"nullstr = '', allow_quoted_nulls = false, auto_detect = false, "
            f"columns = {DUCKDB_TYPES})"
        )
        select = "* REPLACE (epoch_us(tz) AS tz, unhex(x) AS x)"
    else:
        source, select = f"read_parquet('{path}')", "* REPLACE (epoch_us(tz) AS tz)"
    connection = duckdb.connect()
    found = connection.execute(f"SELECT {select} FROM {source} ORDER BY id").fetchall()
    return [(*row[:TZ], _utc(row[TZ]), *row[TZ + 1 :]) for row in found]


def _utc(epoch_us):
    return None if epoch_us is None else EPOCH + dt.timedelta(microseconds=epoch_us)


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture
def part_format(name):
    return registry.open_format(FormatPlan(format=name, compression="zstd"))


def test_every_value_is_what_it_was(part_format, name, tmp_path):
    path = write(part_format, tmp_path / "part", batch_of(ROWS[:2]), batch_of(ROWS[2:]))
    assert read_by_duckdb(name, path) == ROWS
    assert part_format.count_rows(path) == len(ROWS)
    assert part_format.extension == name


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
moments = st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30))
row_values = st.tuples(
    *(
        st.one_of(st.none(), values)
        for values in (
            st.booleans(),
            st.integers(-(2**15), 2**15 - 1),
            st.integers(0, 2**64 - 1),
            st.floats(allow_nan=False),
            st.decimals(-(10**27), 10**27, places=10),
            st.dates(),
            st.times(),
            moments,
            moments.map(lambda m: m.replace(tzinfo=UTC)),
            st.one_of(texts, st.sampled_from(['"', '""', ",", "\r", "\n", "\r\n", " ", "NULL"])),
            st.binary(max_size=8),
            st.uuids(),
            texts.map(lambda t: '"' + t.encode("unicode_escape").hex() + '"'),
        )
    )
)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(values=st.lists(row_values, max_size=6))
def test_hostile_values_survive(part_format, name, tmp_path, values):
    rows = [(number, *row) for number, row in enumerate(values)]
    path = tmp_path / "hostile"
    path.unlink(missing_ok=True)
    write(part_format, path, batch_of(rows))
    assert part_format.count_rows(path) == len(rows)
    assert read_by_duckdb(name, path) == rows


ordered_values = {
    "i2": (pa.int16(), st.integers(-(2**15), 2**15 - 1)),
    "u8": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "d": (pa.date32(), st.integers(-2_500_000, 2_500_000)),
    "t": (pa.time64("us"), st.integers(0, 86_400_000_000)),
    "tz": (pa.timestamp("us", "UTC"), st.integers(-(2**60), 2**60)),
}


def bounds_by_python(name, values):
    """Smallest and largest as text, by Python's own calendar; None beyond its years."""
    known = [v for v in values if v is not None]
    if not known:
        return None
    try:
        if name == "d":
            days = [dt.date(1970, 1, 1) + dt.timedelta(days=v) for v in known]
            return str(min(days)), str(max(days))
        if name == "tz":
            instants = [EPOCH + dt.timedelta(microseconds=v) for v in known]
            shown = [m.strftime("%Y-%m-%d %H:%M:%S.%fZ") for m in (min(instants), max(instants))]
            return tuple(s.rjust(27, "0") for s in shown)
        if name == "t":
            times = [(EPOCH + dt.timedelta(microseconds=v)) for v in known]
            shown = [m.strftime("%H:%M:%S.%f") for m in (min(times), max(times))]
            return None if max(known) == 86_400_000_000 else tuple(shown)
        return str(min(known)), str(max(known))
    except OverflowError:
        return None


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    values=st.lists(
        st.tuples(*(st.one_of(st.none(), v) for _, v in ordered_values.values())), min_size=1
    )
)
def test_extremes_are_those_of_the_values(part_format, tmp_path, values):
    """Over several batches; a list before the ordered columns shifts nothing."""
    schema = pa.schema([(n, kind) for n, (kind, _) in ordered_values.items()])
    path = tmp_path / "extremes"
    path.unlink(missing_ok=True)
    writer = part_format.open(path, schema)
    for rows in (values[:3], values[3:]):
        columns = [pa.array([r[i] for r in rows], f.type) for i, f in enumerate(schema)]
        writer.write(pa.record_batch(columns, schema=schema))
    writer.close()
    found = writer.extremes()
    for index, name in enumerate(ordered_values):
        column = [row[index] for row in values]
        assert (name in found) == any(v is not None for v in column)
        expected = bounds_by_python(name, column)
        assert expected is None or found[name] == expected


def test_extremes_of_any_year_and_of_no_value(part_format, tmp_path):
    schema = pa.schema([("d", pa.date32()), ("ts", pa.timestamp("us")), ("s", pa.string())])
    rows = [pa.array([-2_440_588 + 38, 2_932_897], schema[0].type),
            pa.array([None, None], schema[1].type), pa.array(["a", "b"])]  # fmt: skip
    writer = part_format.open(tmp_path / "part", schema)
    writer.write(pa.record_batch(rows, schema=schema))
    writer.close()
    assert writer.extremes() == {"d": ("-4712-01-01", "10000-01-01")}


def test_a_part_without_rows_is_whole(part_format, name, tmp_path):
    path = write(part_format, tmp_path / "part")
    assert part_format.count_rows(path) == 0
    assert read_by_duckdb(name, path) == []


def test_equal_input_gives_equal_bytes(part_format, tmp_path):
    batches = [batch_of(ROWS), batch_of(ROWS[:2])]
    one = write(part_format, tmp_path / "one", *batches)
    two = write(part_format, tmp_path / "two", *batches)
    assert one.read_bytes() == two.read_bytes()


def test_sliced_batches_are_written_as_they_are(part_format, name, tmp_path):
    path = write(part_format, tmp_path / "part", batch_of(ROWS).slice(1, 2))
    assert read_by_duckdb(name, path) == ROWS[1:3]


def test_a_part_never_replaces_a_file(part_format, tmp_path):
    (tmp_path / "part").write_bytes(b"there")
    with pytest.raises(DestinationRefused, match="there already"):
        part_format.open(tmp_path / "part", SCHEMA)
    assert (tmp_path / "part").read_bytes() == b"there"


def test_giving_up_removes_the_file(part_format, tmp_path):
    writer = part_format.open(tmp_path / "part", SCHEMA)
    writer.write(batch_of(ROWS))
    writer.abort()
    writer.abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [1, 3, 9])
def test_an_incomplete_file_is_not_counted(part_format, tmp_path, cut):
    path = write(part_format, tmp_path / "part", batch_of(ROWS))
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataIntegrityError):
        part_format.count_rows(path)
    path.write_bytes(b"")
    with pytest.raises(DataIntegrityError):
        part_format.count_rows(path)


def test_bytes_flushed_follows_the_file(part_format, tmp_path):
    writer = part_format.open(tmp_path / "part", SCHEMA)
    sizes = []
    for _ in range(50):
        writer.write(batch_of(ROWS * 50))
        sizes.append(writer.bytes_flushed)
    writer.close()
    assert sizes == sorted(sizes)
    assert sizes[0] > 0


def test_every_column_that_cannot_be_carried_is_named(part_format):
    bad = pa.schema(
        [("ok", pa.int64()), ("gap", pa.duration("us")), ("when", pa.month_day_nano_interval())]
    )
    with pytest.raises(UnsupportedType, match=r"gap.*when") as raised:
        part_format.check_schema(bad)
    assert "ok" not in raised.value.message
    assert raised.value.hint


def test_a_full_spool_says_so_and_leaves_nothing(part_format, small_filesystem):
    path = small_filesystem / "part"
    writer = part_format.open(path, SCHEMA)
    row = (*ROWS[0][:11], os.urandom(300_000), *ROWS[0][12:])
    with pytest.raises(DestinationFull, match="spool") as raised:
        for number in range(400):
            writer.write(batch_of([(number, *row[1:])]))
        writer.close()
    assert str(path) in raised.value.message
    writer.abort()
    assert list(small_filesystem.iterdir()) == []


def test_csv_refuses_lists_with_the_cast_that_helps():
    part_format = registry.open_format(FormatPlan(format="csv"))
    bad = pa.schema([("tags", pa.list_(pa.string())), ("ns", pa.timestamp("ns"))])
    with pytest.raises(UnsupportedType, match=r"tags .*ns ") as raised:
        part_format.check_schema(bad)
    assert "{tags: text, ns: text}" in raised.value.hint


def test_csv_bytes_are_the_documented_dialect(tmp_path):
    part_format = registry.open_format(FormatPlan(format="csv"))
    schema = pa.schema(
        [
            ("plain", pa.string()),
            ('odd, "name"', pa.string()),
            ("x", pa.binary()),
            ("f", pa.float32()),
            ("n", pa.decimal128(20, 8)),
            ("ts", pa.timestamp("us", "UTC")),
            ("ms", pa.timestamp("ms")),
            ("t", pa.time64("us")),
            ("d", pa.date32()),
        ]
    )
    far = pa.scalar(8_000_000_000_000_000_000, pa.int64()).cast(pa.timestamp("us"))
    batch = pa.record_batch(
        [
            pa.array(["", None]),
            pa.array(['a"b', "it's"]),
            pa.array([b"\x0f", b""]),
            pa.array([float("nan"), 16777216.0], pa.float32()),
            pa.array([Decimal("0.00000001"), None], pa.decimal128(20, 8)),
            pa.array([-1, None], pa.int64()).cast(pa.timestamp("us", "UTC")),
            pa.array([far.value // 1000, 0], pa.int64()).cast(pa.timestamp("ms")),
            pa.array([86_400_000_000, 0], pa.int64()).cast(pa.time64("us")),
            pa.array([20_000_000, -719_529], pa.int32()).cast(pa.date32()),
        ],
        schema=schema,
    )
    path = write(part_format, tmp_path / "part.csv", batch, schema=schema)
    assert path.read_text().splitlines() == [
        'plain,"odd, ""name""",x,f,n,ts,ms,t,d',
        '"","a""b",0f,NaN,0.00000001,1969-12-31T23:59:59.999999Z,'
        "255479-11-28T14:13:20.000000,24:00:00.000000,56728-02-22",
        ',it\'s,"",16777216,,,1970-01-01T00:00:00.000000,00:00:00.000000,-0001-12-31',
    ]


@pytest.mark.parametrize(
    ("compression", "codec"),
    [
        ("zstd", "ZSTD"),
        ("snappy", "SNAPPY"),
        ("gzip", "GZIP"),
        ("lz4", "LZ4_RAW"),
        ("none", "UNCOMPRESSED"),
    ],
)
def test_parquet_codecs_are_the_standard_ones(tmp_path, compression, codec):
    plan = FormatPlan(format="parquet", compression=compression)
    path = write(registry.open_format(plan), tmp_path / "part", batch_of(ROWS))
    found = duckdb.sql(f"SELECT DISTINCT compression FROM parquet_metadata('{path}')").fetchall()
    assert found == [(codec,)]
    assert read_by_duckdb("parquet", path) == ROWS


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "brotli"},
        {"compression": "zstd", "compression_level": 23},
        {"compression": "gzip", "compression_level": 10},
        {"compression": "snappy", "compression_level": 1},
    ],
)
def test_parquet_options_it_lacks_are_refused(options):
    with pytest.raises(ConfigError):
        registry.open_format(FormatPlan(format="parquet", **options))


def test_parquet_logical_types_and_metadata_survive(tmp_path):
    plan = FormatPlan(format="parquet")
    path = write(registry.open_format(plan), tmp_path / "part", batch_of(ROWS))
    columns = pq.ParquetFile(path).schema
    logical = {columns.column(i).name: columns.column(i).logical_type for i in range(len(SCHEMA))}
    assert logical["u"].type == "UUID"
    assert logical["j"].type == "JSON"
    assert '"isAdjustedToUTC":true' in logical["tz"].to_json()
    assert '"isAdjustedToUTC":false' in logical["ts"].to_json()
    schema = pq.read_schema(path)
    assert schema.field("u").metadata[b"rivet.native_type"] == b"uuid"
    assert schema.field("j").metadata[b"rivet.fidelity"] == b"logical_string"
    assert not schema.field("id").nullable
    assert schema.types == SCHEMA.types


def test_parquet_lists_keep_null_elements(tmp_path):
    schema = pa.schema([("tags", pa.list_(pa.field("item", pa.string())))])
    values = [["a", None], [], None]
    batch = pa.record_batch([pa.array(values, schema[0].type)], schema=schema)
    part_format = registry.open_format(FormatPlan(format="parquet"))
    part_format.check_schema(schema)
    path = write(part_format, tmp_path / "part", batch, schema=schema)
    assert duckdb.sql(f"SELECT tags FROM read_parquet('{path}')").fetchall() == [
        (v,) for v in values
    ]


def test_parquet_extremes_find_their_column_beside_lists(tmp_path):
    pair = pa.struct([("x", pa.int32()), ("y", pa.int32())])
    schema = pa.schema(
        [("pairs", pa.list_(pair)), ("tags", pa.list_(pa.int32())), ("n", pa.int8())]
    )
    rows = [pa.array([[{"x": 9, "y": 9}]], schema[0].type), pa.array([[8]], schema[1].type),
            pa.array([-7], schema[2].type)]  # fmt: skip
    writer = registry.open_format(FormatPlan(format="parquet")).open(tmp_path / "part", schema)
    writer.write(pa.record_batch(rows, schema=schema))
    writer.close()
    assert writer.extremes() == {"n": ("-7", "-7")}


def test_parquet_uses_a_dictionary_only_where_values_repeat(tmp_path):
    count = 20_000
    few = [f"state {i % 7}" for i in range(count)]
    many = [f"name {i * 7919}" for i in range(count)]
    lists = [[few[i], few[i + 1]] for i in range(count - 1)] + [None]
    table = {"few": few, "many": many, "n": list(range(count)), "tags.all": lists}
    batch = pa.record_batch(table)
    part_format = registry.open_format(FormatPlan(format="parquet"))
    path = write(part_format, tmp_path / "part", batch, schema=batch.schema)
    group = pq.read_metadata(path).row_group(0)
    repeating = {
        group.column(i).path_in_schema
        for i in range(group.num_columns)
        if "RLE_DICTIONARY" in group.column(i).encodings
    }
    assert repeating == {"few", "tags.all.list.element"}
    assert pq.read_table(path).to_pydict() == table


@pytest.mark.parametrize("precision", [1, 9, 10, 18, 19, 38, 76])
def test_parquet_decimals_are_the_same_numbers_however_stored(tmp_path, precision):
    kind = pa.decimal128(precision, 1) if precision <= 38 else pa.decimal256(precision, 1)
    digits = "9" * (precision - 1) + ".9"
    values = [Decimal(digits), Decimal("-" + digits), Decimal("0.0"), None]
    schema = pa.schema([("n", kind)])
    batch = pa.record_batch([pa.array(values, kind)], schema=schema)
    part_format = registry.open_format(FormatPlan(format="parquet"))
    path = write(part_format, tmp_path / "part", batch, schema=schema)
    assert pq.read_table(path)["n"].to_pylist() == values
    assert pq.read_schema(path).field("n").type == kind
    stored = pq.ParquetFile(path).schema.column(0)
    wanted = "INT32" if precision <= 9 else "INT64" if precision <= 18 else "FIXED_LEN_BYTE_ARRAY"
    assert (stored.physical_type, stored.logical_type.type) == (wanted, "DECIMAL")
    if precision <= 38:
        found = duckdb.sql(f"SELECT n FROM read_parquet('{path}')").fetchall()
        assert [row[0] for row in found] == values


def test_parquet_row_groups_close_by_rows(tmp_path):
    plan = FormatPlan(format="parquet", row_group_rows=30)
    path = write(registry.open_format(plan), tmp_path / "part", *[batch_of(ROWS)] * 20)
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert groups == [30, 30, 20]


def test_parquet_row_groups_close_by_arrow_bytes_and_memory_stays_flat(tmp_path):
    schema = pa.schema([("x", pa.binary())])
    batch = pa.record_batch([pa.array([os.urandom(1000)] * 1000)], schema=schema)
    plan = FormatPlan(format="parquet", compression="none", row_group_bytes=2_500_000)
    writer = registry.open_format(plan).open(tmp_path / "part", schema)
    before, peak = pa.total_allocated_bytes(), 0
    for _ in range(30):
        writer.write(batch)
        peak = max(peak, pa.total_allocated_bytes() - before)
    writer.close()
    assert pq.read_metadata(tmp_path / "part").num_row_groups == 15  # a third would be too much
    assert peak < 2 * 2_500_000


def test_rotation_is_noticed_in_time_on_data_that_does_not_compress(tmp_path):
    """A file limit far below the row group's closes row groups early enough to be seen."""
    schema = pa.schema([("x", pa.binary())])
    plan = FormatPlan(format="parquet", file_bytes_max=200_000)
    writer = registry.open_format(plan).open(tmp_path / "part", schema)
    while writer.bytes_flushed < plan.file_bytes_max:
        values = pa.array([os.urandom(1000) for _ in range(10)])
        writer.write(pa.record_batch([values], schema=schema))
    writer.close()
    assert (tmp_path / "part").stat().st_size < 1.3 * plan.file_bytes_max
