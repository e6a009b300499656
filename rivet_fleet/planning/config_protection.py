"""``source_groups``: what a source allows the whole fleet (ADR 0013)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rivet_fleet.planning.config_values import Block, Count, Number


class SourceGroupConfig(Block):
    """A budget that several exports share: across hosts, and across campaigns."""

    max_running_chunks: Annotated[Count, Field(ge=1, le=100_000)] | None = Field(
        default=None, description="Chunks of the group that run at once, over all hosts."
    )
    max_connections: Annotated[Count, Field(ge=2, le=100_000)] | None = Field(
        default=None,
        description="Connections to the source at once: one per running chunk, one for planning "
        "and checks.",
    )
    max_rows_per_s: Annotated[Number, Field(gt=0)] | None = Field(
        default=None, description="Rows read per second, over all hosts."
    )
    max_mb_per_s: Annotated[Number, Field(gt=0)] | None = Field(
        default=None, description="Megabytes received per second, over all hosts."
    )
