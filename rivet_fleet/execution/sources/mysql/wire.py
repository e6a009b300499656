"""Packets of the client/server protocol: prepare, execute and close one statement.

Over the socket of an authenticated PyMySQL connection, whose own reader makes Python objects of
every cell. Formats: MySQL internals manual, "MySQL Packets", "COM_STMT_PREPARE",
"COM_STMT_EXECUTE", "Protocol::ColumnDefinition41", "ERR_Packet", "EOF_Packet"; MariaDB's are the
same for the capabilities PyMySQL asks for (no DEPRECATE_EOF, no compression). Bytes from a server
are untrusted: every length is checked before it is used.
"""

from __future__ import annotations

import contextlib
import ssl
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import pymysql
import pymysql.err
from pymysql.constants import CR

from rivet_fleet.contracts.columns import ColumnSpec, TypeKind
from rivet_fleet.errors import MalformedData, UnsupportedType
from rivet_fleet.execution.sources.mysql.border import Asked
from rivet_fleet.execution.sources.mysql.liveness import COLUMNS_MAX, WatchedConnection

COM_STMT_PREPARE, COM_STMT_EXECUTE, COM_STMT_CLOSE = 0x16, 0x17, 0x19
PACKET_BYTES_MAX = 0xFFFFFF
"""A payload of exactly this many bytes is continued in the next packet."""
EOF_BYTES = 5
HEAD_OK, HEAD_EOF, HEAD_ERR = 0x00, 0xFE, 0xFF
ROW, ERR = bytes((HEAD_OK,)), bytes((HEAD_ERR,))

_COLLECT_S = 0.000_5
_METADATA_BYTES_MAX = 1024 * 1024
"""A packet that describes something is never larger; rows do not pass here."""
_SHORT_MAX = 0xFA
"""The largest length that is written in its first byte."""
_MORE_RESULTS, _CURSOR_EXISTS = 0x0008, 0x0040
_CHARSET_BINARY = 63
_FLAG_UNSIGNED = 32
_INTEGERS = frozenset((1, 2, 3, 8, 9))
"""TINY, SHORT, LONG, LONGLONG, INT24: the types whose sign is a flag."""
STRINGS = frozenset((15, 247, 248, 249, 250, 251, 252, 253, 254))
"""Everything the server sends as text or bytes with a charset: one form on the wire."""

_PREPARED = struct.Struct("<xIHHxH")
_DEFINITION = struct.Struct("<HIBHB")
_EXECUTE = struct.Struct("<IBI")
_STATEMENT = struct.Struct("<I")
_LAST_PREPARED = 0xFFFFFFFF
"""Instead of a statement's number: the one that was prepared last (MariaDB, "COM_STMT_EXECUTE")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerError:
    """What an ERR packet says."""

    errno: int
    sqlstate: str
    message: str


class StatementFailed(pymysql.err.OperationalError):
    """The server ended a statement with an ERR packet; the connection is still in step. The
    border maps it by its number, as it maps PyMySQL's own."""

    def __init__(self, server_error: ServerError, asked: Asked) -> None:
        super().__init__(server_error.errno, server_error.message)
        self.server_error, self.asked = server_error, asked


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnDefinition:
    """One column of a result set, as the server announces it."""

    name: str
    type_code: int
    flags: int
    charset: int

    @property
    def wire_type(self) -> str:
        """What a decoder must know of it."""
        return wire_type(self.type_code, self.flags, self.charset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A prepared statement of the server: how many columns and parameters it has."""

    statement_id: int
    columns: int
    parameters: int


def wire_type(type_code: int, flags: int, charset: int) -> str:
    """``<type code>[:unsigned][:binary]``: what a decoder must know of one column.

    ``unsigned`` is told of integers alone, ``binary`` (charset 63) of strings alone: the server
    sets both flags where they change nothing.
    """
    text = str(type_code)
    if type_code in _INTEGERS and flags & _FLAG_UNSIGNED:
        text += ":unsigned"
    if type_code in STRINGS and charset == _CHARSET_BINARY:
        text += ":binary"
    return text


def same_form(planned: str, sent: str) -> bool:
    """True when both are read alike: the server chooses among its string types by length."""
    if planned == sent:
        return True
    forms = [text.partition(":") for text in (planned, sent)]
    return forms[0][2] == forms[1][2] and all(
        code.isdecimal() and int(code) in STRINGS for code, _, _ in forms
    )


# ---------------------------------------------------------------- payloads


def parse_error(payload: bytes) -> ServerError:
    """The contents of an ERR packet (its first byte is 0xff). Raises MalformedData."""
    if len(payload) < 3:
        raise MalformedData(f"an error packet of {len(payload)} bytes")
    errno = int.from_bytes(payload[1:3], "little")
    rest, sqlstate = payload[3:], ""
    if rest[:1] == b"#" and len(rest) >= 6:
        sqlstate, rest = rest[1:6].decode("ascii", "replace"), rest[6:]
    return ServerError(errno=errno, sqlstate=sqlstate, message=rest.decode("utf-8", "replace"))


def check_end(payload: bytes) -> None:
    """Check an EOF packet: the result is over and nothing follows. Raises MalformedData."""
    if len(payload) != EOF_BYTES or payload[0] != HEAD_EOF:
        raise MalformedData(f"a packet of {len(payload)} bytes where the end was expected")
    status = int.from_bytes(payload[3:5], "little")
    if status & (_MORE_RESULTS | _CURSOR_EXISTS):
        raise MalformedData(f"a second result set was announced (status {status:#x})")


def parse_prepared(payload: bytes) -> Prepared:
    """COM_STMT_PREPARE_OK. Raises MalformedData."""
    if len(payload) != _PREPARED.size or payload[0] != HEAD_OK:
        raise MalformedData(f"a prepared statement's answer of {len(payload)} bytes")
    statement_id, columns, parameters, _ = _PREPARED.unpack(payload)
    if columns > COLUMNS_MAX:
        raise MalformedData(f"a prepared statement of {columns} columns")
    return Prepared(statement_id=statement_id, columns=columns, parameters=parameters)


def parse_column_count(payload: bytes) -> int:
    """The number of columns of a result set; 0 for a statement without one. MalformedData."""
    if payload[:1] == ROW:
        return 0
    # A request to upload a local file (0xfb) is no length: it is refused here, never answered.
    count, position = _lenenc(payload, 0)
    if position != len(payload) or not 1 <= count <= COLUMNS_MAX:
        raise MalformedData(f"a result set of {count} columns in {len(payload)} bytes")
    return count


def parse_definition(payload: bytes) -> ColumnDefinition:
    """Protocol::ColumnDefinition41. Raises MalformedData."""
    position, texts = 0, []
    for _ in range(6):
        length, position = _lenenc(payload, position)
        texts.append(payload[position : position + length])
        position += length  # beyond the end, the next length is refused
    fixed, position = _lenenc(payload, position)
    if fixed != 0x0C or len(payload) - position < fixed:
        raise MalformedData(f"a column definition whose fixed part has {fixed} bytes")
    charset, _, type_code, flags, _ = _DEFINITION.unpack_from(payload, position)
    name = texts[4].decode("utf-8", "replace")
    return ColumnDefinition(name=name, type_code=type_code, flags=flags, charset=charset)


def _lenenc(payload: bytes, position: int) -> tuple[int, int]:
    """A length-encoded integer and the position behind it."""
    first = payload[position] if position < len(payload) else HEAD_ERR
    if first <= _SHORT_MAX:
        return first, position + 1
    width = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(first)
    if width is None or position + 1 + width > len(payload):
        raise MalformedData(f"a length that begins with {first:#x} at position {position}")
    end = position + 1 + width
    return int.from_bytes(payload[position + 1 : end], "little"), end


# ---------------------------------------------------------------- the connection


class Channel:
    """One statement's exchange over a PyMySQL connection. Raises StatementFailed for ERR
    packets, PyMySQL's own exceptions for a lost or silent link (2013), and MalformedData.

    How long a silence may last, the connection's own file knows.
    """

    def __init__(self, connection: WatchedConnection) -> None:
        # Beyond its public face: _execute_command, _next_seq_id and, above TLS, _rfile.
        self._connection: Any = connection
        self.sequence_id = 0
        """The number the server's next packet must carry."""
        self.wire_bytes = 0

    @property
    def asked(self) -> Asked:
        """What was sent last."""
        asked: Asked = self._connection.asked
        return asked

    def send(self, command: int, payload: bytes) -> None:
        """Send one command; the answer is not read."""
        self._connection._execute_command(command, payload)
        self.sequence_id = self._connection._next_seq_id

    def packet(self) -> bytes:
        """The payload of the next packet, which must be a small one. ERR packets are raised."""
        head = self._exactly(4)
        length = int.from_bytes(head[:3], "little")
        if length > _METADATA_BYTES_MAX:
            raise MalformedData(f"a packet of {length} bytes where a description was expected")
        payload = self._exactly(length)
        check_sequence(head[3], self.sequence_id, payload[:1])
        self.sequence_id = (self.sequence_id + 1) & 0xFF
        if payload[:1] == ERR:
            raise StatementFailed(parse_error(payload), self.asked)
        return payload

    def receive_into(self, buffer: memoryview) -> int:
        """Bytes that have arrived, at least one, at most the buffer; straight from the socket
        once what the connection had read ahead is given out."""
        with self._lost():
            count: int = self._connection._rfile.readinto1(buffer)
        if count == 0:
            _lost("the server closed the connection")
        self.wire_bytes += count
        return count

    def give_back(self, data: bytes) -> None:
        """What came behind the end of an answer, and is the beginning of another one."""
        self._connection._rfile.give_back(data)
        self.wire_bytes -= len(data)

    def let_collect(self) -> None:
        """Let bytes collect before the next look: else the server wakes us for every 16 KB, which
        on a small machine costs both sides more than the rows (ADR 0015). Above TLS a read
        gives one record, however much has arrived, and says nothing about the server."""
        if not isinstance(self._connection._sock, ssl.SSLSocket):
            time.sleep(_COLLECT_S)

    def _exactly(self, count: int) -> bytes:
        with self._lost():
            data: bytes = self._connection._rfile.read(count)
        self.wire_bytes += len(data)
        if len(data) != count:
            _lost("the server closed the connection")
        return data

    @contextlib.contextmanager
    def _lost(self) -> Iterator[None]:
        if self._connection._rfile is None:
            _lost("the connection is closed")
        try:
            yield
        except (OSError, ValueError) as error:
            # ValueError: the file was closed by another thread that gave the connection up.
            _lost(f"the connection was lost: {error}")


def check_sequence(got: int, expected: int, head: bytes) -> None:
    """Raise MalformedData when a packet is not the next one. ``head`` is its first byte: an
    error that a server sends because it goes away counts anew from 0."""
    if got != expected and not (got == 0 and head == ERR):
        raise MalformedData(f"packet number {got} where {expected} was expected")


def is_farewell(behind: bytes) -> bool:
    """True for what may follow a complete result: the beginning, or all, of an ERR packet, which
    counts anew from 0: the server goes away (KILL, a shutdown, wait_timeout)."""
    number, head = behind[3:4], behind[4:5]
    return number in (b"", b"\0") and head in (b"", ERR) and behind[2:3] in (b"", b"\0")


def _lost(what: str) -> NoReturn:
    raise pymysql.err.OperationalError(CR.CR_SERVER_LOST, what) from None


def prepare(channel: Channel, sql: str) -> Prepared:
    """Prepare one statement and take its whole answer. Raises as ``Channel``."""
    channel.send(COM_STMT_PREPARE, sql.encode())
    return take_prepared(channel)


def take_prepared(channel: Channel) -> Prepared:
    """The whole answer to a statement that was sent to be prepared. Raises as ``Channel``."""
    prepared = parse_prepared(channel.packet())
    for described in (prepared.parameters, prepared.columns):
        for _ in range(described):
            parse_definition(channel.packet())
        if described:
            check_end(channel.packet())
    return prepared


def execute(channel: Channel, prepared: Prepared) -> tuple[ColumnDefinition, ...]:
    """Execute without parameters and without a cursor: all rows follow behind the definitions
    this returns (none: the statement has no result set). Raises as ``Channel``."""
    channel.send(COM_STMT_EXECUTE, _EXECUTE.pack(prepared.statement_id, 0, 1))
    return take_definitions(channel)


def take_definitions(channel: Channel) -> tuple[ColumnDefinition, ...]:
    """The beginning of the answer to a statement that was sent to be executed, as ``execute``."""
    count = parse_column_count(channel.packet())
    definitions = tuple(parse_definition(channel.packet()) for _ in range(count))
    if count:
        check_end(channel.packet())
    return definitions


def send_all(channel: Channel, statements: tuple[str, ...]) -> None:
    """Send every statement to be prepared and executed, one behind the other. No answer is read;
    each is that of ``take_prepared`` and that of ``take_definitions``, whose packets count from 1.
    """
    for sql in statements:
        channel.send(COM_STMT_PREPARE, sql.encode())
        channel.send(COM_STMT_EXECUTE, _EXECUTE.pack(_LAST_PREPARED, 0, 1))


def close(channel: Channel, prepared: Prepared) -> None:
    """Let the server forget the statement; it does not answer."""
    channel.send(COM_STMT_CLOSE, _STATEMENT.pack(prepared.statement_id))


# ------------------------------------------------------------------------------------------
# How a column travels: which wire types its kind can be read from, and where its cells end.
#
# Formats: MySQL internals manual, "Binary Protocol Value". Imports nothing that a worker with
# compiled decoders could do without.

LENGTH_ENCODED, DATE_LENGTH, TIME_LENGTH = -1, -2, -3
"""How a cell without a fixed width says its length: see ``framing``."""

BIT, _YEAR, _JSON, _DECIMALS = 16, 13, 245, (0, 246)
_DATES, _TIMES, _TIMESTAMPS = (10, 14), (11,), (7, 12)
NUMBERS = {
    "1": "i1",
    "1:unsigned": "u1",
    "2": "<i2",
    "2:unsigned": "<u2",
    "3": "<i4",
    "3:unsigned": "<u4",
    "4": "<f4",
    "5": "<f8",
    "8": "<i8",
    "8:unsigned": "<u8",
    "9": "<i4",
    "9:unsigned": "<u4",
    "13": "<u2",
}
"""Wire type → numpy type."""
_INTEGER_TYPES = tuple(wire for wire, dtype in NUMBERS.items() if "f" not in dtype)

_STRING_TYPES = tuple(f"{code}{binary}" for code in sorted(STRINGS) for binary in ("", ":binary"))
_TEXTS = (*_STRING_TYPES, str(_JSON))
_WHOLE_NUMBERS = (*_INTEGER_TYPES, str(BIT))

_WIRE_TYPES: dict[TypeKind, tuple[str, ...]] = {
    TypeKind.BOOL: _WHOLE_NUMBERS,
    TypeKind.INT16: _WHOLE_NUMBERS,
    TypeKind.INT32: _WHOLE_NUMBERS,
    TypeKind.INT64: _WHOLE_NUMBERS,
    TypeKind.UINT64: _WHOLE_NUMBERS,
    TypeKind.FLOAT32: ("4", "5"),
    TypeKind.FLOAT64: ("4", "5"),
    TypeKind.DECIMAL: tuple(map(str, _DECIMALS)),
    TypeKind.DATE: tuple(map(str, _DATES)),
    TypeKind.TIME: tuple(map(str, _TIMES)),
    TypeKind.TIMESTAMP: tuple(map(str, _TIMESTAMPS)),
    TypeKind.TIMESTAMP_UTC: tuple(map(str, _TIMESTAMPS)),
    TypeKind.STRING: _TEXTS,
    TypeKind.ENUM: _TEXTS,
    TypeKind.JSON: _TEXTS,
    TypeKind.BINARY: (*_TEXTS, str(BIT), "255"),
    TypeKind.UUID: _STRING_TYPES,
}
"""Kind → the wire types it can be read from. A double read as float32 is rounded: the plan calls
that override lossy."""


def framing(column: ColumnSpec) -> int:
    """How a cell of this column is delimited: its width in bytes, or LENGTH_ENCODED, or one byte
    that says 0, 4, 7 or 11 (DATE_LENGTH), or 0, 8 or 12 (TIME_LENGTH). Raises UnsupportedType
    when the column's planned type cannot be read from its wire type."""
    code, _, _ = column.wire_type.partition(":")
    kind = column.type.kind
    if column.wire_type not in _WIRE_TYPES.get(kind, ()):
        raise UnsupportedType(
            f"column {column.name} ({column.native_type}): {kind.value} cannot be read from wire "
            f"type {column.wire_type!r}",
            hint="plan the export again, or choose another type in `columns:`",
        )
    if column.wire_type in NUMBERS:
        return int(NUMBERS[column.wire_type][-1])
    if int(code) in _DATES + _TIMESTAMPS:
        return DATE_LENGTH
    return TIME_LENGTH if int(code) in _TIMES else LENGTH_ENCODED
