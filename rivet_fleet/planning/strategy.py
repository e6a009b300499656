"""How one export is divided, with the reason. Pure: facts and configuration in, ranges out."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rivet_fleet.contracts.columns import ColumnType, TypeKind
from rivet_fleet.contracts.facts import PhysicalRelation, SourceFacts
from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.planning.candidates import (
    INTEGERS,
    column_of,
    has_inheriting_children,
    is_integer,
    key_facts,
    named,
    usable_keys,
    why_not_a_key,
)
from rivet_fleet.planning.chunker import (
    block_ranges,
    key_ranges,
    nulls_range,
    split_estimate,
    whole_range,
)
from rivet_fleet.planning.config_models import ExportConfig
from rivet_fleet.planning.cuts import Refusal, cuts_for
from rivet_fleet.planning.problems import did_you_mean
from rivet_fleet.planning.request import casts_of
from rivet_fleet.planning.sizing import (
    CHUNKS_UNKNOWN,
    Sizing,
    believable_rows,
    chunk_count,
    sizing_of,
)

BLOCK_BYTES_ASSUMED = 8192
ROW_BYTES_ASSUMED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The decision: ranges that are a partition of the rows, each with its estimate."""

    strategy: str
    reason: str
    ranges: tuple[ChunkRange, ...]
    estimates: tuple[int | None, ...]
    warnings: tuple[str, ...] = ()


def choose(export: ExportConfig, facts: SourceFacts) -> Choice | Refusal:
    """The strategy of one export."""
    facts = _in_server_order(facts, frozenset(casts_of(export)))
    sizing = sizing_of(export, facts)
    if export.mode == "full":
        return _automatic(facts, Sizing(count=1, rows=sizing.rows), "mode full: one chunk")
    if export.chunk_by_key is not None:
        return _by_key(facts, export.chunk_by_key, sizing)
    if export.chunk_column is not None:
        return _by_column(facts, export.chunk_column, sizing)
    return _automatic(facts, sizing, "chosen automatically")


def _in_server_order(facts: SourceFacts, cast: frozenset[str]) -> SourceFacts:
    """Columns read as another type are ordered by their own: no arithmetic on their values."""
    opaque = ColumnType(kind=TypeKind.STRING)
    return replace(
        facts,
        columns=tuple(
            replace(column, type=opaque) if column.name in cast else column
            for column in facts.columns
        ),
    )


def _automatic(facts: SourceFacts, sizing: Sizing, why: str) -> Choice | Refusal:
    """The best key, else blocks, else everything at once."""
    if facts.relation is None:
        return _whole(f"{why}; a query has no key that is known to be unique")
    keys = usable_keys(facts)
    blocks_possible = facts.capabilities.block_ranges and bool(facts.heaps)
    if keys:
        best = keys[0]
        kind = "primary key" if best.primary else "unique index"
        reason = f"{why}; {kind} {best.name} {named(best.columns)}"
        samples = key_facts(facts, best.columns)
        unsampled = samples is None or not samples.boundaries
        wanted, _ = chunk_count(sizing, believable_rows(facts, samples), CHUNKS_UNKNOWN)
        if not (
            wanted > 1 and unsampled and blocks_possible and not is_integer(facts, best.columns)
        ):
            return _keyset(facts, best.columns, sizing, reason)
        return _blocks(facts, sizing, f"{why}; {kind} {best.name} has no statistics yet")
    lack = (
        "the key does not cover the tables that inherit from this one"
        if has_inheriting_children(facts)
        else "no unique NOT NULL index"
    )
    if blocks_possible:
        return _blocks(facts, sizing, f"{why}; {lack}")
    limit = (
        "its rows are not in heap blocks of its own"
        if facts.capabilities.block_ranges
        else "this version of the source cannot read ranges of heap blocks"
    )
    return _whole(f"{why}; {lack}, and {limit}")


def _whole(reason: str) -> Choice:
    return Choice(strategy="whole", reason=reason, ranges=tuple(whole_range()), estimates=(None,))


def _by_key(facts: SourceFacts, columns: tuple[str, ...], sizing: Sizing) -> Choice | Refusal:
    """``chunk_by_key``: a unique NOT NULL index, proven; or over a query, what is provable."""
    missing = _missing_column("chunk_by_key", facts, columns)
    if missing is not None:
        return missing
    if facts.relation is None:
        return _query_by_key(facts, columns, sizing)
    usable = usable_keys(facts)
    match = next((index for index in usable if index.columns == columns), None)
    if match is not None:
        reason = f"chunk_by_key; unique index {match.name} {named(columns)}"
        return _keyset(facts, columns, sizing, reason)
    others = "; ".join(f"{one.name} {named(one.columns)}" for one in usable) or "none"
    same = [index for index in facts.indexes if set(index.columns) == set(columns)]
    for index in same:
        if index in usable:
            return Refusal(
                setting="chunk_by_key",
                reason=f"index {index.name} has the columns in another order",
                suggestion=f"write chunk_by_key: [{', '.join(index.columns)}]",
            )
    why = [f"index {i.name} {why_not_a_key(facts, i)}" for i in same]
    return Refusal(
        setting="chunk_by_key",
        reason=(
            ("; ".join(why) or f"there is no unique index on {named(columns)}")
            + f". Usable keys: {others}"
        ),
        suggestion=(
            f"write chunk_by_key: [{', '.join(usable[0].columns)}]"
            if usable
            else "remove chunk_by_key: the table is read without a key"
        ),
    )


def _query_by_key(facts: SourceFacts, columns: tuple[str, ...], sizing: Sizing) -> Choice | Refusal:
    """Over a query nothing is indexed: only what the source proved is believed."""
    key = key_facts(facts, columns)
    proven = key is not None and key.unique and not key.has_nulls
    can = facts.capabilities.keyset and (len(columns) == 1 or facts.capabilities.composite_keyset)
    if proven and can:
        return _keyset(facts, columns, sizing, f"chunk_by_key {named(columns)} over the query")
    if is_integer(facts, columns):
        why = f"chunk_by_key {named(columns)}, not proven unique: ranges of its values"
        return _by_column(facts, columns[0], sizing, why)
    return Refusal(
        setting="chunk_by_key",
        reason=f"{named(columns)} is not proven unique and NOT NULL in the query's rows: "
        "paging by it could lose rows",
        suggestion="use chunk_column with a whole-number column, or remove it: one chunk",
    )


def _missing_column(setting: str, facts: SourceFacts, columns: tuple[str, ...]) -> Refusal | None:
    names = [column.name for column in facts.columns]
    for name in columns:
        if name not in names:
            return Refusal(
                setting=setting,
                reason=f"there is no column {name!r}",
                suggestion=did_you_mean(name, names) or f"columns: {', '.join(names[:20])}",
            )
    return None


def _by_column(
    facts: SourceFacts, name: str, sizing: Sizing, why: str | None = None
) -> Choice | Refusal:
    """``chunk_column``: whole numbers only; pages by it as a key when it is one."""
    missing = _missing_column("chunk_column", facts, (name,))
    if missing is not None:
        return missing
    column = column_of(facts, name)
    kind = column.type.kind if column and column.type else None
    if column is None or kind not in INTEGERS:
        native = column.native_type if column else "unknown"
        return Refusal(
            setting="chunk_column",
            reason=f"column {name} ({native}) is not read as whole numbers: "
            "values between two of them would fall out of the ranges",
            suggestion="use chunk_by_key with a unique index, or no chunk setting at all",
        )
    if any(index.columns == (name,) for index in usable_keys(facts)):
        return _keyset(facts, (name,), sizing, f"chunk_column {name}, which is a unique key")
    key = key_facts(facts, (name,))
    cuts, warnings = cuts_for(facts, (name,), key, sizing)
    if isinstance(cuts, Refusal):
        return cuts
    ranges = key_ranges(RangeKind.SPAN, (name,), cuts)
    share = split_estimate(facts.row_estimate, len(ranges))
    estimates: list[int | None] = [share] * len(ranges)
    if column.nullable or (key is not None and key.has_nulls):
        ranges.append(nulls_range(name))
        estimates.append(None)
    return Choice(
        strategy="integer_range",
        reason=why or f"chunk_column {name}: ranges of its values",
        ranges=tuple(ranges),
        estimates=tuple(estimates),
        warnings=tuple(warnings),
    )


def _keyset(
    facts: SourceFacts, columns: tuple[str, ...], sizing: Sizing, reason: str
) -> Choice | Refusal:
    key = key_facts(facts, columns)
    cuts, warnings = cuts_for(facts, columns, key, sizing)
    if isinstance(cuts, Refusal):
        return cuts
    ranges = key_ranges(RangeKind.KEYSET, columns, cuts)
    share = split_estimate(facts.row_estimate, len(ranges))
    return Choice(
        strategy="keyset",
        reason=reason,
        ranges=tuple(ranges),
        estimates=(share,) * len(ranges),
        warnings=tuple(warnings),
    )


def _blocks(facts: SourceFacts, sizing: Sizing, reason: str) -> Choice:
    """Every heap on its own, because block numbers repeat across partitions and children."""
    heap_rows = [_heap_rows(facts, heap) for heap in facts.heaps]
    counts, warnings = _block_counts(facts, sizing, heap_rows)
    ranges: list[ChunkRange] = []
    estimates: list[int | None] = []
    for heap, rows, count in zip(facts.heaps, heap_rows, counts, strict=True):
        pieces = block_ranges(heap, count)
        ranges += pieces
        estimates += [split_estimate(rows, len(pieces))] * len(pieces)
    many = f" of {len(facts.heaps)} heaps" if len(facts.heaps) > 1 else ""
    return Choice(
        strategy="blocks",
        reason=f"{reason}: ranges of heap blocks{many}",
        ranges=tuple(ranges),
        estimates=tuple(estimates),
        warnings=tuple(warnings),
    )


def _block_counts(
    facts: SourceFacts, sizing: Sizing, heap_rows: list[int]
) -> tuple[list[int], list[str]]:
    if sizing.count == 1:
        return [1] * len(facts.heaps), []
    count, warnings = chunk_count(sizing, sum(heap_rows), 1)
    blocks = sum(heap.blocks for heap in facts.heaps)
    # Rounded up, so that no chunk is larger than wanted: at most one extra chunk for each heap.
    return [max(1, -(-heap.blocks * count // max(blocks, 1))) for heap in facts.heaps], warnings


def _heap_rows(facts: SourceFacts, heap: PhysicalRelation) -> int:
    """The heap's estimate, else its size over the row's width: blocks are always known."""
    if heap.row_estimate is not None and (heap.row_estimate > 0 or heap.blocks == 0):
        return heap.row_estimate
    width = facts.row_width_bytes or ROW_BYTES_ASSUMED
    return heap.blocks * BLOCK_BYTES_ASSUMED // max(width, 1)
