"""What to suggest for a relation nobody has configured yet: mode, cuts, cursors, casts. Pure.

Scores, thresholds and reason codes are kept (Rivet: Discovery). Two things are the fleet's own: a
table without a key is read by heap blocks where the source can, and a whole-number column is
suggested for cutting only where an index begins with it: else each chunk would search the table.
"""

from __future__ import annotations

import fnmatch
import re
import typing
from collections.abc import Collection, Mapping, Sequence

from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.contracts.discovery import (
    ChunkCandidate,
    CursorCandidate,
    CursorReason,
    DiscoveredExport,
    TypeOverride,
)
from rivet_fleet.contracts.facts import ColumnFacts, ListedRelation, SourceFacts
from rivet_fleet.contracts.keys import RelationName
from rivet_fleet.planning.candidates import INTEGERS, column_of, led_by, named, usable_keys
from rivet_fleet.planning.config.models import ExportConfig
from rivet_fleet.planning.config.rules import NAME_BYTES_MAX
from rivet_fleet.planning.judging import PEAK_MB_MAX, peak_mb
from rivet_fleet.planning.window import is_update_mark, name_suggests_updated

TIMESTAMPS = frozenset({TypeKind.TIMESTAMP, TypeKind.TIMESTAMP_UTC})
CHUNKED_ABOVE_ROWS = 100_000
CHUNK_SIZES = ((1_000_000, 100_000), (10_000_000, 250_000), (100_000_000, 1_000_000))
CHUNK_SIZE_LARGEST = 2_500_000
PARALLELS = ((500_000, 1), (5_000_000, 2))
PARALLEL_MOST = 4
WIDE_ROW_BYTES = 1_024
WIDE_COLUMNS = 5
UNBOUNDED_DECIMAL = "decimal(38,18)"
_WIDE_KINDS = (TypeKind.STRING, TypeKind.BINARY, TypeKind.JSON, TypeKind.LIST)
_CREATED = frozenset({"created_at"})
_POSITION_BONUS_MAX = 5


def chosen(
    relations: Sequence[ListedRelation], include: Sequence[str], exclude: Sequence[str]
) -> tuple[list[ListedRelation], list[tuple[ListedRelation, str]]]:
    """(what becomes an export, what does not and why). What no ``include`` asks for when there
    is one, and what ``exclude`` names, is in neither: nobody wants to read of it.

    Globs are compared with the name and with ``schema.name``; exclude wins. Views and foreign
    tables repeat rows that are elsewhere: they are taken only when an include asks for them.
    """
    wanted: list[ListedRelation] = []
    skipped: list[tuple[ListedRelation, str]] = []
    for one in relations:
        asked = not include or _matches(one, include)
        if not asked or _matches(one, exclude):
            continue
        if one.missing is not None:
            skipped.append((one, f"the user may not read it: {one.missing}"))
        elif not include and not one.kind.own_rows:
            what = one.kind.value.replace("_", " ")
            skipped.append((one, f"a {what}; --include {_as_glob(one.name)} takes it"))
        elif not include and one.inherits_from is not None:
            skipped.append((one, f"its rows are read with {one.inherits_from}"))
        else:
            wanted.append(one)
    return wanted, skipped


def _matches(relation: ListedRelation, globs: Sequence[str]) -> bool:
    own = relation.name
    names = (own.name, f"{own.schema}.{own.name}", str(own))
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs for name in names)


def _as_glob(name: RelationName) -> str:
    """A glob that takes this very name, quoted for a shell."""
    exact = re.sub(r"([*?[])", r"[\1]", str(name))
    return "'" + exact.replace("'", "'\\''") + "'"


def export_name_of(
    relation: ListedRelation, default_schema: str | None, taken: set[str], *, source: str = ""
) -> str:
    """A name that is safe in files and unique in ``taken``, also where a file system does not tell
    case: the table's, with its schema where that is not the default one; with its source, then
    numbered, when two become the same."""
    folded = {one.casefold() for one in taken}
    own = relation.name
    raw = own.name if own.schema == default_schema else f"{own.schema}_{own.name}"
    plain = _safe(raw)
    if plain.casefold() not in folded:
        return plain
    stem = _safe(f"{source}_{raw}") if source else plain
    name, number = stem, 2
    while name.casefold() in folded:
        name, number = f"{stem}_{number}", number + 1
    return name


def _safe(raw: str) -> str:
    safe = re.sub(r"[^\w\-]+", "_", raw).strip("_-") or "table"
    while len(safe.encode()) > NAME_BYTES_MAX - 8:
        safe = safe[:-1]
    return safe


# ---------------------------------------------------------------- candidates


def cursor_candidates(facts: SourceFacts) -> tuple[CursorCandidate, ...]:
    """Every timestamp, and every whole-number column of the primary key; the best first."""
    primary = _primary(facts)
    found = []
    for index, column in enumerate(facts.columns):
        kind = column.type.kind if column.type else None
        if kind in TIMESTAMPS:
            score, reasons = 40, [CursorReason.TIMESTAMP_TYPE]
        elif kind in INTEGERS and column.name in primary:
            score, reasons = 25, [CursorReason.INTEGER_MONOTONIC, CursorReason.PRIMARY_KEY]
        else:
            continue
        updated = kind in TIMESTAMPS and name_suggests_updated(column.name)
        if updated:
            score, reasons = score + 40, [*reasons, CursorReason.NAME_SUGGESTS_UPDATED]
        elif column.name in _CREATED:
            score, reasons = score + 20, [*reasons, CursorReason.NAME_SUGGESTS_CREATED]
        if kind in TIMESTAMPS and is_update_mark(column):
            score, reasons = score + 40, [*reasons, CursorReason.SET_ON_UPDATE]
        if column.nullable:
            score, reasons = score - 10, [*reasons, CursorReason.NULLABLE]
        score += min(len(facts.columns) - index, _POSITION_BONUS_MAX)
        found.append(
            CursorCandidate(
                column=column.name,
                native_type=column.native_type,
                nullable=column.nullable,
                primary_key=column.name in primary,
                score=score,
                reasons=tuple(reasons),
            )
        )
    return tuple(sorted(found, key=lambda one: (-one.score, one.column)))


def cursor_fallback(facts: SourceFacts, candidates: Sequence[CursorCandidate]) -> str | None:
    """The first NOT NULL column of its type, when the best cursor may be NULL."""
    if not candidates or not candidates[0].nullable:
        return None
    best = column_of(facts, candidates[0].column)
    own = best.type.kind if best is not None and best.type is not None else None
    for column in facts.columns:
        kind = column.type.kind if column.type else None
        if kind not in TIMESTAMPS or kind is not own or column.nullable:
            continue
        if column.name != candidates[0].column:
            return column.name
    return None


def chunk_candidates(facts: SourceFacts) -> tuple[ChunkCandidate, ...]:
    """Every whole-number column; those of the primary key first."""
    primary = _primary(facts)
    led = {
        index.columns[0]
        for index in facts.indexes
        if index.columns and index.valid and index.ready and index.ordered
        if not (index.partial or index.expression)
    }
    found = [
        ChunkCandidate(
            column=column.name,
            native_type=column.native_type,
            primary_key=column.name in primary,
            indexed=column.name in led,
            score=20 + (40 if column.name in primary else 0),
        )
        for column in facts.columns
        if column.type is not None and column.type.kind in INTEGERS
    ]
    return tuple(sorted(found, key=lambda one: (-one.score, one.column)))


def _primary(facts: SourceFacts) -> tuple[str, ...]:
    return next((index.columns for index in facts.indexes if index.primary), ())


# ---------------------------------------------------------------- numbers


def chunk_size_of(rows: int) -> int:
    """Rows of one chunk: the larger the table, the larger its chunks."""
    return next((size for below, size in CHUNK_SIZES if rows < below), CHUNK_SIZE_LARGEST)


def parallel_of(rows: int, row_bytes: int | None, *, wide_rows: bool = True) -> int:
    """How many ranges at once, as long as the predicted memory stays below 2,048 MB.

    ``wide_rows`` False: the source's rows of 1,024 bytes and more are read one range at a time.
    """
    width = row_bytes or 0
    if not wide_rows and width >= WIDE_ROW_BYTES:
        return 1
    wanted = next((count for below, count in PARALLELS if rows < below), PARALLEL_MOST)
    while wanted > 1 and peak_mb(wanted, width) > PEAK_MB_MAX:
        wanted -= 1
    return wanted


def row_group_mb_of(columns: Sequence[ColumnFacts]) -> int:
    """64 MB when five or more columns may hold long values, else 128."""
    wide = sum(1 for one in columns if one.type is None or one.type.kind in _WIDE_KINDS)
    return 64 if wide >= WIDE_COLUMNS else 128


def overrides_of(columns: Sequence[ColumnFacts]) -> tuple[TypeOverride, ...]:
    """The casts without which the export would be refused."""
    found = []
    for column in columns:
        if column.type is not None:
            continue
        hint = column.cast_hint or "text"
        bounded = hint.startswith("decimal(")
        found.append(
            TypeOverride(
                column=column.name,
                native_type=column.native_type,
                override=UNBOUNDED_DECIMAL if bounded else hint,
                reason=column.unsupported_reason or "this type has no exact form",
                review=bounded,
            )
        )
    return tuple(found)


def runnable_modes() -> frozenset[str]:
    """The modes that this version's configuration has."""
    return frozenset(typing.get_args(ExportConfig.model_fields["mode"].annotation))


# ---------------------------------------------------------------- one export


def suggest(
    listed: ListedRelation,
    facts: SourceFacts,
    *,
    source: str,
    export_name: str,
    default_schema: str | None,
    modes: Collection[str],
) -> DiscoveredExport:
    """The export that fits one relation."""
    near = listed.name.schema == default_schema
    written = RelationName(schema="" if near else listed.name.schema, name=listed.name.name)
    cursors = cursor_candidates(facts)
    chunks = chunk_candidates(facts)
    rows = facts.row_estimate or 0
    cuts = _cuts(facts, chunks)
    fallback = cursor_fallback(facts, cursors)
    moments = [one for one in cursors if CursorReason.TIMESTAMP_TYPE in one.reasons]
    doubt = _doubt(facts, moments[0], fallback) if moments else "no timestamp tells what is new"
    mode, reason = _mode(facts, cuts, moments, doubt)
    chunked = mode == "chunked"
    ranged = chunked and "chunk_column" in cuts
    wide = facts.capabilities.parallel_wide_rows
    return DiscoveredExport(
        export_name=export_name,
        source=source,
        relation=listed.name,
        kind=listed.kind,
        table=str(written),
        query=None,
        row_estimate=facts.row_estimate,
        row_estimate_from=facts.row_estimate_provenance,
        row_width_bytes=facts.row_width_bytes,
        size_bytes=listed.size_bytes,
        mode=mode,
        mode_now=mode if mode in modes else "full",
        mode_reason=reason,
        chunk_size=chunk_size_of(rows) if chunked else None,
        chunk_by_key=cuts.get("chunk_by_key", ()) if chunked else (),
        chunk_column=cuts["chunk_column"][0] if ranged else None,
        parallel=parallel_of(rows, facts.row_width_bytes, wide_rows=wide) if ranged else 1,
        target_row_group_mb=row_group_mb_of(facts.columns),
        cursor_candidates=cursors,
        cursor_fallback=fallback,
        cursor_column=moments[0].column if moments else None,
        cursor_doubt=None if mode == "incremental" else doubt or reason,
        chunk_candidates=chunks,
        overrides=overrides_of(facts.columns),
        warnings=(*facts.warnings, *_remarks(listed, facts)),
    )


def _cuts(facts: SourceFacts, chunks: Sequence[ChunkCandidate]) -> Mapping[str, tuple[str, ...]]:
    """How it could be cut: by a key, by nothing but blocks, or by an indexed column; empty when
    in no way."""
    keys = usable_keys(facts)
    if keys:
        return {"chunk_by_key": keys[0].columns}
    if facts.capabilities.block_ranges and facts.heaps:
        return {"blocks": ()}
    indexed = next((one.column for one in chunks if one.indexed), None)
    return {"chunk_column": (indexed,)} if indexed is not None else {}


_ANEW = "read anew each time, deletes and all"


def _mode(
    facts: SourceFacts,
    cuts: Mapping[str, tuple[str, ...]],
    moments: Sequence[CursorCandidate],
    doubt: str | None,
) -> tuple[str, str]:
    """Incremental only for a large table whose update mark is beyond doubt: what a cursor does
    not see is never delivered, and nothing fails."""
    if facts.row_estimate is None:
        return "full", "nobody knows how many rows"
    rows = facts.row_estimate
    if rows <= CHUNKED_ABOVE_ROWS:
        return "full", f"small: {_ANEW}"
    if moments and doubt is None:
        return "incremental", (
            f"about {rows:,} rows, and the server sets {moments[0].column} with every update "
            f"(score {moments[0].score}); deleted rows are not seen"
        )
    if cuts:
        how, columns = next(iter(cuts.items()))
        by = "ranges of heap blocks" if how == "blocks" else f"{how} {named(columns)}"
        return "chunked", f"about {rows:,} rows, more than {CHUNKED_ABOVE_ROWS:,}: cut by {by}"
    return "full", f"about {rows:,} rows, but nothing to cut them by"


def _doubt(facts: SourceFacts, best: CursorCandidate, fallback: str | None) -> str | None:
    """Why the best moment is not proposed as a cursor; None when nothing speaks against it."""
    name = best.column
    if CursorReason.SET_ON_UPDATE not in best.reasons:
        if CursorReason.NAME_SUGGESTS_UPDATED in best.reasons:
            return f"nothing on the server sets {name}: right only where every update of a row does"
        return (
            f"nothing says that {name} changes when its row does: updates of rows that were read "
            "once would never be read; right for rows that are only ever added"
        )
    if best.nullable and fallback is None:
        # Rows without a cursor would never be read, and nobody has said that this is meant.
        return f"{name} may be NULL, and no other moment stands in for it"
    if best.nullable or not led_by(facts, name):
        return "no index begins with it: each run would read the whole table to find what is new"
    return None


def _remarks(listed: ListedRelation, facts: SourceFacts) -> list[str]:
    found = []
    if not usable_keys(facts):
        found.append("no unique NOT NULL index: rows may not be told apart")
    if not listed.kind.own_rows:
        found.append(f"a {listed.kind.value.replace('_', ' ')}: its rows are other relations'")
    if facts.row_estimate is None:
        found.append("nobody knows how many rows: let the source collect statistics")
    return found
