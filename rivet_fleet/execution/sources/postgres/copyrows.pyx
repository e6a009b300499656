# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Binary COPY to Arrow without a Python object per cell: the compiled ``BatchDecoder``.

``ReferenceDecoder`` is the specification. What is plainly valid is decoded here, without the
GIL; every row that is not goes to the reference decoder, whose verdict (a value, NULL by policy,
or an error with column and offset) stands for both. Every length is checked before it is used.
"""

from libc.stdint cimport (
    INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN,
    int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t,
)
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from rivet_fleet.execution.columnar cimport (
    ASK, BITS, DONE, ENDED, FIXED, FULL, INCOMPLETE, LIST, NO_MEMORY, VARIABLE,
    Column, Pending, Storage, column_array, column_bit, column_bytes, column_cells, column_free,
    column_init, column_null, column_room, column_slot, column_truncate,
    pending_drop, pending_free, pending_keep,
    rivet_be16, rivet_be32, rivet_be64, rivet_fill_powers, rivet_is_utf8, rivet_small_powers,
    rivet_small_store, rivet_wide_fits, rivet_wide_muladd, rivet_wide_store,
    rivet_wrapping_add,
)

import pyarrow as pa

from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.errors import MalformedData
from rivet_fleet.execution.batches import BatchQueue
from rivet_fleet.execution.sources.postgres.decoder import ReferenceDecoder
from rivet_fleet.execution.sources.postgres.dialect import OID_JSONB, OID_OID
from rivet_fleet.execution.types import arrow_schema, arrow_type

cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd* fds, unsigned long count, int timeout_ms)
    short POLLIN

ctypedef int (*GetCopyData)(void* conn, char** row, int asynchronous) noexcept nogil
ctypedef int (*ConsumeInput)(void* conn) noexcept nogil
ctypedef void (*FreeMemory)(void* memory) noexcept nogil

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

cdef int32_t _UNIX_DAYS = 10957
cdef int64_t _UNIX_US = 946684800000000
cdef int64_t _DAY_US = 86400000000
cdef int32_t _DATE_DAYS_MIN = -2451545
cdef int32_t _DATE_DAYS_MAX = 2145031948
cdef int64_t _TIMESTAMP_US_MIN = -211813488000000000
cdef int _POLL_MS = 200

_KINDS = {
    TypeKind.BOOL: (BOOL, BITS, 0),
    TypeKind.INT16: (INT16, FIXED, 2),
    TypeKind.INT32: (INT32, FIXED, 4),
    TypeKind.INT64: (INT64, FIXED, 8),
    TypeKind.FLOAT32: (INT32, FIXED, 4),
    TypeKind.FLOAT64: (INT64, FIXED, 8),
    TypeKind.DATE: (DATE, FIXED, 4),
    TypeKind.TIME: (TIME, FIXED, 8),
    TypeKind.TIMESTAMP: (TIMESTAMP, FIXED, 8),
    TypeKind.TIMESTAMP_UTC: (TIMESTAMP, FIXED, 8),
    TypeKind.UUID: (UUID, FIXED, 16),
    TypeKind.BINARY: (BYTES, VARIABLE, 0),
    TypeKind.STRING: (TEXT, VARIABLE, 0),
    TypeKind.ENUM: (TEXT, VARIABLE, 0),
    TypeKind.JSON: (TEXT, VARIABLE, 0),
}

rivet_fill_powers()


# ---------------------------------------------------------------- cells

cdef int _decimal(Column* column, int precision, int scale, const uint8_t* cell,
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


cdef inline void _put64(Column* column, int64_t value) noexcept nogil:
    memcpy(column_slot(column), &value, 8)
    column.rows += 1


cdef inline int _unfit(Column* column, Field* field) noexcept nogil:
    """A valid value that the type cannot hold: NULL and counted, or the reference's error."""
    if not field.coerce:
        return ASK
    column_null(column)
    field.changed_here += 1
    return DONE


cdef inline int _moment(Kind kind, Column* column, Field* field, const uint8_t* cell,
                        int64_t bytes) noexcept nogil:
    """Dates, times and timestamps."""
    cdef int32_t days
    cdef int64_t us
    if kind == DATE:
        if bytes != 4:
            return ASK
        days = <int32_t> rivet_be32(cell)
        if days == INT32_MIN or days == INT32_MAX:
            return _unfit(column, field)
        if days < _DATE_DAYS_MIN or days > _DATE_DAYS_MAX:
            return ASK
        days += _UNIX_DAYS
        memcpy(column_slot(column), &days, 4)
        column.rows += 1
        return DONE
    if bytes != 8:
        return ASK
    us = <int64_t> rivet_be64(cell)
    if kind == TIME:
        if us == _DAY_US:
            return _unfit(column, field)
        if us < 0 or us > _DAY_US:
            return ASK
        _put64(column, us)
        return DONE
    if us == INT64_MIN or us == INT64_MAX:
        return _unfit(column, field)
    if us < _TIMESTAMP_US_MIN or us > INT64_MAX - _UNIX_US:
        return ASK
    _put64(column, us + _UNIX_US)
    return DONE


cdef inline int _scalar(Kind kind, Column* column, Field* field, const uint8_t* cell,
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
        if not rivet_is_utf8(cell, bytes):
            return ASK
        return column_bytes(column, cell, bytes)
    if kind == DECIMAL:
        return _decimal(column, field.precision, field.scale, cell, bytes)
    if kind == DATE or kind == TIME or kind == TIMESTAMP:
        return _moment(kind, column, field, cell, bytes)
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
        _put64(column, <int64_t> rivet_be32(cell))
        return DONE
    return ASK


cdef int _array(Field* field, const uint8_t* cell, int64_t bytes) noexcept nogil:
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
        outcome = _scalar(field.element_kind, elements, field, cell + position, length)
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


# ---------------------------------------------------------------- rows

cdef int64_t _framed(const uint8_t* row, int64_t bytes, int fields, int64_t limit) noexcept nogil:
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


cdef class CompiledDecoder:
    """A ``BatchDecoder``; see ``ReferenceDecoder`` for what every byte means."""

    cdef readonly object schema
    cdef readonly dict changed
    cdef object _columns
    cdef object _reference
    cdef bint _coerces
    cdef Field* _fields
    cdef int _width
    cdef int64_t _limit
    cdef int64_t _rows
    cdef Pending _pending
    cdef int64_t _offset
    cdef bint _started
    cdef bint _ended
    cdef object _batches
    # How often the reference was asked: valid rows never need it.
    cdef readonly int64_t asked
    cdef GetCopyData _get
    cdef ConsumeInput _consume
    cdef FreeMemory _release

    def __cinit__(self):
        self._fields = NULL
        self._pending.start = NULL
        self._pending.bytes = self._pending.room = 0

    def __init__(self, columns, *, max_value_bytes, coerce=False):
        self.schema = arrow_schema(columns)
        self.changed = {}
        self._columns = columns
        self._coerces = coerce
        self._limit = max_value_bytes
        self._batches = BatchQueue(self.schema)
        self._width = len(columns)
        self._reference = self._new_reference()
        if self._fields != NULL:
            raise TypeError("a decoder is initialised once")
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
                column_free(&self._fields[i].elements)
            free(self._fields)
        pending_free(&self._pending)

    def bind_libpq(self, uintptr_t get_copy_data, uintptr_t consume_input, uintptr_t freemem):
        """The addresses of PQgetCopyData, PQconsumeInput and PQfreemem, for ``pull``."""
        self._get = <GetCopyData> get_copy_data
        self._consume = <ConsumeInput> consume_input
        self._release = <FreeMemory> freemem

    @property
    def rows_ready(self):
        """Rows decoded and not yet taken."""
        return self._batches.rows + self._rows

    # ------------------------------------------------------------ bytes in

    def feed(self, const uint8_t[::1] block not None):
        """The next bytes of the stream, cut anywhere. See ``BatchDecoder.feed``."""
        if block.shape[0]:
            if pending_keep(&self._pending, &block[0], block.shape[0]) != DONE:
                raise MemoryError
            self._settle()

    def finish(self):
        """The stream is over. Raises MalformedData when its trailer has not been seen."""
        self._settle()
        if not self._ended:
            raise MalformedData(
                f"the stream ended in the middle, at offset {self._offset + self._pending.bytes}"
            )

    def pull(self, uintptr_t conn, int fd, int64_t bytes_max):
        """Receive rows from libpq's connection and decode them: (bytes, why it stopped).

        0: ``bytes_max`` has arrived; 1: nothing has come for a while; 2: no more rows, libpq's
        result says whether by an error. Raises as ``feed``.
        """
        cdef int64_t received = 0
        cdef int why = 0
        cdef int outcome = DONE
        cdef char* row = NULL
        cdef int bytes
        cdef int64_t used
        cdef bint looked = False
        cdef pollfd waiting
        if self._get == NULL:
            raise TypeError("bind_libpq first")
        while True:
            with nogil:
                outcome = DONE
                while received < bytes_max:
                    bytes = self._get(<void*> conn, &row, 1)
                    if bytes > 0:
                        received += bytes
                        looked = False
                        used = 0
                        if self._started and not self._pending.bytes:
                            outcome = self._rows_of(<uint8_t*> row, bytes, &used)
                            if outcome == DONE:
                                self._release(row)
                                continue
                        outcome = pending_keep(&self._pending, <uint8_t*> row + used, bytes - used)
                        self._release(row)
                        if outcome == DONE:
                            outcome = ASK
                        break
                    if bytes < 0:
                        why = 2
                        break
                    if looked:
                        waiting.fd = fd
                        waiting.events = POLLIN
                        waiting.revents = 0
                        if poll(&waiting, 1, _POLL_MS) == 0:
                            why = 1
                            break
                    # Looked at before it is waited for: TLS may hold bytes the socket does not.
                    if not self._consume(<void*> conn):
                        why = 2
                        break
                    looked = not looked
            if outcome == NO_MEMORY:
                raise MemoryError
            if outcome != DONE:
                self._settle()
                if received < bytes_max and why == 0:
                    continue
            return received, why

    # ------------------------------------------------------------ batches out

    def take(self, rows_max=None):
        """The oldest rows, at most ``rows_max``, none twice; all of them by default."""
        self._close_batch()
        return self._batches.take(rows_max)

    # ------------------------------------------------------------ inside

    cdef void _drop(self, int64_t bytes) noexcept nogil:
        """Forget the first pending bytes: they have been decoded."""
        self._offset += bytes
        pending_drop(&self._pending, bytes)

    def _settle(self):
        """Decode every complete row of the pending bytes."""
        cdef int64_t used
        cdef int64_t length
        cdef int outcome
        if not self._started:
            first = self._reference._header(bytes(self._pending.start[: self._pending.bytes]))
            if not first:
                return
            self._started = True
            self._drop(first)
        while self._pending.bytes:
            if self._ended:
                raise MalformedData(
                    f"{self._pending.bytes} bytes follow the trailer at offset {self._offset}"
                )
            used = 0
            with nogil:
                outcome = self._rows_of(self._pending.start, self._pending.bytes, &used)
                # _rows_of counted them already.
                self._offset -= used
                self._drop(used)
            if outcome == DONE or outcome == ENDED:
                continue
            if outcome == NO_MEMORY:
                raise MemoryError
            if outcome == FULL and self._rows:
                self._close_batch()
                continue
            length = _framed(self._pending.start, self._pending.bytes, self._width, self._limit)
            if length == 0:
                return
            self._ask_about(length if length > 0 else self._pending.bytes)

    cdef int _rows_of(self, const uint8_t* start, int64_t bytes, int64_t* used) noexcept nogil:
        """Decode rows until the bytes are used up; how far it came is in ``used``."""
        cdef int64_t position = 0
        cdef int64_t length = 0
        cdef int outcome = DONE
        while position < bytes and outcome == DONE:
            outcome = self._row(start + position, bytes - position, &length)
            if outcome == DONE or outcome == ENDED:
                position += length
        self._offset += position
        used[0] = position
        if outcome == ENDED and position == bytes:
            return DONE
        return outcome

    cdef int _row(self, const uint8_t* row, int64_t bytes, int64_t* length) noexcept nogil:
        """One row, all of it or none of it."""
        cdef int64_t position = 2
        cdef int32_t cell_bytes
        cdef int i
        cdef int outcome = DONE
        cdef bint changes = False
        cdef Field* field
        if bytes < 2:
            return INCOMPLETE
        if self._ended:
            return ASK
        if rivet_be16(row) != self._width:
            if rivet_be16(row) == 0xFFFF:
                self._ended = True
                length[0] = 2
                return ENDED
            return ASK
        for i in range(self._width):
            field = &self._fields[i]
            if bytes - position < 4:
                outcome = INCOMPLETE
                break
            cell_bytes = <int32_t> rivet_be32(row + position)
            position += 4
            if column_room(&field.column) != DONE:
                outcome = NO_MEMORY
                break
            if cell_bytes < 0:
                if cell_bytes != -1 or not field.nullable:
                    outcome = ASK
                    break
                column_null(&field.column)
                continue
            if cell_bytes > self._limit:
                outcome = ASK
                break
            if cell_bytes > bytes - position:
                outcome = INCOMPLETE
                break
            if field.kind == ARRAY:
                outcome = _array(field, row + position, cell_bytes)
            else:
                outcome = _scalar(field.kind, &field.column, field, row + position, cell_bytes)
            if outcome != DONE:
                break
            changes = changes or field.changed_here != 0
            position += cell_bytes
        if outcome != DONE:
            self._take_back(self._rows)
            return outcome
        if changes:
            for i in range(self._width):
                self._fields[i].changed += self._fields[i].changed_here
                self._fields[i].changed_here = 0
        self._rows += 1
        length[0] = position
        return DONE

    cdef void _take_back(self, int64_t rows) noexcept nogil:
        cdef int i
        for i in range(self._width):
            column_truncate(&self._fields[i].column, rows)
            self._fields[i].changed_here = 0

    def _new_reference(self):
        return ReferenceDecoder(
            self._columns, max_value_bytes=self._limit, coerce=self._coerces
        )

    def _ask_about(self, int64_t length):
        """Let the reference decide about the first ``length`` pending bytes; what it accepts
        becomes rows. Raises what it raises."""
        self._close_batch()
        self.asked += 1
        reference = self._new_reference()
        reference.resume_at(self._offset)
        reference.feed(bytes(self._pending.start[:length]))
        batch = reference.take()
        for name, count in reference.changed.items():
            self.changed[name] = self.changed.get(name, 0) + count
        self._drop(length)
        self._batches.append(batch)

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
                # Imported here: few columns need it, and NumPy with it.
                from rivet_fleet.execution.sources.postgres.values import build_column

                array = build_column(cells, column, self.changed, coerce=self._coerces)
            else:
                array = column_array(&field.column, self.schema.field(index).type)
            arrays.append(array)
            if field.changed:
                self.changed[column.name] = self.changed.get(column.name, 0) + field.changed
                field.changed = 0
        self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=self.schema))


cdef _set_up(Field* field, column, bint coerce):
    """How the cells of one column are decoded."""
    cdef Column* child = NULL
    field.nullable = column.nullable
    field.coerce = coerce
    kind = column.type.kind
    if kind is TypeKind.LIST:
        element = column.type.element
        what, storage, width = _kind(element, column.wire_type)
        if what != RAW:
            field.kind = ARRAY
            field.element_kind = what
            field.precision = element.precision or 0
            field.scale = element.scale or 0
            field.element_oid = 0 if element.kind is TypeKind.ENUM else int(column.wire_type)
            column_init(&field.elements, storage, width, NULL)
            column_init(&field.column, LIST, 0, &field.elements)
            return
        storage, width = VARIABLE, 0
    else:
        what, storage, width = _kind(column.type, column.wire_type)
    field.kind = what
    field.precision = column.type.precision or 0
    field.scale = column.type.scale or 0
    column_init(&field.column, storage, width, NULL)


def _kind(column_type, wire_type):
    """(kind, storage, width) of a canonical type; RAW for what only the reference builds."""
    kind = column_type.kind
    if kind is TypeKind.DECIMAL:
        return DECIMAL, FIXED, arrow_type(column_type).byte_width
    if kind is TypeKind.INT64 and wire_type == str(OID_OID):
        return UINT32, FIXED, 8
    if kind is TypeKind.JSON and wire_type == str(OID_JSONB):
        return JSONB, VARIABLE, 0
    return _KINDS.get(kind, (RAW, VARIABLE, 0))
