"""A page's buffers are as large as those of the page before: that changes room, never rows."""

from __future__ import annotations

import struct

import pyarrow as pa

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.execution.sources.mysql.decoder import DECODERS as mysql
from rivet_fleet.execution.sources.postgres.decoder import DECODERS as postgres

PAGES = (3, 5_000, 5_300, 40, 20_000, 0, 1_000)


def columns(number: str, text: str) -> tuple[ColumnSpec, ...]:
    return (
        ColumnSpec(
            name="n", native_type="int", type=ColumnType(kind=TypeKind.INT32), wire_type=number
        ),
        ColumnSpec(
            name="t", native_type="text", type=ColumnType(kind=TypeKind.STRING), wire_type=text
        ),
    )


def rows_of(page: int, count: int) -> list[tuple[int, str | None]]:
    return [(row, None if row % 7 == 0 else f"{page}:{row}" * (row % 30)) for row in range(count)]


def expected(rows: list[tuple[int, str | None]]) -> dict[str, list[object]]:
    return {"n": [n for n, _ in rows], "t": [t for _, t in rows]}


def copy_stream(rows: list[tuple[int, str | None]]) -> bytes:
    out = [b"PGCOPY\n\xff\r\n\0" + struct.pack(">Ii", 0, 0)]
    for n, text in rows:
        cell = struct.pack(">i", -1)
        if text is not None:
            cell = struct.pack(">i", len(text)) + text.encode()
        out.append(struct.pack(">hii", 2, 4, n) + cell)
    return b"".join([*out, struct.pack(">h", -1)])


def packet_stream(rows: list[tuple[int, str | None]]) -> bytes:
    out, sequence = [], 5  # behind the count, two definitions and their end
    for n, text in rows:
        body = b"" if text is None else b"\xfc" + struct.pack("<H", len(text)) + text.encode()
        payload = bytes((0, 8 if text is None else 0)) + struct.pack("<i", n) + body
        out.append(len(payload).to_bytes(3, "little") + bytes((sequence & 0xFF,)) + payload)
        sequence += 1
    return b"".join([*out, b"\x05\0\0" + bytes((sequence & 0xFF,)) + b"\xfe\0\0\x02\0"])


def test_copy_rows_are_the_same_whatever_the_page_before_was() -> None:
    decoder = None
    for page, count in enumerate(PAGES):
        rows = rows_of(page, count)
        decoder = postgres.open(columns("23", "25"), max_value_bytes=1 << 20, like=decoder)
        decoder.feed(copy_stream(rows))
        decoder.finish()
        batch = decoder.take()
        batch.validate(full=True)
        assert pa.Table.from_batches([batch]).to_pydict() == expected(rows)


def test_packets_are_the_same_whatever_the_page_before_was() -> None:
    decoder = None
    for page, count in enumerate(PAGES):
        rows = rows_of(page, count)
        decoder = mysql.open(columns("3", "253"), max_value_bytes=1 << 20, like=decoder)
        stream = packet_stream(rows)
        decoder.feed(stream)
        decoder.finish()
        batch = decoder.take()
        batch.validate(full=True)
        assert pa.Table.from_batches([batch]).to_pydict() == expected(rows)
