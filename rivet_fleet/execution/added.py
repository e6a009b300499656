"""Columns that are appended to every page before it is encoded (ADR 0012, ``meta_columns``)."""

from __future__ import annotations

import pyarrow as pa

from rivet_fleet.contracts.plan import EXPORTED_AT, MetaPlan
from rivet_fleet.execution.rowhash import open_row_hash
from rivet_fleet.execution.types import arrow_schema


class AddedColumns:
    """Completes pages of ``schema``. They depend on the plan and the row alone (S5)."""

    def __init__(self, schema: pa.Schema, meta: MetaPlan) -> None:
        self._meta = meta
        self._hashed = [schema.get_field_index(name) for name in meta.row_hash or ()]
        self.schema = pa.schema([*schema, *arrow_schema(meta.columns)])

    def complete(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The page with what is added, of ``self.schema``."""
        arrays = list(batch.columns)
        if self._meta.exported_at_us is not None:
            kind = self.schema.field(EXPORTED_AT).type
            moment = pa.scalar(self._meta.exported_at_us, kind)
            arrays.append(pa.repeat(moment, batch.num_rows))
        if self._meta.row_hash is not None:
            arrays.append(open_row_hash()([batch.column(index) for index in self._hashed]))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)
