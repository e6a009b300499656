# The compiled decoder as other compiled code sees it: bytes in, without the interpreter.

from libc.stdint cimport int64_t, uint8_t

from rivet_fleet.execution.columnar cimport Pending
from rivet_fleet.execution.sources.postgres.copycells cimport Field


cdef class CompiledDecoder:
    cdef readonly object schema
    cdef readonly dict changed
    cdef object _columns, _reference, _types
    cdef bint _coerces
    cdef Field* _fields
    cdef int _width
    cdef int64_t _limit, _rows
    cdef Pending _pending
    cdef int64_t _offset
    cdef bint _started, _ended
    cdef object _batches
    # How often the reference was asked: valid rows never need it.
    cdef readonly int64_t asked

    cdef int receive(self, const uint8_t* start, int64_t bytes) noexcept nogil
    cdef int rows_of(self, const uint8_t* start, int64_t bytes, int64_t* used) noexcept nogil
    cdef void _drop(self, int64_t bytes) noexcept nogil
    cdef int _row(self, const uint8_t* row, int64_t bytes, int64_t* length) noexcept nogil
    cdef void _take_back(self, int64_t rows) noexcept nogil
