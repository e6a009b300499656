# The cells of binary COPY: one value at a time into a column, or a verdict. No GIL.
#
# The values: each type's `...send` function of the server. What is not plainly valid is ASK.

from libc.stdint cimport (
    INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN,
    int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t,
)
from libc.string cimport memcpy

from rivet_fleet.execution.columnar cimport (
    ASK, DONE, FULL, NO_MEMORY, Column, column_bit, column_bytes, column_null, column_room,
    column_slot, column_text, column_truncate, rivet_be16, rivet_be32, rivet_be64, rivet_is_utf8,
    rivet_small_powers, rivet_small_store, rivet_wide_fits, rivet_wide_muladd, rivet_wide_store,
)

cdef extern from * nogil:
    """
    /* PostgreSQL counts from 2000-01-01; its limits: src/include/datatype/timestamp.h. */
    #define RIVET_PG_UNIX_DAYS 10957
    #define RIVET_PG_UNIX_US INT64_C(946684800000000)
    #define RIVET_PG_DAY_US INT64_C(86400000000)
    #define RIVET_PG_DATE_DAYS_MIN (-2451545)
    #define RIVET_PG_DATE_DAYS_MAX 2145031948
    #define RIVET_PG_TIMESTAMP_US_MIN (-INT64_C(211813488000000000))
    """
    int32_t RIVET_PG_UNIX_DAYS
    int64_t RIVET_PG_UNIX_US
    int64_t RIVET_PG_DAY_US
    int32_t RIVET_PG_DATE_DAYS_MIN
    int32_t RIVET_PG_DATE_DAYS_MAX
    int64_t RIVET_PG_TIMESTAMP_US_MIN

cdef enum Kind:
    BOOL
    INT16
    INT32
    INT64
    UINT32
    DATE
    TIME
    TIMESTAMP
    UUID
    BYTES
    TEXT
    JSONB
    DECIMAL
    ARRAY
    # Kept as bytes, made into Arrow by the reference's builder of the column.
    RAW

cdef struct Field:
    Kind kind
    bint nullable
    bint coerce
    int precision
    int scale
    int64_t changed
    int64_t changed_here
    Column column
    # Of an ARRAY: its elements.
    Kind element_kind
    uint32_t element_oid
    Column elements


cdef inline int decimal_cell(Column* column, int precision, int scale, const uint8_t* cell,
                  int64_t bytes) noexcept nogil:
    """numeric: base 10,000 digits, to an unscaled integer of the column's width. DONE or ASK."""
    cdef int digits, weight, shift, i
    cdef uint16_t sign, digit
    cdef uint64_t small
    cdef uint64_t[4] wide
    if bytes < 8:
        return ASK
    digits = rivet_be16(cell)
    weight = <int16_t> rivet_be16(cell + 2)
    sign = rivet_be16(cell + 4)
    if (sign != 0 and sign != 0x4000) or bytes != 8 + 2 * digits:
        return ASK
    shift = 4 * (weight - digits + 1) + scale
    if digits == 0:
        shift = 0
    if shift < -4 or shift > precision:
        return ASK
    if digits <= 4 and 4 * digits + shift <= 18:
        small = 0
        for i in range(digits):
            digit = rivet_be16(cell + 8 + 2 * i)
            if digit > 9999:
                return ASK
            small = small * 10000 + digit
        if shift >= 0:
            small *= rivet_small_powers[shift]
        else:
            if small % rivet_small_powers[-shift]:
                return ASK
            small //= rivet_small_powers[-shift]
        if precision < 19 and small >= rivet_small_powers[precision]:
            return ASK
        rivet_small_store(small, sign != 0, column.width, column_slot(column))
        column.rows += 1
        return DONE
    wide[0] = wide[1] = wide[2] = wide[3] = 0
    for i in range(digits):
        digit = rivet_be16(cell + 8 + 2 * i)
        if digit > 9999:
            return ASK
        small = 10000
        if shift < 0 and i == digits - 1:
            # The last digit's own trailing zeros lie behind the scale.
            if digit % rivet_small_powers[-shift]:
                return ASK
            digit = <uint16_t> (digit // rivet_small_powers[-shift])
            small = rivet_small_powers[4 + shift]
        if rivet_wide_muladd(wide, small, digit):
            return ASK
    while shift > 0:
        i = shift if shift < 19 else 19
        if rivet_wide_muladd(wide, rivet_small_powers[i], 0):
            return ASK
        shift -= i
    if not rivet_wide_fits(wide, precision):
        return ASK
    rivet_wide_store(wide, sign != 0, column.width, column_slot(column))
    column.rows += 1
    return DONE


cdef inline void put_int64(Column* column, int64_t value) noexcept nogil:
    memcpy(column_slot(column), &value, 8)
    column.rows += 1


cdef inline int unfit_cell(Column* column, Field* field) noexcept nogil:
    """A valid value that the type cannot hold: NULL and counted, or the reference's error."""
    if not field.coerce:
        return ASK
    column_null(column)
    field.changed_here += 1
    return DONE


cdef inline int moment_cell(Kind kind, Column* column, Field* field, const uint8_t* cell,
                        int64_t bytes) noexcept nogil:
    """Dates, times and timestamps."""
    cdef int32_t days
    cdef int64_t us
    if kind == DATE:
        if bytes != 4:
            return ASK
        days = <int32_t> rivet_be32(cell)
        if days == INT32_MIN or days == INT32_MAX:
            return unfit_cell(column, field)
        if days < RIVET_PG_DATE_DAYS_MIN or days > RIVET_PG_DATE_DAYS_MAX:
            return ASK
        days += RIVET_PG_UNIX_DAYS
        memcpy(column_slot(column), &days, 4)
        column.rows += 1
        return DONE
    if bytes != 8:
        return ASK
    us = <int64_t> rivet_be64(cell)
    if kind == TIME:
        if us == RIVET_PG_DAY_US:
            return unfit_cell(column, field)
        if us < 0 or us > RIVET_PG_DAY_US:
            return ASK
        put_int64(column, us)
        return DONE
    if us == INT64_MIN or us == INT64_MAX:
        return unfit_cell(column, field)
    if us < RIVET_PG_TIMESTAMP_US_MIN or us > INT64_MAX - RIVET_PG_UNIX_US:
        return ASK
    put_int64(column, us + RIVET_PG_UNIX_US)
    return DONE


cdef inline int scalar_cell(Kind kind, Column* column, Field* field, const uint8_t* cell,
                        int64_t bytes) noexcept nogil:
    """One value that is not NULL. DONE, ASK, FULL or NO_MEMORY; on anything but DONE the
    column is as it was."""
    cdef uint16_t v16
    cdef uint32_t v32
    cdef uint64_t v64
    if kind == INT32:
        if bytes != 4:
            return ASK
        v32 = rivet_be32(cell)
        memcpy(column_slot(column), &v32, 4)
        column.rows += 1
        return DONE
    if kind == INT64:
        if bytes != 8:
            return ASK
        v64 = rivet_be64(cell)
        memcpy(column_slot(column), &v64, 8)
        column.rows += 1
        return DONE
    if kind == TEXT:
        return column_text(column, cell, bytes)
    if kind == DECIMAL:
        return decimal_cell(column, field.precision, field.scale, cell, bytes)
    if kind == DATE or kind == TIME or kind == TIMESTAMP:
        return moment_cell(kind, column, field, cell, bytes)
    if kind == INT16:
        if bytes != 2:
            return ASK
        v16 = rivet_be16(cell)
        memcpy(column_slot(column), &v16, 2)
        column.rows += 1
        return DONE
    if kind == BOOL:
        if bytes != 1 or cell[0] > 1:
            return ASK
        column_bit(column, cell[0])
        return DONE
    if kind == BYTES or kind == RAW:
        return column_bytes(column, cell, bytes)
    if kind == JSONB:
        if bytes < 1 or cell[0] != 1 or not rivet_is_utf8(cell + 1, bytes - 1):
            return ASK
        return column_bytes(column, cell + 1, bytes - 1)
    if kind == UUID:
        if bytes != 16:
            return ASK
        memcpy(column_slot(column), cell, 16)
        column.rows += 1
        return DONE
    if kind == UINT32:
        if bytes != 4:
            return ASK
        put_int64(column, <int64_t> rivet_be32(cell))
        return DONE
    return ASK


cdef inline int array_cell(Field* field, const uint8_t* cell, int64_t bytes) noexcept nogil:
    """A one-dimensional array; its elements are taken back unless DONE."""
    cdef Column* lists = &field.column
    cdef Column* elements = &field.elements
    cdef int64_t before = elements.rows
    cdef int64_t position = 20
    cdef int32_t dimensions, count, length, i
    cdef int outcome = DONE
    if bytes < 12:
        return ASK
    dimensions = <int32_t> rivet_be32(cell)
    if field.element_oid != 0 and rivet_be32(cell + 8) != field.element_oid:
        return ASK
    if dimensions == 0 and bytes == 12:
        lists.rows += 1
        lists.offsets[lists.rows] = <int32_t> before
        return DONE
    if dimensions != 1 or bytes < position:
        return ASK
    count = <int32_t> rivet_be32(cell + 12)
    if count < 0 or count > (bytes - position) // 4:
        return ASK
    if before + count > INT32_MAX:
        return FULL
    for i in range(count):
        if column_room(elements) != DONE:
            outcome = NO_MEMORY
            break
        if position + 4 > bytes:
            outcome = ASK
            break
        length = <int32_t> rivet_be32(cell + position)
        position += 4
        if length == -1:
            column_null(elements)
            continue
        if length < 0 or position + length > bytes:
            outcome = ASK
            break
        outcome = scalar_cell(field.element_kind, elements, field, cell + position, length)
        if outcome != DONE:
            break
        position += length
    if outcome == DONE and position != bytes:
        outcome = ASK
    if outcome != DONE:
        column_truncate(elements, before)
        return outcome
    if rivet_be32(cell + 16) != 1:
        field.changed_here += 1
    lists.rows += 1
    lists.offsets[lists.rows] = <int32_t> elements.rows
    return DONE


cdef inline int64_t framed_row(const uint8_t* row, int64_t bytes, int fields, int64_t limit) noexcept nogil:
    """The length of one whole row by its own lengths; 0 when it is incomplete, -1 when they
    cannot be true."""
    cdef int64_t position = 2
    cdef int32_t length
    cdef int i
    if bytes < 2:
        return 0
    if rivet_be16(row) != fields:
        return -1
    for i in range(fields):
        if bytes - position < 4:
            return 0
        length = <int32_t> rivet_be32(row + position)
        position += 4
        if length == -1:
            continue
        if length < 0 or length > limit:
            return -1
        position += length
        if position > bytes:
            return 0
    return position
