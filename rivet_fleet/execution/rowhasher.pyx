# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Row hashes over Arrow buffers; see checksums.py for what is computed, and why.

XXH64: xxhash_spec.md of the xxHash repository, "XXH64 Algorithm Description".
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy

import pyarrow as pa

from rivet_fleet.execution.types import storage_of, width_of

cdef enum Storage:
    FIXED
    BITS
    VARIABLE
    LISTED

cdef struct Cells:
    Storage storage
    int64_t width
    int64_t offset
    const uint8_t* validity
    const uint8_t* data
    const int32_t* ends
    Cells* child

cdef struct Image:
    uint8_t* start
    size_t bytes
    size_t room

cdef uint64_t P1 = 11400714785074694791ULL
cdef uint64_t P2 = 14029467366897019727ULL
cdef uint64_t P3 = 1609587929392839161ULL
cdef uint64_t P4 = 9650029242287828579ULL
cdef uint64_t P5 = 2870177450012600261ULL


cdef inline uint64_t _rotl(uint64_t value, int bits) noexcept nogil:
    return (value << bits) | (value >> (64 - bits))


cdef inline uint64_t _round(uint64_t lane, uint64_t word) noexcept nogil:
    return _rotl(lane + word * P2, 31) * P1


cdef inline uint64_t _merged(uint64_t value, uint64_t lane) noexcept nogil:
    return (value ^ _round(0, lane)) * P1 + P4


cdef inline uint64_t _word(const uint8_t* at) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, at, 8)
    return word


cdef uint64_t _xxh64(const uint8_t* at, size_t size) noexcept nogil:
    cdef const uint8_t* end = at + size
    cdef uint64_t value, a, b, c, d
    cdef uint32_t half
    if size >= 32:
        a, b, c, d = P1 + P2, P2, 0, 0 - P1
        while end - at >= 32:
            a = _round(a, _word(at))
            b = _round(b, _word(at + 8))
            c = _round(c, _word(at + 16))
            d = _round(d, _word(at + 24))
            at += 32
        value = _rotl(a, 1) + _rotl(b, 7) + _rotl(c, 12) + _rotl(d, 18)
        value = _merged(_merged(_merged(_merged(value, a), b), c), d)
    else:
        value = P5
    value += size
    while end - at >= 8:
        value = _rotl(value ^ _round(0, _word(at)), 27) * P1 + P4
        at += 8
    if end - at >= 4:
        memcpy(&half, at, 4)
        value = _rotl(value ^ (half * P1), 23) * P2 + P3
        at += 4
    while at < end:
        value = _rotl(value ^ (at[0] * P5), 11) * P1
        at += 1
    value = (value ^ (value >> 33)) * P2
    value = (value ^ (value >> 29)) * P3
    return value ^ (value >> 32)


cdef int _append(Image* image, const uint8_t* at, size_t size) noexcept nogil:
    cdef size_t room
    cdef void* grown
    if image.room - image.bytes < size:
        room = image.room * 2 if image.room else 1024
        if room < image.bytes + size:
            room = image.bytes + size
        grown = realloc(image.start, room)
        if grown == NULL:
            return -1
        image.start, image.room = <uint8_t*> grown, room
    if size:
        memcpy(image.start + image.bytes, at, size)
    image.bytes += size
    return 0


cdef inline int _head(Image* image, uint32_t length) noexcept nogil:
    cdef uint8_t head[5]
    head[0] = 1
    memcpy(&head[1], &length, 4)
    return _append(image, head, 5)


cdef int _cell(Image* image, const Cells* cells, int64_t row) noexcept nogil:
    """Append one cell's image. -1 without memory."""
    cdef int64_t at = cells.offset + row
    cdef int64_t each
    cdef uint8_t bit = 0
    cdef uint32_t length
    if cells.validity != NULL and not (cells.validity[at >> 3] >> (at & 7)) & 1:
        return _append(image, &bit, 1)
    if cells.storage == FIXED:
        if _head(image, <uint32_t> cells.width) != 0:
            return -1
        return _append(image, cells.data + at * cells.width, <size_t> cells.width)
    if cells.storage == BITS:
        bit = (cells.data[at >> 3] >> (at & 7)) & 1
        if _head(image, 1) != 0:
            return -1
        return _append(image, &bit, 1)
    length = <uint32_t> (cells.ends[at + 1] - cells.ends[at])
    if _head(image, length) != 0:
        return -1
    if cells.storage == VARIABLE:
        return _append(image, cells.data + cells.ends[at], length)
    for each in range(cells.ends[at], cells.ends[at + 1]):
        # Counted from the beginning of the child's own array.
        if _cell(image, cells.child, each) != 0:
            return -1
    return 0


cdef int _hashed(const Cells* cells, int count, int64_t rows, int64_t* out) noexcept nogil:
    cdef Image image
    cdef int64_t row
    cdef int column, failed = 0
    image.start, image.bytes, image.room = NULL, 0, 0
    for row in range(rows):
        image.bytes = 0
        for column in range(count):
            if _cell(&image, &cells[column], row) != 0:
                failed = -1
                break
        if failed:
            break
        out[row] = <int64_t> _xxh64(image.start, image.bytes)
    free(image.start)
    return failed


cdef const uint8_t* _address(object buffer):
    return NULL if buffer is None else <const uint8_t*> <size_t> buffer.address


cdef int _describe(Cells* cells, object array) except -1:
    """``array`` must stay alive as long as ``cells`` is used."""
    cdef object kind = array.type
    cdef list buffers = array.buffers()
    cells.validity = _address(buffers[0])
    cells.offset = array.offset
    if pa.types.is_list(kind):
        cells.storage = LISTED
        cells.ends = <const int32_t*> _address(buffers[1])
        cells.child = <Cells*> calloc(1, sizeof(Cells))
        if cells.child == NULL:
            raise MemoryError()
        _describe(cells.child, storage_of(array.values))
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        cells.storage = VARIABLE
        cells.ends = <const int32_t*> _address(buffers[1])
        cells.data = _address(buffers[2])
    else:
        cells.storage = BITS if pa.types.is_boolean(kind) else FIXED
        cells.width = 0 if cells.storage == BITS else width_of(kind)
        cells.data = _address(buffers[1])
    return 0


cdef void _forget(Cells* cells) noexcept:
    if cells.child != NULL:
        _forget(cells.child)
        free(cells.child)


def hash_rows(columns):
    """One int64 per row. See ``rowhash.HashRows``."""
    cdef list arrays = [storage_of(column) for column in columns]
    cdef int count = len(arrays)
    cdef int64_t rows = len(arrays[0]) if arrays else 0
    cdef Cells* cells
    cdef int index, failed
    cdef bytearray out = bytearray(8 * rows)
    cdef int64_t* target
    if not rows:
        return pa.array([], pa.int64())
    cells = <Cells*> calloc(max(count, 1), sizeof(Cells))
    if cells == NULL:
        raise MemoryError()
    try:
        for index in range(count):
            _describe(&cells[index], arrays[index])
        target = <int64_t*> <char*> out
        with nogil:
            failed = _hashed(cells, count, rows, target)
        if failed:
            raise MemoryError()
    finally:
        for index in range(count):
            _forget(&cells[index])
        free(cells)
    return pa.Array.from_buffers(pa.int64(), rows, [None, pa.py_buffer(out)])
