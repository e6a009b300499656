"""A server that means harm, MySQL's protocol: every phase of a session, every message.

Each ends within its time and its memory, by a named error, after one connection, and tells nobody
the password.
"""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from pymysql import OperationalError

from rivet_fleet.contracts import clock
from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import RivetFleetError, SourceError, ValueTooLarge
from rivet_fleet.execution.engines import session as frame
from rivet_fleet.execution.sources.mysql import liveness
from rivet_fleet.execution.sources.mysql import session as sessions
from rivet_fleet.execution.sources.mysql.decoder import compiled_decoder
from rivet_fleet.execution.sources.mysql.liveness import COLUMNS_MAX, Bounds
from rivet_fleet.execution.sources.mysql.session import Session
from rivet_fleet.execution.sources.mysql.stream import StatementStream
from tests.rogue.mysql_server import (
    EOF,
    MESSAGES,
    OK,
    PHASES,
    Script,
    Wire,
    definition,
    lenenc,
    rows,
)
from tests.rogue.tcp import Memory, rogue

PASSWORD = "S3cretPassw0rd"
SILENCE_S = 0.4
ROW_BYTES_MAX = 2 * 1024 * 1024
NEVER_MET = "the phase was never met"
ENDS_WITHIN_S = 20.0
ANSWER_BYTES_MAX = 1024 * 1024
"""Little, so that every flood is read to the end of its allowance soon."""
GROWN_MB_MAX = 100
ID = ColumnSpec(
    name="id",
    native_type="bigint",
    type=ColumnType(kind=TypeKind.INT64),
    nullable=False,
    wire_type="8",
)
FLOODS = frozenset(name for name in MESSAGES if "without end" in name or "MB" in name)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "CONNECT_TIMEOUT_S", 2 * SILENCE_S)
    monkeypatch.setattr(frame, "SILENCE_GRACE_S", 0.0)
    monkeypatch.setattr(liveness, "ANSWER_BYTES_MAX", ANSWER_BYTES_MAX)


def session(port: int, most: int | None = None) -> Session:
    url = parse_database_url(f"mysql://reader:{PASSWORD}@127.0.0.1:{port}/shop")
    more = {"tls_mode": "disable", "tls_ca_file": None, "application_name": "t"}
    return Session(url, answer_bytes_max=most, **more)  # type: ignore[arg-type]


def use(opened: Session) -> None:
    """Everything that a session is used for: a question, a ping, a page."""
    with opened.reading((), doing="asking", timeout_s=SILENCE_S) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT anything")
            cursor.fetchall()
        connection.ping()
    decoder = compiled_decoder()
    assert decoder is not None
    tuning = TuningPlan(statement_timeout_s=SILENCE_S)
    rows = decoder((ID,), max_value_bytes=1000, coerce=False, packed=False)
    stream = StatementStream(opened, "SELECT id", (ID,), (), tuning, rows)
    try:
        stream.receive(rows_max=10, bytes_max=ROW_BYTES_MAX)
        if not stream.ended and not stream.rows_ready:
            raise ValueTooLarge("as a chunk's reader says of a row that does not end")
    finally:
        stream.abandon()


def meet(phase: str, message: str) -> str:
    """What came of one meeting; empty when it was as it should be."""
    script = Script(phase, MESSAGES[message])
    with rogue(script) as server, closing(session(server.port)) as opened:
        script.server = server
        began_s, said = time.monotonic(), ""
        try:
            use(opened)
        except RivetFleetError as error:
            said = f"{error} {error.hint}"
            if not (error.code or "").startswith(("MYSQL_", "RIVET_")) and not error.exit_code:
                return f"no name: {error!r}"
        except Exception as error:
            return f"not ours: {error!r}"
        if time.monotonic() - began_s > ENDS_WITHIN_S:
            return "too late"
        if not server.sprung.is_set():
            return NEVER_MET
        if PASSWORD in said or any(PASSWORD.encode() in p.received for p in server.peers):
            return f"the password was told: {said}"
        if "\x1b" in said or len(said) > 20_000:
            return "what was said was not cut or cleaned"
        if len(server.peers) > 1:
            return f"{len(server.peers)} connections"
        harmless = not said and message in FLOODS
        return f"accepted: {message}" if harmless else ""


def test_every_message_ends_by_name_in_every_phase() -> None:
    """Side by side: most of them wait. Where a busy machine kept one from its phase, once more."""
    calm = [(phase, name) for phase in PHASES for name in MESSAGES if name not in FLOODS]
    with ThreadPoolExecutor(24) as pool:
        outcomes = dict(zip(calm, pool.map(lambda each: meet(*each), calm), strict=True))
    again = [each for each, said in outcomes.items() if said == NEVER_MET]
    outcomes |= {each: meet(*each) for each in again}
    assert not {each: said for each, said in outcomes.items() if said}


@pytest.mark.parametrize("phase", PHASES)
def test_no_flood_costs_more_than_an_answer_may(phase: str) -> None:
    memory = Memory()
    memory.begin()
    outcomes = {name: meet(phase, name) for name in sorted(FLOODS)}
    assert not {name: said for name, said in outcomes.items() if said}
    assert memory.grown_mb < GROWN_MB_MAX


@pytest.mark.parametrize("most", [None, ANSWER_BYTES_MAX // 4])
def test_what_a_flood_cost_is_told_to_the_budget(most, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "ANSWER_BYTES_FREE", 1000)
    with rogue(Script("answer", MESSAGES["rows without end"])) as server:
        with closing(session(server.port, most)) as opened, pytest.raises(SourceError) as caught:
            use(opened)
        assert ANSWER_BYTES_MAX // 8 < caught.value.received_bytes <= (most or ANSWER_BYTES_MAX)
    with rogue(Script("answer", MESSAGES["an error with escapes, then end"])) as server:
        with closing(session(server.port)) as opened, pytest.raises(SourceError) as caught:
            use(opened)
        assert caught.value.received_bytes == 0, "an ordinary refusal is a try and nothing more"


@pytest.mark.parametrize(("kind", "value"), [(3, b"abc"), (246, b"abc"), (5, b"abc")])
def test_a_cell_of_another_type_ends_by_name(kind: int, value: bytes) -> None:
    def answer(wire: Wire) -> None:
        wire.say(b"\x01", definition(b"a", kind), EOF, lenenc(value), EOF)

    with rogue(Script("answer", answer)) as server, closing(session(server.port)) as opened:
        with pytest.raises(SourceError) as caught:
            use(opened)
        assert caught.value.code == "MYSQL_2027"


def test_whoever_answers_nonsense_about_a_silent_link_is_believed_nothing() -> None:
    class Nonsense(Script):
        def _query(self, wire: Wire, sql: bytes) -> None:
            if b"processlist" in sql:
                wire.say(*rows(b"7"))
            else:
                wire.say(OK)

    with rogue(Nonsense("never", MESSAGES["end"])) as server, closing(session(server.port)) as one:
        asked = liveness.ask(lambda: one._dial(1.0), 7)
    assert asked is frame.Liveness.UNKNOWN


def test_an_answer_has_so_many_columns_and_no_more() -> None:
    left = Bounds()
    left.begin(1 << 30, None)
    for _ in range(COLUMNS_MAX):
        left.column()
    with pytest.raises(OperationalError, match="columns"):
        left.column()


def test_what_comes_late_is_taken_for_a_while() -> None:
    """A process that was stopped finds its answer; a flood finds an end."""
    left = Bounds()
    left.begin(1 << 30, 0.0)
    taken = itertools.takewhile(lambda _: left.may_be_late(), itertools.count())
    assert 10 < len(list(taken)) < 1000


def test_a_row_counts_for_each_of_its_cells() -> None:
    """Each a byte, and an object many times as large."""
    columns = [definition(b"c")] * 200
    told = lenenc(b"7") * len(columns)

    class Many(Script):
        count = 20

        def _query(self, wire: Wire, sql: bytes) -> None:
            if sql == b"SELECT anything":
                wire.say(bytes((len(columns),)), *columns, EOF, *[told] * self.count, EOF)
            else:
                super()._query(wire, sql)

    script = Many("never", MESSAGES["end"])
    with rogue(script) as server, closing(session(server.port)) as opened:
        use(opened)
        script.count = 250
        with pytest.raises(SourceError, match="larger than any may be") as caught:
            use(opened)
    assert caught.value.code == "MYSQL_2020"


@pytest.mark.parametrize(("count", "columns", "row_bytes"), [(40_000, 16, 1000), (300_000, 6, 100)])
def test_the_largest_answers_that_we_ask_for_are_within_the_bounds(
    monkeypatch: pytest.MonkeyPatch, count: int, columns: int, row_bytes: int
) -> None:
    """All keys of a table that is read whole for them; the relations of a whole server."""
    monkeypatch.undo()
    left = Bounds()
    left.begin(liveness.ANSWER_BYTES_MAX, None)
    for _ in range(columns):
        left.column()
    for _ in range(count):
        left.charge(4)
        left.charge(row_bytes)
        left.row()
