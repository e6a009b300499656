"""From a source's bytes to Arrow record batches: what every engine's decoders have in common.

``BatchDecoder`` is the seam. An engine has a reference, the specification in plain Python, and
where it was built a compiled one. How rows are framed on the wire is the engine's own; what
becomes of their cells is a ``RowBuilder``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import pyarrow as pa

from rivet_fleet.contracts.columns import ColumnSpec
from rivet_fleet.errors import MalformedData, SchemaDrift, UnsupportedType
from rivet_fleet.execution.packing import BatchQueue
from rivet_fleet.execution.types import arrow_schema

if TYPE_CHECKING:
    from rivet_fleet.execution.arrays import Cells

BuildColumn = Callable[..., pa.Array]
"""``(cells, column, changed, *, coerce)``: one column's array. Raises MalformedData, and
UnsupportedType for a value that the exported type cannot hold."""


class BatchDecoder(Protocol):
    """A stream of bytes in, cut anywhere; record batches of one schema out."""

    @property
    def schema(self) -> pa.Schema:
        """The schema of every batch."""
        ...

    @property
    def rows_ready(self) -> int:
        """Rows that are decoded, or cut out and about to be, and not yet taken."""
        ...

    @property
    def changed(self) -> dict[str, int]:
        """Per column: how many values a stated policy had to change."""
        ...

    def feed(self, block: bytes | memoryview) -> None:
        """The next bytes of the stream, cut anywhere; every complete row in them is taken.
        Raises MalformedData, ValueTooLarge, UnsupportedType (a value the exported type cannot
        hold), SchemaDrift (NULL in a NOT NULL column); so does ``take``, for what a decoder
        leaves until then."""
        ...

    def finish(self) -> None:
        """The stream is over. Raises MalformedData when its end has not been seen."""
        ...

    def take(self, rows_max: int | None = None) -> pa.RecordBatch:
        """The oldest rows, at most ``rows_max``, none twice; all of them by default."""
        ...


D = TypeVar("D", bound=BatchDecoder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoders(Generic[D]):
    """The decoders of one format."""

    reference: Callable[..., D]
    """``(columns, *, max_value_bytes, coerce)``."""
    compiled: Callable[[], Any]
    """The compiled decoder's class, of ``(…, packed)`` and with ``expect_like``; or None."""

    def open(
        self,
        columns: tuple[ColumnSpec, ...],
        *,
        max_value_bytes: int,
        coerce: bool = False,
        packed: bool = False,
        like: D | None = None,
    ) -> D:
        """The decoder to read with: the compiled one where it was built, else the reference.

        ``coerce``: values no Arrow type holds become NULL, counted, instead of an error.
        ``packed``: columns may come packed (ADR 0014); the reference's never do.
        ``like``: the decoder of the page before, of the same columns: this page will be as large.
        """
        compiled = self.compiled()
        if compiled is None:
            return self.reference(columns, max_value_bytes=max_value_bytes, coerce=coerce)
        decoder: Any = compiled(
            columns, max_value_bytes=max_value_bytes, coerce=coerce, packed=packed
        )
        if isinstance(like, compiled):
            decoder.expect_like(like)
        opened: D = decoder
        return opened


class RowBuilder:
    """The building half of a reference decoder: rows of cells in, record batches out."""

    def __init__(
        self, columns: tuple[ColumnSpec, ...], build_column: BuildColumn, *, coerce: bool
    ) -> None:
        self.schema: pa.Schema = arrow_schema(columns)
        self.changed: dict[str, int] = {}
        self._columns, self._build_column, self._coerce = columns, build_column, coerce
        self._batches = BatchQueue(self.schema)

    @property
    def rows(self) -> int:
        """Rows built and not yet taken."""
        return self._batches.rows

    def add(self, cells: Cells, offsets: Sequence[int] | None = None) -> None:
        """Whole rows, one after the other. ``offsets``: where in the stream each began, for
        messages. Raises SchemaDrift for a NULL in a NOT NULL column, and as ``BuildColumn``."""
        width = len(self._columns)
        arrays = [
            self._column(cells[index::width], column, offsets)
            for index, column in enumerate(self._columns)
        ]
        self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=self.schema))

    def take(self, rows_max: int | None = None) -> pa.RecordBatch:
        """The oldest rows, at most ``rows_max``."""
        return self._batches.take(rows_max)

    def _column(self, cells: Cells, column: ColumnSpec, offsets: Sequence[int] | None) -> pa.Array:
        if not column.nullable and None in cells:
            where = f" (row at offset {offsets[cells.index(None)]})" if offsets else ""
            raise SchemaDrift(
                f"column {column.name} was planned as NOT NULL, but the source sent a NULL{where}",
                hint="plan the export again",
            )
        try:
            return self._build_column(cells, column, self.changed, coerce=self._coerce)
        except (MalformedData, UnsupportedType):
            if offsets:
                self._raise_located(cells, column, offsets)
            raise

    def _raise_located(self, cells: Cells, column: ColumnSpec, offsets: Sequence[int]) -> None:
        """Build the cells one by one, to say in which row the first bad one is."""
        for cell, offset in zip(cells, offsets, strict=True):
            try:
                self._build_column([cell], column, {}, coerce=self._coerce)
            except (MalformedData, UnsupportedType) as error:
                where = f" (row at offset {offset})"
                raise type(error)(
                    error.message + where,
                    hint=error.hint,
                    code=error.code,
                    unmasked=error.unmasked and error.unmasked + where,
                ) from None
