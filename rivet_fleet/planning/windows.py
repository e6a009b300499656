"""How the rows of a window are read: along the cursor's index where one serves it. Pure."""

from __future__ import annotations

from dataclasses import replace

from rivet_fleet.contracts.columns import MOMENTS
from rivet_fleet.contracts.facts import SourceFacts, leading_index
from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.window import RowWindow, describe_window
from rivet_fleet.planning.candidates import (
    INTEGERS,
    column_of,
    has_inheriting_children,
    led_by,
    named,
    usable_keys,
)
from rivet_fleet.planning.chunker import whole_range
from rivet_fleet.planning.config_models import ExportConfig
from rivet_fleet.planning.cuts import Refusal
from rivet_fleet.planning.request import is_cut
from rivet_fleet.planning.strategy import Choice, choose


def choose_windowed(
    export: ExportConfig, facts: SourceFacts, window: RowWindow
) -> Choice | Refusal:
    """The strategy of one export within its window."""
    within = describe_window(window)
    if window.empty:
        return _one(RangeKind.WHOLE, (), "whole", within)
    # Without a lower bound nearly every row is new: nothing is saved by the cursor's order.
    if window.lower is not None and (export.keyset_incremental or not is_cut(export)):
        along = _along(facts, window)
        if along is not None:
            return along
    found = choose(export, facts)
    if isinstance(found, Refusal):
        return found
    # How many of the table's rows are new is not known.
    known = window.lower is None
    estimates = found.estimates if known else (None,) * len(found.ranges)
    return replace(found, reason=f"{found.reason}; rows with {within}", estimates=estimates)


def _along(facts: SourceFacts, window: RowWindow) -> Choice | None:
    """One chunk in the cursor's own order: a run costs the rows it reads."""
    first = window.columns[0]
    if window.fallback is not None or facts.relation is None or not led_by(facts, first):
        return None
    if has_inheriting_children(facts):
        return None
    within = describe_window(window)
    if _walks(facts, window.columns):
        by = f"new rows in the order of {named(window.columns)}"
        return _one(RangeKind.KEYSET, window.columns, "keyset", f"{by}: {within}")
    column = column_of(facts, first)
    kind = column.type.kind if column is not None and column.type is not None else None
    # Equal values must be equal as text, or a page could end among them.
    if len(window.columns) == 1 and kind in INTEGERS | MOMENTS:
        return _one(RangeKind.SPAN, (first,), "span", f"new rows in the order of {first}: {within}")
    return None


def _walks(facts: SourceFacts, columns: tuple[str, ...]) -> bool:
    """True when an index gives the rows in this order, unique in it. Behind a cursor's own index
    the primary key is the order of equal values, or few enough are sorted."""
    keys = [index.columns for index in usable_keys(facts)]
    if columns in keys:
        return True
    unique = any(set(key) <= set(columns) for key in keys)
    whole = leading_index(facts.indexes, columns) is not None
    primary = any(i.primary and i.columns == columns[1:] for i in usable_keys(facts))
    return unique and (whole or primary)


def _one(kind: RangeKind, columns: tuple[str, ...], strategy: str, reason: str) -> Choice:
    ranges = whole_range() if kind is RangeKind.WHOLE else [ChunkRange(kind=kind, columns=columns)]
    return Choice(strategy=strategy, reason=reason, ranges=tuple(ranges), estimates=(None,))
