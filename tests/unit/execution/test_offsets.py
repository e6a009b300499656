"""No batch holds more of a column than 32-bit offsets reach, wherever its buffer happened to grow.

At 2 GiB a test would take minutes: the same bound is drawn at a few kilobytes here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from random import Random

import pyarrow as pa
import pytest

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.execution import columnar
from rivet_fleet.execution.packing import BatchQueue
from rivet_fleet.execution.sources.mysql.decoder import compiled_decoder as mysql_decoder
from rivet_fleet.execution.sources.postgres.decoder import compiled_decoder as postgres_decoder
from tests.property import copy_rows, mysql_rows

BOUND_BYTES = 9001
"""No size that a buffer which doubles, or grows by half, comes by."""


@pytest.fixture
def bounded() -> Iterator[None]:
    before = columnar.bound_columns(BOUND_BYTES)
    yield
    columnar.bound_columns(before)


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[pa.RecordBatch]:
    """Every batch that a decoder closes, before it is joined to others."""
    found: list[pa.RecordBatch] = []
    append = BatchQueue.append

    def keep(queue: BatchQueue, batch: pa.RecordBatch) -> None:
        found.append(batch)
        append(queue, batch)

    monkeypatch.setattr(BatchQueue, "append", keep)
    return found


def column(engine: str, kind: TypeKind) -> ColumnSpec:
    wire = {
        ("postgres", TypeKind.STRING): "25",
        ("postgres", TypeKind.BINARY): "17",
        ("mysql", TypeKind.STRING): "253",
        ("mysql", TypeKind.BINARY): "252:binary",
    }[engine, kind]
    return ColumnSpec(name="v", native_type="text", type=ColumnType(kind=kind), wire_type=wire)


def stream(engine: str, values: list[bytes]) -> bytes:
    if engine == "mysql":
        payloads = tuple(mysql_rows.row((mysql_rows.lenenc(v),)) for v in values)
        return mysql_rows.packets((*payloads, mysql_rows.end_of_rows()), 4)
    head = b"PGCOPY\n\xff\r\n\0" + struct.pack(">II", 0, 0)
    rows = b"".join(struct.pack(">H", 1) + copy_rows.cell(value) for value in values)
    return head + rows + b"\xff\xff"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", [TypeKind.STRING, TypeKind.BINARY])
@pytest.mark.parametrize("engine", ["postgres", "mysql"])
def test_a_batch_ends_where_offsets_end(
    engine: str, kind: TypeKind, packed: bool, bounded: None, closed: list[pa.RecordBatch]
) -> None:
    decoders = {"postgres": postgres_decoder, "mysql": mysql_decoder}
    compiled = decoders[engine]()
    assert compiled is not None
    for seed in range(20):
        random = Random(seed)
        repeats = [b"%d" % n * 300 for n in range(6)] if seed % 2 else []
        values = [
            random.choice(repeats)
            if repeats
            else b"%c" % random.randint(97, 122) * random.choice((1, 100, 1000, 3000, 7000))
            for _ in range(200)
        ]
        closed.clear()
        spec = (column(engine, kind),)
        decoder = compiled(spec, max_value_bytes=8000, coerce=False, packed=packed)
        decoder.feed(stream(engine, values))
        decoder.finish()
        whole = decoder.take()
        whole.validate(full=True)
        for batch in closed:
            held = batch.column(0)
            if isinstance(held, pa.DictionaryArray):
                held = held.cast(pa.string())
            assert sum(len(one.as_buffer()) for one in held) <= BOUND_BYTES
        got = [one.as_buffer().to_pybytes() for one in whole.column(0).cast(pa.binary())]
        assert got == values
