"""What is different from former runs: of the columns before a run, of its shape after it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class SchemaChangeCode(Enum):
    """Stable names of schema differences (ADR 0008)."""

    ADDED = "RIVET_SCHEMA_COLUMN_ADDED"
    REMOVED = "RIVET_SCHEMA_COLUMN_REMOVED"
    RETYPED = "RIVET_SCHEMA_COLUMN_RETYPED"
    NULLABILITY = "RIVET_SCHEMA_COLUMN_NULLABILITY"
    REORDERED = "RIVET_SCHEMA_COLUMNS_REORDERED"


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaChange:
    """One difference between an export's last completed run and its new plan.

    ``column`` is None when the order of several is meant; ``before`` and ``after`` are None for a
    column that was not there.
    """

    code: SchemaChangeCode
    column: str | None
    before: str | None
    after: str | None

    @property
    def sentence(self) -> str:
        """What a person reads."""
        match self.code:
            case SchemaChangeCode.ADDED:
                return f"column {self.column} ({self.after}) is new"
            case SchemaChangeCode.REMOVED:
                return f"column {self.column} ({self.before}) is gone"
            case SchemaChangeCode.REORDERED:
                return f"the order of columns was {self.before} and is {self.after}"
            case _:
                return f"column {self.column} was {self.before} and is {self.after}"


class ShapeChangeCode(Enum):
    """Stable names of shape differences (ADR 0008)."""

    ROWS = "RIVET_SHAPE_ROWS"
    BYTES = "RIVET_SHAPE_BYTES"
    ROW_WIDTH = "RIVET_SHAPE_ROW_WIDTH"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeChange:
    """One number of a finished run that is far from what former runs had.

    ``usual`` is the median of ``samples`` former runs; the unit is rows, bytes, or bytes per row.
    """

    code: ShapeChangeCode
    usual: float
    now: float
    samples: int

    @property
    def sentence(self) -> str:
        """What a person reads."""
        what = {
            ShapeChangeCode.ROWS: "rows",
            ShapeChangeCode.BYTES: "bytes",
            ShapeChangeCode.ROW_WIDTH: "bytes per row",
        }[self.code]
        runs = (
            "the last run" if self.samples == 1 else f"the median of the last {self.samples} runs"
        )
        return f"{_number(self.now)} {what}; {runs} had {_number(self.usual)}"


def _number(value: float) -> str:
    return f"{value:,.1f}" if value < 100 and value != int(value) else f"{value:,.0f}"
