# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Rows of a running COPY from the connection into the compiled decoder, without the interpreter.

``SocketReceiver`` reads the protocol's messages itself, straight from the socket: libpq copies
every row into memory of its own, 8 KB at a time. Where the bytes are encrypted the socket does
not show them, and ``LibpqReceiver`` takes rows from libpq.

Both let data collect before they look again: a server that sends faster than it makes rows would
otherwise wake us for every 8 KB, and on a small machine that costs both sides more than the rows.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uintptr_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove

from rivet_fleet.execution.columnar cimport ASK, DONE, NO_MEMORY, rivet_be32
from rivet_fleet.execution.sources.postgres.copyrows cimport CompiledDecoder
from rivet_fleet.execution.sources.postgres.receivecalls cimport (
    MSG_DONTWAIT, POLLIN, ConsumeInput, FreeMemory, GetCopyData, nanosleep, poll, pollfd, recv, timespec,
)

from rivet_fleet.errors import MalformedData

# Why a pull returned: as ``exchange.Pulled``.
cdef enum Why:
    BLOCK = 0
    WAIT = 1
    END = 2
    LOST = 3

cdef int _POLL_MS = 200
cdef long _COLLECT_NS = 500_000
cdef int64_t _LITTLE_BYTES = 64 * 1024
# After so many of them a pull returns: a server that trickles must not keep us from looking at the
# clock.
cdef int _LOOKS_MAX = 64
cdef int64_t _BUFFER_BYTES = 256 * 1024
# A row that does not fit is passed on piece by piece; every other message is held whole.
cdef int64_t _MESSAGE_BYTES_MAX = 16 * 1024 * 1024
cdef int _HEAD = 5
# Beside columnar's outcomes: a message that is no row, or does not fit, stands first.
cdef int _OTHER = 100


cdef void _let_collect() noexcept nogil:
    cdef timespec moment
    moment.tv_sec, moment.tv_nsec = 0, _COLLECT_NS
    nanosleep(&moment, NULL)


cdef int _readable(int fd) noexcept nogil:
    """Whether bytes arrived within ``_POLL_MS``, or the end."""
    cdef pollfd waiting
    waiting.fd, waiting.events, waiting.revents = fd, POLLIN, 0
    return poll(&waiting, 1, _POLL_MS) != 0


cdef class SocketReceiver:
    """The answer to one Query, from its first message to ReadyForQuery.

    Manual: "Message Formats", "COPY Operations". Bytes from a server are untrusted: every length
    is checked before it is used.
    """

    cdef CompiledDecoder _decoder
    cdef uint8_t* _buffer
    cdef int64_t _room, _held
    # Of a row that is larger than the buffer: bytes that have not arrived.
    cdef int64_t _row_left
    cdef bint _copying, _ready
    # The fields of the last ErrorResponse, as sent; None without one.
    cdef readonly bytes error
    # ReadyForQuery's: I, T or E; empty before it.
    cdef readonly bytes status
    # The answer is complete, and the server has gone away behind it: the fields of its last
    # ErrorResponse, or empty; None while it is there.
    cdef readonly bytes farewell
    # How many COPY answers began.
    cdef readonly int copies

    def __cinit__(self, CompiledDecoder decoder not None):
        self._decoder = decoder
        self._buffer = NULL
        self.status = b""

    def __dealloc__(self):
        free(self._buffer)

    def pull(self, int fd, int64_t bytes_max):
        """Receive and decode about ``bytes_max`` bytes: (bytes, why it stopped). 0: so much has
        arrived; 1: nothing comes; 2: the answer is complete; 3: the connection was closed.
        Raises MalformedData, and as the decoder's feed."""
        cdef int64_t received = 0
        cdef ssize_t count
        cdef int outcome
        cdef int why = BLOCK
        cdef int looks = 0
        cdef bint little = False
        self._make_room(_BUFFER_BYTES)
        while True:
            with nogil:
                while True:
                    outcome = self._messages()
                    if outcome != DONE or self._ready:
                        break
                    if received >= bytes_max:
                        why = BLOCK
                        break
                    if little:
                        looks += 1
                        if looks > _LOOKS_MAX:
                            why = BLOCK
                            break
                        _let_collect()
                    count = recv(fd, self._buffer + self._held, self._room - self._held, MSG_DONTWAIT)
                    if count > 0:
                        self._held += count
                        received += count
                        little = count < _LITTLE_BYTES
                        continue
                    little = False
                    if count < 0 and errno == EINTR:
                        continue
                    if count == 0 or errno != EAGAIN:
                        why = LOST
                        break
                    if not _readable(fd):
                        why = WAIT
                        break
            if outcome == DONE:
                if why == LOST and self.status:
                    self.farewell, self._ready = self.farewell or b"", True
                return received, END if self._ready else why
            if outcome == NO_MEMORY:
                raise MemoryError
            if outcome == ASK:
                self._decoder.settle()
            else:
                self._other_message()

    # ------------------------------------------------------------ inside

    cdef int _messages(self) noexcept nogil:
        """Take every message that is there. DONE: more bytes are needed, or the answer is
        complete; ASK: the decoder must settle; NO_MEMORY; OTHER: a message that is no row stands
        first in the buffer, or one that does not fit."""
        cdef int64_t position = 0
        cdef int64_t body
        cdef int64_t there
        cdef int outcome = DONE
        while outcome == DONE:
            there = self._held - position
            if self._row_left:
                body = min(there, self._row_left)
                if body == 0:
                    break
                outcome = self._decoder.receive_part(self._buffer + position, body)
                position += body
                self._row_left -= body
                if outcome == DONE and (self._row_left == 0 or self._decoder.refuses()):
                    outcome = ASK
                continue
            if there < _HEAD:
                break
            body = <int64_t> rivet_be32(self._buffer + position + 1) - 4
            if self._buffer[position] != c"d" or not self._copying or body < 0:
                if body < 0 or body > _MESSAGE_BYTES_MAX or there >= _HEAD + body or _HEAD + body > self._room:
                    outcome = _OTHER
                break
            if there >= _HEAD + body:
                outcome = self._decoder.receive(self._buffer + position + _HEAD, body)
                position += _HEAD + body
            elif _HEAD + body > self._room // 2:
                self._row_left = body
                position += _HEAD
            else:
                break
        self._held -= position
        if position and self._held:
            memmove(self._buffer, self._buffer + position, self._held)
        return outcome

    def _make_room(self, int64_t bytes):
        cdef void* grown
        if self._room < bytes:
            grown = realloc(self._buffer, <size_t> bytes)
            if grown == NULL:
                raise MemoryError
            self._buffer = <uint8_t*> grown
            self._room = bytes

    cdef _other_message(self):
        """The first message in the buffer, which is no row."""
        cdef int64_t body = <int64_t> rivet_be32(self._buffer + 1) - 4
        kind = bytes(self._buffer[:1])
        if body < 0 or body > _MESSAGE_BYTES_MAX or kind not in b"CEHNSAZc" or (
            # Behind ReadyForQuery only what a server says unasked: an error is its farewell
            # (idle_session_timeout, an administrator's command), not the answer's.
            self.status and kind not in b"NSAE"
        ):
            raise MalformedData(
                f"the server sent a message of type {kind!r} and {body} bytes in the middle of a COPY"
            )
        if self._held < _HEAD + body:
            self._make_room(_HEAD + body)
            return
        content = bytes(self._buffer[_HEAD : _HEAD + body])
        self._held -= _HEAD + body
        memmove(self._buffer, self._buffer + _HEAD + body, self._held)
        if kind == b"E" and self.status:
            self.farewell = content
        elif kind == b"E":
            self.error = content
        elif kind == b"H":
            self._copying = True
            self.copies += 1
        elif kind == b"c":
            self._copying = False
        elif kind == b"Z":
            self.status = content
        # Nothing may be left half read: libpq reads on from here, unless the server has gone.
        self._ready = bool(self.status) and (not self._held or self.farewell is not None)


cdef class LibpqReceiver:
    """Rows of a COPY that libpq has begun; ``functions`` are the addresses of PQgetCopyData,
    PQconsumeInput and PQfreemem in the library the connection belongs to."""

    cdef CompiledDecoder _decoder
    cdef GetCopyData _get
    cdef ConsumeInput _consume
    cdef FreeMemory _release

    def __cinit__(self, CompiledDecoder decoder not None, functions):
        cdef uintptr_t get, consume, release
        get, consume, release = functions
        self._decoder = decoder
        self._get = <GetCopyData> get
        self._consume = <ConsumeInput> consume
        self._release = <FreeMemory> release

    def pull(self, uintptr_t conn, int fd, int64_t bytes_max):
        """As ``SocketReceiver.pull``; 2: no more rows, the result says why."""
        cdef int64_t received = 0
        cdef int why = BLOCK
        cdef int outcome = DONE
        cdef char* row = NULL
        cdef int bytes
        cdef int looks = 0
        cdef bint looked = False
        while True:
            with nogil:
                outcome = DONE
                while received < bytes_max and outcome == DONE:
                    bytes = self._get(<void*> conn, &row, 1)
                    if bytes > 0:
                        received += bytes
                        looked = False
                        outcome = self._decoder.receive(<uint8_t*> row, bytes)
                        self._release(row)
                        continue
                    if bytes < 0:
                        why = END
                        break
                    if looked:
                        looks += 1
                        if looks > _LOOKS_MAX:
                            break
                        _let_collect()
                        if not _readable(fd):
                            why = WAIT
                            break
                    # Looked at before it is waited for: TLS may hold bytes the socket does not.
                    if not self._consume(<void*> conn):
                        why = END
                        break
                    looked = not looked
            if outcome == NO_MEMORY:
                raise MemoryError
            if outcome != DONE:
                self._decoder.settle()
                if received < bytes_max:
                    continue
            return received, why
