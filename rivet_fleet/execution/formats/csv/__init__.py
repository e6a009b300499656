"""The CSV format: ``writer`` holds the dialect, ``cells`` the text of every type."""

from __future__ import annotations

from rivet_fleet.contracts.plan import FormatPlan
from rivet_fleet.execution.format import PartFormat

FORMAT_NAME = "csv"


def open_format(plan: FormatPlan) -> PartFormat:
    """The CSV format. It has no options: row groups, codec and level are not looked at."""
    # Imported here: who writes Parquet needs neither Arrow's kernels nor NumPy for it.
    from rivet_fleet.execution.formats.csv.writer import CsvFormat

    return CsvFormat()
