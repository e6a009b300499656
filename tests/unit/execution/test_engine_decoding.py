"""What the frame makes of a decoder's cells, and which decoder it opens."""

from typing import Any

import pyarrow as pa
import pytest

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.errors import MalformedData, SchemaDrift
from rivet_fleet.execution.engines.decoding import Decoders, RowBuilder


def column(name: str, *, nullable: bool) -> ColumnSpec:
    return ColumnSpec(
        name=name,
        native_type="int",
        type=ColumnType(kind=TypeKind.INT64),
        wire_type="3",
        nullable=nullable,
    )


COLUMNS = (column("a", nullable=False), column("b", nullable=True))


def whole_numbers(
    cells: list[bytes | None], spec: ColumnSpec, changed: dict[str, int], *, coerce: bool
) -> pa.Array:
    values: list[int | None] = []
    for cell in cells:
        if cell is not None and not cell.isdigit():
            if not coerce:
                raise MalformedData(
                    f"column {spec.name}: no number", unmasked=f"column {spec.name}: {cell!r}"
                )
            changed[spec.name] = changed.get(spec.name, 0) + 1
            cell = None
        values.append(None if cell is None else int(cell))
    return pa.array(values, pa.int64())


def test_rows_of_cells_become_batches_and_what_was_changed_is_counted() -> None:
    built = RowBuilder(COLUMNS, whole_numbers, coerce=True)
    built.add([b"1", b"2", b"3", None])
    built.add([b"5", b"x"])
    assert built.rows == 3 and built.changed == {"b": 1}
    assert built.take(2).to_pydict() == {"a": [1, 3], "b": [2, None]}
    assert built.take().to_pydict() == {"a": [5], "b": [None]} and built.rows == 0


@pytest.mark.parametrize(
    ("offsets", "where"), [([7, 19], r" \(row at offset 19\)$"), (None, r"NULL$")]
)
def test_a_null_that_was_not_planned_is_drift(offsets: list[int] | None, where: str) -> None:
    built = RowBuilder(COLUMNS, whole_numbers, coerce=False)
    with pytest.raises(SchemaDrift, match=f"^column a was planned as NOT NULL.*{where}"):
        built.add([b"1", b"2", None, b"4"], offsets)


def test_a_cell_that_is_malformed_is_told_with_its_row_where_that_is_known() -> None:
    built = RowBuilder(COLUMNS, whole_numbers, coerce=False)
    with pytest.raises(MalformedData, match=r"^column b: no number$"):
        built.add([b"1", b"2", b"3", b"x"])
    with pytest.raises(MalformedData, match=r"^column b: no number \(row at offset 19\)$") as told:
        built.add([b"1", b"2", b"3", b"x"], [7, 19])
    assert told.value.unmasked == "column b: b'x' (row at offset 19)"


class Reference:
    """What a decoder is opened with."""

    def __init__(self, columns: tuple[ColumnSpec, ...], **options: Any) -> None:
        self.options = options
        self.like: object = None

    def expect_like(self, like: object) -> None:
        self.like = like


class Compiled(Reference):
    pass


def opener(compiled: type[Compiled] | None) -> Any:
    decoders: Any = Decoders(reference=Reference, compiled=lambda: compiled)  # type: ignore[type-var]
    return decoders.open


def test_the_compiled_decoder_is_opened_where_it_was_built() -> None:
    first = opener(Compiled)(COLUMNS, max_value_bytes=9, packed=True)
    assert isinstance(first, Compiled) and first.like is None
    assert first.options == {"max_value_bytes": 9, "coerce": False, "packed": True}
    assert opener(Compiled)(COLUMNS, max_value_bytes=9, like=first).like is first
    assert opener(Compiled)(COLUMNS, max_value_bytes=9, like=Reference(COLUMNS)).like is None
    plain = opener(None)(COLUMNS, max_value_bytes=9, packed=True, like=first)
    assert type(plain) is Reference and plain.options == {"max_value_bytes": 9, "coerce": False}
