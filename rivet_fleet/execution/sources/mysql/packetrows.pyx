# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Binary-protocol rows to Arrow without a Python object per cell: the compiled ``BatchDecoder``.

``ReferenceDecoder`` is the specification. A packet that holds one whole, plainly valid row is
decoded here, without the GIL. Everything else goes to the reference decoder, whose verdict stands
for both: the end, an error, rows of several packets, values that are refused or changed. Every
length is checked before it is used.
"""

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from rivet_fleet.execution.columnar cimport (
    ASK, BITS, DONE, FIXED, FULL, INCOMPLETE, NO_MEMORY, VARIABLE,
    Column, Pending, Storage, column_array, column_bit, column_bytes, column_cells, column_free,
    column_init, column_null, column_room, column_slot, column_truncate,
    pending_drop, pending_free, pending_keep,
    rivet_fill_powers, rivet_is_utf8, rivet_small_powers, rivet_small_store,
    rivet_wide_fits, rivet_wide_muladd, rivet_wide_store,
)

import pyarrow as pa

from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.execution.batches import BatchQueue
from rivet_fleet.execution.sources.mysql.decoder import ReferenceDecoder
from rivet_fleet.execution.sources.mysql.values import (
    DATE_LENGTH,
    LENGTH_ENCODED,
    TIME_LENGTH,
    build_column,
    framing,
)
from rivet_fleet.execution.types import arrow_schema, arrow_type

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
    int precision
    int scale
    int64_t changed
    int64_t changed_here
    Column column

cdef int _HEADER = 4
cdef int _LENGTH_ENCODED = LENGTH_ENCODED
cdef int _DATE_LENGTH = DATE_LENGTH
cdef int _TIME_LENGTH = TIME_LENGTH
cdef int64_t _PACKET_MAX = 0xFFFFFF
cdef int64_t _DAY_US = 86400000000
cdef int64_t _TIME_US_MAX = 839 * 3600000000 - 1
cdef int _DECIMAL_BYTES_MAX = 128

cdef int[13] _MONTH_DAYS
_MONTH_DAYS[:] = [0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]

rivet_fill_powers()


# ---------------------------------------------------------------- cells

cdef inline uint32_t _le32(const uint8_t* p) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, p, 4)
    return value


cdef inline void _put64(Column* column, int64_t value) noexcept nogil:
    memcpy(column_slot(column), &value, 8)
    column.rows += 1


cdef inline int _unfit(Field* field) noexcept nogil:
    """A valid value that the type cannot hold: NULL and counted, or the reference's error."""
    if not field.coerce or not field.nullable:
        return ASK
    column_null(&field.column)
    field.changed_here += 1
    return DONE


cdef inline uint64_t _widened(Field* field, const uint8_t* cell) noexcept nogil:
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
        v32 = _le32(cell)
        return <uint64_t> <int64_t> <int32_t> v32 if field.is_signed else v32
    memcpy(&v64, cell, 8)
    return v64


cdef inline int _put_integer(Field* field, uint64_t value, bint is_signed) noexcept nogil:
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


cdef inline int _bits(const uint8_t* cell, int64_t bytes, uint64_t* value) noexcept nogil:
    cdef int64_t i
    if bytes < 1 or bytes > 8:
        return ASK
    value[0] = 0
    for i in range(bytes):
        value[0] = value[0] << 8 | cell[i]
    return DONE


cdef int _decimal(Field* field, const uint8_t* cell, int64_t bytes) noexcept nogil:
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
    if bytes > _DECIMAL_BYTES_MAX:
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


cdef inline bint _is_leap(int year) noexcept nogil:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


cdef inline int64_t _days(int year, int month, int day) noexcept nogil:
    """Days since 1970-01-01, proleptic Gregorian, years 0 to 9999 (H. Hinnant's algorithm)."""
    cdef int64_t y = year - (1 if month <= 2 else 0)
    cdef int64_t era = (y if y >= 0 else y - 399) // 400
    cdef int64_t year_of_era = y - era * 400
    cdef int64_t day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    cdef int64_t day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * 146097 + day_of_era - 719468


cdef inline int _clock(const uint8_t* cell, int64_t bytes, int64_t* us) noexcept nogil:
    """Hours, minutes, seconds and microseconds, as far as the cell goes. DONE or ASK."""
    cdef uint32_t fraction = 0
    us[0] = 0
    if bytes == 0:
        return DONE
    if bytes >= 7:
        fraction = _le32(cell + 3)
    if cell[0] > 23 or cell[1] > 59 or cell[2] > 59 or fraction > 999999:
        return ASK
    us[0] = ((cell[0] * 60 + cell[1]) * 60 + cell[2]) * <int64_t> 1000000 + fraction
    return DONE


cdef int _moment(Field* field, const uint8_t* cell, int64_t bytes) noexcept nogil:
    """A date or datetime of 0, 4, 7 or 11 bytes."""
    cdef int year, month, day
    cdef int64_t us, days
    cdef int32_t date
    if bytes == 0:
        return _unfit(field)
    year = cell[0] | cell[1] << 8
    month = cell[2]
    day = cell[3]
    if year > 9999 or month > 12 or day > 31:
        return ASK
    if _clock(cell + 4, bytes - 4, &us) != DONE:
        return ASK
    if field.kind == DATE and us:
        return ASK
    if month == 0 or day == 0 or day > _MONTH_DAYS[month]:
        return _unfit(field)
    if month == 2 and day == 29 and not _is_leap(year):
        return _unfit(field)
    days = _days(year, month, day)
    if field.kind == DATE:
        date = <int32_t> days
        memcpy(column_slot(&field.column), &date, 4)
        field.column.rows += 1
    else:
        _put64(&field.column, days * _DAY_US + us)
    return DONE


cdef int _time(Field* field, const uint8_t* cell, int64_t bytes) noexcept nogil:
    """A TIME of 0, 8 or 12 bytes: a signed span."""
    cdef int64_t us
    if bytes == 0:
        _put64(&field.column, 0)
        return DONE
    # 34 days are 816 hours: a day more is beyond the server's own range.
    if cell[0] > 1 or _le32(cell + 1) > 34 or _clock(cell + 5, bytes - 5, &us) != DONE:
        return ASK
    us += <int64_t> _le32(cell + 1) * _DAY_US
    if us > _TIME_US_MAX:
        return ASK
    if us >= _DAY_US or (cell[0] and us):
        return _unfit(field)
    _put64(&field.column, us)
    return DONE


cdef inline int _cell(Field* field, const uint8_t* cell, int64_t bytes) noexcept nogil:
    """One value that is not NULL. DONE, ASK, FULL or NO_MEMORY; on anything but DONE the column
    is as it was."""
    cdef uint64_t value
    cdef Column* column = &field.column
    if field.kind == PLAIN:
        memcpy(column_slot(column), cell, column.width)
        column.rows += 1
        return DONE
    if field.kind == TEXT:
        if not rivet_is_utf8(cell, bytes):
            return ASK
        return column_bytes(column, cell, bytes)
    if field.kind == DECIMAL:
        return _decimal(field, cell, bytes)
    if field.kind == DATE or field.kind == TIMESTAMP:
        return _moment(field, cell, bytes)
    if field.kind == INTEGER:
        return _put_integer(field, _widened(field, cell), field.is_signed)
    if field.kind == BYTES or field.kind == RAW:
        return column_bytes(column, cell, bytes)
    if field.kind == BOOLEAN:
        value = _widened(field, cell)
        if value > 1:
            return ASK
        column_bit(column, value == 1)
        return DONE
    if field.kind == TIME:
        return _time(field, cell, bytes)
    if _bits(cell, bytes, &value) != DONE:
        return ASK
    if field.kind == BIT_FIELD:
        return _put_integer(field, value, False)
    if value > 1:
        return ASK
    column_bit(column, value == 1)
    return DONE


# ---------------------------------------------------------------- packets

cdef inline int _extent(int framing, const uint8_t* row, int64_t position, int64_t end,
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
    if framing == _LENGTH_ENCODED:
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
    elif framing == _DATE_LENGTH:
        if first != 0 and first != 4 and first != 7 and first != 11:
            return ASK
        length = first
    elif framing == _TIME_LENGTH:
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


cdef class CompiledDecoder:
    """A ``BatchDecoder``; see ``ReferenceDecoder`` for what every byte means."""

    cdef readonly object schema
    cdef readonly dict changed
    cdef object _columns
    cdef object _reference
    cdef bint _coerces
    cdef Field* _fields
    cdef int _width
    cdef int _bitmap_bytes
    cdef int64_t _limit
    cdef int64_t _rows
    cdef Pending _pending
    cdef int64_t _offset
    cdef uint8_t _sequence_id
    # The reference has the stream: it is in the middle of a row of several packets.
    cdef bint _handed_over
    cdef object _batches
    # How often the reference was asked: valid rows of one packet never need it.
    cdef readonly int64_t asked

    def __cinit__(self):
        self._fields = NULL
        self._pending.start = NULL
        self._pending.bytes = self._pending.room = 0

    def __init__(self, columns, *, max_value_bytes, coerce=False):
        if self._fields != NULL:
            raise TypeError("a decoder is initialised once")
        self._reference = ReferenceDecoder(
            columns, max_value_bytes=max_value_bytes, coerce=coerce
        )
        self.schema = arrow_schema(columns)
        self.changed = self._reference.changed
        self._columns = columns
        self._coerces = coerce
        self._limit = max_value_bytes
        self._batches = BatchQueue(self.schema)
        self._width = len(columns)
        self._bitmap_bytes = (self._width + 2 + 7) // 8
        self._sequence_id = self._reference.position[0]
        self._fields = <Field*> calloc(max(1, self._width), sizeof(Field))
        if self._fields == NULL:
            raise MemoryError
        for index, column in enumerate(columns):
            _set_up(&self._fields[index], column, coerce)

    def __dealloc__(self):
        cdef int i
        if self._fields != NULL:
            for i in range(self._width):
                column_free(&self._fields[i].column)
            free(self._fields)
        pending_free(&self._pending)

    @property
    def rows_ready(self):
        """Rows decoded and not yet taken."""
        return self._batches.rows + self._rows

    @property
    def ended(self):
        """True when the packet that ends the result was seen."""
        return self._reference.ended

    @property
    def error(self):
        """What the server ended the result with instead of its regular end."""
        return self._reference.error

    def feed(self, const uint8_t[::1] block not None):
        """The next bytes of the stream, cut anywhere. See ``BatchDecoder.feed``."""
        cdef int64_t used = 0
        cdef int outcome = DONE
        cdef int64_t bytes_ = block.shape[0]
        if not bytes_:
            return
        if self._handed_over:
            self._let_reference(bytes(block))
            return
        if not self._pending.bytes:
            # Straight from the caller's buffer: only an incomplete tail is copied.
            with nogil:
                outcome = self._packets(&block[0], bytes_, &used)
            if used == bytes_:
                return
        if pending_keep(&self._pending, &block[used], bytes_ - used) != DONE:
            raise MemoryError
        self._settle()

    def finish(self):
        """The stream is over. Raises MalformedData when its end has not been seen."""
        if not self._reference.ended and not self._handed_over:
            self._reference.resume_at(self._sequence_id, self._offset + self._pending.bytes)
        self._reference.finish()

    def take(self, rows_max=None):
        """The oldest rows, at most ``rows_max``, none twice; all of them by default."""
        self._close_batch()
        return self._batches.take(rows_max)

    # ------------------------------------------------------------ inside

    def _settle(self):
        """Decode every complete packet of the pending bytes."""
        cdef int64_t used
        cdef int64_t payload
        cdef int outcome
        while self._pending.bytes:
            if self._handed_over:
                self._hand_over(self._pending.bytes)
                return
            used = 0
            with nogil:
                outcome = self._packets(self._pending.start, self._pending.bytes, &used)
                pending_drop(&self._pending, used)
            if outcome == NO_MEMORY:
                raise MemoryError
            if outcome == FULL and self._rows:
                self._close_batch()
            elif outcome == INCOMPLETE:
                payload = self._payload_bytes()
                if payload > self._limit or payload == _PACKET_MAX:
                    # Too large for a value, or one packet of several: looked at as it arrives.
                    self._hand_over(self._pending.bytes)
                return
            elif outcome != DONE:
                payload = self._payload_bytes()
                self._hand_over(_HEADER + payload)

    cdef int64_t _payload_bytes(self) noexcept nogil:
        cdef uint8_t* head = self._pending.start
        if self._pending.bytes < _HEADER:
            return 0
        return head[0] | head[1] << 8 | head[2] << 16

    cdef _hand_over(self, int64_t count):
        """Let the reference decoder have the first ``count`` pending bytes."""
        data = bytes(self._pending.start[:count])
        pending_drop(&self._pending, count)
        self._reference.resume_at(self._sequence_id, self._offset)
        self._let_reference(data)

    cdef _let_reference(self, bytes data):
        """The reference decoder takes what it can; what it accepts becomes rows. It keeps the
        stream while it is in the middle of a long row. Raises what it raises."""
        cdef const uint8_t* start
        self._close_batch()
        self.asked += 1
        self._reference.feed(data)
        self._batches.append(self._reference.take())
        tail = self._reference.hand_back()
        self._handed_over = tail is None
        self._sequence_id, self._offset = self._reference.position
        if tail:
            start = tail
            if pending_keep(&self._pending, start, len(tail)) != DONE:
                raise MemoryError

    cdef int _packets(self, const uint8_t* start, int64_t bytes, int64_t* used) noexcept nogil:
        """Decode packets until the bytes are used up; how far it came is in ``used``."""
        cdef int64_t position = 0
        cdef int64_t length
        cdef int outcome = DONE
        while position < bytes:
            if bytes - position < _HEADER:
                outcome = INCOMPLETE
                break
            length = start[position] | start[position + 1] << 8 | start[position + 2] << 16
            if start[position + 3] != self._sequence_id:
                outcome = ASK if bytes - position >= _HEADER + length else INCOMPLETE
                break
            if bytes - position - _HEADER < length:
                outcome = INCOMPLETE
                break
            outcome = self._row(start + position + _HEADER, length)
            if outcome != DONE:
                break
            self._sequence_id += 1
            position += _HEADER + length
        self._offset += position
        used[0] = position
        return outcome

    cdef int _row(self, const uint8_t* row, int64_t bytes) noexcept nogil:
        """One row, all of it or none of it."""
        cdef int64_t position = 1 + self._bitmap_bytes
        cdef int64_t start = 0
        cdef int64_t stop = 0
        cdef int i
        cdef int outcome = DONE
        cdef bint changes = False
        cdef Field* field
        if bytes < position or bytes == _PACKET_MAX or row[0] != 0:
            return ASK
        for i in range(self._width):
            field = &self._fields[i]
            if column_room(&field.column) != DONE:
                outcome = NO_MEMORY
                break
            if row[1 + ((i + 2) >> 3)] >> ((i + 2) & 7) & 1:
                if not field.nullable:
                    outcome = ASK
                    break
                column_null(&field.column)
                continue
            outcome = _extent(field.framing, row, position, bytes, self._limit, &start, &stop)
            if outcome == DONE:
                outcome = _cell(field, row + start, stop - start)
            if outcome != DONE:
                break
            changes = changes or field.changed_here != 0
            position = stop
        if outcome == DONE and position != bytes:
            outcome = ASK
        if outcome != DONE:
            for i in range(self._width):
                column_truncate(&self._fields[i].column, self._rows)
                self._fields[i].changed_here = 0
            return outcome
        if changes:
            for i in range(self._width):
                self._fields[i].changed += self._fields[i].changed_here
                self._fields[i].changed_here = 0
        self._rows += 1
        return DONE

    def _close_batch(self):
        """Turn the rows at hand into one record batch."""
        cdef Field* field
        cdef int index
        if not self._rows:
            return
        self._rows = 0
        arrays = []
        for index in range(self._width):
            field = &self._fields[index]
            column = self._columns[index]
            if field.kind == RAW:
                cells = column_cells(&field.column)
                array = build_column(cells, column, self.changed, coerce=self._coerces)
            else:
                array = column_array(&field.column, self.schema.field(index).type)
            arrays.append(array)
            if field.changed:
                self.changed[column.name] = self.changed.get(column.name, 0) + field.changed
                field.changed = 0
        self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=self.schema))


_WIDTHS = {TypeKind.INT16: 2, TypeKind.INT32: 4, TypeKind.INT64: 8, TypeKind.UINT64: 8}
_FLOATS = {(TypeKind.FLOAT32, "4"): 4, (TypeKind.FLOAT64, "5"): 8}
_BIT = "16"
_YEAR = "13"


cdef _set_up(Field* field, column, bint coerce):
    """How the cells of one column are decoded."""
    kind, wire_type = column.type.kind, column.wire_type
    field.framing = framing(column)
    field.nullable = column.nullable
    field.coerce = coerce
    field.precision = column.type.precision or 0
    field.scale = column.type.scale or 0
    field.is_signed = not wire_type.endswith(":unsigned") and wire_type != _YEAR
    field.target_signed = kind is not TypeKind.UINT64
    what, storage, width = RAW, VARIABLE, 0
    if kind in _WIDTHS:
        storage, width = FIXED, _WIDTHS[kind]
        if wire_type == _BIT:
            what = BIT_FIELD
        elif field.framing == width and field.is_signed == field.target_signed:
            what = PLAIN
        else:
            what = INTEGER
    elif kind is TypeKind.BOOL:
        what, storage = BIT_BOOLEAN if wire_type == _BIT else BOOLEAN, BITS
    elif (kind, wire_type) in _FLOATS:
        what, storage, width = PLAIN, FIXED, _FLOATS[kind, wire_type]
    elif kind is TypeKind.DECIMAL:
        what, storage, width = DECIMAL, FIXED, arrow_type(column.type).byte_width
    elif kind is TypeKind.DATE:
        what, storage, width = DATE, FIXED, 4
    elif kind is TypeKind.TIME:
        what, storage, width = TIME, FIXED, 8
    elif kind in (TypeKind.TIMESTAMP, TypeKind.TIMESTAMP_UTC):
        what, storage, width = TIMESTAMP, FIXED, 8
    elif kind in (TypeKind.STRING, TypeKind.ENUM, TypeKind.JSON):
        what = TEXT
    elif kind is TypeKind.BINARY:
        what = BYTES
    field.kind = what
    column_init(&field.column, storage, width, NULL)
