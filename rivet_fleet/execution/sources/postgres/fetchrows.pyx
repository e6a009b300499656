# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Rows of a binary cursor from libpq's results into the compiled decoder, without an object for each
cell: a row of a result is written as the row of a COPY that it would have been.
"""

from libc.stdint cimport int64_t, uint8_t, uintptr_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from rivet_fleet.execution.columnar cimport DONE, NO_MEMORY
from rivet_fleet.execution.sources.postgres.copyrows cimport CompiledDecoder
from rivet_fleet.execution.sources.postgres.receivecalls cimport CellNumber, CellValue, ResultNumber


cdef inline uint8_t* _be32(uint8_t* at, int value) noexcept nogil:
    at[0] = <uint8_t> (value >> 24)
    at[1] = <uint8_t> (value >> 16)
    at[2] = <uint8_t> (value >> 8)
    at[3] = <uint8_t> value
    return at + 4


cdef class CompiledTaker:
    """Brings all rows of a result into the decoder; ``functions`` are the addresses of PQntuples,
    PQnfields, PQgetisnull, PQgetlength and PQgetvalue in the library the result belongs to."""

    cdef CompiledDecoder _decoder
    cdef ResultNumber _rows, _fields
    cdef CellNumber _is_null, _length
    cdef CellValue _value
    cdef uint8_t* _row
    cdef int64_t _room

    def __cinit__(self, CompiledDecoder decoder not None, functions):
        cdef uintptr_t rows, fields, is_null, length, value
        rows, fields, is_null, length, value = functions
        self._decoder = decoder
        self._rows, self._fields = <ResultNumber> rows, <ResultNumber> fields
        self._is_null, self._length = <CellNumber> is_null, <CellNumber> length
        self._value = <CellValue> value
        self._row = NULL

    def __dealloc__(self):
        free(self._row)

    def __call__(self, result):
        """The bytes of its rows. Raises as the decoder's feed."""
        cdef uintptr_t address = result.pgresult_ptr
        cdef void* found = <void*> address
        cdef int rows, row, outcome
        cdef int64_t bytes, total = 0
        rows = self._rows(found)
        row = 0
        while row < rows:
            with nogil:
                outcome = DONE
                while row < rows and outcome == DONE:
                    bytes = self._write(found, row)
                    if bytes < 0:
                        outcome = NO_MEMORY
                        break
                    outcome = self._decoder.receive(self._row, bytes)
                    total += bytes
                    row += 1
            if outcome == NO_MEMORY:
                raise MemoryError
            if outcome != DONE:
                self._decoder.settle()
        return total

    cdef int64_t _write(self, void* result, int row) noexcept nogil:
        """One row; its bytes, or -1 without memory."""
        cdef int fields = self._fields(result)
        cdef int64_t bytes = 2 + 4 * <int64_t> fields
        cdef int field, length
        cdef uint8_t* at
        cdef void* grown
        for field in range(fields):
            bytes += self._length(result, row, field)
        if bytes > self._room:
            grown = realloc(self._row, <size_t> (2 * bytes))
            if grown == NULL:
                return -1
            self._row, self._room = <uint8_t*> grown, 2 * bytes
        at = self._row
        at[0] = <uint8_t> (fields >> 8)
        at[1] = <uint8_t> fields
        at += 2
        for field in range(fields):
            if self._is_null(result, row, field):
                at = _be32(at, -1)
                continue
            length = self._length(result, row, field)
            at = _be32(at, length)
            memcpy(at, self._value(result, row, field), length)
            at += length
        return at - self._row
