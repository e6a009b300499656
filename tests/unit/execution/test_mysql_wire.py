"""Packets of prepared statements: what is sent, what is understood, what is refused."""

from __future__ import annotations

import io
import socket
import struct
from typing import Any

import pymysql
import pytest

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.errors import MalformedData, SchemaDrift, SourceRefused, UnsupportedType
from rivet_fleet.execution.sources.mysql import wire
from rivet_fleet.execution.sources.mysql.border import Asked
from rivet_fleet.execution.sources.mysql.decoder import compiled_decoder
from rivet_fleet.execution.sources.mysql.liveness import Bounds, PatientFile
from rivet_fleet.execution.sources.mysql.reference import ReferenceDecoder
from rivet_fleet.execution.sources.mysql.stream import check_definitions
from rivet_fleet.execution.sources.mysql.wire import framing
from tests.property.mysql_rows import end_of_rows, lenenc, packets, row, server_error


class Script:
    """What a server has sent, and a record of what it was told; the attributes of a PyMySQL
    connection that ``Channel`` uses."""

    silence_s_max = 1.0
    liveness = None
    asked = Asked(text="SELECT 1")

    def __init__(self, sent: bytes) -> None:
        self.bounds = Bounds()
        self.bounds.begin(1 << 20, None)
        self._rfile: Any = io.BufferedReader(io.BytesIO(sent))
        self._next_seq_id = 0
        self.told: list[tuple[int, bytes]] = []

    def _execute_command(self, command: int, payload: bytes) -> None:
        self.told.append((command, payload))
        self._next_seq_id = 1


def channel(sent: bytes, *, sequence_id: int = 1) -> wire.Channel:
    made = wire.Channel(Script(sent))  # type: ignore[arg-type]
    made.sequence_id = sequence_id
    return made


def definition(name: str, type_code: int, flags: int = 0, charset: int = 45) -> bytes:
    texts = (b"def", b"db", b"t", b"t", name.encode(), b"x")
    fixed = struct.pack("<HIBHBxx", charset, 80, type_code, flags, 0)
    return b"".join(map(lenenc, texts)) + b"\x0c" + fixed


def prepared(columns: int, parameters: int = 0) -> bytes:
    return struct.pack("<BIHHxH", 0, 77, columns, parameters, 0)


def test_prepare_execute_and_close_speak_the_protocol() -> None:
    both = (definition("a", 3), definition("b", 253))
    answer = packets((prepared(2), *both, end_of_rows()), 1)
    answer += packets((b"\2", *both, end_of_rows()), 1)
    script = Script(answer)
    link = wire.Channel(script)  # type: ignore[arg-type]
    statement = wire.prepare(link, "SELECT 'é'")
    assert statement == wire.Prepared(statement_id=77, columns=2, parameters=0)
    names = [each.name for each in wire.execute(link, statement)]
    wire.close(link, statement)
    assert names == ["a", "b"] and link.wire_bytes == len(answer)
    assert script.told == [
        (0x16, "SELECT 'é'".encode()),
        (0x17, struct.pack("<IBI", 77, 0, 1)),
        (0x19, struct.pack("<I", 77)),
    ]


def test_definitions_of_parameters_are_taken_before_those_of_columns() -> None:
    answer = (prepared(1, 2), *[definition("?", 253)] * 2, end_of_rows(), definition("a", 3))
    sent = packets((*answer, end_of_rows()), 1)
    link = channel(sent)
    assert wire.prepare(link, "SELECT ?").parameters == 2
    assert link.wire_bytes == len(sent)


def test_what_the_connection_had_read_ahead_comes_first() -> None:
    """Rows may already lie in PyMySQL's own buffer, behind the definitions."""
    answer = packets((b"\1", definition("a", 3), end_of_rows()), 1) + b"rows"
    ours, servers = socket.socketpair()
    with ours, servers:
        servers.sendall(answer)
        script = Script(b"")
        script._rfile = PatientFile(script, ours)  # type: ignore[arg-type]
        link = wire.Channel(script)  # type: ignore[arg-type]
        wire.execute(link, wire.Prepared(statement_id=1, columns=1, parameters=0))
        for room, expected in ((3, b"row"), (1 << 20, b"s")):
            buffer = memoryview(bytearray(room))
            assert bytes(buffer[: link.receive_into(buffer)]) == expected


def test_the_end_of_the_stream_is_a_lost_connection() -> None:
    with pytest.raises(pymysql.OperationalError) as lost:
        channel(b"").receive_into(memoryview(bytearray(9)))
    assert lost.value.args[0] == 2013


def test_an_error_packet_carries_number_state_and_text() -> None:
    with pytest.raises(wire.StatementFailed) as failed:
        channel(packets((server_error(1295, "nicht möglich", "HY000"),), 1)).packet()
    assert failed.value.server_error == wire.ServerError(
        errno=1295, sqlstate="HY000", message="nicht möglich"
    )
    assert failed.value.args == (1295, "nicht möglich")


def test_a_server_that_goes_away_may_count_its_error_from_zero() -> None:
    with pytest.raises(wire.StatementFailed):
        channel(packets((server_error(1053, "shutdown"),), 0), sequence_id=9).packet()


@pytest.mark.parametrize(
    ("payload", "errno", "message"),
    [
        (b"\xff\x15\x04", 1045, ""),
        (b"\xff\x15\x04no state", 1045, "no state"),
        (b"\xff\xff\xff#4200", 65535, "#4200"),
        (b"\xff\x15\x04#42000\xff\xfe", 1045, "\ufffd\ufffd"),
    ],
)
def test_odd_error_packets_are_understood(payload, errno, message) -> None:
    error = wire.parse_error(payload)
    assert (error.errno, error.message) == (errno, message)


@pytest.mark.parametrize(
    "sent",
    [
        packets((b"\0" * 12,), 2),  # number 2 where 1 is due
        packets((b"\0" * 11,), 1),
        packets((b"\0" * 13,), 1),
        packets((b"\1" + b"\0" * 11,), 1),
        b"\xff\xff\xff\1" + bytes(100),  # sixteen megabytes of description
        packets((prepared(1), b"short", end_of_rows()), 1),
        packets((prepared(1), definition("a", 3)[:-4], end_of_rows()), 1),
        packets((prepared(1), b"\xfe" + b"\xff" * 8, end_of_rows()), 1),
        packets((prepared(1), definition("a", 3), definition("b", 3)), 1),
        packets((b"\xff\0",), 1),
        packets((b"",), 1),
    ],
)
def test_an_answer_against_the_format_is_malformed(sent) -> None:
    link = wire.Channel(Script(sent))  # type: ignore[arg-type]
    with pytest.raises(MalformedData):
        wire.prepare(link, "SELECT 1")


def test_every_truncated_answer_is_a_lost_connection() -> None:
    whole = packets((prepared(1), definition("a", 3), end_of_rows()), 1)
    for length in range(len(whole)):
        link = wire.Channel(Script(whole[:length]))  # type: ignore[arg-type]
        with pytest.raises(pymysql.OperationalError) as lost:
            wire.prepare(link, "SELECT 1")
        assert lost.value.args[0] == 2013


def test_a_closed_connection_is_a_lost_one() -> None:
    script = Script(b"")
    script._rfile = None
    with pytest.raises(pymysql.OperationalError):
        wire.Channel(script).packet()  # type: ignore[arg-type]


@pytest.mark.parametrize("payload", [b"", b"\xfb/etc/passwd", b"\xfd\0\0\1", b"\xfc\0\0", b"\3\0"])
def test_no_result_set_is_understood_where_there_is_none(payload) -> None:
    with pytest.raises(MalformedData):
        wire.parse_column_count(payload)


def test_a_statement_without_a_result_has_no_columns() -> None:
    assert wire.parse_column_count(b"\0\0\0\2\0\0\0") == 0


@pytest.mark.parametrize("status", [0x0008, 0x0040, 0x004A])
def test_a_second_result_or_a_cursor_is_refused(status) -> None:
    wire.check_end(end_of_rows(0x0022))
    with pytest.raises(MalformedData, match="second result"):
        wire.check_end(end_of_rows(status))


@pytest.mark.parametrize(
    ("type_code", "flags", "charset", "expected"),
    [
        (3, 0, 63, "3"),
        (3, 32, 63, "3:unsigned"),
        (13, 96, 63, "13"),
        (246, 32, 63, "246"),
        (7, 160, 63, "7"),
        (253, 0, 45, "253"),
        (252, 144, 63, "252:binary"),
        (245, 128, 63, "245"),
    ],
)
def test_the_wire_type_holds_what_reading_needs(type_code, flags, charset, expected) -> None:
    assert wire.wire_type(type_code, flags, charset) == expected


@pytest.mark.parametrize(
    ("planned", "sent", "alike"),
    [
        ("253", "252", True),
        ("254:binary", "253:binary", True),
        ("253", "253:binary", False),
        ("3", "3:unsigned", False),
        ("3", "8", False),
        ("12", "7", False),
        ("252", "245", False),
        ("", "253", False),
        ("text", "253", False),
    ],
)
def test_only_the_choice_among_string_types_is_the_servers(planned, sent, alike) -> None:
    assert wire.same_form(planned, sent) is alike


def spec(name: str, kind: TypeKind, wire_type: str) -> ColumnSpec:
    return ColumnSpec(name=name, native_type="x", type=ColumnType(kind=kind), wire_type=wire_type)


def sends(*wire_types: int) -> tuple[wire.ColumnDefinition, ...]:
    return tuple(
        wire.ColumnDefinition(name="a", type_code=code, flags=0, charset=45) for code in wire_types
    )


def test_another_shape_than_the_planned_one_is_drift() -> None:
    columns = (spec("a", TypeKind.INT32, "3"), spec("b", TypeKind.STRING, "253"))
    check_definitions(sends(3, 252), columns)
    with pytest.raises(SchemaDrift, match=r"column a was planned as x \(wire type 3\)"):
        check_definitions(sends(8, 253), columns)
    with pytest.raises(SchemaDrift, match="3 columns, planned were 2"):
        check_definitions(sends(3, 253, 3), columns)
    with pytest.raises(SourceRefused, match="no result"):
        check_definitions((), columns)


@pytest.mark.parametrize(
    ("kind", "wire_type"),
    [
        (TypeKind.DATE, "12"),
        (TypeKind.INT32, "5"),
        (TypeKind.STRING, "3"),
        (TypeKind.INTERVAL, "253"),
        (TypeKind.STRING, "6"),
        (TypeKind.TIME, ""),
        (TypeKind.INT64, "999"),
    ],
)
def test_a_type_that_cannot_be_read_is_refused_before_the_first_row(kind, wire_type) -> None:
    with pytest.raises(UnsupportedType, match="column c"):
        framing(spec("c", kind, wire_type))


# ---------------------------------------------------------------- the decoder's frame

NUMBERS = (spec("a", TypeKind.INT32, "3"),)
ONE = row((struct.pack("<i", 1),))


def fed(*payloads: bytes, sequence_id: int = 4, tail: bytes = b"") -> ReferenceDecoder:
    decoder = ReferenceDecoder(NUMBERS, max_value_bytes=100)
    decoder.feed(packets(payloads, sequence_id) + tail)
    return decoder


def test_the_end_is_seen_with_its_last_byte() -> None:
    decoder = ReferenceDecoder(NUMBERS, max_value_bytes=100)
    data = packets((ONE, end_of_rows()), 4)
    for byte in data[:-1]:
        decoder.feed(bytes((byte,)))
        assert not decoder.ended
    with pytest.raises(MalformedData, match="ended in the middle, at offset"):
        decoder.finish()
    decoder.feed(data[-1:])
    assert decoder.ended and decoder.rows_ready == 1
    decoder.finish()


def test_an_error_in_the_middle_of_the_rows_is_kept_with_them() -> None:
    decoder = fed(ONE, server_error(1317, "interrupted", "70100"))
    assert decoder.ended and decoder.rows_ready == 1
    assert decoder.error == wire.ServerError(errno=1317, sqlstate="70100", message="interrupted")


@pytest.mark.parametrize("kind", [ReferenceDecoder, compiled_decoder()])
def test_a_farewell_behind_the_result_takes_nothing_from_it(kind) -> None:
    """Wherever the bytes are cut, in one block or in two."""
    assert kind is not None
    result = packets((ONE, end_of_rows()), 4)
    whole = result + packets((server_error(1927, "Connection was killed", "70100"),), 0)
    for cut in range(len(result), len(whole) + 1):
        for first in (1, cut):
            decoder = kind(NUMBERS, max_value_bytes=100)
            for block in (whole[:first], whole[first:cut]):
                decoder.feed(block)
            decoder.finish()
            assert decoder.take().num_rows == 1 and decoder.error is None
            assert decoder.parted == (cut > len(result))


def test_sequence_numbers_wrap_around() -> None:
    assert fed(*[ONE] * 600, end_of_rows()).take().num_rows == 600


@pytest.mark.parametrize(
    "build",
    [
        lambda: fed(ONE, sequence_id=5),
        lambda: fed(ONE, end_of_rows(), tail=b"\0\0\1"),
        lambda: fed(ONE, end_of_rows(), tail=packets((server_error(1, "x", "HY000"),), 6)),
        lambda: fed(ONE, end_of_rows(), tail=packets((ONE,), 6)),
        lambda: fed(b"\1" + ONE[1:]),
        lambda: fed(b""),
        lambda: fed(b"\xfe"),
        lambda: fed(b"\xfe" + bytes(12)),
        lambda: fed(end_of_rows(0x0008)),
        lambda: fed(b"\xff"),
        lambda: fed(ONE + b"x").take(),
        lambda: fed(ONE[:-1]).take(),
        lambda: fed(b"\0").take(),
    ],
)
def test_packets_against_the_format_are_malformed(build) -> None:
    with pytest.raises(MalformedData):
        build()
