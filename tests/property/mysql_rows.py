"""Random column sets and hostile rows, as the packets of a binary-protocol result set.

Written from the manual alone (MySQL internals, "Binary Protocol Value"), not from the decoder:
every cell comes with the value it must become. Everything is drawn from one ``random.Random``: a
seeded one for fuzz loops, hypothesis's own (``st.randoms()``) where a failure should shrink.
"""

from __future__ import annotations

import datetime
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import Any

import pyarrow as pa

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind

PACKET_MAX = 0xFFFFFF
DAY_US = 86_400_000_000
EPOCH = datetime.date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True)
class Unfit:
    """A valid value that the exported type cannot hold; ``coerced`` is what it may become."""

    coerced: Any = None


Drawn = tuple[bytes, Any]
"""A cell as it travels (with the length it says), and the value it must become, or Unfit."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One way a column can travel, and how to draw a cell of it."""

    wire_type: str
    type: ColumnType
    draw: Callable[[Random], Drawn]


@dataclass(slots=True)
class Case:
    """A whole result set. ``payloads`` are the rows' packets without headers."""

    columns: tuple[ColumnSpec, ...]
    payloads: list[bytes] = field(default_factory=list)
    values: list[tuple[Any, ...]] = field(default_factory=list)

    @property
    def stream(self) -> bytes:
        """Rows and end, as a decoder is fed them."""
        return packets((*self.payloads, end_of_rows()), len(self.columns) + 3)

    def expected(self, *, coerce: bool) -> list[list[Any]] | None:
        """Column by column what must arrive; None when the policy is to refuse."""
        if not coerce and any(isinstance(value, Unfit) for row in self.values for value in row):
            return None
        return [
            [row[i].coerced if isinstance(row[i], Unfit) else row[i] for row in self.values]
            for i in range(len(self.columns))
        ]

    def changed(self) -> dict[str, int]:
        """How many values of each column a policy has to change."""
        counts = {
            column.name: sum(isinstance(row[index], Unfit) for row in self.values)
            for index, column in enumerate(self.columns)
        }
        return {name: count for name, count in counts.items() if count}


# ---------------------------------------------------------------- packets


def lenenc(value: bytes) -> bytes:
    """A length-encoded string."""
    count = len(value)
    if count < 0xFB:
        return bytes((count,)) + value
    if count < 1 << 16:
        return b"\xfc" + struct.pack("<H", count) + value
    if count < 1 << 24:
        return b"\xfd" + struct.pack("<I", count)[:3] + value
    return b"\xfe" + struct.pack("<Q", count) + value


def row(cells: tuple[bytes | None, ...]) -> bytes:
    """The payload of one row; None is NULL."""
    bitmap = bytearray((len(cells) + 9) // 8)
    for index, cell in enumerate(cells):
        if cell is None:
            bitmap[(index + 2) // 8] |= 1 << (index + 2) % 8
    return b"\0" + bytes(bitmap) + b"".join(cell for cell in cells if cell is not None)


def packets(payloads: tuple[bytes, ...], sequence_id: int) -> bytes:
    """Payloads with their headers, long ones in several packets."""
    out = []
    for payload in payloads:
        start = 0
        while True:
            piece = payload[start : start + PACKET_MAX]
            out.append(struct.pack("<I", len(piece))[:3] + bytes((sequence_id & 0xFF,)) + piece)
            sequence_id += 1
            start += PACKET_MAX
            if len(piece) < PACKET_MAX:
                break
    return b"".join(out)


def end_of_rows(status: int = 0x0022, warnings: int = 0) -> bytes:
    """The payload of an EOF packet."""
    return b"\xfe" + struct.pack("<HH", warnings, status)


def server_error(errno: int, message: str, sqlstate: str = "HY000") -> bytes:
    """The payload of an ERR packet."""
    return b"\xff" + struct.pack("<H", errno) + b"#" + sqlstate.encode() + message.encode()


# ---------------------------------------------------------------- cells


def _edges(low: int, high: int) -> Callable[[Random], int]:
    def draw(random: Random) -> int:
        if random.random() < 0.4:
            return random.choice((low, high, 0, 1, max(low, -1)))
        return random.randint(low, high)

    return draw


def _integer(code: str, width: int, kind: TypeKind, *, bits: int | None = None) -> Kind:
    signed = ":unsigned" not in code and not code.startswith("13")
    bits = bits or 8 * width
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    number = _edges(low, high)

    def draw(random: Random) -> Drawn:
        value = number(random)
        return value.to_bytes(width, "little", signed=signed), value

    return Kind(code, ColumnType(kind=kind), draw)


def _bool(random: Random) -> Drawn:
    value = random.choice((0, 1, 0, 1, 0, 1, 2, -128, 127))
    return value.to_bytes(1, "little", signed=True), bool(value) if value in (0, 1) else Unfit(True)


def _bit(width: int, kind: TypeKind) -> Kind:
    number = _edges(0, (1 << width) - 1)

    def draw(random: Random) -> Drawn:
        value = number(random)
        shown = bool(value) if kind is TypeKind.BOOL else value
        return lenenc(value.to_bytes((width + 7) // 8, "big")), shown

    return Kind("16", ColumnType(kind=kind), draw)


def _float(random: Random) -> Drawn:
    # Whole bit patterns: subnormals, both zeros, whatever the server could hold and more.
    packed = struct.pack("<I", random.choice((0, 0x80000000, 1, random.getrandbits(32))))
    return packed, struct.unpack("<f", packed)[0]


def _double(random: Random) -> Drawn:
    packed = struct.pack("<Q", random.choice((0, 1 << 63, 1, random.getrandbits(64))))
    return packed, struct.unpack("<d", packed)[0]


def _decimal(precision: int, scale: int) -> Kind:
    number = _edges(-(10**precision) + 1, 10**precision - 1)

    def draw(random: Random) -> Drawn:
        unscaled = number(random)
        digits = str(abs(unscaled)).rjust(scale + 1, "0")
        whole, fraction = digits[: len(digits) - scale], digits[len(digits) - scale :]
        text = "-" * (unscaled < 0) + whole + ("." + fraction if scale else "")
        if not random.randrange(8):
            text = text.replace("-", "-00") if unscaled < 0 else "00" + text  # ZEROFILL
        value = Decimal((unscaled < 0, tuple(map(int, str(abs(unscaled)))), -scale))
        return lenenc(text.encode()), value

    column_type = ColumnType(kind=TypeKind.DECIMAL, precision=precision, scale=scale)
    return Kind("246", column_type, draw)


def _days(year: int, month: int, day: int) -> int | None:
    later = 0 if year else 400  # Python's calendar has no year 0; 400 years are 146,097 days
    try:
        ordinal = datetime.date(year + later, month, day).toordinal()
    except ValueError:
        return None
    return ordinal - (146_097 if later else 0) - EPOCH


def _calendar(random: Random) -> tuple[int, int, int]:
    if not random.randrange(6):  # zero, partial, impossible
        return random.choice(((0, 0, 0), (2024, 2, 0), (2024, 0, 5), (2023, 2, 29), (0, 4, 31)))
    year = random.choice((0, 1, 1582, 1900, 2000, 9999, random.randint(0, 9999)))
    day = datetime.date(year + 400 if year < 400 else year, 1, 1).toordinal() + random.randrange(
        365
    )
    found = datetime.date.fromordinal(day)
    return year, found.month, found.day


def _clock(random: Random) -> tuple[bytes, int]:
    """The bytes behind the date, cut off where the server cuts them off, and microseconds."""
    form = random.randrange(3)
    hours, minutes, seconds = random.randrange(24), random.randrange(60), random.randrange(60)
    us = random.choice((1, 999_999, random.randrange(1, 1_000_000)))
    if form == 0:
        return b"", 0
    clock = bytes((hours, minutes, seconds))
    whole = ((hours * 60 + minutes) * 60 + seconds) * 1_000_000
    return (clock, whole) if form == 1 else (clock + struct.pack("<I", us), whole + us)


def _prefixed(value: bytes) -> bytes:
    return bytes((len(value),)) + value


def _date(random: Random) -> Drawn:
    year, month, day = _calendar(random)
    if (year, month, day) == (0, 0, 0):
        return b"\0", Unfit()
    days = _days(year, month, day)
    cell = _prefixed(struct.pack("<HBB", year, month, day))
    return cell, Unfit() if days is None else days


def _timestamp(random: Random) -> Drawn:
    year, month, day = _calendar(random)
    clock, us = _clock(random)
    if (year, month, day) == (0, 0, 0) and not us:
        return b"\0", Unfit()
    days = _days(year, month, day)
    cell = _prefixed(struct.pack("<HBB", year, month, day) + clock)
    return cell, Unfit() if days is None else days * DAY_US + us


def _time(random: Random) -> Drawn:
    if not random.randrange(6):
        return b"\0", 0
    days = random.choice((0, 0, 0, 1, 34))
    clock, us = _clock(random)
    clock = clock or b"\0\0\0"
    if days == 34 and clock[0] > 22:
        clock = b"\x16" + clock[1:]
        us = us % 3_600_000_000 + 22 * 3_600_000_000
    negative = not random.randrange(5)
    whole = (days * DAY_US + us) * (-1 if negative else 1)
    cell = _prefixed(struct.pack("<BI", negative, days) + clock)
    return cell, whole if 0 <= whole < DAY_US else Unfit()


_TEXTS = ("", " ", "NULL", "\\N", "é😀", "'\"\\`", "\r\n\t", "\0", "a\0b", "\U0010ffff", "ÿ" * 130)
_BROKEN = (b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xc0\xaf", b"ok\xfe\xffok")


def _text(random: Random) -> Drawn:
    if not random.randrange(10):
        raw = random.choice(_BROKEN)
        return lenenc(raw), Unfit(raw.decode("utf-8", "replace"))
    if not random.randrange(40):
        text = "x" * random.choice((250, 251, 252, 65_535, 65_536))
    elif random.randrange(2):
        text = random.choice(_TEXTS)
    else:
        points = (random.choice((97, 233, 0x4E2D, 0x1F600)) for _ in range(random.randrange(9)))
        text = "".join(map(chr, points))
    return lenenc(text.encode()), text


def _json(random: Random) -> Drawn:
    text = random.choice(("{}", "[1, 2.50, 1e400]", '{"a":  "é😀\\u0000"}', "null", '""', "0"))
    return lenenc(text.encode()), text


def _bytes(random: Random) -> Drawn:
    value = bytes(random.getrandbits(8) for _ in range(random.choice((0, 1, 3, 16, 255))))
    return lenenc(value), value


def _uuid_bytes(random: Random) -> Drawn:
    value = bytes(random.getrandbits(8) for _ in range(16))
    return lenenc(value), value


def _uuid_text(random: Random) -> Drawn:
    value = bytes(random.getrandbits(8) for _ in range(16))
    text = value.hex()
    text = "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
    if not random.randrange(8):
        return lenenc(random.choice((b"", text[:35].encode(), text.replace("-", "g").encode()))), (
            Unfit()
        )
    return lenenc(random.choice((text, text.upper())).encode()), value


def _plain(wire_type: str, kind: TypeKind, draw: Callable[[Random], Drawn]) -> Kind:
    return Kind(wire_type, ColumnType(kind=kind), draw)


KINDS: dict[str, Kind] = {
    "tinyint": _integer("1", 1, TypeKind.INT16),
    "tinyint_unsigned": _integer("1:unsigned", 1, TypeKind.INT16),
    "smallint": _integer("2", 2, TypeKind.INT16),
    "smallint_unsigned": _integer("2:unsigned", 2, TypeKind.INT32),
    "mediumint": _integer("9", 4, TypeKind.INT32, bits=24),
    "mediumint_unsigned": _integer("9:unsigned", 4, TypeKind.INT64, bits=24),
    "int": _integer("3", 4, TypeKind.INT32),
    "int_unsigned": _integer("3:unsigned", 4, TypeKind.INT64),
    "bigint": _integer("8", 8, TypeKind.INT64),
    "bigint_unsigned": _integer("8:unsigned", 8, TypeKind.UINT64),
    "year": _integer("13", 2, TypeKind.INT16, bits=11),
    "bool": _plain("1", TypeKind.BOOL, _bool),
    "bit1": _bit(1, TypeKind.BOOL),
    "bit9": _bit(9, TypeKind.INT64),
    "bit63": _bit(63, TypeKind.INT64),
    "bit64": _bit(64, TypeKind.UINT64),
    "float": _plain("4", TypeKind.FLOAT32, _float),
    "double": _plain("5", TypeKind.FLOAT64, _double),
    "decimal_5_2": _decimal(5, 2),
    "decimal_38_10": _decimal(38, 10),
    "decimal_65_30": _decimal(65, 30),
    "decimal_65_0": _decimal(65, 0),
    "date": _plain("10", TypeKind.DATE, _date),
    "datetime": _plain("12", TypeKind.TIMESTAMP, _timestamp),
    "timestamp": _plain("7", TypeKind.TIMESTAMP_UTC, _timestamp),
    "time": _plain("11", TypeKind.TIME, _time),
    "varchar": _plain("253", TypeKind.STRING, _text),
    "text": _plain("252", TypeKind.STRING, _text),
    "enum": _plain("254", TypeKind.ENUM, _text),
    "json": _plain("245", TypeKind.JSON, _json),
    "longtext_json": _plain("252", TypeKind.JSON, _json),
    "blob": _plain("252:binary", TypeKind.BINARY, _bytes),
    "binary": _plain("254:binary", TypeKind.BINARY, _bytes),
    "uuid_bytes": _plain("254:binary", TypeKind.UUID, _uuid_bytes),
    "uuid_text": _plain("254", TypeKind.UUID, _uuid_text),
}


# ---------------------------------------------------------------- cases


def column(name: str, kind: Kind, *, nullable: bool = True) -> ColumnSpec:
    """A column of this kind."""
    return ColumnSpec(
        name=name,
        native_type=f"wire {kind.wire_type}",
        type=kind.type,
        nullable=nullable,
        wire_type=kind.wire_type,
    )


def random_case(
    random: Random, *, columns_max: int = 10, rows_max: int = 12, unfit: bool = True
) -> Case:
    """A random result set; without ``unfit`` every value can be exported as it is."""
    names = [random.choice(tuple(KINDS)) for _ in range(random.randint(1, columns_max))]
    case = Case(tuple(column(f"c{i}_{name}", KINDS[name]) for i, name in enumerate(names)))
    for _ in range(random.randint(0, rows_max)):
        drawn = [_cell(random, KINDS[name], unfit=unfit) for name in names]
        case.payloads.append(row(tuple(cell for cell, _ in drawn)))
        case.values.append(tuple(value for _, value in drawn))
    return case


def _cell(random: Random, kind: Kind, *, unfit: bool) -> tuple[bytes | None, Any]:
    if not random.randrange(6):
        return None, None
    while True:
        cell, value = kind.draw(random)
        if unfit or not isinstance(value, Unfit):
            return cell, value


def damaged(random: Random, stream: bytes) -> bytes:
    """The stream with one to four wounds: cut off, flipped, overwritten, lying, shuffled."""
    data = bytearray(stream)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(data)) if data else 0
        wound = random.randrange(7)
        if wound == 0:
            del data[at:]
        elif wound == 1 and data:
            data[at] ^= 1 << random.randrange(8)
        elif wound == 2 and data:
            data[at] = random.choice((0, 1, 4, 7, 11, 0xFA, 0xFB, 0xFC, 0xFD, 0xFE, 0xFF))
        elif wound == 3:
            lie = random.choice((b"\xfc\xff\xff", b"\xfd\xff\xff\xff", b"\xfe" + b"\xff" * 8))
            data[at : at + len(lie)] = lie
        elif wound == 4:
            del data[at : at + random.randint(1, 9)]
        elif wound == 5:
            data[at:at] = bytes(random.getrandbits(8) for _ in range(random.randint(1, 9)))
        elif wound == 6:
            data += data[at : at + random.randint(1, 40)]
    return bytes(data)


def plain(array: pa.Array) -> list[Any]:
    """Values as Python objects; what Python's calendar cannot hold as Arrow's own integer, UUIDs
    as their bytes."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_date32(array.type):
        return array.view(pa.int32()).to_pylist()
    if pa.types.is_timestamp(array.type) or pa.types.is_time64(array.type):
        return array.view(pa.int64()).to_pylist()
    return array.to_pylist()


def same(got: Any, expected: Any) -> bool:
    """Equal by type and value; floats by their bits, but for the payload of a NaN."""
    if isinstance(expected, float) and isinstance(got, float):
        if math.isnan(expected):
            return math.isnan(got)
        return struct.pack(">d", got) == struct.pack(">d", expected)
    return type(got) is type(expected) and got == expected
