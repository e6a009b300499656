# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Binary-protocol rows to Arrow without a Python object per cell: the compiled ``BatchDecoder``.

``ReferenceDecoder`` is the specification. A packet that holds one whole, plainly valid row is
decoded here, without the GIL. Everything else goes to the reference decoder, whose verdict stands
for both: the end, an error, rows of several packets, values that are refused or changed. Every
length is checked before it is used.
"""

from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport calloc, free

from rivet_fleet.execution.columnar cimport (
    ASK, BITS, DONE, FIXED, FULL, INCOMPLETE, NO_MEMORY, VARIABLE,
    Pending, column_array, column_cells, column_expect, column_free, column_init, column_null, column_pack,
    column_room, column_truncate, pending_drop, pending_free, pending_keep, rivet_fill_powers,
)
from rivet_fleet.execution.sources.mysql.packetcells cimport (
    BIT_BOOLEAN, BIT_FIELD, BOOLEAN, BYTES, DATE, DECIMAL, INTEGER, PLAIN, RAW, TEXT, TIME,
    TIMESTAMP, UUID, RIVET_MY_DATE_LENGTH, RIVET_MY_LENGTH_ENCODED, RIVET_MY_TIME_LENGTH,
    Field, any_cell, cell_extent,
)

from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.execution.packing import BatchQueue, dressed, number_type
from rivet_fleet.execution.sources.mysql.wire import (
    DATE_LENGTH,
    LENGTH_ENCODED,
    TIME_LENGTH,
    framing,
)
from rivet_fleet.execution.sources.mysql.reference import ReferenceDecoder
from rivet_fleet.execution.types import arrow_schema, arrow_type

cdef int _HEADER = 4
cdef int64_t _PACKET_MAX = 0xFFFFFF

if (RIVET_MY_LENGTH_ENCODED, RIVET_MY_DATE_LENGTH, RIVET_MY_TIME_LENGTH) != (
    LENGTH_ENCODED, DATE_LENGTH, TIME_LENGTH
):
    raise AssertionError("the framings of framing.py are not the compiled ones")

rivet_fill_powers()


cdef class CompiledDecoder:
    """A ``BatchDecoder``; see ``ReferenceDecoder`` for what every byte means."""

    cdef readonly object schema
    cdef readonly dict changed
    cdef object _columns, _types
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
    # Behind the end other answers follow.
    cdef bint _followed
    cdef object _batches
    # How often the reference was asked: valid rows of one packet never need it.
    cdef readonly int64_t asked

    def __cinit__(self):
        self._fields = NULL
        self._pending.start = NULL
        self._pending.bytes = self._pending.room = 0

    def __init__(self, columns, *, max_value_bytes, coerce=False, packed=False):
        if self._fields != NULL:
            raise TypeError("a decoder is initialised once")
        self._reference = ReferenceDecoder(
            columns, max_value_bytes=max_value_bytes, coerce=coerce
        )
        self.schema = arrow_schema(columns)
        self.changed = self._reference.changed
        self._columns = columns
        self._types = [number_type(kind) if packed else kind for kind in self.schema.types]
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
            if packed and self._fields[index].kind != RAW:
                column_pack(&self._fields[index].column, self._types[index])

    def __dealloc__(self):
        cdef int i
        if self._fields != NULL:
            for i in range(self._width):
                column_free(&self._fields[i].column)
            free(self._fields)
        pending_free(&self._pending)

    def expect_like(self, CompiledDecoder like not None):
        """Make room for batches as large as the last of ``like``, a decoder of the same columns."""
        cdef int i
        for i in range(min(self._width, like._width)):
            column_expect(&self._fields[i].column, &like._fields[i].column)

    @property
    def rows_ready(self):
        """Rows decoded and not yet taken."""
        return self._batches.rows + self._rows

    @property
    def ended(self):
        """True when the packet that ends the result was seen."""
        return self._reference.ended

    @property
    def parted(self):
        """True when the server took its leave behind the whole result."""
        return self._reference.parted

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

    def expect_more(self):
        """Behind the end other answers follow: see ``rest``."""
        self._followed = True
        self._reference.expect_more()

    def rest(self):
        """What came behind the end, and is no part of the stream. Not twice."""
        behind = self._reference.rest()
        if self._pending.bytes:
            behind += bytes(self._pending.start[:self._pending.bytes])
            pending_drop(&self._pending, self._pending.bytes)
        return behind

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
            if self._followed and self._reference.ended:
                return
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
            outcome = cell_extent(field.framing, row, position, bytes, self._limit, &start, &stop)
            if outcome == DONE:
                outcome = any_cell(field, row + start, stop - start)
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
                # Its NumPy is only loaded where it is needed.
                from rivet_fleet.execution.sources.mysql.values import build_column

                cells = column_cells(&field.column)
                array = build_column(cells, column, self.changed, coerce=self._coerces)
            else:
                array = column_array(&field.column, self._types[index])
            arrays.append(array)
            if field.changed:
                self.changed[column.name] = self.changed.get(column.name, 0) + field.changed
                field.changed = 0
        self._batches.append(dressed(arrays, self.schema))


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
    elif kind is TypeKind.UUID:
        what, storage, width = UUID, FIXED, 16
        field.is_binary = wire_type.endswith(":binary")
    field.kind = what
    column_init(&field.column, storage, width, NULL)
