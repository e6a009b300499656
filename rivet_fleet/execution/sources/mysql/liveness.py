"""A connection that tells a server that is still at work from a link that is dead.

Both are silent. A half-open path (a stuck proxy, a firewall that forgot us) may even acknowledge
bytes, so TCP keepalives do not end the wait, and a statement without a limit has no deadline
either. So after a while of silence the server is asked over a second connection what it does for
the first one (``information_schema.processlist``, which shows everybody his own threads).
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pymysql
from pymysql.constants import COMMAND, CR
from pymysql.cursors import Cursor
from pymysql.protocol import FieldDescriptorPacket, MysqlPacket

from rivet_fleet.contracts.url import CAREFUL, Link, Login
from rivet_fleet.execution.engines.session import (
    ASK_MAX_S,
    Liveness,
    Silence,
    StatementTimes,
)
from rivet_fleet.execution.sources.mysql.border import Asked
from rivet_fleet.execution.sources.mysql.login import Handler, first_method

# ------------------------------------------------------------------------------------------
# What one answer of a server may cost: bytes, packets, columns and time.
#
# PyMySQL reads whatever it is sent. Rows of a page do not pass here: they are bounded where they
# are decoded, and a page's columns in ``wire``.

LOGIN_BYTES_MAX = 256 * 1024
"""Of a greeting, a certificate's exchange excepted, and everything to the end of the login."""
ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""Of one answer about the server, a table or a key: what is larger is not one."""
COLUMNS_MAX = 4096
_PACKET_BYTES_MIN = 64
"""What a packet counts at least: an object of Python's is made of it, however small it is."""
MADE_TIMES_MAX = 4
"""So many times the bytes of an answer may be what is made of it."""
_CELL_BYTES = 112
"""What each cell of a row counts as made: a number of one digit becomes an object of so many."""
_LATE_LOOKS_MAX = 64
_MALFORMED = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError),
    *(RecursionError, struct.error),
)
"""What PyMySQL stumbles into when a packet is not what it should be."""


class Bounds:
    """What is left of the current answer's allowance. One per connection."""

    def __init__(self) -> None:
        self.ends_s: float | None = None
        """When (monotonic) the answer must be complete; None: whenever."""
        self._bytes_max = self._bytes_left = self._columns_left = self._late_left = 0
        self._made_left = 0

    def begin(self, bytes_max: int, within_s: float | None) -> None:
        """A new answer is expected."""
        self._bytes_max = self._bytes_left = bytes_max
        self._made_left = MADE_TIMES_MAX * bytes_max
        self._columns_left = COLUMNS_MAX
        self._late_left = _LATE_LOOKS_MAX
        self.ends_s = None if within_s is None else time.monotonic() + within_s

    @property
    def described(self) -> bool:
        """True once the answer has a column."""
        return self._columns_left < COLUMNS_MAX

    @property
    def charged_bytes(self) -> int:
        """What the answer has taken of its allowance so far."""
        return self._bytes_max - max(0, self._bytes_left)

    def charge(self, count: int) -> None:
        """``count`` bytes are about to be read. Raises OperationalError 2020 before they are."""
        self._bytes_left -= max(count, _PACKET_BYTES_MIN)
        if self._bytes_left < 0:
            raise _too_large()

    def row(self) -> None:
        """A row is about to be made of as many cells as columns were described. Raises
        OperationalError 2020 before it is."""
        self._made_left -= (COLUMNS_MAX - self._columns_left) * _CELL_BYTES
        if self._made_left < 0:
            raise _too_large()

    def may_be_late(self) -> bool:
        """Behind the answer's end: what is there already may still be taken, for this process may
        have been stopped meanwhile. Not for ever: it may be a flood."""
        self._late_left -= 1
        return self._late_left >= 0

    def column(self) -> None:
        """One more column is about to be described. Raises OperationalError 2020."""
        self._columns_left -= 1
        if self._columns_left < 0:
            raise pymysql.OperationalError(
                CR.CR_NET_PACKET_TOO_LARGE, f"an answer of more than {COLUMNS_MAX} columns"
            )


def _too_large() -> pymysql.OperationalError:
    return pymysql.OperationalError(
        CR.CR_NET_PACKET_TOO_LARGE, "the server's answer is larger than any may be"
    )


@contextlib.contextmanager
def well_formed() -> Iterator[None]:
    """Inside, PyMySQL reads what a server sent: whatever it stumbles into there is error 2027, a
    request to upload a file of ours error 2068."""
    try:
        yield
    except UnicodeEncodeError:
        raise  # ours: a name that cannot be sent
    except _MALFORMED as error:
        raise pymysql.OperationalError(
            CR.CR_MALFORMED_PACKET, f"a packet that is not MySQL's ({type(error).__name__})"
        ) from None
    except RuntimeError as error:
        if "LOAD_LOCAL" not in str(error):
            raise
        raise pymysql.OperationalError(
            CR.CR_LOAD_DATA_LOCAL_INFILE_REJECTED,
            "the server asked for a file of this machine; it was not sent",
        ) from None


if TYPE_CHECKING:
    _Connection = pymysql.Connection[Cursor]
else:
    _Connection = pymysql.Connection  # generic for the type checker alone

_READ_AHEAD_BYTES = 64 * 1024
_MOMENT_S = 0.001
_WAITS_FOR_US = ("sending to client", "writing to net", "reading from net")
"""States in which a server that we hear nothing from is stuck in the same link as we are."""


class SilentLink(ConnectionError):
    """The server sent nothing for too long."""


def judge(
    *, own_id: int, told_id: int, found: bool, command: str | None, state: str | None
) -> Liveness:
    """The verdict from one look at the list of threads. Pure.

    ``own_id`` is the asking connection's thread by the handshake, ``told_id`` by the server:
    they differ behind a proxy, and then no thread number can be trusted.
    """
    if own_id != told_id:
        return Liveness.UNKNOWN
    if not found or (command or "").lower() == "sleep":
        return Liveness.DEAD
    return Liveness.DEAD if (state or "").lower() in _WAITS_FOR_US else Liveness.AT_WORK


def ask(connect: Callable[[], WatchedConnection], thread_id: int) -> Liveness:
    """Ask the server what its thread ``thread_id`` does. Takes at most 2 × ``ASK_MAX_S``.

    ``connect`` makes the second connection. Never raises PyMySQL's errors.
    """
    try:
        second = connect()
    except pymysql.MySQLError as error:
        # Refused (no free connection, say) is an answer, too: there is somebody.
        unreachable = error.args and error.args[0] in (CR.CR_CONN_HOST_ERROR, CR.CR_SERVER_LOST)
        return Liveness.DEAD if unreachable else Liveness.UNKNOWN
    try:
        second.silence_s_max = ASK_MAX_S
        second.answer_bytes_max = LOGIN_BYTES_MAX
        with second.cursor() as cursor:
            cursor.execute(
                "SELECT CONNECTION_ID(), p.id IS NOT NULL, p.command, p.state "
                "FROM (SELECT 1) AS one LEFT JOIN information_schema.processlist p ON p.id = %s",
                (thread_id,),
            )
            row = cursor.fetchone()
        own_id = second.own_id
    except pymysql.MySQLError as error:
        lost = error.args and error.args[0] == CR.CR_SERVER_LOST
        return Liveness.DEAD if lost else Liveness.UNKNOWN
    finally:
        second.drop()
    if row is None:
        return Liveness.UNKNOWN
    match row:
        case (int(told), int(found), str() | None as command, str() | None as state):
            return judge(
                own_id=own_id, told_id=told, found=bool(found), command=command, state=state
            )
        case _:
            return Liveness.UNKNOWN


class _Packet(MysqlPacket):
    """PyMySQL's, whose errors are known to be the server's own."""

    def raise_for_error(self) -> None:
        try:
            super().raise_for_error()
        except pymysql.MySQLError as error:
            error.asked = Asked()  # type: ignore[attr-defined]
            raise


class WatchedConnection(_Connection):
    """A connection that gives up on a silent server: after ``silence_s_max`` in any case (None:
    never), and as soon as ``liveness`` says that nobody is at work for it any more. Whoever reads
    through ``_rfile`` then gets ``SilentLink``, an OSError; PyMySQL makes error 2013 of it.

    What PyMySQL reads is bounded (``bounds``), and by ``silence_s_max`` as a whole, however it
    trickles. What a login may give away, ``login`` says.
    """

    def __init__(
        self, *, login: Login = CAREFUL, own_authority: bool = False, **parameters: Any
    ) -> None:
        # Before the handshake nobody can be asked: the connect timeout bounds the silence.
        login_s: float | None = parameters.get("connect_timeout")
        self.silence_s_max: float | None = login_s
        self.liveness: Callable[[], Liveness] | None = None
        self.answer_bytes_max: int | None = None
        """Of an answer, where that is less than ``ANSWER_BYTES_MAX``."""
        self.times: StatementTimes | None = None
        """Where it says how long its answers took."""
        self.asked = Asked()
        """What was asked last, a statement that is executed by its text."""
        self.login = login
        self.own_authority = own_authority
        """True when the certificate must be of an authority that the configuration gives."""
        self.bounds = Bounds()
        self._patient: PatientFile | None = None
        self._logging_in = True
        write_timeout_s: float | None = parameters.get("write_timeout")
        if login_s and write_timeout_s:
            # It bounds the exchange of certificates, too.
            parameters["write_timeout"] = min(login_s, write_timeout_s)
        super().__init__(**parameters)
        self._logging_in = False
        self._write_timeout = write_timeout_s

    def connect(self, sock: Any = None) -> None:
        """PyMySQL's, bounded as a whole."""
        self.bounds.begin(LOGIN_BYTES_MAX, self.silence_s_max)
        with well_formed():
            super().connect(sock)

    @property
    def link(self) -> Link:
        """What is known of whoever is at the other end."""
        held = self._sock  # type: ignore[attr-defined]
        if isinstance(held, ssl.SSLSocket):
            # Every public authority vouches for somebody: without a name that is nobody's proof.
            named = held.context.check_hostname or self.own_authority
            verified = named and held.context.verify_mode is ssl.CERT_REQUIRED
            return Link.VERIFIED if verified else Link.ENCRYPTED
        return Link.VERIFIED if self.unix_socket else Link.PLAIN

    @property
    def _rfile(self) -> PatientFile | None:
        """What is read of the server."""
        return self._patient

    @_rfile.setter
    def _rfile(self, opened: Any) -> None:
        # PyMySQL opens a file over the socket, once plain and once more after TLS began.
        if opened is None:
            self._patient = None
            return
        link: socket.socket = self._sock  # type: ignore[attr-defined]
        with contextlib.closing(opened):
            self._patient = PatientFile(self, link)

    # ------------------------------------------------------------ what PyMySQL calls

    def _get_server_information(self) -> None:
        super()._get_server_information()  # type: ignore[misc]
        named: str = self._auth_plugin_name  # type: ignore[has-type]
        self._auth_plugin_name = first_method(named)

    def _get_auth_plugin_handler(self, plugin_name: bytes | str) -> Handler:
        named = plugin_name if isinstance(plugin_name, bytes) else plugin_name.encode()
        return Handler(self, named)

    def _process_auth(self, plugin_name: bytes, auth_packet: Any, handler: Any = None) -> Any:
        return (handler or Handler(self, plugin_name)).authenticate(auth_packet)

    def answer_as_pymysql(self, method: bytes, packet: Any) -> Any:
        """What PyMySQL answers a switch to ``method``."""
        return super()._process_auth(method, packet, None)  # type: ignore[misc]

    def query(self, sql: Any, unbuffered: bool = False) -> Any:
        """PyMySQL's, timed."""
        began_s = time.monotonic()
        try:
            return super().query(sql, unbuffered)
        finally:
            if self.times is not None:
                self.times.answered(time.monotonic() - began_s)

    def expect_answer(self) -> None:
        """A new answer is expected, of what was asked now or before."""
        most = ANSWER_BYTES_MAX if self.answer_bytes_max is None else self.answer_bytes_max
        self.bounds.begin(most, self.silence_s_max)

    def _execute_command(self, command: int, sql: Any) -> None:
        # What is left of the answer before is read in here, too.
        if not self._logging_in:
            self.expect_answer()
        text = self.asked.text
        if command in (COMMAND.COM_QUERY, COMMAND.COM_STMT_PREPARE):
            text = sql if isinstance(sql, str) else bytes(sql).decode(errors="replace")
        self.asked = Asked(text=text, rows=command != COMMAND.COM_STMT_PREPARE)
        super()._execute_command(command, sql)  # type: ignore[misc]

    def _read_packet(self, packet_type: type[MysqlPacket] = MysqlPacket) -> Any:
        if packet_type is FieldDescriptorPacket:
            self.bounds.column()
        read_as = _Packet if packet_type is MysqlPacket else packet_type
        try:
            with well_formed():
                packet = super()._read_packet(read_as)  # type: ignore[no-untyped-call]
        except pymysql.MySQLError as error:
            if hasattr(error, "asked"):
                error.asked = self.asked
            raise
        if read_as is _Packet and self.bounds.described:
            self.bounds.row()
        return packet

    def _read_query_result(self, unbuffered: bool = False) -> Any:
        with well_formed():
            return super()._read_query_result(unbuffered)  # type: ignore[misc]

    def _read_ok_packet(self) -> Any:
        with well_formed():
            return super()._read_ok_packet()  # type: ignore[misc]

    @property
    def own_id(self) -> int:
        """The number the server gave this connection in its handshake."""
        return int(self.thread_id())  # type: ignore[no-untyped-call]

    @property
    def greeting(self) -> str:
        """The version the handshake named: a proxy may name another than the server's."""
        return str(self.get_server_info())  # type: ignore[no-untyped-call]

    @property
    def usable(self) -> bool:
        """False once it is closed."""
        return bool(self.open)

    @property
    def answered_bytes(self) -> int:
        """What the answer to what was last asked has taken of its allowance so far."""
        return self.bounds.charged_bytes

    def drop(self) -> None:
        """Close the connection, whatever state it is in. Never raises."""
        with contextlib.suppress(pymysql.MySQLError, OSError, ValueError):
            self.close()


class PatientFile:
    """The receiving side of one socket as a file, with a limit on silence.

    Not ``io.BufferedReader``: its ``readinto1`` waits for more bytes while it holds some, when
    the caller's buffer is larger than its own.
    """

    def __init__(self, connection: WatchedConnection, link: socket.socket) -> None:
        self._connection, self._link = connection, link
        self._buffer = memoryview(bytearray(_READ_AHEAD_BYTES))
        self._held = self._buffer[:0]
        self._closed = False

    def read(self, count: int) -> bytes:
        """Exactly ``count`` bytes, fewer only at the end, within the answer's bounds. Raises
        SilentLink, OSError, and PyMySQL's 2020 for more than an answer may have."""
        bounds = self._connection.bounds
        bounds.charge(count)
        if count <= len(self._held):
            return self._taken(count)
        found = bytearray(self._taken(len(self._held)))
        while len(found) < count:
            arrived = self._receive(self._buffer, bounds.ends_s)
            if arrived == 0:
                break
            self._held = self._buffer[:arrived]
            found += self._taken(min(arrived, count - len(found)))
        return bytes(found)

    def peek(self) -> memoryview:
        """What is held, else what arrives next, left where it is; empty at the end."""
        if not self._held:
            self._held = self._buffer[: self._receive(self._buffer)]
        return self._held

    def readinto1(self, buffer: memoryview) -> int:
        """What is held, else what arrives next; 0 at the end. Raises SilentLink, OSError."""
        if not self._held:
            return self._receive(buffer)
        count = min(len(buffer), len(self._held))
        buffer[:count] = self._taken(count)
        return count

    def give_back(self, data: bytes) -> None:
        """What was read last and belongs to the answer behind: it is read again."""
        self._held = memoryview(data + bytes(self._held))

    def close(self) -> None:
        """Read no more; the socket itself belongs to the connection."""
        self._closed = True

    def _taken(self, count: int) -> bytes:
        taken, self._held = bytes(self._held[:count]), self._held[count:]
        return taken

    def _receive(self, buffer: memoryview, ends_s: float | None = None) -> int:
        """Bytes that have arrived, at least one; 0 at the end. ``ends_s``: when (monotonic) no
        more of them will do."""
        if self._closed:
            raise ConnectionError("the connection is closed")
        silence = Silence(self._connection.silence_s_max, self._connection.liveness, ends_s)
        dead = False
        while True:
            wait_s = silence.wait_s()
            if silence.late and not self._connection.bounds.may_be_late():
                raise SilentLink("the server did not bring its answer to an end in time")
            wait_s = _MOMENT_S if dead else wait_s
            self._link.settimeout(None if wait_s is None else max(_MOMENT_S, wait_s))
            try:
                return self._link.recv_into(buffer)
            except TimeoutError:
                pass
            if dead:
                raise SilentLink(str(silence))
            dead = silence.dead()
