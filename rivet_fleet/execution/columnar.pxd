# Arrow buffers that grow: what every compiled decoder fills. No GIL, no Python object per cell.
#
# A Column is one array under construction. Appending never fails but for memory: a decoder calls
# `column_room` first. Rows that turn out to be incomplete are taken back with `column_truncate`.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

cdef extern from "columnar.h" nogil:
    int RIVET_DIGITS_MAX
    uint16_t rivet_be16(const uint8_t* p)
    uint32_t rivet_be32(const uint8_t* p)
    uint64_t rivet_be64(const uint8_t* p)
    int64_t rivet_wrapping_add(int64_t a, int64_t b)
    uint32_t rivet_hash(const uint8_t* p, int64_t n)
    bint rivet_is_utf8(const uint8_t* p, int64_t n)
    uint64_t[20] rivet_small_powers
    bint rivet_wide_muladd(uint64_t* number, uint64_t factor, uint64_t addend)
    bint rivet_wide_fits(const uint64_t* number, int digits)
    void rivet_wide_store(const uint64_t* number, bint negative, int width, uint8_t* target)
    void rivet_small_store(uint64_t number, bint negative, int width, uint8_t* target)
    void rivet_fill_powers()

cdef enum Storage:
    FIXED
    # Places in a dictionary: fixed, four bytes wide. May become VARIABLE at any value.
    REPEATED
    BITS
    VARIABLE
    LIST

cdef enum Outcome:
    DONE = 0
    # More bytes are needed before anything can be said.
    INCOMPLETE = 1
    # Not plainly valid: the reference decoder decides, and words the error.
    ASK = 2
    # 32-bit offsets are used up: the batch must be closed first.
    FULL = 3
    NO_MEMORY = 4
    # The stream's own end mark was read.
    ENDED = 5

# What 32-bit offsets reach: 2 GiB less a byte; less only where a test says so. No column has room for
# more, so what fits into the room has an offset.
cdef int64_t data_bytes_max

cdef struct Repeats

cdef struct Column:
    Storage storage
    int width
    int64_t rows
    int64_t rows_room
    uint8_t* data
    int64_t data_bytes
    int64_t data_room
    int32_t* offsets
    uint8_t* validity
    int64_t nulls
    Column* child
    # Of a REPEATED column: its dictionary. `data_bytes` are those of the rows' values then.
    Repeats* repeats
    # How much the first value takes: as much as the batch before needed. 0: a little.
    int64_t rows_first
    int64_t bytes_first

# The values of a REPEATED column, and where each is found: an open-addressing table, linear probing.
# Rows are taken back from the end, and so are values: the newest is forgotten first.
cdef enum:
    REPEATS_MAX = 1000
    REPEATS_BYTES_MAX = 65536
    REPEATS_PLACES = 2048

cdef struct Repeats:
    Column values
    # By hash: one more than a value's number; 0 is free.
    int32_t[REPEATS_PLACES] places
    uint32_t[REPEATS_MAX] hashes
    # The row that a value came with.
    int64_t[REPEATS_MAX] first_rows

# Bytes of a stream that are not decoded yet.
cdef struct Pending:
    uint8_t* start
    int64_t bytes
    int64_t room

cdef int pending_keep(Pending* pending, const uint8_t* start, int64_t bytes) noexcept nogil
cdef void pending_drop(Pending* pending, int64_t bytes) noexcept nogil
cdef void pending_free(Pending* pending) noexcept nogil
cdef int column_init(Column* column, Storage storage, int width, Column* child) noexcept nogil
cdef void column_free(Column* column) noexcept nogil
cdef void column_expect(Column* column, const Column* like) noexcept nogil
cdef void column_pack(Column* column, object arrow_type)
cdef int column_new_value(Column* column, const uint8_t* value, int64_t bytes, uint32_t hash_,
                          uint32_t place) noexcept nogil
cdef int column_grow_rows(Column* column) noexcept nogil
cdef int column_grow_data(Column* column, int64_t bytes) noexcept nogil
cdef void column_truncate(Column* column, int64_t rows) noexcept nogil
cdef object column_array(Column* column, object arrow_type)
cdef list column_cells(Column* column)

cdef inline int column_room(Column* column) noexcept nogil:
    """Room for one more row. DONE or NO_MEMORY."""
    if column.rows == column.rows_room:
        return column_grow_rows(column)
    return DONE

cdef inline void column_null(Column* column) noexcept nogil:
    """Append NULL; the bytes under it are zero."""
    cdef int64_t row = column.rows
    column.validity[row >> 3] &= <uint8_t> ~(1 << (row & 7))
    column.nulls += 1
    if column.storage <= REPEATED:
        memset(column.data + row * column.width, 0, column.width)
    elif column.storage == VARIABLE:
        column.offsets[row + 1] = <int32_t> column.data_bytes
    elif column.storage == LIST:
        column.offsets[row + 1] = <int32_t> column.child.rows
    column.rows = row + 1

cdef inline uint8_t* column_slot(Column* column) noexcept nogil:
    """Where the next fixed-width value goes; the caller writes it, then `column.rows += 1`."""
    return column.data + column.rows * column.width

cdef inline void column_bit(Column* column, bint value) noexcept nogil:
    """Append one boolean."""
    cdef int64_t row = column.rows
    if value:
        column.data[row >> 3] |= <uint8_t> (1 << (row & 7))
    column.rows = row + 1

cdef inline int column_bytes(Column* column, const uint8_t* value, int64_t bytes) noexcept nogil:
    """Append one variable-width value. DONE, FULL or NO_MEMORY."""
    if column.data_room - column.data_bytes < bytes:
        if column.data_bytes + bytes > data_bytes_max:
            return FULL
        if column_grow_data(column, bytes) != DONE:
            return NO_MEMORY
    if bytes:
        memcpy(column.data + column.data_bytes, value, bytes)
    column.data_bytes += bytes
    column.rows += 1
    column.offsets[column.rows] = <int32_t> column.data_bytes
    return DONE

cdef inline int column_text(Column* column, const uint8_t* value, int64_t bytes) noexcept nogil:
    """Append one text. DONE, ASK (it is not UTF-8), FULL or NO_MEMORY."""
    cdef Repeats* repeats
    cdef const int32_t* offsets
    cdef uint32_t hash_, place
    cdef int32_t index
    if column.storage == VARIABLE:
        if not rivet_is_utf8(value, bytes):
            return ASK
        return column_bytes(column, value, bytes)
    hash_ = rivet_hash(value, bytes)
    place = hash_ & (REPEATS_PLACES - 1)
    repeats = column.repeats
    if repeats == NULL:
        return column_new_value(column, value, bytes, hash_, place)
    offsets = repeats.values.offsets
    while True:
        index = repeats.places[place] - 1
        if index < 0:
            return column_new_value(column, value, bytes, hash_, place)
        if repeats.hashes[index] == hash_ and offsets[index + 1] - offsets[index] == bytes and (
            bytes == 0 or memcmp(repeats.values.data + offsets[index], value, bytes) == 0
        ):
            break
        place = (place + 1) & (REPEATS_PLACES - 1)
    if column.data_bytes + bytes > data_bytes_max:
        return FULL
    (<int32_t*> column.data)[column.rows] = index
    column.data_bytes += bytes
    column.rows += 1
    return DONE
