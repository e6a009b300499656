# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Packed columns by their Arrow buffers: the compiled form of ``packing``'s reference functions.

pyarrow's own kernels would do the same; they cost a worker 9 MB (``pyarrow.compute``).
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uintptr_t
from libc.string cimport memcmp, memcpy, memset

import pyarrow as pa

cdef extern from "columnar.h" nogil:
    uint32_t rivet_hash(const uint8_t* p, int64_t n)


cdef const uint8_t* _address(object buffer) except? NULL:
    return <const uint8_t*> <uintptr_t> (0 if buffer is None else buffer.address)


cdef inline bint _is_there(const uint8_t* validity, int64_t row) noexcept nogil:
    return validity == NULL or validity[row >> 3] >> (row & 7) & 1


cdef object _new_buffer(int64_t bytes_):
    return pa.allocate_buffer(bytes_)


def plain_bytes(column not None):
    """What ``plain`` would take: offsets and values, without validity."""
    indices, values = column.indices, column.dictionary
    cdef int64_t rows = len(indices), row, total = 0
    cdef int64_t first = indices.offset, skipped = values.offset
    cdef const uint8_t* validity = _address(indices.buffers()[0])
    cdef const int32_t* at = <const int32_t*> _address(indices.buffers()[1]) + first
    cdef const int32_t* offsets = <const int32_t*> _address(values.buffers()[1])
    cdef int32_t index
    with nogil:
        for row in range(rows):
            if _is_there(validity, first + row):
                index = at[row] + <int32_t> skipped
                total += offsets[index + 1] - offsets[index]
    return total + 4 * (rows + 1)


def plain(column not None):
    """A dictionary column of strings as strings. Raises OverflowError beyond 2 GiB."""
    cdef int64_t total = plain_bytes(column)
    indices, values = column.indices, column.dictionary
    cdef int64_t rows = len(indices), row
    total -= 4 * (rows + 1)
    if total > 0x7FFFFFFF:
        raise OverflowError(f"{total} bytes of text in one column of a page")
    cdef int64_t first = indices.offset, skipped = values.offset
    offsets_out, data_out = _new_buffer(4 * (rows + 1)), _new_buffer(total)
    validity_out = _validity(indices)
    cdef const uint8_t* validity = _address(indices.buffers()[0])
    cdef const int32_t* at = <const int32_t*> _address(indices.buffers()[1]) + first
    cdef const int32_t* offsets = <const int32_t*> _address(values.buffers()[1])
    cdef const uint8_t* data = _address(values.buffers()[2])
    cdef int32_t* out = <int32_t*> _address(offsets_out)
    cdef uint8_t* target = <uint8_t*> _address(data_out)
    cdef int32_t index, position = 0, length
    with nogil:
        out[0] = 0
        for row in range(rows):
            if _is_there(validity, first + row):
                index = at[row] + <int32_t> skipped
                length = offsets[index + 1] - offsets[index]
                if length:
                    memcpy(target + position, data + offsets[index], length)
                position += length
            out[row + 1] = position
    buffers = [validity_out, offsets_out, data_out]
    return pa.Array.from_buffers(values.type, rows, buffers, indices.null_count)


def renumbered(columns not None, int64_t distinct):
    """Indices over one dictionary of ``distinct`` values, numbered by first appearance over all
    ``columns``; the old numbers in their new order, None when nothing changes."""
    news = pa.allocate_buffer(4 * distinct + 4)
    olds = pa.allocate_buffer(4 * distinct + 4)
    cdef int32_t* new_of = <int32_t*> _address(news)
    cdef int32_t* old_of = <int32_t*> _address(olds)
    cdef const uint8_t* validity
    cdef const int32_t* at
    cdef int32_t* out
    cdef int32_t count = 0, i
    cdef int64_t rows, row, first
    cdef bint moved = False
    for i in range(distinct):
        new_of[i] = -1
    for column in columns:
        rows, first = len(column), column.offset
        validity = _address(column.buffers()[0])
        at = <const int32_t*> _address(column.buffers()[1]) + first
        with nogil:
            for row in range(rows):
                if _is_there(validity, first + row) and new_of[at[row]] < 0:
                    moved = moved or at[row] != count
                    new_of[at[row]] = count
                    old_of[count] = at[row]
                    count += 1
    if not moved and count == distinct:
        return columns, None
    changed = []
    for column in columns:
        rows, first = len(column), column.offset
        validity = _address(column.buffers()[0])
        at = <const int32_t*> _address(column.buffers()[1]) + first
        data = _new_buffer(4 * rows)
        out = <int32_t*> _address(data)
        with nogil:
            for row in range(rows):
                out[row] = new_of[at[row]] if _is_there(validity, first + row) else 0
        buffers = [_validity(column), data]
        changed.append(pa.Array.from_buffers(pa.int32(), rows, buffers, column.null_count))
    return changed, pa.Array.from_buffers(pa.int32(), count, [None, olds], 0)


def narrowed(column not None, kind):
    """A decimal128 column as the decimal64 ``kind``. Raises OverflowError for what does not fit
    64 bits."""
    cdef int64_t rows = len(column), row, first = column.offset
    data_out = _new_buffer(8 * rows)
    cdef const uint8_t* validity = _address(column.buffers()[0])
    cdef const int64_t* limbs = <const int64_t*> _address(column.buffers()[1]) + 2 * first
    cdef int64_t* out = <int64_t*> _address(data_out)
    cdef bint fits = True
    with nogil:
        for row in range(rows):
            out[row] = 0
            if _is_there(validity, first + row):
                out[row] = limbs[2 * row]
                # Of a number that fits, the upper half is nothing but the sign.
                fits = fits and limbs[2 * row + 1] == (-1 if out[row] < 0 else 0)
    if not fits:
        raise OverflowError(f"a number that {kind} cannot hold")
    return pa.Array.from_buffers(kind, rows, [_validity(column), data_out], column.null_count)


def encoded(column not None, int64_t bytes_max):
    """A column of strings as a dictionary column, values in the order in which they first occur.
    When they are more than ``bytes_max`` bytes: each row's own value, none looked for twice."""
    cdef int64_t rows = len(column), row, places = 64, first = column.offset, held = 0
    cdef int64_t mask, slot
    while places < 2 * rows:
        places *= 2
    mask = places - 1
    slots_held, data, firsts = _new_buffer(4 * places), _new_buffer(4 * rows), _new_buffer(4 * rows)
    cdef int32_t* slots = <int32_t*> _address(slots_held)
    cdef int32_t* out = <int32_t*> _address(data)
    cdef int32_t* first_rows = <int32_t*> _address(firsts)
    cdef const uint8_t* validity = _address(column.buffers()[0])
    cdef const int32_t* ends = <const int32_t*> _address(column.buffers()[1]) + first
    cdef const uint8_t* values = _address(column.buffers()[2])
    cdef int32_t count = 0, index, length, other
    with nogil:
        memset(slots, 0, 4 * places)
        for row in range(rows):
            out[row] = 0
            if not _is_there(validity, first + row):
                continue
            length = ends[row + 1] - ends[row]
            slot = rivet_hash(values + ends[row], length) & mask
            while True:
                index = slots[slot] - 1
                if index < 0:
                    break
                other = first_rows[index]
                if ends[other + 1] - ends[other] == length and (
                    length == 0 or memcmp(values + ends[other], values + ends[row], length) == 0
                ):
                    break
                slot = (slot + 1) & mask
            if index < 0:
                index = count
                count += 1
                first_rows[index] = <int32_t> row
                slots[slot] = count
                held += length + 4
                if held > bytes_max:
                    break
            out[row] = index
    buffers = [_validity(column), data]
    if held > bytes_max:
        for row in range(rows):
            out[row] = <int32_t> row
        places_ = pa.Array.from_buffers(pa.int32(), rows, buffers, column.null_count)
        buffers = [None, *column.buffers()[1:]]
        every = pa.Array.from_buffers(column.type, rows, buffers, 0, first)
        return pa.DictionaryArray.from_arrays(places_, every)
    places_ = pa.Array.from_buffers(pa.int32(), rows, buffers, column.null_count)
    distinct = pa.Array.from_buffers(pa.int32(), count, [None, firsts], 0)
    return pa.DictionaryArray.from_arrays(
        places_, plain(pa.DictionaryArray.from_arrays(distinct, column))
    )


cdef object _validity(column):
    """The validity of a column that may be a slice, from bit 0 on; None without NULLs."""
    if not column.null_count:
        return None
    cdef int64_t rows = len(column), row, first = column.offset
    bits_out = _new_buffer((rows + 7) // 8)
    cdef const uint8_t* validity = _address(column.buffers()[0])
    cdef uint8_t* out = <uint8_t*> _address(bits_out)
    for row in range((rows + 7) // 8):
        out[row] = 0
    for row in range(rows):
        if _is_there(validity, first + row):
            out[row >> 3] |= <uint8_t> (1 << (row & 7))
    return bits_out
