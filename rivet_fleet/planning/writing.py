"""Format and destination of an export, decided (inventory §2.5, §8.5). Pure."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from rivet_fleet.contracts.plan import DestinationPlan, FormatPlan
from rivet_fleet.planning.config_models import ExportConfig
from rivet_fleet.planning.config_rules import UNCOMPRESSED_FORMATS
from rivet_fleet.planning.memory import MemoryBudget
from rivet_fleet.planning.request import relation_of
from rivet_fleet.planning.sizes import MIB

FOLDER_BYTES_MAX = 200
"""A file system takes 255 bytes; parts and marks beside the folder need some."""
PROFILES: dict[str, tuple[str, int | None]] = {
    "none": ("none", None),
    "fast": ("snappy", None),
    "balanced": ("zstd", 3),
    "compact": ("zstd", 9),
}


def format_plan(export: ExportConfig, budget: MemoryBudget) -> tuple[FormatPlan, list[str]]:
    """How parts are written, and what the memory ceiling took away, in words."""
    codec, level = _codec(export)
    rows: int | None = None
    group_bytes = budget.row_group_bytes
    warnings = []
    parquet = export.parquet
    if parquet is not None:
        if parquet.row_group_strategy == "fixed_rows":
            rows = parquet.row_group_rows
        else:
            wanted = parquet.target_row_group_mb * MIB
            if wanted > group_bytes and "target_row_group_mb" in parquet.model_fields_set:
                warnings.append(
                    f"row groups of {parquet.target_row_group_mb} MB do not fit the memory ceiling "
                    f"of a worker: {group_bytes // MIB} MB are used; see campaign.worker_memory_mb"
                )
            group_bytes = min(group_bytes, wanted)
        if parquet.max_row_group_mb is not None:
            group_bytes = min(group_bytes, parquet.max_row_group_mb * MIB)
    plan = FormatPlan(
        format=export.format,
        compression=codec,
        compression_level=level,
        row_group_rows=rows,
        row_group_bytes=group_bytes,
        file_bytes_max=export.max_file_size,
        encodings=parquet.encodings if parquet is not None else "classic",
    )
    return plan, warnings


def _codec(export: ExportConfig) -> tuple[str, int | None]:
    if export.format in UNCOMPRESSED_FORMATS:
        return "none", None
    if export.compression_profile is not None:
        return PROFILES[export.compression_profile]
    return export.compression or "zstd", export.compression_level


def destination_plan(export: ExportConfig, config_path: Path, date: str) -> DestinationPlan:
    """The prefix, absolute, every placeholder replaced. ``date`` is ``YYYY-MM-DD``."""
    relation = relation_of(export)
    table = folder_of(relation.name) if relation is not None else ""
    words = {"date": date, "export": export.name, "table": table}
    path = export.destination.path or ""
    for name, word in words.items():
        path = path.replace("{" + name + "}", word)
    prefix = os.path.normpath(config_path.absolute().parent / path)
    return DestinationPlan(kind=export.destination.type, prefix=prefix)


def folder_of(name: str) -> str:
    """A name as one folder's: plain words are themselves, any other byte is ``%XX``, so that two
    names never share a folder, on no file system and in no store."""
    folder = quote(name, safe="$")
    if folder.startswith("."):
        folder = "%2E" + folder[1:]
    if len(folder) > FOLDER_BYTES_MAX:
        folder = f"{folder[: FOLDER_BYTES_MAX - 17]}-{sha256(name.encode()).hexdigest()[:16]}"
    return folder


def uses_date(export: ExportConfig) -> bool:
    """True when the destination depends on the day."""
    return "{date}" in (export.destination.path or "")
