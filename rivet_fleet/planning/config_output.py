"""The configuration's shape: where an export's files go, and what else is in them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rivet_fleet.planning.config_values import Block, Columns, Count


class DestinationConfig(Block):
    """Where an export's files go."""

    type: str = Field(description="local: a folder on a local or shared file system.")
    path: str | None = Field(
        default=None,
        description="Folder; relative to this file. {date}, {export}, {table} and {partition} are "
        "replaced.",
    )


class ParquetConfig(Block):
    """Row groups, within what the worker's memory ceiling allows, and the layout of values."""

    row_group_strategy: Literal["auto", "fixed_rows", "fixed_memory"] = Field(
        default="auto", description="How a row group is measured."
    )
    row_group_rows: Annotated[Count, Field(ge=1_000)] | None = Field(
        default=None, description="Rows of a group with fixed_rows."
    )
    target_row_group_mb: Annotated[Count, Field(ge=1)] = Field(
        default=128,
        description="Megabytes of a group as it is held before it is encoded; never more than "
        "the memory ceiling allows.",
    )
    max_row_group_mb: Annotated[Count, Field(ge=1)] | None = Field(
        default=None, description="Upper limit for target_row_group_mb."
    )
    encodings: Literal["auto", "classic"] = Field(
        default="classic",
        description="classic: a dictionary or plain values, which every reader knows. auto: also "
        "differences (DELTA_BINARY_PACKED) where they are smaller.",
    )


class MetaColumnsConfig(Block):
    """Columns that are appended to every row."""

    exported_at: bool = Field(
        default=False, description="_rivet_exported_at: when the run was planned, UTC."
    )
    row_hash: bool | Columns = Field(
        default=False, description="_rivet_row_hash over all columns, or over those listed."
    )

    @property
    def hashed(self) -> tuple[str, ...] | None:
        """The listed columns; empty for all of them; None when nothing is hashed."""
        if isinstance(self.row_hash, bool):
            return () if self.row_hash else None
        return self.row_hash
