"""The cursors of Rivet's state as marks of ours: an export goes on where Rivet stopped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.window import StoredMark, binding_text, describe_mark, stored_binding
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.coordination.history import rivets_file
from rivet_fleet.coordination.marks import named_export
from rivet_fleet.persistence.open import rivets_cursors_of_server
from rivet_fleet.persistence.rivet import RivetCursor, cursors_of_file
from rivet_fleet.planning.binding import binding_of, mark_of_value
from rivet_fleet.planning.config.connections import source_connection
from rivet_fleet.planning.config.loaded import LoadedConfig
from rivet_fleet.planning.config.models import ExportConfig
from rivet_fleet.planning.cuts import Refusal
from rivet_fleet.planning.request import facts_request
from rivet_fleet.planning.window import Cursor, cursor_of, newest_request, reads_window

_FILE = re.compile(r"^sqlite:(///)?")
"""How Rivet (``sqlite:path``) and we (``sqlite:///path``) say that it is a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedMark:
    """What became of one export. ``created``: its next run goes on from ``mark``. Else ``reason``
    says why nothing was changed; ``settled``: because it has a mark already."""

    export_name: str
    value: str
    mark: str | None = None
    created: bool = False
    settled: bool = False
    reason: str = ""


def rivets_cursors(loaded: LoadedConfig, place: str | None) -> tuple[str, tuple[RivetCursor, ...]]:
    """Where Rivet's state is, without a secret, and its cursors. ``place``: a path or the URL of a
    PostgreSQL state; None: the file beside the configuration. Raises StateError."""
    if place is not None and "://" in place and not place.startswith("sqlite:"):
        return rivets_cursors_of_server(place)
    path = rivets_file(loaded) if place is None else Path(_FILE.sub("", place))
    return str(path.absolute()), cursors_of_file(path.absolute())


def import_marks(
    fleet: Fleet,
    loaded: LoadedConfig,
    where: str,
    cursors: Sequence[RivetCursor],
    names: Sequence[str],
    by: str,
) -> list[ImportedMark]:
    """Let the named exports, all that go by a cursor by default, go on where Rivet stopped: what
    lies at its cursor and below is not read. An export that has a mark keeps it. The source is
    asked what each means. Raises UsageError for an unknown name, SourceError as planning does.
    """
    known = {one.export_name: one for one in cursors}
    exports = [named_export(loaded, name) for name in names] or list(loaded.config.exports)
    done = []
    for export in exports:
        found = known.get(export.name)
        if export.mode == "time_window" or not reads_window(export):
            if names:
                done.append(_kept(export, found, "it goes by no cursor: each run reads all of it"))
        elif found is None:
            done.append(_kept(export, None, f"{where} has no cursor of that name"))
        else:
            done.append(_import_one(fleet, loaded, export, found, where, by))
    return done


def _kept(export: ExportConfig, found: RivetCursor | None, reason: str) -> ImportedMark:
    value = "" if found is None else found.value
    return ImportedMark(export_name=export.name, value=value, reason=reason)


def _import_one(
    fleet: Fleet,
    loaded: LoadedConfig,
    export: ExportConfig,
    found: RivetCursor,
    where: str,
    by: str,
) -> ImportedMark:
    if found.several:
        return _kept(export, found, "it has several cursors there, for several sources or places")
    if found.unfinished:
        return _kept(export, found, "a run of it is unfinished there: finish it with Rivet first")
    mark = _rivets_mark(fleet, loaded, export, found)
    if isinstance(mark, str):
        return _kept(export, found, mark)
    event = Event(
        name=EventName.MARK_IMPORTED,
        export_name=export.name,
        worker_id=fleet.identity.worker_id,
        message=describe_mark(mark.value),
        data={
            "by": by,
            "from": where,
            "value": found.value,
            "mark": mark.value,
            "binding": [one.shown for one in stored_binding(mark.binding)],
        },
    )
    created = fleet.patience.call(
        "import the mark",
        lambda: fleet.store.import_mark(loaded.campaign_name, export.name, mark, event),
    )
    return ImportedMark(
        export_name=export.name,
        value=found.value,
        mark=mark.value if created else None,
        created=created,
        settled=not created,
        reason="" if created else "it has a mark here, which stays",
    )


def _rivets_mark(
    fleet: Fleet, loaded: LoadedConfig, export: ExportConfig, found: RivetCursor
) -> StoredMark | str:
    """As a mark of ours, bound to what the export means now; or why there is none."""
    connection = source_connection(loaded, loaded.source_name(export))
    try:
        source = fleet.source(connection.name, connection.identity)
        facts = source.introspect(facts_request(loaded, export, continued=True))
        cursor = cursor_of(export, facts)
        if not isinstance(cursor, Cursor):
            return cursor.reason if cursor is not None else "it goes by no cursor"
        request = newest_request(export, facts, loaded.queries.get(export.name), None)
        newest = source.newest(request) if request is not None else None
    finally:
        fleet.drop_sources()
    if newest is None or newest.values is None:
        return "its table has no row with a cursor now: there is nothing to go on from"
    # Rivet's text of a value is not always the server's: the newest row shows the form to bring it
    # to.
    mark = mark_of_value(export, facts, cursor, found.value, newest.values[0])
    if isinstance(mark, Refusal):
        return mark.reason
    binding = binding_text(binding_of(loaded, export, facts, connection))
    return StoredMark(value=mark, binding=binding)
