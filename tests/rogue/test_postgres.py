"""A server that means harm, PostgreSQL's protocol: every phase of a session, every message.

Each ends within its time and its memory, by a named error, after one connection (three where libpq
looks for a way to encrypt), and tells nobody the password.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from psycopg import DataError
from psycopg.pq import Format

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.contracts.url import CAREFUL, Login, parse_database_url
from rivet_fleet.errors import (
    ConfigError,
    RivetFleetError,
    SourceError,
    SourceRefused,
    StateError,
    StateUnavailable,
    ValueTooLarge,
)
from rivet_fleet.execution.engines import session as frame
from rivet_fleet.execution.sources.postgres import liveness
from rivet_fleet.execution.sources.postgres import session as sessions
from rivet_fleet.execution.sources.postgres.decoder import DECODERS
from rivet_fleet.execution.sources.postgres.exchange import CopyStream
from rivet_fleet.execution.sources.postgres.session import Session
from rivet_fleet.persistence import postgres_dialect
from rivet_fleet.persistence.open import open_store, state_health
from tests.rogue.postgres_server import (
    MESSAGES,
    PHASES,
    Script,
    auth,
    done,
    header,
    ready,
    row,
    status,
)
from tests.rogue.tcp import Memory, Peer, rogue

PASSWORD = "S3cretPassw0rd"
SILENCE_S = 0.4
NEVER_MET = "the phase was never met"
ENDS_WITHIN_S = 20.0
ROW_BYTES_MAX = 512 * 1024
ANSWER_BYTES_MAX = 4 * 1024 * 1024
"""A sixteenth of what is allowed: every flood is read to the end of its allowance."""
HELD_BYTES_MAX = 64 * 1024 * 1024
GROWN_MB_MAX = 200
ONE_LOOK_MB_MAX = 768
FLOODED_MAX = 5
"""What a peer of this machine may bring while libpq reads, of a message of a gigabyte."""
ID = ColumnSpec(
    name="id",
    native_type="bigint",
    type=ColumnType(kind=TypeKind.INT64),
    nullable=False,
    wire_type="20",
)
FLOODS = frozenset(name for name in MESSAGES if "without end" in name or "MB" in name)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "CONNECT_TIMEOUT_S", 2)
    monkeypatch.setattr(frame, "SILENCE_GRACE_S", 0.0)
    monkeypatch.setattr(sessions, "_FIRST_ANSWER_S_MAX", SILENCE_S)
    monkeypatch.setattr(liveness, "ANSWER_BYTES_MAX", ANSWER_BYTES_MAX)
    monkeypatch.setattr(liveness, "HELD_BYTES_MAX", HELD_BYTES_MAX)


def session(
    port: int, mode: str = "disable", login: Login = CAREFUL, most: int | None = None
) -> Session:
    url = parse_database_url(f"postgresql://reader:{PASSWORD}@127.0.0.1:{port}/shop")
    return Session(
        url,
        tls_mode=mode,
        tls_ca_file=None,
        application_name="t",
        login=login,
        answer_bytes_max=most,
    )


def use(opened: Session) -> None:
    """Everything that a session is used for: a question, a page."""
    with opened.reading((), doing="asking", timeout_s=SILENCE_S) as cursor:
        cursor.execute("SELECT anything")
        cursor.fetchall()
    tuning = TuningPlan(statement_timeout_s=SILENCE_S)
    rows = DECODERS.open((ID,), max_value_bytes=1000, coerce=False)
    stream = CopyStream(opened, "COPY (SELECT id) TO STDOUT", (), tuning, rows)
    try:
        stream.receive(rows_max=10, bytes_max=ROW_BYTES_MAX)
        if not stream.ended:
            raise ValueTooLarge("a chunk's reader cuts its page here")
    finally:
        stream.abandon()


def meet(phase: str, message: str) -> str:
    """What came of one meeting; empty when it was as it should be."""
    script = Script(phase, MESSAGES[message])
    mode = "prefer" if phase == "encryption" else "disable"
    with rogue(script) as server, closing(session(server.port, mode)) as opened:
        script.server = server
        began_s, said = time.monotonic(), ""
        try:
            use(opened)
        except RivetFleetError as error:
            said = f"{error} {error.hint}"
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
        if len(server.peers) > (3 if mode == "prefer" else 1):
            return f"{len(server.peers)} connections"
        # `prefer` goes on without encryption where a server answers nonsense to that question.
        must_fail = message in FLOODS and phase != "encryption"
        return "accepted" if not said and must_fail else ""


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
    grown_mb = []
    # How much comes between two looks is for the machine's load to say, so the least of a few; that
    # each look counts, ``test_what_came_over_a_link_is_counted_by_the_kernel`` says without one.
    for _ in range(FLOODED_MAX):
        memory = Memory()
        memory.begin()
        outcomes = {name: meet(phase, name) for name in sorted(FLOODS)}
        assert not {name: said for name, said in outcomes.items() if said}
        grown_mb.append(memory.grown_mb)
        if grown_mb[-1] < ONE_LOOK_MB_MAX:
            break
    assert min(grown_mb) < ONE_LOOK_MB_MAX


@pytest.mark.parametrize("most", [None, ANSWER_BYTES_MAX // 2])
def test_what_a_flood_cost_is_told_to_the_budget(most, monkeypatch: pytest.MonkeyPatch) -> None:
    if most:
        monkeypatch.setattr(liveness, "ANSWER_BYTES_MAX", 16 * ANSWER_BYTES_MAX)
        monkeypatch.setattr(liveness, "HELD_BYTES_MAX", 1 << 40)
    with rogue(Script("answer", MESSAGES["rows without end"])) as server:
        with (
            closing(session(server.port, most=most)) as opened,
            pytest.raises(SourceError) as caught,
        ):
            use(opened)
        # What comes between two looks is a receive buffer's.
        expected = most or ANSWER_BYTES_MAX
        assert expected < caught.value.received_bytes < expected + 8 * ANSWER_BYTES_MAX
    with rogue(Script("answer", MESSAGES["an error with escapes, then end"])) as server:
        with closing(session(server.port)) as opened, pytest.raises(SourceError) as caught:
            use(opened)
        assert caught.value.received_bytes == 0, "an ordinary refusal is a try and nothing more"


@pytest.mark.parametrize(
    ("oid", "value"),
    [
        *((23, b"abc"), (23, b"1" * 5000), (26, b"-x"), (1700, b"abc"), (701, b"abc")),
        *((2950, b"zz"), (869, b"zz"), (1082, b"zz"), (1184, b"zz"), (3904, b"[a")),
        *((114, b"{"), (114, b"[" * 200_000), (1009, b"{a"), (1009, b"{" * 200_000)),
        *((1009, b"{" + b"a," * 3_000_000 + b"a}"), (114, b"[" + b"[]," * 2_000_000 + b"[]]")),
    ],
)
def test_a_cell_of_another_type_ends_by_name_and_within_bounds(
    monkeypatch: pytest.MonkeyPatch, oid: int, value: bytes
) -> None:
    """The server says of which type a cell is, whatever it was asked for."""
    monkeypatch.setattr(liveness, "ANSWER_BYTES_MAX", 16 * ANSWER_BYTES_MAX)
    monkeypatch.setattr(liveness, "HELD_BYTES_MAX", 1 << 40)

    def answer(peer: Peer) -> None:
        peer.say(header(oid=oid) + row(value) + done(b"SELECT 1") + ready(b"T"))

    memory = Memory()
    memory.begin()
    with rogue(Script("answer", answer)) as server, closing(session(server.port)) as opened:
        with pytest.raises(SourceError) as caught:
            use(opened)
        assert (caught.value.code or "").startswith(("RIVET_", "SQLSTATE_"))
    assert memory.grown_mb < GROWN_MB_MAX


@pytest.mark.parametrize("oid", [1007, 1003, 1016, 2249, 3802])
def test_what_no_question_asks_for_comes_as_its_text(oid: int) -> None:
    def answer(peer: Peer) -> None:
        peer.say(header(oid=oid) + row(b"{a") + done(b"SELECT 1") + ready(b"T"))

    with (
        rogue(Script("answer", answer)) as server,
        closing(session(server.port)) as opened,
        opened.reading((), doing="asking", timeout_s=SILENCE_S) as cursor,
    ):
        assert cursor.execute("SELECT anything").fetchall() == [("{a",)]


def test_rows_are_made_within_the_bounds_of_their_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them small, and together more than an answer may take."""
    monkeypatch.setattr(liveness, "ANSWER_BYTES_MAX", 16 * ANSWER_BYTES_MAX)
    monkeypatch.setattr(liveness, "HELD_BYTES_MAX", 96 * 1024 * 1024)
    listed = row(b"{" + b"aa," * 60_000 + b"aa}")

    def answer(peer: Peer) -> None:
        peer.say(header(oid=1009) + listed * 60 + done(b"SELECT 1") + ready(b"T"))

    memory = Memory()
    memory.begin()
    with rogue(Script("answer", answer)) as server, closing(session(server.port)) as opened:
        opened.connection  # noqa: B018
        with pytest.raises(SourceError, match="more memory than any"):
            use(opened)
    assert memory.grown_mb < GROWN_MB_MAX


@pytest.mark.parametrize("oid", [16, 23, 25, 1009, 1700])
def test_whoever_answers_nonsense_about_a_silent_link_is_believed_nothing(oid: int) -> None:
    def answer(peer: Peer) -> None:
        rows = header(oid=oid) + row(b"7") + done(b"SELECT 1")
        peer.say(done(b"BEGIN") + rows + done(b"COMMIT") + ready())
        peer.silence()

    with rogue(Script("introduction", answer)) as server:
        where = {"host": "127.0.0.1", "port": server.port, "user": "reader", "dbname": "shop"}
        asked = liveness.ask({**where, "sslmode": "disable", "autocommit": True}, 7)
    assert asked is frame.Liveness.UNKNOWN


def test_a_state_that_floods_ends_by_name_and_within_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(postgres_dialect, "_HELD_BYTES_MAX", HELD_BYTES_MAX)
    memory = Memory()
    memory.begin()
    flood = Script("answer", MESSAGES["rows without end"])
    with rogue(flood) as server, pytest.raises(StateError, match="more memory than any"):
        state_health(f"postgresql://reader:{PASSWORD}@127.0.0.1:{server.port}/state")
    assert memory.grown_mb < GROWN_MB_MAX and len(server.peers) <= 2


def state_meets(phase: str, message: str) -> str:
    """As ``meet``, of the state database."""
    script = Script(phase, MESSAGES[message])
    with rogue(script) as server:
        script.server = server
        url = f"postgresql://reader:{PASSWORD}@127.0.0.1:{server.port}/state?sslmode=disable"
        began_s, said = time.monotonic(), ""
        try:
            open_store(url, answer_max_s=2.0).now_s()
        except StateError as error:
            said = f"{error} {error.hint}"
        except Exception as error:
            return f"not ours: {error!r}"
        if time.monotonic() - began_s > ENDS_WITHIN_S:
            return "too late"
        if PASSWORD in said or any(PASSWORD.encode() in peer.received for peer in server.peers):
            return f"the password was told: {said}"
        if "\x1b" in said or len(said) > 20_000:
            return "what was said was not cut or cleaned"
        return "" if said else "accepted"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_dialect, "_CONNECT_MAX_S", 2)
    monkeypatch.setattr(postgres_dialect, "_LOGIN_HELD_BYTES_MAX", HELD_BYTES_MAX // 4)


def test_a_state_that_logs_nobody_in_ends_by_name(hasty: None) -> None:
    meetings = [(at, name) for at in ("login", "start") for name in MESSAGES if name not in FLOODS]
    with ThreadPoolExecutor(24) as pool:
        outcomes = dict(
            zip(meetings, pool.map(lambda one: state_meets(*one), meetings), strict=True)
        )
    assert not {meeting: said for meeting, said in outcomes.items() if said}


def kept_settings(peer: Peer) -> None:
    """Each of another name: libpq keeps them all."""
    for number in range(20_000):
        peer.say(status(b"%d" % number, b"x" * 20_000))
    peer.silence()


def test_a_state_that_floods_who_logs_in_ends_within_bounds(hasty: None) -> None:
    """libpq keeps what comes before the login has ended, too."""
    memory = Memory()
    with rogue(Script("start", kept_settings)) as server:
        url = f"postgresql://reader:{PASSWORD}@127.0.0.1:{server.port}/state?sslmode=disable"
        memory.begin()
        # A busy machine may see the login's time end before it has read so much.
        with pytest.raises(StateError, match=r"more memory than any|timeout expired"):
            open_store(url).now_s()
    assert memory.grown_mb < GROWN_MB_MAX


@pytest.mark.parametrize(("phase", "kind"), [("start", b"N"), ("answer", b"N"), ("answer", b"D")])
def test_one_message_without_end_from_a_state_ends_within_bounds(
    hasty: None, monkeypatch: pytest.MonkeyPatch, phase: str, kind: bytes
) -> None:
    """libpq makes room for all that a message says it is, and reads while anything is there."""
    monkeypatch.setattr(postgres_dialect, "_HELD_BYTES_MAX", HELD_BYTES_MAX // 4)
    memory = Memory()
    begun = b"" if kind == b"N" else header(oid=25)
    long = begun + kind + struct.pack(">I", 1 << 30)
    if kind == b"D":
        long += struct.pack(">HI", 1, (1 << 30) - 10)
    with rogue(Script(phase, lambda peer: peer.flood(b"x" * 4096, long))) as server:
        url = f"postgresql://reader:{PASSWORD}@127.0.0.1:{server.port}/state?sslmode=disable"
        memory.begin()
        with pytest.raises(StateError):
            open_store(url).now_s()
    assert memory.grown_mb < ONE_LOOK_MB_MAX


def test_a_state_that_answers_is_looked_at_from_the_first_byte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = iter((100, 100 + postgres_dialect._HELD_BYTES_MAX + 1))
    monkeypatch.setattr(postgres_dialect, "_held_bytes", lambda: next(held))

    def answers() -> Generator[int, int, None]:
        while True:
            yield 1

    held_by_it = postgres_dialect._Held(postgres_dialect._HELD_BYTES_MAX)
    looked_at = postgres_dialect._bounded(answers(), held_by_it)
    next(looked_at)
    looked_at.send(1)
    with pytest.raises(DataError, match="more memory than any"):
        looked_at.send(1)


def test_the_kernel_keeps_little_for_a_connection_to_the_state() -> None:
    with (
        rogue(Script("answer", lambda peer: peer.silence())) as server,
        postgres_dialect.LimitedConnection.connect(
            host="127.0.0.1", port=server.port, user="reader", sslmode="disable", dbname="state"
        ) as opened,
    ):
        with socket.socket(fileno=os.dup(opened.fileno())) as link:
            kept = link.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        opened.close()
    assert kept <= 2 * postgres_dialect._RECEIVE_BUFFER_BYTES


CELLS = {
    "no version": (header(oid=25) + row(b"Oracle"),),
    "no text": (header(oid=23) + row(b"7"),),
    "no number": (header(oid=23) + row(b"abc"),),
    "nothing": (header(oid=25),),
    "two columns": (header(oid=25) + row(b"PostgreSQL 18.0", 2),),
    "a list": (header(oid=1009) + row(b"{{}}"),),
    "a date": (header(oid=1082) + row(b"0000-99-99"),),
    "binary": (header(oid=25, form=1) + row(b"PostgreSQL 18.0"),),
}


@pytest.mark.parametrize("name", CELLS)
def test_a_state_that_answers_nonsense_is_refused_by_name(name: str) -> None:
    """Asked by SQLAlchemy for its version, or by us: no word of it ends in an error of ours."""

    def answer(peer: Peer) -> None:
        peer.say(CELLS[name][0] + done(b"SELECT 1") + ready())

    with rogue(Script("answer", answer)) as server:
        url = f"postgresql://reader:{PASSWORD}@127.0.0.1:{server.port}/state?sslmode=disable"
        for ask in (lambda: state_health(url), lambda: open_store(url).now_s()):
            with pytest.raises(StateError, match=r"state database postgresql://"):
                ask()


class Thief:
    """Asks for a login by method ``code`` and keeps what is answered."""

    def __init__(self, code: int, more: bytes = b"") -> None:
        self.heard = b""
        self._asks = auth(code, more)

    def __call__(self, peer: Peer) -> None:
        peer.say(self._asks)
        kind, length = peer.take(1), int.from_bytes(peer.take(4), "big")
        self.heard = kind + peer.take(length - 4)


@pytest.mark.parametrize("mode", ["disable", "prefer"])
def test_nobody_unverified_gets_the_password(mode: str) -> None:
    thief = Thief(3)
    with rogue(Script("never", MESSAGES["end"], login=thief)) as server:
        with (
            closing(session(server.port, mode)) as opened,
            pytest.raises(SourceRefused, match="cleartext password") as caught,
        ):
            opened.connection  # noqa: B018
        assert "tls.allow_cleartext_password" in (caught.value.hint or "")
        assert not thief.heard
        with closing(session(server.port, mode, Login(cleartext=True))) as opened:
            use(opened)
    assert thief.heard == b"p" + PASSWORD.encode() + b"\0"


def test_a_proof_is_given() -> None:
    thief = Thief(5, b"salt")
    with (
        rogue(Script("never", MESSAGES["end"], login=thief)) as server,
        closing(session(server.port)) as opened,
    ):
        use(opened)
    assert thief.heard.startswith(b"pmd5") and PASSWORD.encode() not in thief.heard


@pytest.mark.parametrize("code", [2, 6, 7, 9, 10, 12, 99])
def test_a_login_that_nobody_knows_ends_by_name(code: int) -> None:
    thief = Thief(code, b"NO-SUCH-METHOD\0\0")
    with (
        rogue(Script("never", MESSAGES["end"], login=thief)) as server,
        closing(session(server.port)) as opened,
        pytest.raises(RivetFleetError),
    ):
        use(opened)
    assert PASSWORD.encode() not in thief.heard and len(server.peers) == 1


def test_a_verified_server_and_a_socket_file_may_ask_for_it() -> None:
    def required(text: str, mode: str) -> object:
        url = parse_database_url(text)
        opened = Session(url, tls_mode=mode, tls_ca_file=None, application_name="t")
        return opened._parameters.get("require_auth")

    assert required("postgresql://r@h/d", "require") == "!password"
    assert required("postgresql://r@h/d", "verify-full") is None
    assert required("postgresql://r@/d?host=/run/postgresql", "disable") is None
    assert required("postgresql://r@/d?host=/run/postgresql,h", "disable") == "!password"
    for option in ("hostaddr=10.0.0.1", "service=s"):
        led_away = f"postgresql://r@/d?host=/run/postgresql&{option}"
        assert required(led_away, "require") == "!password"
    assert required("postgresql://r@h/d?require_auth=scram-sha-256", "require") == "scram-sha-256"
    with pytest.raises(ConfigError, match="server_public_key_file"):
        session(1, login=Login(server_key_file="key.pem"))


@pytest.mark.parametrize("place", ["host=/nowhere&", "hostaddr=127.0.0.3&", ""])
@pytest.mark.parametrize("side", ["source", "state"])
def test_the_environment_leads_nothing_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, side: str, place: str
) -> None:
    """What was looked at is what is spoken to: this machine needs no TLS."""
    with socket.create_server(("127.0.0.2", 0)) as far:
        port = far.getsockname()[1]
        services = tmp_path / "services.conf"
        services.write_text(
            "[far]\nhost=127.0.0.2\nhostaddr=127.0.0.2\noptions=-csearch_path=far\n"
        )
        for name in ("PGHOST", "PGHOSTADDR"):
            monkeypatch.setenv(name, "127.0.0.2")
        monkeypatch.setenv("PGSERVICE", "far")
        monkeypatch.setenv("PGSERVICEFILE", str(services))
        url = f"postgresql://r@/d?{place}port={port}"
        if side == "source":
            with pytest.raises(SourceError):
                _ = Session(
                    parse_database_url(url), tls_mode=None, tls_ca_file=None, application_name="t"
                ).connection
        else:
            url += "&sslmode=disable&connect_timeout=2"
            with pytest.raises(StateUnavailable), closing(open_store(url)) as store:
                store.check_version()
        far.settimeout(0)
        with pytest.raises(BlockingIOError):
            far.accept()


def test_what_came_over_a_link_is_counted_by_the_kernel() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
        with near, far:
            left = liveness.Bounds(near.fileno(), None, bytes_max=100_000)
            for _ in range(3):
                left.check()
                far.sendall(b"x" * 40_000)
                near.recv(40_000, socket.MSG_WAITALL)
            with pytest.raises(DataError, match="larger than any may be"):
                left.check()


def test_many_cells_of_one_row_are_looked_at_by_their_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    monkeypatch.setattr(liveness.Bounds, "check_held", lambda _bounds: looks.append(1))
    made = liveness._ADAPTERS.get_loader(114, Format.TEXT)
    assert made is not None
    loader: Any = made(114, None)
    loader.connection = SimpleNamespace(answer=liveness.Bounds(-1, None))
    document = b'"' + b"x" * (255 * 1024 - 2) + b'"'
    for _cell in range(250):
        loader.load(document)
    assert len(looks) == 125


@pytest.mark.parametrize("name", ["json", "jsonb", "record", "text[]", "int4[]"])
def test_the_state_makes_no_lists_and_no_documents(name: str) -> None:
    plain = postgres_dialect._PLAIN
    known = plain.types[name.removesuffix("[]")]
    oid = known.array_oid if name.endswith("[]") else known.oid
    made = plain.get_loader(oid, Format.TEXT)
    assert made is not None and made is plain.get_loader(plain.types["text"].oid, Format.TEXT)


@contextmanager
def state_that_answers(*cells: tuple[int, bytes]) -> Iterator[postgres_dialect.LimitedConnection]:
    """Each cell a row, of the first one's type."""
    told = header(oid=cells[0][0]) + b"".join(row(cell) for _, cell in cells)
    answer = told + done(b"SELECT 1") + ready()
    with (
        rogue(Script("answer", lambda peer: peer.say(answer))) as server,
        closing(
            postgres_dialect.LimitedConnection.connect(
                host="127.0.0.1",
                port=server.port,
                user="reader",
                sslmode="disable",
                dbname="state",
                autocommit=True,
            )
        ) as opened,
    ):
        yield opened


def test_a_list_of_the_states_answer_comes_as_its_text() -> None:
    with state_that_answers((1007, b"{1,2}")) as opened:
        assert opened.execute("SELECT a").fetchall() == [("{1,2}",)]


def test_a_large_cell_of_the_states_answer_is_refused_unread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(postgres_dialect, "_CELL_BYTES_MAX", 1000)
    held = itertools.count(0, 1001)  # it grows with what comes
    monkeypatch.setattr(postgres_dialect, "_held_bytes", lambda: next(held))
    with state_that_answers((25, b"x" * 1000)) as opened:
        assert opened.execute("SELECT a").fetchone() == ("x" * 1000,)
    with state_that_answers((25, b"7"), (25, b"x" * 1001)) as opened:
        answered = opened.execute("SELECT a")
        with pytest.raises(DataError, match="a value of the answer is larger than any may be"):
            answered.fetchall()
        assert opened.closed


def test_rows_of_the_states_answer_are_made_a_block_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(postgres_dialect, "_BLOCK_ROWS", 2)
    with state_that_answers(*[(25, b"7")] * 5) as opened:
        assert opened.execute("SELECT a").fetchall() == [("7",)] * 5
    with state_that_answers(*[(25, b"7")] * 5) as opened:
        answered = opened.execute("SELECT a")
        monkeypatch.setattr(postgres_dialect, "_held_bytes", lambda: 1 << 40)
        with pytest.raises(DataError, match="more memory than any"):
            answered.fetchall()
        assert answered.rownumber == 2
        assert opened.closed
