"""The ``quality:`` block of an export: its shape, and how it becomes part of a plan. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from rivet_fleet.contracts.columns import ColumnSpec
from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.quality import UNIQUE_ENTRIES_MAX_DEFAULT, QualityPlan, UniqueKey
from rivet_fleet.planning.config.fields import Block, Columns, Count, Number

UNIQUE_SHARES = 4
"""A chunk may hold this many times its share of the cap: chunks are not all of one size."""
UNIQUE_ENTRIES_MIN = 1_024


def _entries(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Ratio = Annotated[Number, Field(ge=0, le=1)]
UniqueColumns = Annotated[
    tuple[Columns, ...],
    BeforeValidator(_entries, json_schema_input_type=list[str | list[str]]),
]


class QualityConfig(Block):
    """What must hold before a run is delivered. A run for which it does not is refused."""

    row_count_min: Annotated[Count, Field(ge=0)] | None = Field(
        default=None, description="Fewest rows of a whole run."
    )
    row_count_max: Annotated[Count, Field(ge=0)] | None = Field(
        default=None, description="Most rows of a whole run."
    )
    null_ratio_max: dict[str, Ratio] = Field(
        default_factory=dict,
        description="Column to the largest share of NULLs, 0 to 1: {email: 0.05}.",
    )
    unique_columns: UniqueColumns = Field(
        default=(),
        description="Columns whose values differ in all rows, each for itself; a list within the "
        "list is several columns together: [id, [tenant, number]]. Rows with NULL do not count.",
    )
    unique_max_entries: Annotated[Count, Field(ge=1_000, le=100_000_000)] = Field(
        default=UNIQUE_ENTRIES_MAX_DEFAULT,
        description="Memory cap of one uniqueness check: so many values of 8 bytes are compared "
        "exactly; of more a sample is, and the gate may stay unknown.",
    )
    on_unknown: Literal["fail", "warn"] = Field(
        default="fail", description="What a gate does that could not be judged."
    )


def unknown_columns(config: QualityConfig, columns: Sequence[ColumnSpec]) -> list[tuple[str, str]]:
    """(setting, column) of every column the gates name and the export does not have."""
    known = {column.name for column in columns}
    named = [("null_ratio_max", name) for name in config.null_ratio_max]
    named += [("unique_columns", name) for names in config.unique_columns for name in names]
    return [(setting, name) for setting, name in named if name not in known]


def quality_plan(config: QualityConfig | None, ranges: Sequence[ChunkRange]) -> QualityPlan | None:
    """The gates of an export that is read in these chunks; None when nothing is asked."""
    if config is None:
        return None
    cap = config.unique_max_entries
    share = -(-UNIQUE_SHARES * cap // max(len(ranges), 1))
    keys = []
    for columns in config.unique_columns:
        alone = keys_stay_in_chunks(columns, ranges)
        entries_max = cap if alone else min(cap, max(UNIQUE_ENTRIES_MIN, share))
        keys.append(UniqueKey(columns=columns, within_chunks=alone, entries_max=entries_max))
    return QualityPlan(
        row_count_min=config.row_count_min,
        row_count_max=config.row_count_max,
        null_ratio_max=dict(config.null_ratio_max),
        unique=tuple(keys),
        unique_entries_max=cap,
        on_unknown=config.on_unknown,
    )


def keys_stay_in_chunks(columns: Sequence[str], ranges: Sequence[ChunkRange]) -> bool:
    """True when rows with equal values in ``columns`` cannot be in different chunks.

    That is so for a single chunk, and for ranges of one relation over columns that are all
    among ``columns``; the chunk of NULLs holds no key at all.
    """
    if len(ranges) == 1:
        return True
    cut = {RangeKind.KEYSET, RangeKind.SPAN, RangeKind.WINDOW, RangeKind.NULLS}
    by = {(one.relation, one.columns) for one in ranges}
    return (
        all(one.kind in cut and one.columns for one in ranges)
        and len(by) == 1
        and set(ranges[0].columns) <= set(columns)
    )


def uncompared(plan: QualityPlan | None, row_estimate: int | None, chunks: int) -> list[str]:
    """What is to be said before the run: gates that will probably stay unknown."""
    if plan is None or row_estimate is None:
        return []
    found = []
    for key in plan.unique:
        room = key.entries_max * chunks if key.within_chunks else plan.unique_entries_max
        if row_estimate > room:
            found.append(
                f"quality.unique_columns: about {row_estimate:,} rows are more than "
                f"unique_max_entries can compare for ({', '.join(key.columns)}): the verdict may "
                f"be unknown"
            )
    return found
