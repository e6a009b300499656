"""The receiver of COPY messages: what it must take, and what it must refuse, byte by byte."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import psycopg
import pytest

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.errors import MalformedData, ValueTooLarge
from rivet_fleet.execution.sources.postgres.copyreceive import SocketReceiver
from rivet_fleet.execution.sources.postgres.copyrows import CompiledDecoder
from rivet_fleet.execution.sources.postgres.exchange import Pulled, reported_error
from tests.fuzz.decoders import copy_answer, message
from tests.property.copy_rows import HEADER, TRAILER

COLUMNS = (
    ColumnSpec(
        name="t",
        native_type="text",
        type=ColumnType(kind=TypeKind.STRING),
        wire_type="25",
        nullable=False,
    ),
)
BLOCK_BYTES = 256 * 1024


def row(text: str) -> bytes:
    body = text.encode()
    return struct.pack(">hi", 1, len(body)) + body


def rows(*texts: str) -> bytes:
    return HEADER + b"".join(map(row, texts)) + TRAILER


class Wire:
    """A server's end of a connection, and a receiver at the other."""

    def __init__(self, *, max_value_bytes: int = 4 * 1024 * 1024) -> None:
        self.server, self.client = socket.socketpair()
        self.decoder = CompiledDecoder(COLUMNS, max_value_bytes=max_value_bytes)
        self.receiver = SocketReceiver(self.decoder)

    def pull(self) -> Pulled:
        return Pulled(self.receiver.pull(self.client.fileno(), BLOCK_BYTES)[1])

    def texts(self) -> list[str]:
        self.decoder.finish()
        return self.decoder.take().column(0).to_pylist()


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    with wire.server, wire.client:
        yield wire


def test_an_answer_cut_anywhere_gives_its_rows() -> None:
    answer = copy_answer(rows("one", "", "drei"), cuts=(len(HEADER), len(HEADER) + 9))
    for cut in range(1, len(answer)):
        wire = Wire()
        with wire.server, wire.client:
            wire.server.sendall(answer[:cut])
            wire.receiver.pull(wire.client.fileno(), cut)
            wire.server.sendall(answer[cut:])
            assert wire.pull() is Pulled.END
            assert wire.texts() == ["one", "", "drei"]
            assert (wire.receiver.copies, wire.receiver.status) == (1, b"I")


def test_what_a_server_says_unasked_is_passed_over(wire) -> None:
    said = message(b"N", b"SNOTICE\0\0") + message(b"S", b"TimeZone\0UTC\0") + message(b"A", b"x")
    wire.server.sendall(said + copy_answer(rows("one")) + said)
    assert wire.pull() is Pulled.END
    assert wire.texts() == ["one"]


def test_nothing_is_left_half_read_for_libpq(wire) -> None:
    late = message(b"S", b"TimeZone\0UTC\0")
    wire.server.sendall(copy_answer(rows("one")) + late[:7])
    assert wire.pull() is Pulled.WAIT
    wire.server.sendall(late[7:])
    assert wire.pull() is Pulled.END


def test_a_row_larger_than_the_buffer_arrives(wire) -> None:
    texts = ["a", "x" * 700_000, "b"]
    bodies = [HEADER + row("a"), row(texts[1]), row("b"), TRAILER]
    answer = message(b"H", b"\1\0\0") + b"".join(message(b"d", body) for body in bodies)
    answer += message(b"c") + message(b"C", b"COPY 3\0") + message(b"Z", b"I")
    why, sent = Pulled.BLOCK, 0
    while why is not Pulled.END:
        sent += wire.server.send(answer[sent : sent + 100_000])
        why = wire.pull()
    assert wire.texts() == texts


def test_a_value_too_large_is_refused_before_it_has_arrived() -> None:
    wire = Wire(max_value_bytes=1000)
    with wire.server, wire.client:
        huge = message(b"d", row("x" * 50_000_000))
        wire.server.sendall(message(b"H", b"\1\0\0") + message(b"d", HEADER) + huge[:10_000])
        with pytest.raises(ValueTooLarge):
            wire.pull()


def test_an_error_is_kept_and_the_answer_taken_to_its_end(wire) -> None:
    error = b"SERROR\0VERROR\0C57014\0Mcanceling statement\0DIt took long.\0\0"
    wire.server.sendall(message(b"H", b"\1\0\0") + message(b"E", error) + message(b"Z", b"E"))
    assert wire.pull() is Pulled.END
    found = reported_error(wire.receiver.error or b"")
    assert isinstance(found, psycopg.errors.QueryCanceled)
    assert (found.sqlstate, str(found)) == ("57014", "canceling statement\nIt took long.")
    assert found.diag.message_primary == "canceling statement"


def test_the_last_word_of_a_server_that_goes_away_is_kept(wire) -> None:
    wire.server.sendall(message(b"E", b"SFATAL\0C57P01\0Mterminating connection\0\0"))
    wire.server.close()
    assert wire.pull() is Pulled.LOST
    assert isinstance(reported_error(wire.receiver.error or b""), psycopg.errors.AdminShutdown)


FAREWELL = message(b"E", b"SFATAL\0VFATAL\0C57P05\0Mterminating connection\0\0")


@pytest.mark.parametrize("between", [b"", message(b"N", b"SNOTICE\0\0") + message(b"A", b"x")])
def test_a_farewell_behind_the_answer_takes_nothing_from_it(between: bytes) -> None:
    """Wherever the bytes are cut, and even when the last of them never come."""
    answer = copy_answer(rows("one", "two"))
    whole = answer + between + FAREWELL
    for cut in range(len(answer), len(whole) + 1):
        wire = Wire()
        with wire.server, wire.client:
            wire.server.sendall(whole[:cut])
            wire.server.close()
            assert wire.pull() is Pulled.END
            assert wire.texts() == ["one", "two"]
            assert wire.receiver.error is None


def test_the_farewell_says_that_the_connection_is_gone(wire) -> None:
    wire.server.sendall(copy_answer(rows("one")) + FAREWELL)
    assert wire.pull() is Pulled.END
    assert wire.receiver.farewell is not None
    wire = Wire()
    with wire.server, wire.client:
        wire.server.sendall(copy_answer(rows("one")))
        assert wire.pull() is Pulled.END and wire.receiver.farewell is None


def test_a_farewell_before_the_answer_is_whole_is_an_error(wire) -> None:
    """BEGIN and the rows are there, COMMIT's answer is not: nothing was promised yet."""
    answer = copy_answer(rows("one"))
    wire.server.sendall(answer[: answer.rindex(b"Z")] + FAREWELL)
    wire.server.close()
    assert wire.pull() is Pulled.LOST
    assert isinstance(reported_error(wire.receiver.error or b""), psycopg.errors.IdleSessionTimeout)


def test_an_error_code_nobody_knows_is_an_error_all_the_same() -> None:
    found = reported_error(b"SERROR\0CXX999\0Mstrange\0\0")
    assert (type(found), found.sqlstate) == (psycopg.DatabaseError, "XX999")
    with pytest.raises(MalformedData):
        reported_error(b"SERROR\0\0")


@pytest.mark.parametrize(
    "sent",
    [
        message(b"d", HEADER),  # rows before the COPY began
        message(b"T", b"\0\0"),  # rows of another kind
        b"H" + struct.pack(">I", 3),  # a length that does not count itself
        b"N" + struct.pack(">I", 0x7FFFFFFF),
        b"\0" * 5,
        copy_answer(rows("one")) + message(b"C", b"COPY 1\0"),  # a second answer
    ],
)
def test_what_has_no_place_in_a_copy_is_refused(wire, sent: bytes) -> None:
    wire.server.sendall(sent)
    with pytest.raises(MalformedData):
        wire.pull()


def test_a_large_message_that_is_no_row_is_read_whole(wire) -> None:
    error = b"SERROR\0C22P02\0M" + b"x" * 500_000 + b"\0\0"
    answer, sent, why = message(b"E", error) + message(b"Z", b"I"), 0, Pulled.BLOCK
    while why is not Pulled.END:
        sent += wire.server.send(answer[sent : sent + 100_000])
        why = wire.pull()
    assert wire.receiver.error == error
