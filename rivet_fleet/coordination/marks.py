"""An operator's word about what a state keeps: marks that go on under another meaning (ADR 0020),
and what would get a key's seal (ADR 0024)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rivet_fleet.contracts.codec import dumps, to_plain
from rivet_fleet.contracts.columns import INTEGERS
from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.keys import ChunkRange, joined_ranges
from rivet_fleet.contracts.plan import ExportPlan
from rivet_fleet.contracts.window import (
    MARK_OTHER,
    UNCONTINUABLE,
    Bound,
    BoundChange,
    StoredMark,
    binding_text,
    describe_changes,
    describe_mark,
    differences,
    mark_values,
    stored_binding,
)
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.coordination.operate import Word
from rivet_fleet.errors import ConfigError, StateRefused, UsageError
from rivet_fleet.planning.binding import binding_of
from rivet_fleet.planning.config.connections import source_connection
from rivet_fleet.planning.config.loaded import LoadedConfig
from rivet_fleet.planning.config.models import ExportConfig
from rivet_fleet.planning.request import facts_request
from rivet_fleet.planning.window import Cursor, cursor_of


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedMark:
    """The mark, what it is bound to now, and how that differs; ``created`` False when it was
    bound so already."""

    export_name: str
    mark: str
    created: bool
    changes: tuple[BoundChange, ...]
    binding: tuple[Bound, ...]


def accept_mark(fleet: Fleet, loaded: LoadedConfig, export_name: str, word: Word) -> AcceptedMark:
    """Ask the source what the export means now, and bind its stored mark to that.

    Raises UsageError for an unknown export, StateRefused without a mark, while a run of it is in
    progress, or when the mark's columns are others; ConfigError and SourceError as planning does.
    Nothing has changed then.
    """
    export = named_export(loaded, export_name)
    known = fleet.patience.call(
        "read the mark", lambda: fleet.store.marks(loaded.campaign_name, [export_name])
    )
    mark = known.get(export_name)
    if mark is None:
        raise StateRefused(
            f"export {export_name} has no mark: there is nothing to accept",
            hint="its next run reads everything",
        )
    now = _present(fleet, loaded, export, mark)
    before = stored_binding(mark.binding)
    changes = differences(before, now)
    if any(change.subject in UNCONTINUABLE for change in changes):
        raise _other_columns(export_name, mark, describe_changes(changes))
    text = binding_text(now)
    assert text is not None, "an export with a mark has a binding"
    event = Event(
        name=EventName.MARK_ACCEPTED,
        export_name=export_name,
        worker_id=fleet.identity.worker_id,
        message=describe_changes(changes) or "bound for the first time",
        data={
            "by": word.by,
            "reason": word.reason,
            "mark": mark.value,
            "before": {one.subject.value: one.shown for one in before},
            "after": {one.subject.value: one.shown for one in now},
        },
    )
    created = (bool(changes) or not before) and fleet.patience.call(
        "accept the mark",
        lambda: fleet.store.accept_mark(loaded.campaign_name, export_name, mark, text, event),
    )
    return AcceptedMark(
        export_name=export_name,
        mark=mark.value,
        created=created,
        changes=changes,
        binding=now,
    )


def named_export(loaded: LoadedConfig, export_name: str) -> ExportConfig:
    """The export of that name. Raises UsageError."""
    for export in loaded.config.exports:
        if export.name == export_name:
            return export
    known = ", ".join(export.name for export in loaded.config.exports)
    raise UsageError(f"no export {export_name}", hint=f"known exports: {known}")


def _present(
    fleet: Fleet, loaded: LoadedConfig, export: ExportConfig, mark: StoredMark
) -> tuple[Bound, ...]:
    connection = source_connection(loaded, loaded.source_name(export))
    try:
        source = fleet.source(connection.name, connection.identity)
        facts = source.introspect(facts_request(loaded, export, continued=True))
    finally:
        fleet.drop_sources()
    cursor = cursor_of(export, facts)
    if not isinstance(cursor, Cursor) or export.mode == "time_window":
        reason = (
            f": {cursor.reason}" if cursor is not None and not isinstance(cursor, Cursor) else ""
        )
        raise ConfigError(
            f"export {export.name} goes by no mark as it is configured now{reason}",
            hint=f"`rivet-fleet state reset -e {export.name}` forgets the mark",
        )
    if mark_values(mark.value, cursor.columns, cursor.fallback) is None:
        raise _other_columns(export.name, mark, f"the columns are {', '.join(cursor.columns)} now")
    return binding_of(loaded, export, facts, connection)


def _other_columns(export_name: str, mark: StoredMark, what: str) -> StateRefused:
    return StateRefused(
        f"the mark {describe_mark(mark.value)} holds no value of other columns: {what}",
        hint=f"`rivet-fleet state reset -e {export_name}` forgets it, and all is read anew",
        code=MARK_OTHER,
    )


def unkeyed(fleet: Fleet) -> tuple[list[str], str]:
    """What of the namespace is sealed without a key, in lines that nobody may cut, and the
    fingerprint of all of it: each run's whole plan with its ranges, what was said and committed of
    it; what source groups are allowed, and where marks stand and what they are bound to. Whatever a
    status says, and whether a campaign is there: it is what ``reseal`` reads. Raises
    StateTampered."""
    lines = []
    found = fleet.store.to_seal()
    for run in found.runs:
        plan = run.plan()
        lines.append(f"{run.run_id} delivers to {plan.destination.prefix}")
        settings = list(_in_lines("", to_plain(plan)))
        # What this program does not understand of it is sealed, too.
        known = set(settings)
        stored = _in_lines("", json.loads(run.plan_json))
        settings += [one for one in stored if one not in known]
        lines += [f"  {one}" for one in settings]
        lines += _ranges(plan, run.chunk_ranges(), run.ranges)
        lines += [f"  {one}" for one in run.kept]
    lines += [f"group {one['group_name']}: {dumps(one)}" for one in found.budgets]
    for row in found.marks:
        bound_to = f", bound to {row.mark_binding}" if row.mark_binding else ""
        at = f"{row.last_cursor_value}{bound_to}"
        lines.append(f"{row.campaign_name}: {row.export_name} reads on from {at}")
        # Where a name or a value could be taken for the words between them.
        lines.append(f"  {tuple(row)[:-1]!r}")
    return lines, found.fingerprint


def _in_lines(at: str, plain: object) -> Iterator[str]:
    """All of a value, a line a setting, each in canonical JSON; of several, a line each."""
    if isinstance(plain, dict) and plain:
        for name in sorted(plain):
            # A name with a point or a colon could be taken for two, or for a value.
            shown = name if name.replace("_", "").isalnum() else dumps(name)
            yield from _in_lines(f"{at}.{shown}" if at else shown, plain[name])
    elif isinstance(plain, list) and plain:
        for index, one in enumerate(plain):
            yield f"{at}[{index}]: {dumps(one)}"
    else:
        yield f"{at}: {dumps(plain)}"


def _ranges(plan: ExportPlan, ranges: Sequence[ChunkRange], as_stored: Sequence[str]) -> list[str]:
    """A run's ranges, those that meet as one where their order can be told: of a plan without a
    gap there are few then. As they are stored: a shown key has no invisible characters, and none
    tells an open end from a value that looks like one."""
    numbers = {one.name for one in plan.read.columns if one.type.kind in INTEGERS}
    lines = [
        f"  chunks {first} to {last}: {dumps(joined)}"
        for first, last, joined in joined_ranges(ranges, numbers)
    ]
    # What this program does not understand of them is sealed, too.
    for stored, known in zip(as_stored, ranges, strict=True):
        if set(json.loads(stored)) - set(to_plain(known)):
            lines.append(f"  as stored: {stored}")
    return lines


def observed(fleet: Fleet, loaded: LoadedConfig) -> dict[str, str]:
    """What the newest campaign saw at the source when it was planned, delivered or not."""
    found: dict[str, str] = {}
    for campaign in fleet.store.campaigns(name=loaded.campaign_name):
        for run in fleet.store.runs(campaign.campaign_id):
            cursor = run.plan.cursor
            if cursor is not None and cursor.mark_after is not None:
                found.setdefault(run.export_name, cursor.mark_after)
    return found
