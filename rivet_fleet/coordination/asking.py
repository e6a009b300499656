"""Everything a source is asked before an export is planned, in the one order that works."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace

from rivet_fleet.contracts.binding import StoredMark
from rivet_fleet.contracts.facts import SourceFacts
from rivet_fleet.contracts.keys import RelationName
from rivet_fleet.contracts.proof import ChangeReading
from rivet_fleet.errors import RelationLocked, SourceError, SourceRefused, StatementTimeout
from rivet_fleet.execution.source import Source
from rivet_fleet.planning.columns import refused_casts
from rivet_fleet.planning.config_models import ExportConfig
from rivet_fleet.planning.density import with_probed_rows
from rivet_fleet.planning.increment import Moving, newest_request
from rivet_fleet.planning.loaded import LoadedConfig
from rivet_fleet.planning.request import facts_request


@dataclass(slots=True)
class Asked:
    """What is known of every export asked so far, by name."""

    probe: bool = False
    """Count rows where the catalogue's number is doubtful, and believe that."""
    facts: dict[str, SourceFacts] = field(default_factory=dict)
    moving: dict[str, Moving] = field(default_factory=dict)
    left_out: dict[str, SourceError] = field(default_factory=dict)
    """Exports that cannot be planned for a reason of their own: somebody holds a lock on their
    relation, or the source cannot send a column as it was asked to."""

    def ask(
        self, loaded: LoadedConfig, export: ExportConfig, source: Source, mark: StoredMark | None
    ) -> SourceFacts:
        """Facts first: which row is the newest depends on the key they name. ``mark`` was read
        before: whatever moves it later is found when the plan is stored (W6)."""
        continued = mark is not None
        wanted = facts_request(loaded, export, continued=continued)
        changes = _changes(source, wanted.relation)
        facts = with_probed_rows(source.introspect(replace(wanted, probe_density=self.probe)))
        facts = replace(facts, changes=changes)
        self.facts[export.name] = facts
        value = None if mark is None else mark.value
        request = newest_request(export, facts, loaded.queries.get(export.name), value)
        if request is not None:
            self.moving[export.name] = Moving(
                mark=value,
                newest=source.newest(request),
                binding=None if mark is None else mark.binding,
            )
        return facts

    def ask_or_leave_out(
        self, loaded: LoadedConfig, export: ExportConfig, source: Source, mark: StoredMark | None
    ) -> None:
        """Ask; what is one relation's own trouble is a value, and ends nothing about others."""
        try:
            trouble: SourceError | None = refused_casts(
                export.name, self.ask(loaded, export, source, mark)
            )
        except RelationLocked as error:
            trouble = error
        if trouble is not None:
            self.facts.pop(export.name, None)
            self.moving.pop(export.name, None)
            self.left_out[export.name] = trouble

    def refuse_nothing(self) -> None:
        """Raise what left the first one out when no export is left to be planned."""
        if self.left_out and not self.facts:
            raise next(iter(self.left_out.values()))


def _changes(source: Source, relation: RelationName | None) -> ChangeReading | None:
    """Before anything else is asked: what changes from now on is counted. None where nobody
    counts, or may say."""
    if relation is None:
        return None
    with contextlib.suppress(SourceRefused, StatementTimeout):
        return source.read_changes(relation)
    return None
