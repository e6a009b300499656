"""What has to be asked of a source before an export can be planned. Pure."""

from __future__ import annotations

from dataclasses import replace

from rivet_fleet.contracts.facts import FactsRequest, SourceFacts
from rivet_fleet.contracts.keys import RelationName, parse_relation
from rivet_fleet.planning.config.loaded import LoadedConfig, policies_of
from rivet_fleet.planning.config.models import CHUNK_SIZE_DEFAULT, ExportConfig

BOUNDARIES_MAX = 1_000
BOUNDARIES_PER_PLAN_MAX = 10_000


def relation_of(export: ExportConfig) -> RelationName | None:
    """The table as written. An unqualified name has an empty schema: the source resolves it."""
    return None if export.table is None else parse_relation(export.table)


def override_column(export: ExportConfig, written: str) -> str | None:
    """The column a key of ``columns:`` names, None when it names another table.

    ``table.column`` counts for its own table, named as ``table:`` names it or without its schema;
    what stands behind that dot is the column, whatever it holds. A column with a dot in its name
    is written so. A query has no table: its columns are named as they are.
    """
    relation = relation_of(export)
    if relation is None:
        return written
    alone = RelationName(schema="", name=relation.name)
    for prefix in (export.table, str(relation), str(alone)):
        if written.startswith(f"{prefix}."):
            return written.removeprefix(f"{prefix}.")
    return None if "." in written else written


def casts_of(export: ExportConfig) -> dict[str, str]:
    """``columns:`` by plain column name."""
    casts = {}
    for written, override in export.columns.items():
        column = override_column(export, written)
        if column is not None:
            casts[column] = override.strip()
    return casts


def is_cut(export: ExportConfig) -> bool:
    """True when the configuration itself says how the export is cut."""
    return any(
        (
            export.chunk_by_key,
            export.chunk_column,
            export.chunk_count,
            export.chunk_size,
            export.chunk_size_memory_mb,
        )
    )


def facts_request(
    loaded: LoadedConfig, export: ExportConfig, *, continued: bool = False
) -> FactsRequest:
    """What the source has to be asked about one export before it can be planned.

    ``continued``: a mark says where the last run ended, and what is new is one chunk."""
    keys: tuple[str, ...] = ()
    boundaries = 0  # one chunk is not cut
    chunks: int | None = None
    chunk_rows: int | None = None
    if export.mode != "full" and (is_cut(export) or not continued):
        keys = export.chunk_by_key or ((export.chunk_column,) if export.chunk_column else ())
        boundaries = min(max(BOUNDARIES_MAX, export.chunk_count or 0), BOUNDARIES_PER_PLAN_MAX)
        chunks = export.chunk_count
        if chunks is None and export.chunk_size_memory_mb is None and not export.chunk_by_days:
            chunk_rows = export.chunk_size or CHUNK_SIZE_DEFAULT
    if export.partition_by is not None:
        keys, boundaries, chunks, chunk_rows = (export.partition_by,), BOUNDARIES_MAX, None, None
    return FactsRequest(
        export_name=export.name,
        relation=relation_of(export),
        query=loaded.queries.get(export.name),
        key_columns=keys,
        casts=tuple(sorted(casts_of(export).items())),
        unsupported_cast="text" if policies_of(loaded.config, export).text_unsupported else None,
        boundaries_max=boundaries,
        chunks=chunks,
        chunk_rows=chunk_rows,
        walk_rows=(export.chunk_size or CHUNK_SIZE_DEFAULT) if export.chunk_dense else None,
    )


# ------------------------------------------------------------------------------------------
# What a density probe says about the number of rows. Pure.

TRUSTED_ROWS = 50
"""Fewer sampled rows say only that there are few, not how many."""
PROBED = "sample"


def with_probed_rows(facts: SourceFacts) -> SourceFacts:
    """``facts`` with the probe's number of rows where one was made and can be trusted: span
    times density."""
    for key in facts.keys:
        found = key.probed
        if found is None or found.rows < TRUSTED_ROWS or not key.minimum or not key.maximum:
            continue
        span = int(key.maximum[0]) - int(key.minimum[0]) + 1
        rows = round(span * found.rows / found.keys)
        return replace(facts, row_estimate=rows, row_estimate_provenance=PROBED)
    return facts
