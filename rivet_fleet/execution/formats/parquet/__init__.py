"""The Parquet format: ``writer`` holds files and row groups, ``encodings`` the layout of values."""

from __future__ import annotations

from rivet_fleet.contracts.plan import FormatPlan
from rivet_fleet.execution.format import PartFormat

FORMAT_NAME = "parquet"


def open_format(plan: FormatPlan) -> PartFormat:
    """The Parquet format with its options. Raises ConfigError for a codec or level it lacks."""
    # Imported here: who writes another format does not need Arrow's Parquet library.
    from rivet_fleet.execution.formats.parquet.writer import ParquetFormat

    return ParquetFormat(plan)
