"""What a server may say in the middle of a page: plain, encrypted, without a compiled decoder."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import RetryClass, SourceError, SourceUnavailable, StatementTimeout
from rivet_fleet.execution.sources.postgres.cursorstream import CursorStream
from rivet_fleet.execution.sources.postgres.decoder import DECODERS
from rivet_fleet.execution.sources.postgres.exchange import CopyStream
from rivet_fleet.execution.sources.postgres.reference import ReferenceDecoder
from rivet_fleet.execution.sources.postgres.session import Session
from tests.property.copy_rows import HEADER, TRAILER
from tests.rogue.postgres_server import Script, done, message, ready, status
from tests.rogue.tcp import Gone, Peer, rogue
from tests.servers.tls import TlsFront, certificate

COLUMNS = (
    ColumnSpec(
        name="t",
        native_type="text",
        type=ColumnType(kind=TypeKind.STRING),
        wire_type="25",
        nullable=False,
    ),
)
LIMIT_S = 5.0
WAYS = ("plain", "encrypted", "reference")


def row(text: str) -> bytes:
    body = text.encode()
    return struct.pack(">hi", 1, len(body)) + body


def rows(*texts: str) -> list[bytes]:
    """The bodies of a COPY's messages."""
    return [HEADER + row(texts[0]), *map(row, texts[1:]), TRAILER]


BEGINS = done(b"BEGIN") + done(b"SET") + message(b"H", b"\1\0\1\0\1")
ENDS = message(b"c") + done(b"COPY 1") + done(b"COMMIT") + ready()
UNASKED = (
    message(b"N", b"SNOTICE\0VNOTICE\0C00000\0Mlook\0\0")
    + status(b"TimeZone", b"UTC")
    + message(b"A", b"\0\0\0\7a\0b\0")
)


def answer(bodies: Sequence[bytes], between: bytes = b"") -> bytes:
    """What a server says to a page of these messages, with something ``between`` each."""
    said = [BEGINS, *(message(b"d", body) for body in bodies), ENDS]
    return between.join(said)


def error(code: bytes, text: bytes = b"so it is", severity: bytes = b"FATAL") -> bytes:
    fields = b"S" + severity + b"\0V" + severity + b"\0C" + code + b"\0M" + text + b"\0\0"
    return message(b"E", fields)


class Pages(Script):
    """An ordinary session whose pages are answered with these bytes, one after the other; at None
    it goes, and what is said in pieces comes in as many packets."""

    def __init__(self, *said: bytes | tuple[bytes, ...] | None) -> None:
        super().__init__("", lambda _: None)
        self.said = list(said)

    def _query(self, peer: Peer, sql: bytes) -> None:
        if b"COPY" not in sql and b"FETCH" not in sql:
            super()._query(peer, sql)
            return
        peer.link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        said = self.said.pop(0)
        for piece in said if isinstance(said, tuple) else (said,):
            if piece is None:
                raise Gone
            peer.say(piece)
        if self.said and self.said[0] is None:
            self.said.pop(0)
            raise Gone


class Reader:
    """Our side of one session."""

    def __init__(self, session: Session, *, slowly: bool) -> None:
        self.session, self._slowly = session, slowly

    def open(self) -> CopyStream:
        decoder = (
            ReferenceDecoder(COLUMNS, max_value_bytes=8 << 20)
            if self._slowly
            else DECODERS.open(COLUMNS, max_value_bytes=8 << 20, coerce=False)
        )
        tuning = TuningPlan(statement_timeout_s=LIMIT_S)
        return CopyStream(self.session, "COPY (SELECT t) TO STDOUT", (), tuning, decoder)

    def fetch(self) -> CursorStream:
        """A cursor's pages."""
        decoder = self.open()._decoder
        tuning = TuningPlan(statement_timeout_s=LIMIT_S)
        return CursorStream(self.session, "SELECT t", (), tuning, decoder)

    def texts(self) -> list[str]:
        """Of one page, read to its end."""
        stream = self.open()
        stream.receive(rows_max=None, bytes_max=None)
        found: list[str] = stream.take().column(0).to_pylist()
        return found


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def reading(way: str, pem: Path, script: Pages) -> Iterator[Reader]:
    with rogue(script) as server:
        front = TlsFront(("127.0.0.1", server.port), pem) if way == "encrypted" else None
        port = front.port if front is not None else server.port
        session = Session(
            parse_database_url(f"postgresql://reader@127.0.0.1:{port}/shop"),
            tls_mode="disable" if front is None else "require",
            tls_ca_file=None,
            application_name="t",
        )
        with closing(session):
            yield Reader(session, slowly=way == "reference")
            encrypted = session.connection.pgconn.ssl_in_use
            assert encrypted == (front is not None)
        if front is not None:
            front.close()


def test_an_answer_cut_anywhere_gives_its_rows(way: str, pem: Path) -> None:
    whole = answer(rows("one", "", "drei"))
    cuts = range(1, len(whole), 3)
    for reader in reading(way, pem, Pages(*((whole[:at], whole[at:]) for at in cuts))):
        for _ in cuts:
            assert reader.texts() == ["one", "", "drei"]


def test_what_a_server_says_unasked_is_passed_over(way: str, pem: Path) -> None:
    """Before, between and behind the rows; and the next page finds nothing left of it."""
    said = UNASKED + answer(rows("one", "two"), UNASKED) + UNASKED
    for reader in reading(way, pem, Pages(said, said, answer(rows("three")))):
        assert [reader.texts() for _ in range(3)] == [["one", "two"], ["one", "two"], ["three"]]


def test_a_row_is_counted_as_it_comes_and_once(way: str, pem: Path) -> None:
    texts = ["a", "x" * 3_000_000, "b"]
    bodies = rows(*texts)
    whole = answer(bodies)
    pieces = tuple(whole[at : at + 100_000] for at in range(0, len(whole), 100_000))
    for reader in reading(way, pem, Pages(pieces)):
        stream = reader.open()
        while not stream.ended:
            stream.receive(rows_max=None, bytes_max=64 * 1024)
        assert stream.take().column(0).to_pylist() == texts
        assert stream.wire_bytes == sum(map(len, bodies))


def test_enough_of_a_row_is_had_before_it_has_arrived(way: str, pem: Path) -> None:
    """What is announced as 50 MB, and never comes whole, ends at what a reader may take of it."""
    huge = message(b"d", row("x" * 50_000_000))[:20_000_000]
    for reader in reading(way, pem, Pages(BEGINS + message(b"d", HEADER) + huge)):
        stream = reader.open()
        stream.receive(rows_max=1, bytes_max=4_000_000)
        assert (stream.ended, stream.rows_ready) == (False, 0)
        assert stream.wire_bytes > 4_000_000
        stream.abandon()


def test_an_error_among_the_rows_or_behind_them_is_the_answer(way: str, pem: Path) -> None:
    begun = BEGINS + message(b"d", HEADER + row("one"))
    late = error(b"57014", b"canceling statement due to statement timeout", b"ERROR") + ready()
    behind = begun + message(b"d", TRAILER) + message(b"c") + done(b"COPY 1") + late
    for reader in reading(way, pem, Pages(begun + late, behind, answer(rows("one")))):
        for _ in range(2):
            with pytest.raises(StatementTimeout):
                reader.texts()
        assert reader.texts() == ["one"]


@pytest.mark.parametrize(
    "said",
    [
        BEGINS + message(b"d", HEADER + row("a row that is cut"))[:-5],
        BEGINS + message(b"d", HEADER + row("one")) + error(b"57P01"),
        # COMMIT was not answered: nothing was promised yet.
        answer(rows("one"))[: -len(ready())] + error(b"57P05"),
    ],
    ids=["in a row", "among the rows", "before the answer is whole"],
)
def test_a_server_that_goes_before_its_answer_is_whole(way: str, pem: Path, said: bytes) -> None:
    for reader in reading(way, pem, Pages(said, None, answer(rows("one")))):
        with pytest.raises(SourceUnavailable) as caught:
            reader.texts()
        assert caught.value.retry is RetryClass.RECONNECT
        assert reader.texts() == ["one"]


def test_a_farewell_behind_the_answer_takes_nothing_from_it(way: str, pem: Path) -> None:
    """Whole or cut off; libpq keeps it for the next query, which fails as it would have anyway."""
    whole, farewell = answer(rows("one", "two")), error(b"57P05")
    said = (whole + farewell, whole + UNASKED + farewell, whole + farewell[:9])
    for reader in reading(way, pem, Pages(*(one for each in said for one in (each, None)))):
        for _ in said:
            assert reader.texts() == ["one", "two"]
            with pytest.raises(SourceUnavailable) as caught:
                reader.texts()
            assert caught.value.retry is RetryClass.RECONNECT
        reader.session.connection.close()


@pytest.mark.parametrize(
    "said",
    [
        message(b"d", HEADER) + ready(),  # rows before the COPY began
        message(b"T", b"\0\0") + ready(),  # rows of another kind
        answer(rows("one"))[: -len(ready())] + BEGINS + message(b"d", TRAILER) + ENDS,
    ],
)
def test_what_has_no_place_in_a_page_is_no_page(way: str, pem: Path, said: bytes) -> None:
    for reader in reading(way, pem, Pages(said, answer(rows("one")))):
        with pytest.raises(SourceError):
            reader.texts()
        assert reader.texts() == ["one"]


# ---------------------------------------------------------------- the same of a cursor's FETCH

HEAD = message(b"T", b"\0\1t\0" + struct.pack(">IhIhih", 0, 0, 25, -1, -1, 1))


def fetched(*texts: str, between: bytes = b"") -> bytes:
    """What a server says to a FETCH: these rows."""
    said = [HEAD, *(message(b"D", row(text)) for text in texts), done(b"FETCH"), ready(b"T")]
    return between.join(said)


def test_what_is_said_between_a_cursors_rows_is_passed_over(way: str, pem: Path) -> None:
    first, rest = fetched("one", "", between=UNASKED), fetched("drei", between=UNASKED)
    for reader in reading(way, pem, Pages(UNASKED + first + UNASKED, rest)):
        stream = reader.fetch()
        stream.receive(rows_max=2, bytes_max=None)
        assert (stream.take().column(0).to_pylist(), stream.ended) == (["one", ""], False)
        stream.receive(rows_max=2, bytes_max=None)
        assert (stream.take().column(0).to_pylist(), stream.ended) == (["drei"], True)
        assert stream.wire_bytes == sum(len(row(text)) for text in ("one", "", "drei"))


def test_enough_of_a_cursors_row_is_had_before_it_has_arrived(way: str, pem: Path) -> None:
    huge = message(b"D", row("x" * 50_000_000))[:20_000_000]
    for reader in reading(way, pem, Pages(HEAD + huge)):
        stream = reader.fetch()
        stream.receive(rows_max=1, bytes_max=4_000_000)
        assert (stream.ended, stream.rows_ready) == (False, 0)
        assert stream.wire_bytes > 4_000_000
        stream.abandon()


def test_a_cursor_that_ends_early_is_an_error(way: str, pem: Path) -> None:
    late = error(b"57014", b"canceling statement due to statement timeout", b"ERROR") + ready(b"E")
    begun = HEAD + message(b"D", row("one"))
    said = (begun + late, begun + message(b"D", row("cut"))[:-2], None, fetched("one"))
    for reader in reading(way, pem, Pages(*said)):
        for kind in (StatementTimeout, SourceUnavailable):
            with pytest.raises(kind):
                reader.fetch().receive(rows_max=9, bytes_max=None)
        stream = reader.fetch()
        stream.receive(rows_max=9, bytes_max=None)
        assert stream.take().column(0).to_pylist() == ["one"]
