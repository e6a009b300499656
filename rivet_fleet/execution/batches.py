"""Decoded rows on their way from a decoder to a page."""

from __future__ import annotations

import pyarrow as pa

from rivet_fleet.execution.packing import alike
from rivet_fleet.execution.types import empty_batch


class BatchQueue:
    """Record batches of one schema, each packed or not, taken by rows: oldest first, none twice."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.rows = 0
        self._batches: list[pa.RecordBatch] = []

    def append(self, batch: pa.RecordBatch) -> None:
        """Add rows behind those that are there."""
        if batch.num_rows:
            self._batches.append(batch)
            self.rows += batch.num_rows

    def take(self, rows_max: int | None = None) -> pa.RecordBatch:
        """The oldest rows, at most ``rows_max``; all of them by default."""
        batches, self._batches, self.rows = self._batches, [], 0
        if not batches:
            return empty_batch(self.schema)
        whole = batches[0] if len(batches) == 1 else pa.concat_batches(alike(batches, self.schema))
        if rows_max is None or whole.num_rows <= rows_max:
            return whole
        self.append(whole.slice(rows_max))
        return whole.slice(0, rows_max)
