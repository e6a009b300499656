"""From the packets of a binary-protocol result set to Arrow record batches.

The specification, in plain Python: the compiled decoder asks it about what is not plainly valid.
The format: MySQL internals manual, "MySQL Packets", "Binary Protocol Resultset Row"; the values:
``values``. Bytes from a server are untrusted: every length is checked before it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import pyarrow as pa

from rivet_fleet.contracts.columns import ColumnSpec
from rivet_fleet.errors import MalformedData, UnsupportedType, ValueTooLarge
from rivet_fleet.execution.engines import decoding
from rivet_fleet.execution.sources.mysql.wire import (
    ERR,
    LENGTH_ENCODED,
    PACKET_BYTES_MAX,
    ROW,
    ServerError,
    check_end,
    check_sequence,
    framing,
    is_farewell,
    parse_error,
)

if TYPE_CHECKING:
    from rivet_fleet.execution.arrays import Cells

_HEADER_BYTES = 4
_BITMAP_FIRST = 2
"""The first two bits of a row's NULL bitmap belong to no column."""
_SHORT_MAX = 0xFA
"""The largest length that is written in its first byte."""
_LENGTH_BYTES = {0xFC: 2, 0xFD: 3, 0xFE: 8}
_BUILD_BYTES = 4 * 1024 * 1024
"""Wire bytes held as Python objects before they become Arrow: this bounds the memory."""


class ReferenceDecoder:
    """The plain-Python decoder: short, checked at every step, one object per cell.

    ``feed`` only finds where the rows end, because the server's statement stays open as long as
    it is fed; ``take`` cuts the rows into cells and builds the columns.
    """

    def __init__(
        self, columns: tuple[ColumnSpec, ...], *, max_value_bytes: int, coerce: bool = False
    ) -> None:
        self._built = _Builder(columns, _build_column, coerce=coerce)
        self.schema, self.changed = self._built.schema, self._built.changed
        self.ended = self.parted = self._followed = False
        self.error: ServerError | None = None
        self._columns = columns
        self._framings = tuple(framing(column) for column in columns)
        self._bitmap_bytes = (len(columns) + 2 + 7) // 8
        self._value_bytes_max = max_value_bytes
        # The answer's packets count from 1: the number of columns, their definitions, an EOF.
        self._sequence_id = (len(columns) + 3) & 0xFF
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._needed_bytes = _HEADER_BYTES
        """Bytes without which nothing more can be said: spares useless attempts."""
        self._offset = 0
        """Position in the stream of the first pending byte, for messages."""
        self._long = bytearray()
        """What earlier packets held of a row that is too long for one."""
        self._long_offset = 0
        self._rows: list[tuple[bytes, int]] = []
        """Rows that are complete and not yet decoded, and where in the stream they began."""

    @property
    def rows_ready(self) -> int:
        """Rows complete and not yet taken."""
        return self._built.rows + len(self._rows)

    def feed(self, block: bytes | memoryview) -> None:
        """The next bytes of the stream. See ``BatchDecoder.feed``."""
        self._pending.append(bytes(block))
        self._pending_bytes += len(block)
        if self._pending_bytes >= self._needed_bytes:
            self._packets()

    @property
    def position(self) -> tuple[int, int]:
        """The number the next packet must carry, and the stream's offset it begins at."""
        return self._sequence_id, self._offset

    def resume_at(self, sequence_id: int, offset: int) -> None:
        """Go on at a packet of this number that begins at this offset of the stream."""
        self._sequence_id, self._offset = sequence_id, offset

    def hand_back(self) -> bytes | None:
        """The incomplete packet that is held, if any, for another decoder to go on with; None
        when the stream is over, or in the middle of a row of several packets."""
        tail = b"".join(self._pending)
        if self.ended or self._long or int.from_bytes(tail[:3], "little") == PACKET_BYTES_MAX:
            return None
        self._pending, self._pending_bytes, self._needed_bytes = [], 0, _HEADER_BYTES
        return tail

    def expect_more(self) -> None:
        """Behind the end other answers follow: see ``rest``."""
        self._followed = True

    def rest(self) -> bytes:
        """What came behind the end, and is no part of the stream. Not twice."""
        rest, self._pending, self._pending_bytes = b"".join(self._pending), [], 0
        return rest

    def finish(self) -> None:
        """Check that the stream ended where its format says it ends."""
        if not self.ended:
            raise MalformedData(
                f"the result ended in the middle, at offset {self._offset + self._pending_bytes}"
            )

    def take(self, rows_max: int | None = None) -> pa.RecordBatch:
        """The oldest rows, at most ``rows_max``."""
        self._build()
        return self._built.take(rows_max)

    # ------------------------------------------------------------ packets

    def _packets(self) -> None:
        """Take every complete packet out of the pending bytes; keep the incomplete tail."""
        buffer = b"".join(self._pending)
        position = 0
        while (end := self._packet_end(buffer, position)) is not None:
            self._packet(buffer[position + _HEADER_BYTES : end], self._offset + position)
            position = end
        tail = buffer[position:]
        self._pending = [tail] if tail else []
        self._pending_bytes = len(tail)
        self._offset += position
        if self.ended and tail and not self._followed:
            if not is_farewell(tail):
                raise MalformedData(f"{len(tail)} bytes follow the end at offset {self._offset}")
            self.parted = True

    def _packet_end(self, buffer: bytes, position: int) -> int | None:
        """Where the packet at ``position`` ends; None when it is not there yet, or none is due."""
        start, present = position + _HEADER_BYTES, len(buffer) - position
        self._needed_bytes = 1 if self.ended else _HEADER_BYTES
        if self.ended or present < _HEADER_BYTES:
            return None
        length = int.from_bytes(buffer[position : position + 3], "little")
        if present >= _HEADER_BYTES + length:
            head = b"" if self._long else buffer[start : start + min(length, 1)]
            check_sequence(buffer[position + 3], self._sequence_id, head)
            return start + length
        self._needed_bytes = _HEADER_BYTES + length
        if (
            length > self._value_bytes_max
            and not self._long
            and buffer[start : start + 1] in (ROW, b"")
        ):
            # A value that cannot be held is refused before it has arrived.
            useful = self._measure(buffer, start, len(buffer), self._offset + position)
            self._needed_bytes = min(self._needed_bytes, _HEADER_BYTES + useful)
        return None

    def _packet(self, payload: bytes, offset: int) -> None:
        """One complete packet: a row or a piece of one, the end, or an error."""
        self._sequence_id = (self._sequence_id + 1) & 0xFF
        if self._long or len(payload) == PACKET_BYTES_MAX:
            self._piece(payload, offset)
        elif payload[:1] == ROW:
            self._rows.append((payload, offset))
        elif payload[:1] == ERR:
            self.error, self.ended = parse_error(payload), True
        else:
            check_end(payload)
            self.ended = True

    def _piece(self, payload: bytes, offset: int) -> None:
        """A packet of a row that needs several: the last one is shorter than the others."""
        if not self._long:
            self._long_offset = offset
            if payload[:1] != ROW:
                raise MalformedData(f"a long packet that is no row at offset {offset}")
        self._long += payload
        if len(payload) == PACKET_BYTES_MAX:
            self._measure(self._long, 0, len(self._long), self._long_offset)
        else:
            whole, self._long = bytes(self._long), bytearray()
            self._rows.append((whole, self._long_offset))

    # ------------------------------------------------------------ rows

    def _cut(self, payload: bytes, offset: int, cells: Cells) -> None:
        """Append the cells of one complete row."""
        position, end = 1 + self._bitmap_bytes, len(payload)
        nulls = int.from_bytes(payload[1:position], "little") >> _BITMAP_FIRST
        append = cells.append
        for index, width in enumerate(self._framings):
            if nulls >> index & 1:
                append(None)
                continue
            if width > 0:
                start, stop = position, position + width
            else:
                start, stop = self._length(payload, position, end, index, offset)
            if stop > end:
                self._malformed(index, f"a value that ends behind its row of {end} bytes", offset)
            append(payload[start:stop])
            position = stop
        if position != end:
            raise MalformedData(
                f"a row of {end} bytes whose values end at {position} (row at offset {offset})"
            )

    def _measure(self, data: bytes | bytearray, start: int, end: int, offset: int) -> int:
        """How many bytes of an incomplete row are needed before more can be said about it."""
        position = start + 1 + self._bitmap_bytes
        if position > end:
            return position - start
        nulls = int.from_bytes(data[start + 1 : position], "little") >> _BITMAP_FIRST
        for index, width in enumerate(self._framings):
            if nulls >> index & 1:
                continue
            if width > 0:
                position += width
            else:
                _, position = self._length(data, position, end, index, offset)
            if position > end:
                return position - start
        return end - start

    def _length(
        self, data: bytes | bytearray, position: int, end: int, index: int, offset: int
    ) -> tuple[int, int]:
        """Begin and end of a value that says its length; an end behind ``end`` when the length
        itself is cut off."""
        if position >= end:
            return position, end + 1
        first, start = data[position], position + 1
        if first <= _SHORT_MAX or self._framings[index] != LENGTH_ENCODED:
            length = first
        else:
            width = _LENGTH_BYTES.get(first)
            if width is None:
                self._malformed(index, f"a length that begins with {first:#x}", offset)
            if start + width > end:
                return start, end + 1
            length = int.from_bytes(data[start : start + width], "little")
            start += width
        if length > self._value_bytes_max:
            self._too_large(index, length, offset)
        return start, start + length

    def _malformed(self, index: int, what: str, offset: int) -> NoReturn:
        raise MalformedData(f"column {self._columns[index].name}: {what} (row at offset {offset})")

    def _too_large(self, index: int, length: int, offset: int) -> NoReturn:
        raise ValueTooLarge(
            f"column {self._columns[index].name}: one value has {length} bytes, the limit is "
            f"{self._value_bytes_max} (row at offset {offset})",
            hint="raise `max_value_mb` and `campaign.worker_memory_mb`, or leave the column out",
            code="RIVET_VALUE_TOO_LARGE",
        )

    # ------------------------------------------------------------ building

    def _build(self) -> None:
        """Turn the rows at hand into record batches, a bounded number of cells at a time."""
        waiting, self._rows = self._rows[::-1], []
        while waiting:
            cells: Cells = []
            offsets: list[int] = []
            held_bytes = 0
            while waiting and held_bytes < _BUILD_BYTES:
                payload, offset = waiting.pop()
                self._cut(payload, offset, cells)
                offsets.append(offset)
                held_bytes += len(payload)
            self._built.add(cells, offsets)


class _Builder(decoding.RowBuilder):
    """A zero date is sent as a value, and may be read as NULL."""

    def _column(self, cells: Cells, column: ColumnSpec, offsets: Sequence[int] | None) -> pa.Array:
        array = super()._column(cells, column, offsets)
        if not column.nullable and array.null_count:
            raise UnsupportedType(
                f"column {column.name} ({column.native_type}) was planned as NOT NULL, but a "
                "value in it can only be exported as NULL",
                hint=f"export it as text: `columns: {{{column.name}: text}}`",
                code="RIVET_VALUE_NOT_REPRESENTABLE",
            )
        return array


def _build_column(*cells: Any, **policy: Any) -> pa.Array:
    # Imported where it is needed: its NumPy costs a worker with compiled decoders 13 MB.
    from rivet_fleet.execution.sources.mysql.values import build_column

    return build_column(*cells, **policy)
