"""How one export is divided, with the reason. Pure: facts and configuration in, ranges out."""

from __future__ import annotations

from dataclasses import replace

from rivet_fleet.contracts.columns import ColumnType, TypeKind
from rivet_fleet.contracts.facts import ColumnFacts, KeyFacts, SourceFacts
from rivet_fleet.contracts.keys import KeyTuple, RangeKind
from rivet_fleet.planning.candidates import (
    column_of,
    has_inheriting_children,
    is_integer,
    key_facts,
    led_by,
    named,
    usable_keys,
    why_not_a_key,
)
from rivet_fleet.planning.config.loaded import PartitionRange
from rivet_fleet.planning.config.models import ExportConfig
from rivet_fleet.planning.config.problems import DAYS_INVALID, did_you_mean
from rivet_fleet.planning.cuts import (
    CHUNKS_UNKNOWN,
    Choice,
    Refusal,
    Scale,
    Sizing,
    believable_rows,
    block_choice,
    chunk_count,
    cuts_for,
    day_cuts,
    integer_cuts,
    key_ranges,
    nulls_range,
    scale_of,
    shares,
    sizing_of,
    split_estimate,
    whole_choice,
)
from rivet_fleet.planning.request import casts_of

__all__ = ["Choice", "choose", "choose_partition"]


def choose(export: ExportConfig, facts: SourceFacts) -> Choice | Refusal:
    """The strategy of one export."""
    facts = _in_server_order(facts, frozenset(casts_of(export)))
    sizing = sizing_of(export, facts)
    if export.mode == "full":
        return _automatic(facts, Sizing(count=1, rows=sizing.rows), "mode full: one chunk")
    if export.chunk_by_key is not None:
        return _by_key(facts, export.chunk_by_key, sizing)
    if export.chunk_column is not None:
        return _by_column(facts, export.chunk_column, sizing, days=export.chunk_by_days)
    return _automatic(facts, sizing, "chosen automatically")


def _in_server_order(facts: SourceFacts, cast: frozenset[str]) -> SourceFacts:
    """Columns read as another type are ordered by their own: no arithmetic on their values."""
    opaque = ColumnType(kind=TypeKind.STRING)

    def read(columns: tuple[ColumnFacts, ...]) -> tuple[ColumnFacts, ...]:
        return tuple(
            replace(column, type=opaque) if column.name in cast else column for column in columns
        )

    table = facts.table and replace(facts.table, columns=read(facts.table.columns))
    return replace(facts, columns=read(facts.columns), table=table)


def _automatic(facts: SourceFacts, sizing: Sizing, why: str) -> Choice | Refusal:
    """The best key, else blocks, else everything at once."""
    keys = usable_keys(facts)
    if facts.relation is None and not (keys and facts.table):
        doubt = facts.undivided or "its table has no unique NOT NULL index that its rows can show"
        return whole_choice(f"{why}; the query is read by one statement: {doubt}")
    if facts.table is not None:
        why = f"{why}; the query's rows are those of {facts.table.relation} alone"
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
        return block_choice(facts, sizing, f"{why}; {kind} {best.name} has no statistics yet")
    lack = (
        "the key does not cover the tables that inherit from this one"
        if has_inheriting_children(facts)
        else "no unique NOT NULL index"
    )
    if blocks_possible:
        return block_choice(facts, sizing, f"{why}; {lack}")
    limit = (
        "its rows are not in heap blocks of its own"
        if facts.capabilities.block_ranges
        else "this version of the source cannot read ranges of heap blocks"
    )
    return whole_choice(f"{why}; {lack}, and {limit}")


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
    facts: SourceFacts,
    name: str,
    sizing: Sizing,
    why: str | None = None,
    *,
    days: int | None = None,
) -> Choice | Refusal:
    """``chunk_column``: whole numbers, dates and moments; pages by it as a key when it is one."""
    missing = _missing_column("chunk_column", facts, (name,))
    if missing is not None:
        return missing
    column = column_of(facts, name)
    scale = scale_of(facts, (name,))
    if column is None or scale is None or (days is not None and not scale.day):
        native = column.native_type if column else "unknown"
        return _no_scale(name, native, days)
    key = key_facts(facts, (name,))
    keyed = any(index.columns == (name,) for index in usable_keys(facts))
    if keyed and days is None:
        return _keyset(facts, (name,), sizing, f"chunk_column {name}, which is a unique key")
    found = _column_cuts(facts, name, key, scale, sizing, days)
    if isinstance(found, Refusal):
        return found
    cuts, estimates, warnings = found
    # Pages in the order of a column that no index orders would sort the table for each page.
    paged = not scale.day or led_by(facts, name)
    kind = RangeKind.KEYSET if keyed else RangeKind.SPAN if paged else RangeKind.WINDOW
    ranges = key_ranges(kind, (name,), cuts)
    if column.nullable or (key is not None and key.has_nulls):
        ranges.append(nulls_range(name))
        estimates.append(None)
    by_days = f"windows of {days} day(s)" if days else "ranges of its values"
    return Choice(
        strategy=_range_strategy(scale, days),
        reason=why or f"chunk_column {name}: {by_days}",
        ranges=tuple(ranges),
        estimates=tuple(estimates),
        warnings=tuple(warnings),
    )


def _no_scale(name: str, native_type: str, days: int | None) -> Refusal:
    if days is not None:
        return Refusal(
            setting="chunk_by_days",
            reason=f"column {name} ({native_type}) is not read as a date or a moment",
            suggestion="use chunk_count or chunk_size",
            code=DAYS_INVALID,
        )
    return Refusal(
        setting="chunk_column",
        reason=f"column {name} ({native_type}) is not read as whole numbers, dates or moments: "
        "values between two of them would fall out of the ranges",
        suggestion="use chunk_by_key with a unique index, or no chunk setting at all",
    )


def choose_partition(
    export: ExportConfig, facts: SourceFacts, part: PartitionRange
) -> Choice | Refusal:
    """The ranges of one partition, all over its own column: they cost only its rows."""
    if part.everything:
        return whole_choice(f"{part.column} has no calendar value")
    if part.nulls:
        nulls = (nulls_range(part.column),)
        why = f"partition of rows without {part.column}"
        return Choice(strategy="partition", reason=why, ranges=nulls, estimates=(None,))
    name = (part.column,)
    scale = scale_of(facts, name)
    assert scale is not None, "a column without a scale has no partitions"
    anchors = list(part.anchors)
    edges = [one for one in (part.lower, part.upper) if one is not None]
    (rows,) = shares(anchors, edges, facts.row_estimate)[slice(*_middle(part))]
    cuts = _partition_cuts(export, facts, part, scale, anchors, rows)
    keyed = any(index.columns == name for index in usable_keys(facts))
    paged = RangeKind.SPAN if led_by(facts, part.column) else RangeKind.WINDOW
    kind = RangeKind.KEYSET if keyed else paged
    texts: list[KeyTuple] = [(scale.write(cut),) for cut in cuts]
    first = None if part.lower is None else (scale.write(part.lower),)
    last = None if part.upper is None else (scale.write(part.upper),)
    ranges = tuple(key_ranges(kind, name, texts, lower=first, upper=last))
    return Choice(
        strategy="partition",
        reason=f"partition {part.column}={part.value}",
        ranges=ranges,
        estimates=(split_estimate(rows, len(ranges)),) * len(ranges),
    )


def _middle(part: PartitionRange) -> tuple[int, int]:
    """Which of the ranges that the partition's bounds make is the partition."""
    first = 0 if part.lower is None else 1
    return first, first + 1


def _partition_cuts(
    export: ExportConfig,
    facts: SourceFacts,
    part: PartitionRange,
    scale: Scale,
    anchors: list[int],
    rows: int | None,
) -> list[int]:
    if export.mode != "chunked" or not anchors:
        return []
    first = anchors[0] if part.lower is None else part.lower
    last = anchors[-1] + 1 if part.upper is None else part.upper
    if export.chunk_by_days is not None:
        step = export.chunk_by_days * scale.day
        begin = first // scale.day * scale.day
        return list(range(begin + step, last, step))
    count, _ = chunk_count(sizing_of(export, facts), rows, 1)
    return integer_cuts([first, *(a for a in anchors if first < a < last), last], count)


def _range_strategy(scale: Scale, days: int | None) -> str:
    if days is not None:
        return "day_windows"
    return "time_range" if scale.day else "integer_range"


def _column_cuts(
    facts: SourceFacts,
    name: str,
    key: KeyFacts | None,
    scale: Scale,
    sizing: Sizing,
    days: int | None,
) -> tuple[list[KeyTuple], list[int | None], list[str]] | Refusal:
    """Cuts, one estimate for each range between them, and what is to be said."""
    if days is not None:
        numbers, anchors = day_cuts(name, key, scale, days)
        if isinstance(numbers, Refusal):
            return numbers
        cuts: list[KeyTuple] = [(scale.write(cut),) for cut in numbers]
        return cuts, shares(anchors, numbers, facts.row_estimate), []
    found, warnings = cuts_for(facts, (name,), key, sizing)
    if isinstance(found, Refusal):
        return found
    share = split_estimate(facts.row_estimate, len(found) + 1)
    return found, [share] * (len(found) + 1), warnings


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
