# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Arrow buffers that grow, handed to pyarrow without a copy. See columnar.pxd."""

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memmove

import pyarrow as pa

cdef int64_t data_bytes_max = 0x7FFFFFFF

cdef int64_t _ROWS_FIRST = 1024
cdef int64_t _BYTES_FIRST = 4096
# A column of which more than half the values are new does not repeat; sooner it may still do.
cdef int64_t _REPEATS_ROWS = 1024
cdef int64_t _PENDING_KEPT = 1024 * 1024


def bound_columns(int64_t bytes_max):
    """For tests: close batches at this many bytes of a column, as at 2 GiB. The bound before."""
    global data_bytes_max
    before = data_bytes_max
    data_bytes_max = bytes_max
    return before


cdef int pending_keep(Pending* pending, const uint8_t* start, int64_t bytes) noexcept nogil:
    """Append bytes. DONE or NO_MEMORY."""
    cdef int64_t room
    if pending.room - pending.bytes < bytes:
        room = pending.room * 2
        if room < pending.bytes + bytes:
            room = pending.bytes + bytes
        if _resized(<void**> &pending.start, room) != DONE:
            return NO_MEMORY
        pending.room = room
    if bytes:
        # An empty buffer has no address, which memcpy must not be given.
        memcpy(pending.start + pending.bytes, start, bytes)
    pending.bytes += bytes
    return DONE


cdef void pending_drop(Pending* pending, int64_t bytes) noexcept nogil:
    """Forget the first bytes: they have been decoded. A buffer that grew large is let go."""
    pending.bytes -= bytes
    if pending.bytes:
        memmove(pending.start, pending.start + bytes, pending.bytes)
    elif pending.room > _PENDING_KEPT:
        pending_free(pending)


cdef void pending_free(Pending* pending) noexcept nogil:
    """Free the buffer; it is empty afterwards."""
    free(pending.start)
    pending.start = NULL
    pending.bytes = pending.room = 0


cdef class _Memory:
    """Memory that was allocated here and is freed with the last Arrow buffer over it."""

    cdef void* start
    cdef int64_t bytes

    def __cinit__(self):
        self.start = NULL

    def __dealloc__(self):
        free(self.start)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.start, self.bytes, 1, flags)

    def __releasebuffer__(self, Py_buffer* view):
        pass


cdef object _handed_over(void* start, int64_t bytes):
    """An Arrow buffer that owns ``start`` from now on; what lies behind ``bytes`` is given back."""
    # One byte for nothing: realloc to 0 frees the block (malloc(3)), which its owner frees again.
    cdef void* shrunk = realloc(start, <size_t> (bytes if bytes > 0 else 1))
    cdef _Memory memory = _Memory.__new__(_Memory)
    memory.start = shrunk if shrunk != NULL else start
    memory.bytes = bytes
    return pa.py_buffer(memory)


cdef int column_init(Column* column, Storage storage, int width, Column* child) noexcept nogil:
    """An empty column. Nothing is allocated before the first row."""
    memset(column, 0, sizeof(Column))
    column.storage = storage
    column.width = width
    column.child = child
    return DONE


cdef void column_free(Column* column) noexcept nogil:
    """Free what a column still owns; it is empty afterwards."""
    _drop_repeats(column)
    free(column.data)
    free(column.offsets)
    free(column.validity)
    column.data = NULL
    column.offsets = NULL
    column.validity = NULL
    column.rows = column.rows_room = column.data_bytes = column.data_room = column.nulls = 0


cdef void column_expect(Column* column, const Column* like) noexcept nogil:
    """Make room at once for as much as ``like`` held last: a column that grows step by step is
    copied on the way, and leaves holes in the heap. What did not repeat is not tried again."""
    if column.storage == REPEATED and like.storage == VARIABLE:
        column.storage = VARIABLE
        column.width = 0
    column.rows_first = like.rows_first
    column.bytes_first = like.bytes_first


cdef void _remember(Column* column) noexcept nogil:
    """The next batch will be about as large; a sixteenth more spares it the last doubling. The last
    piece of a page may be small, and tells nothing of the first one of the next."""
    # In whole words of validity: its bits are set and cleared by bytes (`column_grow_rows`).
    column.rows_first = max((column.rows + column.rows // 16 + 64) // 64 * 64, column.rows_first // 128 * 64)
    column.bytes_first = max(column.data_bytes + column.data_bytes // 16, column.bytes_first // 2)


cdef int _resized(void** start, int64_t bytes) noexcept nogil:
    cdef void* grown = realloc(start[0], <size_t> bytes)
    if grown == NULL:
        return NO_MEMORY
    start[0] = grown
    return DONE


cdef int column_grow_rows(Column* column) noexcept nogil:
    """Double the room for rows. Valid bits are set and boolean bits cleared beforehand, so that
    appending a value that is there writes neither. DONE or NO_MEMORY."""
    cdef int64_t before = column.rows_room
    cdef int64_t room = before * 2 if before else max(column.rows_first, _ROWS_FIRST)
    cdef int64_t bits_before = before // 8
    cdef int64_t bits = room // 8
    if _resized(<void**> &column.validity, bits) != DONE:
        return NO_MEMORY
    memset(column.validity + bits_before, 0xFF, bits - bits_before)
    if column.storage <= REPEATED:
        if _resized(<void**> &column.data, room * column.width) != DONE:
            return NO_MEMORY
    elif column.storage == BITS:
        if _resized(<void**> &column.data, bits) != DONE:
            return NO_MEMORY
        memset(column.data + bits_before, 0, bits - bits_before)
    else:
        if _resized(<void**> &column.offsets, (room + 1) * sizeof(int32_t)) != DONE:
            return NO_MEMORY
        column.offsets[0] = 0
    column.rows_room = room
    return DONE


cdef int column_grow_data(Column* column, int64_t bytes) noexcept nogil:
    """Room for ``bytes`` more of variable-width data, at least half as much again, and never for
    more than has an offset: the caller has seen that so much fits."""
    cdef int64_t room = column.data_room + column.data_room // 2
    if room < column.data_bytes + bytes:
        room = column.data_bytes + bytes
    if not column.data_room and room < column.bytes_first:
        room = column.bytes_first
    if room < _BYTES_FIRST:
        room = _BYTES_FIRST
    if room > data_bytes_max:
        room = data_bytes_max
    if _resized(<void**> &column.data, room) != DONE:
        return NO_MEMORY
    column.data_room = room
    return DONE


cdef void column_truncate(Column* column, int64_t rows) noexcept nogil:
    """Take back every row from ``rows`` on."""
    cdef int64_t row
    cdef uint8_t bit
    if rows >= column.rows:
        return
    for row in range(rows, column.rows):
        bit = <uint8_t> (1 << (row & 7))
        if not column.validity[row >> 3] & bit:
            column.validity[row >> 3] |= bit
            column.nulls -= 1
        elif column.storage == REPEATED:
            column.data_bytes -= _value_bytes(column, row)
        if column.storage == BITS:
            column.data[row >> 3] &= <uint8_t> ~bit
    column.rows = rows
    if column.storage == VARIABLE:
        column.data_bytes = column.offsets[rows]
    elif column.storage == LIST:
        column_truncate(column.child, column.offsets[rows])
    elif column.storage == REPEATED:
        _forget_values(column)


cdef object column_array(Column* column, object arrow_type):
    """The finished array, which takes the column's memory with it; the column is empty again."""
    if isinstance(arrow_type, pa.BaseExtensionType):
        storage = column_array(column, arrow_type.storage_type)
        return pa.ExtensionArray.from_storage(arrow_type, storage)
    cdef int64_t rows = column.rows
    _remember(column)
    if column.storage == REPEATED:
        return _repeated_array(column, arrow_type)
    if rows == 0:
        column_free(column)
        if column.storage == LIST:
            column_free(column.child)
        return pa.nulls(0, arrow_type)
    cdef int64_t nulls = column.nulls
    cdef int64_t bits = (rows + 7) // 8
    validity = _handed_over(column.validity, bits) if nulls else None
    if not nulls:
        free(column.validity)
    column.validity = NULL
    children = []
    buffers = [validity]
    if column.storage == VARIABLE or column.storage == LIST:
        buffers.append(_handed_over(column.offsets, (rows + 1) * sizeof(int32_t)))
        column.offsets = NULL
    if column.storage == FIXED:
        buffers.append(_handed_over(column.data, rows * column.width))
    elif column.storage == BITS:
        buffers.append(_handed_over(column.data, bits))
    elif column.storage == VARIABLE:
        buffers.append(_handed_over(column.data, column.data_bytes))
    else:
        children = [column_array(column.child, arrow_type.value_type)]
    column.data = NULL
    column_free(column)
    return pa.Array.from_buffers(arrow_type, rows, buffers, nulls, children=children)


cdef void column_pack(Column* column, object arrow_type):
    """Let an empty column be of a packed type (ADR 0014): decimal64, or text that may repeat."""
    if pa.types.is_decimal64(arrow_type):
        column.width = 8
    elif pa.types.is_string(arrow_type):
        column.storage = REPEATED
        column.width = sizeof(int32_t)


cdef inline int64_t _value_bytes(const Column* column, int64_t row) noexcept nogil:
    cdef int32_t index = (<int32_t*> column.data)[row]
    return column.repeats.values.offsets[index + 1] - column.repeats.values.offsets[index]


cdef int column_new_value(Column* column, const uint8_t* value, int64_t bytes, uint32_t hash_,
                          uint32_t place) noexcept nogil:
    """Append a text that is not in the dictionary, whose free place is ``place``; in a column
    that repeats too little it becomes plain first. DONE, ASK, FULL or NO_MEMORY."""
    cdef Repeats* repeats = column.repeats
    cdef Column* values
    cdef int64_t count, present
    cdef int outcome
    if not rivet_is_utf8(value, bytes):
        return ASK
    # As if it were plain already: it may become so at any value, and must have an offset for each.
    if column.data_bytes + bytes > data_bytes_max:
        return FULL
    if repeats == NULL:
        repeats = column.repeats = <Repeats*> calloc(1, sizeof(Repeats))
        if repeats == NULL:
            return NO_MEMORY
        column_init(&repeats.values, VARIABLE, 0, NULL)
    values = &repeats.values
    count = values.rows
    present = column.rows - column.nulls
    if count == REPEATS_MAX or values.data_bytes + bytes > REPEATS_BYTES_MAX or (
        present >= _REPEATS_ROWS and 2 * count > present
    ):
        outcome = _unrepeat(column)
        return outcome if outcome != DONE else column_bytes(column, value, bytes)
    if column_room(values) != DONE or column_bytes(values, value, bytes) != DONE:
        return NO_MEMORY
    repeats.hashes[count] = hash_
    repeats.first_rows[count] = column.rows
    repeats.places[place] = <int32_t> count + 1
    (<int32_t*> column.data)[column.rows] = <int32_t> count
    column.data_bytes += bytes
    column.rows += 1
    return DONE


cdef void _forget_values(Column* column) noexcept nogil:
    """Take back the values that came with rows that were taken back. The newest value's place
    was free when it came, and no other was looked for across it since."""
    cdef Repeats* repeats = column.repeats
    cdef int64_t last
    cdef uint32_t place
    if repeats == NULL:
        return
    last = repeats.values.rows - 1
    while last >= 0 and repeats.first_rows[last] >= column.rows:
        place = repeats.hashes[last] & (REPEATS_PLACES - 1)
        while repeats.places[place] != last + 1:
            place = (place + 1) & (REPEATS_PLACES - 1)
        repeats.places[place] = 0
        column_truncate(&repeats.values, last)
        last -= 1


cdef void _drop_repeats(Column* column) noexcept nogil:
    if column.repeats != NULL:
        column_free(&column.repeats.values)
        free(column.repeats)
        column.repeats = NULL


cdef int _unrepeat(Column* column) noexcept nogil:
    """Make a REPEATED column VARIABLE; its rows stay what they are. DONE or NO_MEMORY."""
    cdef int64_t room = column.data_bytes + column.data_bytes // 2
    cdef int64_t row, bytes
    cdef int32_t position = 0
    cdef uint8_t* data
    cdef int32_t* offsets
    cdef const Column* values = &column.repeats.values
    cdef const int32_t* indices = <int32_t*> column.data
    room = min(max(room, column.bytes_first, _BYTES_FIRST), data_bytes_max)
    data = <uint8_t*> malloc(<size_t> room)
    offsets = <int32_t*> malloc(<size_t> ((column.rows_room + 1) * sizeof(int32_t)))
    if data == NULL or offsets == NULL:
        free(data)
        free(offsets)
        return NO_MEMORY
    offsets[0] = 0
    for row in range(column.rows):
        if column.validity[row >> 3] >> (row & 7) & 1:
            bytes = _value_bytes(column, row)
            if bytes:
                memcpy(data + position, values.data + values.offsets[indices[row]], bytes)
            position += <int32_t> bytes
        offsets[row + 1] = position
    free(column.data)
    _drop_repeats(column)
    column.storage, column.width = VARIABLE, 0
    column.data, column.data_room, column.offsets = data, room, offsets
    return DONE


cdef object _repeated_array(Column* column, object arrow_type):
    """A dictionary array; plain text when its values hardly repeat (the next batch may differ)."""
    cdef int64_t rows = column.rows, nulls = column.nulls
    if rows == 0:
        column_free(column)
        return pa.nulls(0, arrow_type)
    if column.repeats == NULL:
        # Nothing but NULL: an empty dictionary.
        values = pa.nulls(0, arrow_type)
    elif 2 * column.repeats.values.rows > rows - nulls:
        if _unrepeat(column) != DONE:
            raise MemoryError
        array = column_array(column, arrow_type)
        column.storage, column.width = REPEATED, sizeof(int32_t)
        return array
    else:
        values = column_array(&column.repeats.values, arrow_type)
    validity = _handed_over(column.validity, (rows + 7) // 8) if nulls else None
    if nulls:
        column.validity = NULL
    indices = _handed_over(column.data, rows * sizeof(int32_t))
    column.data = NULL
    column_free(column)
    places = pa.Array.from_buffers(pa.int32(), rows, [validity, indices], nulls)
    # The indices were made here: pyarrow's check would look at each of them once more.
    return pa.DictionaryArray.from_arrays(places, values, safe=False)


cdef list column_cells(Column* column):
    """The values of a VARIABLE column as bytes objects, None for NULL; the column is empty again."""
    cdef list cells = []
    cdef int64_t row
    cdef int32_t first
    for row in range(column.rows):
        if column.validity[row >> 3] >> (row & 7) & 1:
            first = column.offsets[row]
            cells.append(
                PyBytes_FromStringAndSize(
                    <char*> column.data + first, column.offsets[row + 1] - first
                )
            )
        else:
            cells.append(None)
    _remember(column)
    column_free(column)
    return cells
