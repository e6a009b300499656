# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Binary COPY to Arrow without a Python object per cell: the compiled ``BatchDecoder``.

``ReferenceDecoder`` is the specification. What is plainly valid is decoded here, without the
GIL; every row that is not goes to the reference decoder, whose verdict (a value, NULL by policy,
or an error with column and offset) stands for both. Every length is checked before it is used.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.stdlib cimport calloc, free

from rivet_fleet.execution.columnar cimport (
    ASK, BITS, DONE, ENDED, FIXED, FULL, INCOMPLETE, LIST, NO_MEMORY, VARIABLE,
    Column, Pending, column_array, column_cells, column_expect, column_free, column_init, column_null,
    column_pack, column_room, column_truncate, pending_drop, pending_free, pending_keep,
    rivet_be16, rivet_be32, rivet_fill_powers,
)
from rivet_fleet.execution.sources.postgres.copycells cimport (
    ARRAY, BOOL, BYTES, DATE, DECIMAL, INT16, INT32, INT64, JSONB, RAW, TEXT, TIME, TIMESTAMP,
    UINT32, UUID, Field, array_cell, framed_row, scalar_cell,
)

from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.errors import MalformedData
from rivet_fleet.execution.packing import BatchQueue, dressed, number_type
from rivet_fleet.execution.sources.postgres.dialect import OID_JSONB, OID_OID
from rivet_fleet.execution.sources.postgres.reference import ReferenceDecoder
from rivet_fleet.execution.types import arrow_schema, arrow_type

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


cdef class CompiledDecoder:
    """A ``BatchDecoder``; see ``ReferenceDecoder`` for what every byte means."""

    def __cinit__(self):
        self._fields = NULL
        self._pending.start = NULL
        self._pending.bytes = self._pending.room = 0

    def __init__(self, columns, *, max_value_bytes, coerce=False, packed=False):
        self.schema = arrow_schema(columns)
        self.changed = {}
        self._columns = columns
        self._types = [number_type(kind) if packed else kind for kind in self.schema.types]
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
            if packed and self._fields[index].kind != RAW:
                column_pack(&self._fields[index].column, self._types[index])

    def __dealloc__(self):
        cdef int i
        if self._fields != NULL:
            for i in range(self._width):
                column_free(&self._fields[i].column)
                column_free(&self._fields[i].elements)
            free(self._fields)
        pending_free(&self._pending)

    def expect_like(self, CompiledDecoder like not None):
        """Make room for batches as large as the last of ``like``, a decoder of the same columns."""
        cdef int i
        for i in range(min(self._width, like._width)):
            column_expect(&self._fields[i].column, &like._fields[i].column)
            column_expect(&self._fields[i].elements, &like._fields[i].elements)

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
            self.settle()

    def finish(self):
        """The stream is over. Raises MalformedData when its trailer has not been seen."""
        self.settle()
        if not self._ended:
            at = self._offset + self._pending.bytes
            raise MalformedData(f"the stream ended in the middle, at offset {at}")

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

    def settle(self):
        """Decode every complete row of the pending bytes."""
        cdef int64_t used, length
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
                outcome = self.rows_of(self._pending.start, self._pending.bytes, &used)
                # rows_of counted them already.
                self._offset -= used
                self._drop(used)
            if outcome == DONE or outcome == ENDED:
                continue
            if outcome == NO_MEMORY:
                raise MemoryError
            if outcome == FULL and self._rows:
                self._close_batch()
                continue
            length = framed_row(self._pending.start, self._pending.bytes, self._width, self._limit)
            if length == 0:
                return
            # What cannot even be measured goes whole: the reference finds where it breaks, and says
            # so.
            self._ask_about(length if length > 0 else self._pending.bytes)

    cdef int receive(self, const uint8_t* start, int64_t bytes) noexcept nogil:
        """Decode received bytes that need not be kept. DONE, NO_MEMORY, or ASK: what could not be
        decoded was kept, and the caller must ``settle``."""
        cdef int64_t used = 0
        cdef int outcome
        if self._started and not self._pending.bytes:
            outcome = self.rows_of(start, bytes, &used)
            if outcome == DONE:
                return DONE
        outcome = pending_keep(&self._pending, start + used, bytes - used)
        return ASK if outcome == DONE else outcome

    cdef int rows_of(self, const uint8_t* start, int64_t bytes, int64_t* used) noexcept nogil:
        """Decode rows until the bytes are used up; how far it came is in ``used``."""
        cdef int64_t position = 0, length = 0
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
            # The trailer stands where a row would say how many columns it has (manual, "COPY",
            # Binary Format).
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
                outcome = array_cell(field, row + position, cell_bytes)
            else:
                outcome = scalar_cell(field.kind, &field.column, field, row + position, cell_bytes)
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
        return ReferenceDecoder(self._columns, max_value_bytes=self._limit, coerce=self._coerces)

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
                array = column_array(&field.column, self._types[index])
            arrays.append(array)
            if field.changed:
                self.changed[column.name] = self.changed.get(column.name, 0) + field.changed
                field.changed = 0
        self._batches.append(dressed(arrays, self.schema))


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
