"""A Parquet part is the same for its readers however its pages came: packed, plain, or mixed."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rivet_fleet.contracts.plan import FormatPlan
from rivet_fleet.execution import packer, referencepacker
from rivet_fleet.execution.checksums import reference_sum
from rivet_fleet.execution.formats.parquet import open_format
from rivet_fleet.execution.formats.parquet.encodings import choose_encodings
from rivet_fleet.execution.packing import DICTIONARY_BYTES_MAX, REPEATED_TEXT, alike
from tests.packed import packed, unpacked

GROUP_ROWS = 9_000
PAGES = (500, 3_000, 5_500, 7_000, 2_000, 1, 0, 4_000)
SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False, metadata={"rivet.key": "true"}),
        pa.field("d9", pa.decimal128(9, 2), metadata={"rivet.native_type": "numeric(9,2)"}),
        pa.field("d18", pa.decimal128(18, 4), nullable=False),
        pa.field("d19", pa.decimal128(19, 0)),
        pa.field("d76", pa.decimal256(76, 10)),
        pa.field("few", pa.string(), nullable=False, metadata={"rivet.logical_type": "enum"}),
        pa.field("few or none", pa.string()),
        pa.field("a.dot", pa.string()),
        pa.field("none", pa.string()),
        pa.field("own", pa.string()),
        pa.field("later", pa.string()),
        pa.field("long", pa.string()),
        pa.field("u", pa.uuid(), metadata={"rivet.logical_type": "uuid"}),
        pa.field("j", pa.json_(pa.string())),
        pa.field("lists", pa.list_(pa.field("item", pa.decimal128(9, 2)))),
        pa.field("texts", pa.list_(pa.field("item", pa.string()))),
    ],
    metadata={"made by": "a test"},
)


def page(first: int, rows: int) -> pa.RecordBatch:
    rng = random.Random(first)
    ids = range(first, first + rows)
    few = ("", "a", "ä", "\U0001f600", "longer than a few bytes", "z\0z")
    columns: dict[str, list[object]] = {
        "id": list(ids),
        "d9": [None if i % 7 == 0 else Decimal(rng.randint(-(10**9) + 1, 10**9 - 1)) / 100
               for i in ids],
        "d18": [Decimal(rng.choice((10**18 - 1, -(10**18) + 1, 0, i))) / 10_000 for i in ids],
        "d19": [Decimal(10**19 - 1 - i) for i in ids],
        "d76": [Decimal(i) for i in ids],
        "few": [few[i % len(few)] for i in ids],
        "few or none": [None if i % 3 else few[i // 1_000 % len(few)] for i in ids],
        "a.dot": [few[i % 2] for i in ids],
        "none": [None] * rows,
        "own": [f"{i * 7919 % 1_000_003} is its own" for i in ids],
        "later": [few[i % 4] if i < 12_000 else f"value {i}" for i in ids],
        "long": [few[i % 2] * 100 if i < 8_000 else f"{i:0300}" for i in ids],
        "lists": [[Decimal(i % 5)] * (i % 3) for i in ids],
        "texts": [[few[i % 2]] for i in ids],
    }  # fmt: skip
    arrays = [pa.array(columns[f.name], f.type) for f in SCHEMA if f.name in columns]
    uuids = pa.array([uuid.UUID(int=i).bytes for i in ids], pa.binary(16))
    arrays.insert(12, pa.ExtensionArray.from_storage(pa.uuid(), uuids))
    documents = pa.array(["{}"] * rows, pa.string())
    arrays.insert(13, pa.ExtensionArray.from_storage(pa.json_(pa.string()), documents))
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def pages() -> list[pa.RecordBatch]:
    firsts = [sum(PAGES[:index]) for index in range(len(PAGES))]
    return [page(first, rows) for first, rows in zip(firsts, PAGES, strict=True)]


def mixed(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Packed for some pages, as pages of a chunk with rows from the reference are."""
    return packed(batch) if batch.num_rows != 3_000 else batch


def sliced(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A page cut out of a larger one: its dictionaries hold values that do not occur in it."""
    others = page(50_000, 11)
    return pa.concat_batches(packed(b) for b in (others, batch, others)).slice(11, batch.num_rows)


FORMS: dict[str, Callable[[pa.RecordBatch], pa.RecordBatch]] = {
    "nominal": lambda batch: batch,
    "packed": packed,
    "mixed": mixed,
    "sliced": sliced,
}


def write(path: Path, batches: Sequence[pa.RecordBatch], **options: object) -> Path:
    plan = FormatPlan(format="parquet", row_group_rows=GROUP_ROWS, **options)  # type: ignore[arg-type]
    writer = open_format(plan).open(path, SCHEMA)
    for batch in batches:
        writer.write(batch)
    writer.close()
    return path


def write_by_pyarrow(path: Path, batches: Sequence[pa.RecordBatch]) -> Path:
    """The same rows by pyarrow's writer alone, which stores the schema that it is given."""
    table = pa.Table.from_batches(batches, schema=SCHEMA)
    chosen = choose_encodings(table.slice(0, GROUP_ROWS), differences=False)
    with pq.ParquetWriter(
        path,
        SCHEMA,
        compression="zstd",
        compression_level=3,
        **chosen.options(),
        store_decimal_as_integer=True,
    ) as writer:
        for first in range(0, table.num_rows, GROUP_ROWS):
            writer.write_table(table.slice(first, GROUP_ROWS), row_group_size=GROUP_ROWS)
    return path


def told(path: Path) -> dict[object, object]:
    """All that a footer says about values and types; not how many bytes they took."""
    footer = pq.read_metadata(path)
    schema = str(footer.schema).partition("\n")[2]  # behind the object's address
    said: dict[object, object] = {"schema": schema, "metadata": footer.metadata}
    for group in range(footer.num_row_groups):
        for index in range(footer.num_columns):
            column = footer.row_group(group).column(index)
            statistics = column.statistics
            said[group, column.path_in_schema] = (
                column.physical_type,
                column.num_values,
                column.has_dictionary_page,
                statistics and statistics.to_dict(),
            )
    return said


@pytest.mark.parametrize("form", FORMS)
def test_the_file_says_what_pyarrow_would_say_of_nominal_pages(tmp_path: Path, form: str) -> None:
    """Types, Arrow schema, metadata, extremes, null counts and the use of dictionaries."""
    expected = told(write_by_pyarrow(tmp_path / "expected", pages()))
    got = told(write(tmp_path / form, [FORMS[form](batch) for batch in pages()]))
    assert got.keys() == expected.keys()
    for key, said in expected.items():
        assert got[key] == said, key


@pytest.mark.parametrize("form", FORMS)
def test_two_readers_find_the_same_rows(tmp_path: Path, form: str) -> None:
    rows = pa.Table.from_batches(pages(), schema=SCHEMA)
    path = write(tmp_path / form, [FORMS[form](batch) for batch in pages()])
    plain = write_by_pyarrow(tmp_path / "plain", pages())
    table = pq.read_table(path)
    assert table.schema.equals(pq.read_table(plain).schema, check_metadata=True)
    assert table.to_pylist() == rows.to_pylist()
    connection = duckdb.connect()
    both = [f"SELECT * FROM read_parquet('{one}') ORDER BY id" for one in (path, plain)]
    assert connection.execute(both[0]).description == connection.execute(both[1]).description
    assert connection.execute(both[0]).fetchall() == connection.execute(both[1]).fetchall()


@pytest.mark.parametrize("form", FORMS)
def test_checksums_are_those_of_the_values_however_they_came(tmp_path: Path, form: str) -> None:
    """Summed as pages come, they are what pyarrow reads in the file: ours, or its own writer's
    with other row groups, encodings and types."""
    part_format = open_format(FormatPlan(format="parquet", row_group_rows=GROUP_ROWS))
    writer = part_format.open(tmp_path / form, SCHEMA)
    for batch in pages():
        writer.write(FORMS[form](batch))
    writer.close()
    told = writer.checksums()
    assert told.keys() == set(SCHEMA.names)
    table = pa.Table.from_batches(pages(), schema=SCHEMA)
    assert told["own"] == f"value64:{reference_sum(table['own'].combine_chunks()):016x}"
    assert part_format.checksums(tmp_path / form) == told
    others = {"use_dictionary": False, "store_schema": False, "row_group_size": 777}
    pq.write_table(table.take(list(range(table.num_rows))[::-1]), tmp_path / "other", **others)
    assert part_format.checksums(tmp_path / "other") == told


@pytest.mark.parametrize("form", FORMS)
def test_equal_pages_give_equal_files(tmp_path: Path, form: str) -> None:
    batches = [FORMS[form](batch) for batch in pages()]
    one, two = write(tmp_path / "one", batches), write(tmp_path / "two", batches)
    assert one.read_bytes() == two.read_bytes()


def test_dictionaries_of_other_rows_leave_no_trace(tmp_path: Path) -> None:
    """A page may come with values that none of its rows has: cut pages do."""
    whole = write(tmp_path / "packed", [packed(batch) for batch in pages()])
    cut = write(tmp_path / "sliced", [sliced(batch) for batch in pages()])
    assert whole.read_bytes() == cut.read_bytes()


def test_a_repeating_column_is_written_from_its_dictionary(tmp_path: Path) -> None:
    rows = [packed(batch) for batch in pages()]
    assert rows[0].column("few").type == REPEATED_TEXT
    footer = pq.read_metadata(write(tmp_path / "part", rows))
    for group in range(footer.num_row_groups):
        column = footer.row_group(group).column(SCHEMA.get_field_index("few"))
        assert column.has_dictionary_page
        assert not [
            one for one in page_encodings(column) if one not in ("PLAIN", "RLE", "RLE_DICTIONARY")
        ]
        assert column.statistics.distinct_count in (None, 6)
        assert (column.statistics.min, column.statistics.max) == ("", "\U0001f600")


def page_encodings(column: pq.ColumnChunkMetaData) -> tuple[str, ...]:
    return tuple(column.encodings)


def test_no_dictionary_page_outgrows_what_the_library_allows(tmp_path: Path) -> None:
    """``long`` repeats in the first row group alone; what follows is 300 bytes in each row."""
    footer = pq.read_metadata(
        write(tmp_path / "part", [packed(batch) for batch in pages()], compression="none")
    )
    for group in range(footer.num_row_groups):
        for index in range(footer.num_columns):
            column = footer.row_group(group).column(index)
            if column.has_dictionary_page:
                size = column.data_page_offset - column.dictionary_page_offset
                assert size < DICTIONARY_BYTES_MAX + 4096, column.path_in_schema


TEXTS = [
    pa.array(["a", "b", None, "a", "", None, "c" * 40], pa.string()),
    pa.array([None, None], pa.string()),
    pa.array([], pa.string()),
    pa.array([f"{i % 900:05}" for i in range(5_000)], pa.string()),
    pa.array([None if i % 5 == 0 else f"{i}" for i in range(3_000)], pa.string()),
    pa.array(["x" * n for n in range(20)] * 2, pa.string()),
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("first", [0, 1, 3])
@pytest.mark.parametrize("bytes_max", [10, 1 << 20])
def test_compiled_kernels_are_the_reference(text: pa.Array, first: int, bytes_max: int) -> None:
    column = text.slice(first)
    one, two = packer.encoded(column, bytes_max), referencepacker.encoded(column, bytes_max)
    one.validate(full=True)
    assert one.to_pylist() == two.to_pylist() == column.to_pylist()
    if bytes_max > 10:
        assert one.dictionary.equals(two.dictionary) and one.indices.equals(two.indices)
    for dictionary in (one, one.slice(1), one.slice(len(one))):
        plain = packer.plain(dictionary)
        plain.validate(full=True)
        assert plain.equals(referencepacker.plain(dictionary))
        assert packer.plain_bytes(dictionary) == referencepacker.plain_bytes(dictionary)
    parts = [one.indices.slice(2), one.indices.slice(0, 1)]
    got = packer.renumbered(parts, len(one.dictionary))
    expected = referencepacker.renumbered(parts, len(one.dictionary))
    assert (got[1] is None) == (expected[1] is None)
    assert got[1] is None or got[1].equals(expected[1])
    for mine, theirs in zip(got[0], expected[0], strict=True):
        mine.validate(full=True)
        assert mine.equals(theirs)


@pytest.mark.parametrize("first", [0, 1, 9])
def test_narrowed_decimals_are_the_reference(first: int) -> None:
    top = 10**18 - 1
    numbers = [Decimal(n) for n in (0, 1, -1, top, -top)]
    column = pa.array([*numbers, None, *numbers], pa.decimal128(18, 0)).slice(first)
    kind = pa.decimal64(18, 0)
    got = packer.narrowed(column, kind)
    got.validate(full=True)
    assert got.equals(referencepacker.narrowed(column, kind))


@pytest.mark.parametrize("kernels", [packer, referencepacker])
def test_a_number_that_does_not_fit_is_refused(kernels: object) -> None:
    column = pa.array([Decimal(2**63)], pa.decimal128(19, 0))
    with pytest.raises(OverflowError):
        kernels.narrowed(column, pa.decimal64(18, 0))  # type: ignore[attr-defined]


def test_batches_in_several_forms_become_one() -> None:
    nominal = pages()[:3]
    batches = alike([nominal[0], packed(nominal[1]), packed(nominal[2])], SCHEMA)
    whole = pa.concat_batches(batches)
    assert whole.schema.field("d18").type == pa.decimal64(18, 4)
    assert whole.schema.field("few").type == REPEATED_TEXT
    assert unpacked(whole, SCHEMA).equals(pa.concat_batches(nominal))
    plain = pa.concat_batches(alike([packed(nominal[0]), nominal[1]], SCHEMA))
    assert plain.schema.field("few").type == pa.string()
    assert unpacked(plain, SCHEMA).equals(pa.concat_batches(nominal[:2]))
