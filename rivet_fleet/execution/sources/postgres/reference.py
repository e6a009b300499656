"""From the bytes of ``COPY … (FORMAT BINARY)`` to Arrow record batches.

The specification, in plain Python: the compiled decoder asks it about what is not plainly valid.
The format: PostgreSQL manual, COPY, "Binary Format"; the values: each type's ``…send`` function.
Bytes from a server are untrusted: every length is checked before it is used.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from rivet_fleet.contracts.columns import ColumnSpec
from rivet_fleet.errors import MalformedData, ValueTooLarge
from rivet_fleet.execution.engines.decoding import RowBuilder

if TYPE_CHECKING:
    from rivet_fleet.execution.arrays import Cells

SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_HEADER_BYTES = len(SIGNATURE) + 8
_TRAILER = -1
_HAS_OIDS = 1 << 16
_FRAME_BYTES = 512 * 1024
"""Wire bytes that are collected before rows are cut out of them."""
_BUILD_BYTES = 4 * 1024 * 1024
"""Wire bytes held as Python objects before they become Arrow: this bounds the memory."""


class ReferenceDecoder:
    """The plain-Python decoder: short, checked at every step, one object per cell."""

    def __init__(
        self, columns: tuple[ColumnSpec, ...], *, max_value_bytes: int, coerce: bool = False
    ) -> None:
        self._built = RowBuilder(columns, _build_column, coerce=coerce)
        self.schema, self.changed = self._built.schema, self._built.changed
        self._columns = columns
        self._value_bytes_max = max_value_bytes
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._needed_bytes = 0
        """Bytes without which no further row can be complete: spares useless attempts."""
        self._offset = 0
        """Position in the stream of the first pending byte, for messages."""
        self._started = False
        self._ended = False
        self._cells: Cells = []
        self._cells_bytes = 0

    @property
    def rows_ready(self) -> int:
        """Rows decoded or cut out, and not yet taken."""
        return self._built.rows + len(self._cells) // max(len(self._columns), 1)

    def feed(self, block: bytes | memoryview) -> None:
        """The next bytes of the stream. See ``BatchDecoder.feed``."""
        self._pending.append(bytes(block))
        self._pending_bytes += len(block)
        if self._pending_bytes >= max(_FRAME_BYTES, self._needed_bytes):
            self._frame()

    def resume_at(self, offset: int) -> None:
        """Go on behind the header, with a row that begins at ``offset`` of the stream."""
        self._started, self._offset = True, offset

    def finish(self) -> None:
        """Check that the stream ended where its format says it ends."""
        self._frame()
        if not self._ended:
            raise MalformedData(
                f"the stream ended in the middle, at offset {self._offset + self._pending_bytes}"
            )

    def take(self, rows_max: int | None = None) -> pa.RecordBatch:
        """The oldest rows, at most ``rows_max``."""
        self._frame()
        self._build()
        return self._built.take(rows_max)

    # ------------------------------------------------------------ framing

    def _frame(self) -> None:
        """Cut every complete row out of the pending bytes; keep the incomplete tail."""
        if not self._pending:
            return
        buffer = b"".join(self._pending)
        position = self._rows(buffer, self._header(buffer))
        tail = buffer[position:]
        self._pending = [tail] if tail else []
        self._pending_bytes = len(tail)
        self._offset += position
        if self._ended and tail:
            raise MalformedData(f"{len(tail)} bytes follow the trailer at offset {self._offset}")
        if self._cells_bytes >= _BUILD_BYTES:
            self._build()

    def _header(self, buffer: bytes) -> int:
        """Check the file header once; the position of the first row, 0 when incomplete."""
        if self._started:
            return 0
        if not SIGNATURE.startswith(buffer[: len(SIGNATURE)]):
            raise MalformedData("the stream does not begin with the signature of binary COPY")
        if len(buffer) < _HEADER_BYTES:
            return 0
        flags, extension_bytes = struct.unpack_from(">Ii", buffer, len(SIGNATURE))
        if flags & _HAS_OIDS or flags >> 16:
            raise MalformedData(f"binary COPY with unknown critical flags {flags:#x}")
        if not 0 <= extension_bytes <= self._value_bytes_max:
            raise MalformedData(f"binary COPY with a header extension of {extension_bytes} bytes")
        first = _HEADER_BYTES + int(extension_bytes)
        if len(buffer) < first:
            return 0
        self._started = True
        return first

    def _rows(self, buffer: bytes, position: int) -> int:
        """Append the cells of every complete row; the position after the last one."""
        if not self._started:
            return 0
        columns, end = len(self._columns), len(buffer)
        cells = self._cells
        unpack_count, unpack_length = _COUNT.unpack_from, _LENGTH.unpack_from
        append, limit = cells.append, self._value_bytes_max
        row_start, self._needed_bytes = position, 0
        try:
            while not self._ended:
                (count,) = unpack_count(buffer, position)
                if count != columns:
                    self._end_of_rows(count, position)
                    row_start = position = position + 2
                    break
                position += 2
                for _ in range(columns):
                    (length,) = unpack_length(buffer, position)
                    position += 4
                    if length < 0:
                        if length != -1:
                            self._bad_length(length, row_start, position, len(cells))
                        append(None)
                        continue
                    if length > limit:
                        self._too_large(length, len(cells))
                    value = buffer[position : position + length]
                    position += length
                    if position > end:
                        self._needed_bytes = position - row_start
                        raise struct.error
                    append(value)
                row_start = position
        except struct.error:
            del cells[len(cells) - len(cells) % columns if columns else 0 :]
        self._cells_bytes += row_start
        return row_start

    def _end_of_rows(self, count: int, position: int) -> None:
        if count != _TRAILER:
            raise MalformedData(
                f"a row with {count} fields instead of {len(self._columns)} at offset "
                f"{self._offset + position}"
            )
        self._ended = True

    def _bad_length(self, length: int, row_start: int, position: int, cells: int) -> None:
        raise MalformedData(
            f"column {self._columns[cells % len(self._columns)].name}: length {length} at offset "
            f"{self._offset + position - 4} (row at {self._offset + row_start})"
        )

    def _too_large(self, length: int, cells: int) -> None:
        raise ValueTooLarge(
            f"column {self._columns[cells % len(self._columns)].name}: one value has {length} "
            f"bytes, the limit is {self._value_bytes_max}",
            hint="raise `max_value_mb` and `campaign.worker_memory_mb`, or leave the column out",
            code="RIVET_VALUE_TOO_LARGE",
        )

    # ------------------------------------------------------------ building

    def _build(self) -> None:
        """Turn the cells at hand into one record batch."""
        if self._cells:
            cells, self._cells, self._cells_bytes = self._cells, [], 0
            self._built.add(cells)


_COUNT = struct.Struct(">h")
_LENGTH = struct.Struct(">i")


def _build_column(*cells: Any, **policy: Any) -> pa.Array:
    # Imported here: the compiled decoder does without NumPy, and so does its process.
    from rivet_fleet.execution.sources.postgres.values import build_column

    return build_column(*cells, **policy)
