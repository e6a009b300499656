# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Rows of a running COPY from libpq into the compiled decoder, without the interpreter.

Data may collect before they are looked at again: a server that sends faster than it makes rows
would otherwise wake us for every 8 KB, and on a small machine that costs both sides more than the
rows.
"""

from libc.stdint cimport int64_t, uint8_t, uintptr_t

from rivet_fleet.execution.columnar cimport DONE, NO_MEMORY
from rivet_fleet.execution.sources.postgres.copyrows cimport CompiledDecoder
from rivet_fleet.execution.sources.postgres.receivecalls cimport (
    POLLIN, ConsumeInput, FreeMemory, GetCopyData, nanosleep, poll, pollfd, rivet_taken_bytes, timespec,
)

# Why a pull returned: as ``exchange.Pulled``.
cdef enum Why:
    BLOCK = 0
    WAIT = 1
    END = 2

cdef int _POLL_MS = 200
cdef long _COLLECT_NS = 500_000
# After so many of them a pull returns: a server that trickles must not keep us from looking at the
# clock.
cdef int _LOOKS_MAX = 64


cdef void _let_collect() noexcept nogil:
    cdef timespec moment
    moment.tv_sec, moment.tv_nsec = 0, _COLLECT_NS
    nanosleep(&moment, NULL)


cdef int _readable(int fd) noexcept nogil:
    """Whether bytes arrived within ``_POLL_MS``, or the end."""
    cdef pollfd waiting
    waiting.fd, waiting.events, waiting.revents = fd, POLLIN, 0
    return poll(&waiting, 1, _POLL_MS) != 0


cdef class CopyReceiver:
    """Rows of a COPY that libpq has begun; ``functions`` are the addresses of PQgetCopyData,
    PQconsumeInput and PQfreemem in the library the connection belongs to.

    libpq keeps a row until it is whole, however wide. Its bytes are counted as they come, so that
    who pulls can have enough of it before that.
    """

    cdef CompiledDecoder _decoder
    cdef GetCopyData _get
    cdef ConsumeInput _consume
    cdef FreeMemory _release
    # What libpq had taken off the socket at the last row's end or later, and before it began to
    # look for the next one's; and what was told of that one.
    cdef int64_t _taken, _partial

    def __cinit__(self, CompiledDecoder decoder not None, functions):
        cdef uintptr_t get, consume, release
        get, consume, release = functions
        self._decoder = decoder
        self._get = <GetCopyData> get
        self._consume = <ConsumeInput> consume
        self._release = <FreeMemory> release

    def pull(self, uintptr_t conn, int fd, int64_t bytes_max):
        """Receive and decode about ``bytes_max`` bytes: (bytes, why it stopped). 0: so much has
        arrived, or time has passed; 1: nothing comes; 2: no more rows, the result says why. Raises
        as the decoder's feed."""
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
                while outcome == DONE:
                    bytes = self._get(<void*> conn, &row, 1)
                    if bytes > 0:
                        received += bytes - self._partial
                        self._partial = 0
                        looked = False
                        outcome = self._decoder.receive(<uint8_t*> row, bytes)
                        self._release(row)
                        if received >= bytes_max:
                            break
                        continue
                    if bytes < 0:
                        received -= self._partial
                        self._partial = 0
                        why = END
                        break
                    if received >= bytes_max:
                        break
                    if looked:
                        looks += 1
                        if looks > _LOOKS_MAX:
                            break
                        _let_collect()
                        if not _readable(fd):
                            why = WAIT
                            break
                    if not self._partial:
                        self._taken = rivet_taken_bytes(fd)
                    # Looked at before it is waited for: TLS may hold bytes the socket does not.
                    if not self._consume(<void*> conn):
                        why = END
                        break
                    looked = not looked
                    received += self._tell(fd)
            if outcome == NO_MEMORY:
                raise MemoryError
            if outcome != DONE:
                self._decoder.settle()
                if received < bytes_max:
                    continue
            return received, why

    cdef int64_t _tell(self, int fd) noexcept nogil:
        """What has come since, and was not told."""
        cdef int64_t more
        if self._taken < 0:
            return 0
        more = max(0, rivet_taken_bytes(fd) - self._taken - self._partial)
        self._partial += more
        return more
