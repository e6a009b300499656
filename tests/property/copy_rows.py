"""Random columns and hostile rows as binary COPY bytes: seeded, fast, for differential tests."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind

HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">Ii", 0, 0)
TRAILER = struct.pack(">h", -1)

Maker = Callable[[random.Random], bytes]


def _integer(bits: int) -> Maker:
    def make(rng: random.Random) -> bytes:
        edge = 1 << (bits - 1)
        picks = (0, -1, edge - 1, -edge, rng.randrange(-edge, edge), rng.randrange(-100, 100))
        return int(rng.choice(picks)).to_bytes(bits // 8, "big", signed=True)

    return make


def _moment(low: int, high: int, odd: tuple[int, ...], code: str) -> Maker:
    def make(rng: random.Random) -> bytes:
        pick = rng.choice(odd) if rng.random() < 0.15 else rng.randint(low, high)
        return struct.pack(code, pick)

    return make


TEXTS = ("", "plain", "é😀", "\x00", "a" * 100, "日本語テキスト", "\U0010ffff", "12345678é", "߿ࠀ")


def _text(rng: random.Random) -> bytes:
    if rng.random() < 0.05:
        return rng.choice(
            (b"\xff", b"abc\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"1234567\x80")
        )
    return (rng.choice(TEXTS) * rng.randint(0, 3)).encode()


def numeric(digits: list[int], weight: int, sign: int, dscale: int) -> bytes:
    return struct.pack(f">HhHH{len(digits)}H", len(digits), weight, sign, dscale, *digits)


def _numeric(rng: random.Random) -> bytes:
    if rng.random() < 0.1:
        return numeric([], 0, rng.choice((0xC000, 0xD000, 0xF000, 0, 0x4000)), 0)
    count = rng.choice((0, 1, 1, 2, 2, 3, 4, 5, 9, 10, 19, 20))
    digits = [rng.choice((0, 1, 10, 9999, rng.randrange(10_000))) for _ in range(count)]
    if rng.random() < 0.02:
        digits.append(rng.choice((10_000, 65_535)))
    weight = rng.choice((count - 1, count - 1, 0, -1, 1, count, rng.randint(-6, 12)))
    return numeric(digits, weight, rng.choice((0, 0x4000)), rng.randint(0, 20))


def _interval(rng: random.Random) -> bytes:
    if rng.random() < 0.05:
        return struct.pack(">qii", 2**63 - 1, 2**31 - 1, 2**31 - 1)
    return struct.pack(
        ">qii", rng.randint(-(10**15), 10**15), rng.randint(-999, 999), rng.randint(-999, 999)
    )


def _jsonb(rng: random.Random) -> bytes:
    return (b"\x01" if rng.random() < 0.98 else b"\x02") + _text(rng)


_UNIX_US = 946_684_800_000_000
_STAMPS = (2**63 - 1, -(2**63), 2**63 - 2, 2**63 - 1 - _UNIX_US, -211_813_488_000_000_000)

SCALARS: dict[str, tuple[ColumnType, str, Maker]] = {
    "bool": (ColumnType(kind=TypeKind.BOOL), "16", lambda rng: bytes([rng.random() < 0.5])),
    "i2": (ColumnType(kind=TypeKind.INT16), "21", _integer(16)),
    "i4": (ColumnType(kind=TypeKind.INT32), "23", _integer(32)),
    "i8": (ColumnType(kind=TypeKind.INT64), "20", _integer(64)),
    "oid": (ColumnType(kind=TypeKind.INT64), "26", _integer(32)),
    "f4": (ColumnType(kind=TypeKind.FLOAT32), "700", lambda rng: rng.randbytes(4)),
    "f8": (ColumnType(kind=TypeKind.FLOAT64), "701", lambda rng: rng.randbytes(8)),
    "date": (
        ColumnType(kind=TypeKind.DATE),
        "1082",
        _moment(-2_451_545, 2_145_031_948, (2**31 - 1, -(2**31), -2_451_546), ">i"),
    ),
    "time": (
        ColumnType(kind=TypeKind.TIME),
        "1083",
        _moment(0, 86_399_999_999, (86_400_000_000, 86_400_000_001, -1), ">q"),
    ),
    "ts": (ColumnType(kind=TypeKind.TIMESTAMP), "1114", _moment(-(10**17), 10**17, _STAMPS, ">q")),
    "tz": (
        ColumnType(kind=TypeKind.TIMESTAMP_UTC),
        "1184",
        _moment(-(10**17), 10**17, _STAMPS, ">q"),
    ),
    "text": (ColumnType(kind=TypeKind.STRING), "25", _text),
    "enum": (ColumnType(kind=TypeKind.ENUM), "99999", _text),
    "bytea": (
        ColumnType(kind=TypeKind.BINARY),
        "17",
        lambda rng: rng.randbytes(rng.randint(0, 40)),
    ),
    "json": (ColumnType(kind=TypeKind.JSON), "114", _text),
    "jsonb": (ColumnType(kind=TypeKind.JSON), "3802", _jsonb),
    "uuid": (ColumnType(kind=TypeKind.UUID), "2950", lambda rng: rng.randbytes(16)),
    "interval": (ColumnType(kind=TypeKind.INTERVAL), "1186", _interval),
    "n15": (ColumnType(kind=TypeKind.DECIMAL, precision=15, scale=2), "1700", _numeric),
    "n38": (ColumnType(kind=TypeKind.DECIMAL, precision=38, scale=10), "1700", _numeric),
    "n18": (ColumnType(kind=TypeKind.DECIMAL, precision=18, scale=0), "1700", _numeric),
    "n76": (ColumnType(kind=TypeKind.DECIMAL, precision=76, scale=30), "1700", _numeric),
    "n1": (ColumnType(kind=TypeKind.DECIMAL, precision=1, scale=1), "1700", _numeric),
}


def _array(name: str) -> tuple[ColumnType, str, Maker]:
    element, wire_type, make = SCALARS[name]
    oid = 99_999 if element.kind is TypeKind.ENUM else int(wire_type)

    def array(rng: random.Random) -> bytes:
        if rng.random() < 0.1:
            return struct.pack(">iiI", 0, 0, oid)
        dimensions = 2 if rng.random() < 0.05 else 1
        count = rng.randint(0 if dimensions == 1 else 1, 5)
        first = 1 if rng.random() < 0.9 else rng.randint(-3, 3)
        body = struct.pack(">iiI", dimensions, 1, oid) + struct.pack(">ii", count, first)
        if dimensions == 2:
            body += struct.pack(">ii", 1, 1)
        for _ in range(count):
            body += cell(None if rng.random() < 0.2 else make(rng))
        return body

    return ColumnType(kind=TypeKind.LIST, element=element), wire_type, array


CASES = SCALARS | {f"{name}[]": _array(name) for name in SCALARS}


def cell(value: bytes | None) -> bytes:
    return b"\xff\xff\xff\xff" if value is None else struct.pack(">i", len(value)) + value


def random_columns(rng: random.Random) -> tuple[tuple[ColumnSpec, ...], tuple[Maker, ...]]:
    """1 to 8 columns and what makes their cells."""
    specs, makers = [], []
    for index in range(rng.randint(1, 8)):
        name = rng.choice(list(CASES))
        column_type, wire_type, make = CASES[name]
        specs.append(
            ColumnSpec(
                name=f"c{index}",
                native_type=name,
                type=column_type,
                wire_type=wire_type,
                nullable=rng.random() < 0.8,
            )
        )
        makers.append(make)
    return tuple(specs), tuple(makers)


def random_stream(
    rng: random.Random, specs: tuple[ColumnSpec, ...], makers: tuple[Maker, ...], rows: int
) -> bytes:
    """A whole stream. NOT NULL columns hold a NULL only seldom."""
    out = [HEADER]
    for _ in range(rows):
        out.append(struct.pack(">h", len(specs)))
        for spec, make in zip(specs, makers, strict=True):
            null = rng.random() < (0.15 if spec.nullable else 0.001)
            out.append(cell(None if null else make(rng)))
    out.append(TRAILER)
    return b"".join(out)


def damage(rng: random.Random, data: bytes) -> bytes:
    """Truncate, flip bits, lie about a length, repeat, delete or insert bytes."""
    body = bytearray(data)
    kind = rng.randrange(6)
    at = rng.randrange(len(body))
    if kind == 0:
        return bytes(body[:at])
    if kind == 1:
        for _ in range(rng.randint(1, 4)):
            body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        lie = rng.choice((-2, 0, 1, 2**31 - 1, -(2**31), 5000, rng.randint(-10, 300)))
        body[at : at + 4] = struct.pack(">i", lie)
    elif kind == 3:
        body[at:at] = rng.randbytes(rng.randint(1, 30))
    elif kind == 4:
        del body[at : at + rng.randint(1, 30)]
    else:
        body += body[at : at + 40]
    return bytes(body)
