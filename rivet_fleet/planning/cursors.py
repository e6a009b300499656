"""What a cursor can tell and what it cannot: which types rise, which rows stay unseen. Pure."""

from __future__ import annotations

import re

from rivet_fleet.contracts.columns import MOMENTS, TypeKind
from rivet_fleet.contracts.facts import ColumnFacts, SourceFacts
from rivet_fleet.planning.candidates import INTEGERS, column_of
from rivet_fleet.planning.config_models import ExportConfig
from rivet_fleet.planning.cuts import Refusal

RISING_KINDS = INTEGERS | MOMENTS | frozenset({TypeKind.DECIMAL})
"""Types whose values are handed out in their own order, as a rule. Text and uuid have an order,
but nobody hands them out by it: what comes later lies below the mark as often as above."""

_UPDATED = re.compile(r"(^|_)(updat|modif|chang|edit|touch|refresh)(e|ed|y|ied|ication|)(_|$)")


def name_suggests_updated(name: str) -> bool:
    """``updated_at``, ``last_update``, ``modifiedOn``: a name for when a row changed."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return _UPDATED.search(words) is not None


def is_update_mark(column: ColumnFacts) -> bool:
    """True when the server moves the column with every update, as far as it tells."""
    if column.set_on_update is None:
        return name_suggests_updated(column.name)
    return column.set_on_update


def not_rising(export: ExportConfig, setting: str, facts: SourceFacts, name: str) -> Refusal | None:
    """Why a column is no cursor although it has an order; None when it is one, or
    ``cursor_is_monotonic`` says so."""
    column = column_of(facts, name)
    kind = column.type.kind if column is not None and column.type is not None else None
    if column is None or kind in RISING_KINDS or export.cursor_is_monotonic:
        return None
    return Refusal(
        setting=setting,
        reason=f"column {name} ({column.native_type}) does not rise by itself: rows that come "
        "later with a value below the mark would never be read, and nothing would fail",
        suggestion="cursor_is_monotonic: true says that each new value is greater than all before "
        "it, as with ULIDs and UUIDs of version 7; else use a moment or a number, or mode: full",
    )


def unseen_by(
    export: ExportConfig, facts: SourceFacts, columns: tuple[str, ...], fallback: str | None
) -> str:
    """One sentence: which rows an export with this cursor never delivers."""
    if export.keyset_incremental:
        name = ", ".join(columns)
        missed = ["every update of a row that was read", "deletes", _late(name, export)]
    else:
        name = columns[0]
        shown = name if fallback is None else f"coalesce({name}, {fallback})"
        column = column_of(facts, name)
        missed = [_updates(name, column), "deletes", _late(shown, export)]
        name = shown
    return f"what {name} cannot see is never delivered: {'; '.join(filter(None, missed))}"


def _updates(name: str, column: ColumnFacts | None) -> str:
    if column is not None and is_update_mark(column):
        return ""
    if name_suggests_updated(name):
        return f"updates that leave {name} as it is (nothing on the server is known to set it)"
    return f"updates of rows below the mark (nothing says that {name} changes with its row)"


def _late(name: str, export: ExportConfig) -> str:
    if export.cursor_overlap_s:
        return f"rows that are committed more than {export.cursor_overlap_s:g} s after their {name}"
    help_ = "" if export.keyset_incremental else "; cursor_overlap_s reads some of them again"
    return f"rows that are committed below the mark, after a run that read above them{help_}"
