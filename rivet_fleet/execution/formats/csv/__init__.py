"""The CSV format: ``writer`` holds the dialect, ``cells`` the text of every type."""

from rivet_fleet.execution.formats.csv.writer import FORMAT_NAME, open_format

__all__ = ["FORMAT_NAME", "open_format"]
