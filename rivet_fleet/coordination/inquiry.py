"""The front desk: choose exports, open a source by name, ask it, decide, and answer with values.

``run``, ``submit``, ``plan``, ``check``, ``doctor`` and ``init`` come through here: they ask the
same questions in the same order, and what one of them refuses the others refuse.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from rivet_fleet.contracts.facts import FactsRequest, ServerFacts, SourceFacts, SourceNote
from rivet_fleet.contracts.keys import CampaignId, RelationName
from rivet_fleet.contracts.plan import CampaignPlan, DestinationPlan, ExportPlan
from rivet_fleet.contracts.proof import ChangeReading
from rivet_fleet.contracts.state import MeasuredRun
from rivet_fleet.contracts.window import StoredMark
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.coordination.history import Memory, remember, rivets_file
from rivet_fleet.coordination.names import DESTINATION_SHARED, delivered_by_other
from rivet_fleet.coordination.wiring import (
    ProcessOptions,
    open_planned_destination,
    open_planned_source,
)
from rivet_fleet.errors import (
    DestinationRefused,
    ExitCode,
    RelationLocked,
    RivetFleetError,
    SchemaDrift,
    SourceError,
    SourceRefused,
    StatementTimeout,
    UsageError,
)
from rivet_fleet.execution.destination import Destination
from rivet_fleet.execution.registry import open_format
from rivet_fleet.execution.source import Source
from rivet_fleet.execution.types import arrow_schema
from rivet_fleet.planning.advice import asks_for_order
from rivet_fleet.planning.change import refuse_drift, with_schema_changes
from rivet_fleet.planning.config.connections import (
    SourceConnection,
    source_connection,
)
from rivet_fleet.planning.config.loaded import LoadedConfig
from rivet_fleet.planning.config.models import ExportConfig
from rivet_fleet.planning.config.problems import did_you_mean
from rivet_fleet.planning.export_plan import refused_casts
from rivet_fleet.planning.planner import Decided, Decision, consider
from rivet_fleet.planning.request import facts_request, relation_of, with_probed_rows
from rivet_fleet.planning.window import Moving, newest_request, reads_window

OpenSource = Callable[[str, str], Source]
"""(name, planned identity) → a connection. Raises ConfigError, SourceError."""
OpenDestination = Callable[[DestinationPlan], Destination]


class OnRefusal(Enum):
    """What the refusal of one export ends."""

    COLLECT = "collect"
    """Nothing: every export is asked about and answered for (`check`, `doctor`)."""
    LEAVE_OUT = "leave_out"
    """The whole, unless it says nothing of other exports: that one is left out (`run`)."""
    RAISE = "raise"
    """The whole (`plan`: what is sealed has everything that was asked for)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Why nothing of one export would be delivered."""

    export_name: str
    error: RivetFleetError
    alone: bool = False
    """It is the export's own trouble: a lock on its relation, or a column that the source cannot
    send as it was asked to."""

    @property
    def exit_code(self) -> ExitCode:
        """What a run would end with that has no other trouble."""
        return self.error.exit_code

    @property
    def reason(self) -> str:
        """What happened, and what to do next."""
        error = self.error
        return f"{error.message} ({error.hint})" if error.hint else error.message


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What is known of one export of the file: what its source said, and what would be run, or why
    it would not."""

    export: ExportConfig
    facts: SourceFacts | None = None
    plan: CampaignPlan | None = None
    """Its runs alone, one for each partition."""
    refused: Refused | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """One outcome for each export that was asked about, in the order of the question."""

    outcomes: tuple[Outcome, ...]
    decision: Decision | None
    """None when nothing was left to be decided."""
    history: Mapping[str, Sequence[MeasuredRun]]
    former: Mapping[str, ExportPlan]
    now_s: float

    @property
    def refused(self) -> tuple[Refused, ...]:
        """Why some of them would not be run."""
        return tuple(one.refused for one in self.outcomes if one.refused is not None)

    def decided(self) -> Decided:
        """What is to be run, in the order of handing out. Raises the refusal of the first when
        nothing is left, and what ``plan_campaign`` raises, of all at once."""
        if self.decision is None:
            raise self.refused[0].error
        decided = self.decision.decided(self.history, now_s=self.now_s)
        for one in self.refused:
            if not one.alone:
                raise one.error
        return replace(decided, plan=with_schema_changes(decided.plan, self.former))


@dataclass(slots=True, kw_only=True)
class Inquiry:
    """One look at a configuration: a connection for each source, opened when it is needed and kept
    until ``close``. From one thread."""

    loaded: LoadedConfig
    open_source: OpenSource
    open_destination: OpenDestination
    namespace: str
    on_refusal: OnRefusal
    memory: Memory = field(default_factory=Memory)
    probe: bool = False
    """Count rows where the catalogue's number is doubtful, and believe that."""
    marks: Mapping[str, StoredMark] = field(default_factory=dict)
    history: Mapping[str, Sequence[MeasuredRun]] = field(default_factory=dict)
    _connections: dict[str, SourceConnection] = field(default_factory=dict)
    _sources: dict[str, Source] = field(default_factory=dict)
    _moving: dict[str, Moving] = field(default_factory=dict)
    _elsewhere: Mapping[str, str] = field(default_factory=dict)
    """How far another program has read an export that has no mark here."""

    def __enter__(self) -> Inquiry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every source, and the state where it is this inquiry's own."""
        for source in self._sources.values():
            source.close()
        self._sources.clear()
        if self.memory.patience is None:
            self.memory.close()

    def leave(self, name: str) -> None:
        """Close a source that nothing more is asked of: an idle connection is a burden."""
        source = self._sources.pop(name, None)
        if source is not None:
            source.close()

    def choose(self, names: Sequence[str]) -> tuple[ExportConfig, ...]:
        """As ``choose`` does, of this configuration."""
        return choose(self.loaded.config.exports, names)

    def connection(self, name: str) -> SourceConnection:
        """Where a source is. Raises ConfigError."""
        if name not in self._connections:
            self._connections[name] = source_connection(self.loaded, name)
        return self._connections[name]

    def source(self, name: str) -> Source:
        """The open source. Raises ConfigError, SourceError."""
        if name not in self._sources:
            self._sources[name] = self.open_source(name, self.connection(name).identity)
        return self._sources[name]

    def server(self, name: str) -> ServerFacts:
        """Version, user and limits of a source's server. Raises ConfigError, SourceError."""
        return self.source(name).describe_server()

    def rights(self, export: ExportConfig) -> tuple[SourceNote, ...]:
        """That every column of the export may be read, and what there is to be said of it. Raises
        ConfigError, SourceError."""
        source = self.source(self.loaded.source_name(export))
        query = self.loaded.queries.get(export.name)
        return tuple(source.check_readable(relation_of(export), query))

    def describe(self, name: str, request: FactsRequest) -> SourceFacts | SourceError:
        """One relation of a source, or its own trouble. Raises ConfigError, SourceError for what is
        the source's."""
        try:
            return self.source(name).introspect(request)
        except (SourceRefused, StatementTimeout, RelationLocked) as error:
            return error

    def recall(self, exports: Sequence[ExportConfig]) -> None:
        """Read what former runs of the exports left, before any source is asked: whatever moves a
        mark later is found when the plan is stored (W6)."""
        names = [export.name for export in exports]
        self.marks = self.memory.marks(names)
        if any(reads_window(one) and one.name not in self.marks for one in exports):
            self._elsewhere = {n: one.value for n, one in self.memory.elsewhere().items()}
        # Who shows advice always needs it; a run only where its order follows from it.
        ordered = len(names) > 1 and asks_for_order(self.loaded.config.campaign)
        if self.on_refusal is not OnRefusal.LEAVE_OUT or ordered:
            self.history = self.memory.history(names)

    def look_ahead(self, exports: Sequence[ExportConfig]) -> None:
        """Let each source ask for the tables of many exports at once. Raises nothing: what ails a
        source is told by the first export that is asked about."""
        wanted: dict[str, list[RelationName]] = {}
        for export in exports:
            if (relation := relation_of(export)) is not None:
                wanted.setdefault(self.loaded.source_name(export), []).append(relation)
        for name, relations in wanted.items():
            if len(relations) > 1:
                with contextlib.suppress(RivetFleetError):
                    self.source(name).look_ahead(relations)

    def ask(self, export: ExportConfig) -> Outcome:
        """What the source says of one export, or its refusal; the refusal is raised where
        ``on_refusal`` lets it end more than this export."""
        facts: SourceFacts | None = None
        try:
            facts = self._facts(export)
        except RivetFleetError as error:
            alone = isinstance(error, RelationLocked)
            refused = Refused(export_name=export.name, error=error, alone=alone)
            return self._refuse(Outcome(export=export, refused=refused))
        # Whoever only looks hears of it from the decision, which lists every column.
        own = refused_casts(export.name, facts) if self.on_refusal is OnRefusal.LEAVE_OUT else None
        if own is None:
            return Outcome(export=export, facts=facts)
        refused = Refused(export_name=export.name, error=own, alone=True)
        return self._refuse(Outcome(export=export, facts=facts, refused=refused))

    def inquire(self, names: Sequence[str], *, campaign_id: CampaignId, now_s: float) -> Answers:
        """The whole sequence about the named exports, all of them by default.

        Raises UsageError for an unknown name, ConfigError for a connection that is not there, and
        the refusals that ``on_refusal`` says.
        """
        exports = self.choose(names)
        # All of them before any source is asked: what is missing is told at once, not behind the
        # questions to the first.
        for name in sorted({self.loaded.source_name(export) for export in exports}):
            self.connection(name)
        self.recall(exports)
        self.look_ahead(exports)
        asked = [self.ask(export) for export in exports]
        return self.conclude(asked, campaign_id=campaign_id, now_s=now_s)

    def conclude(
        self, asked: Sequence[Outcome], *, campaign_id: CampaignId, now_s: float
    ) -> Answers:
        """Decide what was asked about, all of it together: what two exports do to each other is
        seen here alone."""
        facts = {one.export.name: one.facts for one in asked if one.facts and not one.refused}
        decision, former = None, dict[str, ExportPlan]()
        try:
            decision = self._decision(facts, campaign_id, now_s) if facts else None
        except RivetFleetError as error:
            # Nothing of any export: a group's budget, which is every export's.
            if self.on_refusal is not OnRefusal.COLLECT:
                raise
            asked = [_refused_with(one, error) for one in asked]
        if decision is not None:
            runs = [run.plan.export_name for run in decision.plan.runs]
            former = dict(self.memory.last_plans(runs)) if runs else {}
        return Answers(
            outcomes=tuple(self._concluded(one, decision, former) for one in asked),
            decision=decision,
            history=self.history,
            former=former,
            now_s=now_s,
        )

    def _decision(
        self, facts: Mapping[str, SourceFacts], campaign_id: CampaignId, now_s: float
    ) -> Decision:
        return consider(
            self.loaded,
            facts,
            campaign_id=campaign_id,
            connections=self._connections,
            now_s=now_s,
            only=tuple(facts),
            moving=self._moving,
        )

    def _concluded(
        self, one: Outcome, decision: Decision | None, former: Mapping[str, ExportPlan]
    ) -> Outcome:
        if one.refused is not None or decision is None:
            return one
        name = one.export.name
        error = decision.error(name)
        if error is not None:
            return replace(one, refused=Refused(export_name=name, error=error))
        runs = tuple(run for run in decision.plan.runs if run.plan.written_name == name)
        plan = with_schema_changes(replace(decision.plan, runs=runs), former)
        return replace(one, plan=plan, refused=self._undelivered(plan))

    def _undelivered(self, plan: CampaignPlan) -> Refused | None:
        """Why what was decided would not be stored, as far as it shows without writing anything.
        Whoever stores a plan proves it by writing; a plan that is only sealed shows the drift."""
        if self.on_refusal is OnRefusal.LEAVE_OUT:
            return None
        found = undeliverable(plan, self.open_destination, self.namespace, writes=False)
        refused = next(found, None)
        if refused is not None or self.on_refusal is OnRefusal.RAISE:
            return refused
        try:
            refuse_drift(plan)
        except SchemaDrift as error:
            return Refused(export_name=plan.runs[0].plan.written_name, error=error)
        return None

    def _refuse(self, outcome: Outcome) -> Outcome:
        refused = outcome.refused
        ends = {
            OnRefusal.COLLECT: False,
            OnRefusal.LEAVE_OUT: refused is not None and not refused.alone,
            OnRefusal.RAISE: True,
        }
        if refused is not None and ends[self.on_refusal]:
            raise refused.error
        return outcome

    def _facts(self, export: ExportConfig) -> SourceFacts:
        """Facts first: which row is the newest depends on the key they name."""
        loaded, name = self.loaded, export.name
        source = self.source(loaded.source_name(export))
        mark = self.marks.get(name) if reads_window(export) else None
        wanted = facts_request(loaded, export, continued=mark is not None)
        changes = _changes(source, wanted.relation)
        facts = with_probed_rows(source.introspect(replace(wanted, probe_density=self.probe)))
        facts = replace(facts, changes=changes)
        value = None if mark is None else mark.value
        request = newest_request(export, facts, loaded.queries.get(name), value)
        if request is not None:
            self._moving[name] = Moving(
                mark=value,
                newest=source.newest(request),
                binding=None if mark is None else mark.binding,
                elsewhere=None if mark is not None else self._elsewhere.get(name),
            )
        return facts


def choose(exports: Sequence[ExportConfig], names: Sequence[str]) -> tuple[ExportConfig, ...]:
    """The named exports in the order of the names, all of them by default. Raises UsageError for an
    unknown name."""
    known = {export.name: export for export in exports}
    for name in names:
        if name not in known:
            raise UsageError(f"there is no export {name!r}", hint=did_you_mean(name, known))
    return tuple(known[name] for name in dict.fromkeys(names)) if names else tuple(exports)


def _refused_with(one: Outcome, error: RivetFleetError) -> Outcome:
    if one.refused is not None:
        return one
    return replace(one, refused=Refused(export_name=one.export.name, error=error))


def _changes(source: Source, relation: RelationName | None) -> ChangeReading | None:
    """Before anything else is asked: what changes from now on is counted. None where nobody
    counts, or may say."""
    if relation is None:
        return None
    with contextlib.suppress(SourceRefused, StatementTimeout):
        return source.read_changes(relation)
    return None


def open_inquiry(
    loaded: LoadedConfig,
    options: ProcessOptions,
    *,
    on_refusal: OnRefusal,
    memory: Memory | None = None,
    probe: bool = False,
) -> Inquiry:
    """Of a command that has no fleet. ``memory``: what ``remember`` says by default, and its errors
    are raised then."""
    return Inquiry(
        loaded=loaded,
        open_source=lambda name, identity: open_planned_source(loaded, options, name, identity),
        open_destination=lambda plan: open_planned_destination(loaded, options, plan, create=False),
        namespace=options.namespace,
        on_refusal=on_refusal,
        memory=remember(loaded, options) if memory is None else memory,
        probe=probe,
    )


def inquiry_of(fleet: Fleet, loaded: LoadedConfig) -> Inquiry:
    """Of a fleet that is about to store what is decided."""
    return Inquiry(
        loaded=loaded,
        open_source=fleet.open_source,
        open_destination=fleet.open_destination,
        namespace=fleet.store.namespace,
        on_refusal=OnRefusal.LEAVE_OUT,
        memory=Memory(
            campaign_name=loaded.campaign_name,
            store=fleet.store,
            patience=fleet.patience,
            rivets=rivets_file(loaded),
        ),
    )


def undeliverable(
    plan: CampaignPlan, open_destination: OpenDestination, namespace: str, *, writes: bool
) -> Iterator[Refused]:
    """What of a plan could not be delivered, export by export, before the first row is read.

    ``writes``: each destination is written to, which leaves nothing behind but the folders that
    workers need; without it nothing is written, and what cannot be written is not noticed.
    """
    families: set[str] = set()
    for run in plan.runs:
        # The partitions of one export are folders beside each other: one speaks for all. Each is
        # made all the same, because a worker makes none.
        sibling = run.plan.family != "" and run.plan.family in families
        families.add(run.plan.family)
        try:
            if not sibling:
                open_format(run.plan.format).check_schema(arrow_schema(run.plan.output_columns))
            if writes or not sibling:
                _refuse_destination(
                    run.plan, open_destination, None if sibling else namespace, writes=writes
                )
        except RivetFleetError as error:
            yield Refused(export_name=run.plan.written_name, error=error)


def _refuse_destination(
    plan: ExportPlan, open_destination: OpenDestination, namespace: str | None, *, writes: bool
) -> None:
    """``namespace``: whose deliveries may lie there; None: it was looked at."""
    with contextlib.closing(open_destination(plan.destination)) as destination:
        if writes:
            destination.check()
        if namespace is not None:
            refuse_others_folder(destination, namespace, plan.export_name)


def refuse_others_folder(destination: Destination, namespace: str, export_name: str) -> None:
    """Raise DestinationRefused where another namespace has delivered (N4)."""
    other = delivered_by_other(destination, namespace)
    if other is not None:
        raise DestinationRefused(
            f"{other}; export {export_name} would take its name",
            hint="give the export another destination.path: one folder is one dataset; "
            "where what is there is yours and over, remove its manifest.json",
            code=DESTINATION_SHARED,
        )
