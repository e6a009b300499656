# The cells of binary-protocol rows: one value at a time into a column, or a verdict. No GIL.
#
# MySQL internals manual, "Binary Protocol Value". What is not plainly valid is ASK.

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from rivet_fleet.execution.columnar cimport (
    ASK, DONE, FULL, NO_MEMORY, Column, column_bit, column_bytes, column_null, column_slot, column_text,
    rivet_small_powers, rivet_small_store, rivet_wide_muladd, rivet_wide_store,
)

cdef extern from * nogil:
    """
    #define RIVET_MY_DAY_US INT64_C(86400000000)
    #define RIVET_MY_TIME_US_MAX (839 * INT64_C(3600000000) - 1)
    #define RIVET_MY_DECIMAL_BYTES_MAX 128
    /* How a cell says its length: framing.py; compared on import. */
    #define RIVET_MY_LENGTH_ENCODED (-1)
    #define RIVET_MY_DATE_LENGTH (-2)
    #define RIVET_MY_TIME_LENGTH (-3)
    static const int rivet_my_month_days[13] = {0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    """
    int64_t RIVET_MY_DAY_US
    int64_t RIVET_MY_TIME_US_MAX
    int RIVET_MY_DECIMAL_BYTES_MAX
    int RIVET_MY_LENGTH_ENCODED
    int RIVET_MY_DATE_LENGTH
    int RIVET_MY_TIME_LENGTH
    const int* rivet_my_month_days

cdef enum Kind:
    # As wide here as on the wire: integers of the same sign, floating-point numbers.
    PLAIN
    # An integer of another width or sign.
    INTEGER
    # BIT: one to eight bytes, the most significant first.
    BIT_FIELD
    BOOLEAN
    BIT_BOOLEAN
    DECIMAL
    DATE
    TIME
    TIMESTAMP
    TEXT
    BYTES
    UUID
    # Kept as bytes, made into Arrow by the reference's builder of the column.
    RAW

cdef struct Field:
    Kind kind
    # Bytes of a cell on the wire, or how it says its length: see values.framing.
    int framing
    bint is_signed
    bint target_signed
    bint nullable
    bint coerce
    # Of a UUID: sent as bytes, of which 16 are the UUID itself.
    bint is_binary
    int precision
    int scale
    int64_t changed
    int64_t changed_here
    Column column


cdef inline uint32_t le32(const uint8_t* p) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, p, 4)
    return value


cdef inline void put_int64(Column* column, int64_t value) noexcept nogil:
    memcpy(column_slot(column), &value, 8)
    column.rows += 1


cdef inline int unfit_cell(Field* field) noexcept nogil:
    """A valid value that the type cannot hold: NULL and counted, or the reference's error."""
    if not field.coerce or not field.nullable:
        return ASK
    column_null(&field.column)
    field.changed_here += 1
    return DONE


cdef inline uint64_t widened_integer(Field* field, const uint8_t* cell) noexcept nogil:
    """The integer on the wire as 64 bits, sign extended when it has one."""
    cdef uint16_t v16
    cdef uint32_t v32
    cdef uint64_t v64
    if field.framing == 1:
        return <uint64_t> <int64_t> <signed char> cell[0] if field.is_signed else cell[0]
    if field.framing == 2:
        memcpy(&v16, cell, 2)
        return <uint64_t> <int64_t> <int16_t> v16 if field.is_signed else v16
    if field.framing == 4:
        v32 = le32(cell)
        return <uint64_t> <int64_t> <int32_t> v32 if field.is_signed else v32
    memcpy(&v64, cell, 8)
    return v64


cdef inline int put_integer(Field* field, uint64_t value, bint is_signed) noexcept nogil:
    """An integer into a column of another width or sign; ASK when it does not fit."""
    cdef Column* column = &field.column
    cdef int64_t number = <int64_t> value
    cdef int64_t limit
    if not field.target_signed:
        if is_signed and number < 0:
            return ASK
    elif not is_signed and number < 0:
        return ASK
    elif column.width < 8:
        limit = <int64_t> 1 << (8 * column.width - 1)
        if number < -limit or number >= limit:
            return ASK
    memcpy(column_slot(column), &value, column.width)
    column.rows += 1
    return DONE


cdef inline int bits_cell(const uint8_t* cell, int64_t bytes, uint64_t* value) noexcept nogil:
    cdef int64_t i
    if bytes < 1 or bytes > 8:
        return ASK
    value[0] = 0
    for i in range(bytes):
        value[0] = value[0] << 8 | cell[i]
    return DONE


cdef inline int decimal_cell(Field* field, const uint8_t* cell, int64_t bytes) noexcept nogil:
    """A decimal's text to an unscaled integer of the column's width. DONE or ASK."""
    cdef Column* column = &field.column
    cdef bint negative = False
    cdef int64_t position = 0
    cdef int fraction = -1
    cdef int digits = 0
    cdef int seen = 0
    cdef uint64_t small = 0
    cdef uint64_t[4] wide
    cdef int in_small = 0
    cdef uint8_t c
    if bytes > RIVET_MY_DECIMAL_BYTES_MAX:
        return ASK
    if bytes and cell[0] == c'-':
        negative = True
        position = 1
    wide[0] = wide[1] = wide[2] = wide[3] = 0
    while position < bytes:
        c = cell[position]
        position += 1
        if c == c'.':
            if fraction >= 0:
                return ASK
            fraction = 0
            continue
        if c < c'0' or c > c'9':
            return ASK
        seen += 1
        if fraction >= 0:
            if fraction == field.scale:
                if c != c'0':
                    return ASK
                continue
            fraction += 1
        if digits or c != c'0':
            digits += 1
            small = small * 10 + (c - c'0')
            in_small += 1
            if in_small == 18 and digits >= 18:
                if rivet_wide_muladd(wide, rivet_small_powers[18], small):
                    return ASK
                small = 0
                in_small = 0
    if not seen:
        return ASK
    if fraction < 0:
        fraction = 0
    # The scale's missing zeros.
    while fraction < field.scale:
        fraction += 1
        if digits:
            digits += 1
            small *= 10
            in_small += 1
            if in_small == 18:
                if rivet_wide_muladd(wide, rivet_small_powers[18], small):
                    return ASK
                small = 0
                in_small = 0
    if digits > field.precision:
        return ASK
    if digits < 18:
        rivet_small_store(small, negative, column.width, column_slot(column))
    else:
        if rivet_wide_muladd(wide, rivet_small_powers[in_small], small):
            return ASK
        rivet_wide_store(wide, negative, column.width, column_slot(column))
    column.rows += 1
    return DONE


cdef inline bint is_leap(int year) noexcept nogil:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


cdef inline int64_t days_since_1970(int year, int month, int day) noexcept nogil:
    """Days since 1970-01-01, proleptic Gregorian, years 0 to 9999 (H. Hinnant's algorithm)."""
    cdef int64_t y = year - (1 if month <= 2 else 0)
    cdef int64_t era = (y if y >= 0 else y - 399) // 400
    cdef int64_t year_of_era = y - era * 400
    cdef int64_t day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    cdef int64_t day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * 146097 + day_of_era - 719468


cdef inline int clock_us(const uint8_t* cell, int64_t bytes, int64_t* us) noexcept nogil:
    """Hours, minutes, seconds and microseconds, as far as the cell goes. DONE or ASK."""
    cdef uint32_t fraction = 0
    us[0] = 0
    if bytes == 0:
        return DONE
    if bytes >= 7:
        fraction = le32(cell + 3)
    if cell[0] > 23 or cell[1] > 59 or cell[2] > 59 or fraction > 999999:
        return ASK
    us[0] = ((cell[0] * 60 + cell[1]) * 60 + cell[2]) * <int64_t> 1000000 + fraction
    return DONE


cdef inline int moment_cell(Field* field, const uint8_t* cell, int64_t bytes) noexcept nogil:
    """A date or datetime of 0, 4, 7 or 11 bytes."""
    cdef int year, month, day
    cdef int64_t us, days
    cdef int32_t date
    if bytes == 0:
        return unfit_cell(field)
    year = cell[0] | cell[1] << 8
    month = cell[2]
    day = cell[3]
    if year > 9999 or month > 12 or day > 31:
        return ASK
    if clock_us(cell + 4, bytes - 4, &us) != DONE:
        return ASK
    if field.kind == DATE and us:
        return ASK
    if month == 0 or day == 0 or day > rivet_my_month_days[month]:
        return unfit_cell(field)
    if month == 2 and day == 29 and not is_leap(year):
        return unfit_cell(field)
    days = days_since_1970(year, month, day)
    if field.kind == DATE:
        date = <int32_t> days
        memcpy(column_slot(&field.column), &date, 4)
        field.column.rows += 1
    else:
        put_int64(&field.column, days * RIVET_MY_DAY_US + us)
    return DONE


cdef inline int time_cell(Field* field, const uint8_t* cell, int64_t bytes) noexcept nogil:
    """A TIME of 0, 8 or 12 bytes: a signed span."""
    cdef int64_t us
    if bytes == 0:
        put_int64(&field.column, 0)
        return DONE
    # 34 days are 816 hours: a day more is beyond the server's own range.
    if cell[0] > 1 or le32(cell + 1) > 34 or clock_us(cell + 5, bytes - 5, &us) != DONE:
        return ASK
    us += <int64_t> le32(cell + 1) * RIVET_MY_DAY_US
    if us > RIVET_MY_TIME_US_MAX:
        return ASK
    if us >= RIVET_MY_DAY_US or (cell[0] and us):
        return unfit_cell(field)
    put_int64(&field.column, us)
    return DONE


cdef inline int hex_digit(uint8_t c) noexcept nogil:
    """0 to 15, or -1."""
    if 48 <= c <= 57:
        return c - 48
    c |= 0x20
    return c - 87 if 97 <= c <= 102 else -1


cdef inline int uuid_cell(Field* field, const uint8_t* cell, int64_t bytes) noexcept nogil:
    """16 bytes as they are, or the canonical 36 characters."""
    cdef uint8_t* slot = column_slot(&field.column)
    cdef int i, high, low, position = 0
    if field.is_binary and bytes == 16:
        memcpy(slot, cell, 16)
        field.column.rows += 1
        return DONE
    if bytes != 36 or cell[8] != 45 or cell[13] != 45 or cell[18] != 45 or cell[23] != 45:
        return unfit_cell(field)
    for i in range(16):
        if i == 4 or i == 6 or i == 8 or i == 10:
            position += 1
        high = hex_digit(cell[position])
        low = hex_digit(cell[position + 1])
        if high < 0 or low < 0:
            return unfit_cell(field)
        slot[i] = <uint8_t> (high << 4 | low)
        position += 2
    field.column.rows += 1
    return DONE


cdef inline int any_cell(Field* field, const uint8_t* cell, int64_t bytes) noexcept nogil:
    """One value that is not NULL. DONE, ASK, FULL or NO_MEMORY; on anything but DONE the column
    is as it was."""
    cdef uint64_t value
    cdef Column* column = &field.column
    if field.kind == PLAIN:
        memcpy(column_slot(column), cell, column.width)
        column.rows += 1
        return DONE
    if field.kind == TEXT:
        return column_text(column, cell, bytes)
    if field.kind == DECIMAL:
        return decimal_cell(field, cell, bytes)
    if field.kind == DATE or field.kind == TIMESTAMP:
        return moment_cell(field, cell, bytes)
    if field.kind == INTEGER:
        return put_integer(field, widened_integer(field, cell), field.is_signed)
    if field.kind == BYTES or field.kind == RAW:
        return column_bytes(column, cell, bytes)
    if field.kind == BOOLEAN:
        value = widened_integer(field, cell)
        if value > 1:
            return ASK
        column_bit(column, value == 1)
        return DONE
    if field.kind == UUID:
        return uuid_cell(field, cell, bytes)
    if field.kind == TIME:
        return time_cell(field, cell, bytes)
    if bits_cell(cell, bytes, &value) != DONE:
        return ASK
    if field.kind == BIT_FIELD:
        return put_integer(field, value, False)
    if value > 1:
        return ASK
    column_bit(column, value == 1)
    return DONE


cdef inline int cell_extent(int framing, const uint8_t* row, int64_t position, int64_t end,
                        int64_t limit, int64_t* start, int64_t* stop) noexcept nogil:
    """Where a cell begins and ends. DONE, or ASK when its length cannot be true."""
    cdef uint8_t first
    cdef int width
    cdef uint64_t length
    if framing > 0:
        start[0] = position
        stop[0] = position + framing
        return DONE if stop[0] <= end else ASK
    if position >= end:
        return ASK
    first = row[position]
    position += 1
    if framing == RIVET_MY_LENGTH_ENCODED:
        length = first
        if first > 0xFA:
            if first == 0xFC:
                width = 2
            elif first == 0xFD:
                width = 3
            elif first == 0xFE:
                width = 8
            else:
                return ASK
            if end - position < width:
                return ASK
            length = 0
            memcpy(&length, row + position, width)
            position += width
        if length > <uint64_t> limit:
            return ASK
    elif framing == RIVET_MY_DATE_LENGTH:
        if first != 0 and first != 4 and first != 7 and first != 11:
            return ASK
        length = first
    elif framing == RIVET_MY_TIME_LENGTH:
        if first != 0 and first != 8 and first != 12:
            return ASK
        length = first
    else:
        return ASK
    if <int64_t> length > end - position:
        return ASK
    start[0] = position
    stop[0] = position + <int64_t> length
    return DONE
