"""What a process's own configuration says of secrets and values: parameters that plans and states
refer to by name, and whether errors tell what stands in rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any, cast

from rivet_fleet.contracts.basis import BasisFact
from rivet_fleet.contracts.counters import CounterReading
from rivet_fleet.contracts.facts import (
    Asked,
    FactsRequest,
    Listing,
    ServerFacts,
    SourceFacts,
    SourceNote,
)
from rivet_fleet.contracts.keys import ChunkRange, RelationName
from rivet_fleet.contracts.parameters import (
    PARAMETER_CHANGED,
    PARAMETER_MISSING,
    PARAMETER_NAMED,
    Parameter,
    references,
    seal,
    without_pieces,
)
from rivet_fleet.contracts.plan import ReadPlan, TuningPlan
from rivet_fleet.contracts.proof import ChangeReading
from rivet_fleet.contracts.protection import SignalPlan
from rivet_fleet.contracts.window import Newest, NewestRequest
from rivet_fleet.errors import ConfigError, RivetFleetError
from rivet_fleet.execution import registry
from rivet_fleet.execution.source import ChunkReader, Source
from rivet_fleet.planning.config.connections import source_connection
from rivet_fleet.planning.config.loaded import LoadedConfig
from rivet_fleet.planning.config.models import FleetConfig
from rivet_fleet.planning.config.protection import monitored_source, whole_question


@contextmanager
def private(whole: str | None, template: str | None) -> Iterator[None]:
    """Errors about ``whole`` show no piece of what ``template`` only refers to."""
    try:
        yield
    except RivetFleetError as error:
        if whole is not None and template is not None and whole != template:
            error.message = without_pieces(error.message, whole, template)
            error.unmasked = error.unmasked and without_pieces(error.unmasked, whole, template)
            error.args = (error.message,)
        raise


class PrivateSource:
    """A source that is asked by texts which refer to secrets, and puts them in."""

    def __init__(self, source: Source, engine: str, loaded: LoadedConfig) -> None:
        self._source = source
        self._engine = engine
        self._loaded = loaded

    def look_ahead(self, relations: Sequence[RelationName]) -> None:
        """At tables: no text with a secret is needed."""
        self._source.look_ahead(relations)

    def introspect(self, request: FactsRequest) -> SourceFacts:
        """See ``Source``. Raises ConfigError for a column whose name holds a secret."""
        whole = self._whole(request.query)
        with private(whole, request.query):
            facts = self._source.introspect(replace(request, query=whole))
        for column in facts.columns:
            if without_pieces(column.name, whole or "", request.query or "") != column.name:
                raise ConfigError(
                    "the server names a column of the query after its text, in which a secret "
                    "stands; plans, manifests and files would hold it",
                    hint="give every expression of the query a name with AS",
                    code=PARAMETER_NAMED,
                )
        if whole != request.query:
            # What was made of the text has the secret in it.
            why = "it holds secret parameters, which a plan does not"
            facts = replace(facts, table=None, indexes=(), undivided=why)
        return facts

    def newest(self, request: NewestRequest) -> Newest:
        """The greatest cursor, of a query with its secrets in it."""
        whole = self._whole(request.query)
        with private(whole, request.query):
            return self._source.newest(replace(request, query=whole))

    def read_changes(self, relation: RelationName) -> ChangeReading:
        """How often rows of a relation were changed: no text with a secret is needed."""
        return self._source.read_changes(relation)

    def count_rows(self, read: ReadPlan, chunk_range: ChunkRange, timeout_s: float) -> int:
        """See ``Source``. Raises ConfigError as ``open_chunk`` does."""
        whole = self._planned(read)
        with private(whole.query, read.query):
            return self._source.count_rows(whole, chunk_range, timeout_s)

    def measure(
        self, read: ReadPlan, chunk_range: ChunkRange, asked: Sequence[Asked], tuning: TuningPlan
    ) -> tuple[Decimal | None, ...]:
        """Measures of a table's columns, which no secret is in."""
        return self._source.measure(read, chunk_range, asked, tuning)

    def open_chunk(
        self, read: ReadPlan, chunk_range: ChunkRange, tuning: TuningPlan
    ) -> ChunkReader:
        """See ``Source``. Raises ConfigError when a secret is missing here, or is not the one
        that the plan was made with."""
        whole = self._planned(read)
        with private(whole.query, read.query):
            return self._source.open_chunk(whole, chunk_range, tuning)

    def list_relations(self) -> Listing:
        """Every relation that the user may see."""
        return self._source.list_relations()

    def describe_server(self) -> ServerFacts:
        """The server as this user meets it now."""
        return self._source.describe_server()

    def check_readable(
        self, relation: RelationName | None, query: str | None
    ) -> tuple[SourceNote, ...]:
        """Prove that every column may be read, of a query with its secrets in it."""
        whole = self._whole(query)
        with private(whole, query):
            return self._source.check_readable(relation, whole)

    def read_counters(self) -> CounterReading:
        """The server's own counters now."""
        return self._source.read_counters()

    def position(self) -> str:
        """How far the server has come in its log."""
        return self._source.position()

    def identify(self) -> tuple[BasisFact, ...]:
        """Who the source is."""
        return self._source.identify()

    def ping(self) -> str:
        """Connect, and say the server's version."""
        return self._source.ping()

    @property
    def longest_statement_s(self) -> float:
        """How long the source was busy with one statement of ours at most."""
        return self._source.longest_statement_s

    def close(self) -> None:
        """Close the connection. Never raises."""
        self._source.close()

    def _whole(self, query: str | None) -> str | None:
        if query is None or query not in self._loaded.templates:
            return query
        return in_full(self._engine, query, self._loaded)

    def _planned(self, read: ReadPlan) -> ReadPlan:
        if not read.secrets or read.query is None:
            return read
        for sealed in read.secrets:
            value = _value(self._loaded, sealed.name).value
            if sealed != seal(sealed.name, value, read.source_identity, read.query):
                raise ConfigError(
                    f"the secret parameter {sealed.name} has another value here than when the "
                    "campaign was planned: its rows would be of two kinds",
                    hint="give this process the campaign's value, or cancel the campaign and run "
                    "it with the new one",
                    code=PARAMETER_CHANGED,
                )
        # A place that the plan does not own up to is somebody's who edits: its value would be read
        # back as a row.
        sealed_names = {sealed.name for sealed in read.secrets}
        for name in references(read.query):
            if name not in sealed_names:
                raise ConfigError(
                    f"the plan's query refers to the secret parameter {name}, which the plan was "
                    "not sealed with",
                    hint="nothing was read; cancel the campaign and plan it anew",
                    code=PARAMETER_CHANGED,
                )
        return replace(read, query=in_full(self._engine, read.query, self._loaded), secrets=())


class _Telling:
    """Anything whose methods raise our errors: they are raised with the values of rows."""

    def __init__(self, told: Any) -> None:
        self._told = told

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._told, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            try:
                result = found(*arguments, **named)
            except RivetFleetError as error:
                error.message = error.unmasked or error.message
                raise
            return _Telling(result) if name == "open_chunk" else result

        return call


def told_in_full(source: Source) -> Source:
    """The same source, its errors and those of its readers with the values of rows."""
    return cast(Source, _Telling(source))


def in_full(engine: str, template: str, loaded: LoadedConfig) -> str:
    """SQL in which the secrets that ``template`` refers to have their places. Raises ConfigError
    when this process has no value for one."""
    values = {name: _value(loaded, name) for name in references(template)}
    return registry.place_parameters(engine, template, values).sql


def questions(loaded: LoadedConfig, *, own_urls: bool = False) -> Callable[[str, SignalPlan], str]:
    """(group, signal) → what it asks in full. ``own_urls``: nobody is asked over HTTP whom this
    process's configuration does not name, whatever the state says. Raises ConfigError."""

    def question(group: str, signal: SignalPlan) -> str:
        if not signal.private and not (own_urls and signal.kind == "http"):
            return signal.ask
        asked = whole_question(loaded, group, signal)
        if signal.kind != "sql":
            return asked
        return in_full(_engine(loaded, group), asked, loaded)

    return question


def _engine(loaded: LoadedConfig, group: str) -> str:
    config: FleetConfig = loaded.config
    name = monitored_source(config, config.source_groups[group].monitor)
    return source_connection(loaded, name).engine


def _value(loaded: LoadedConfig, name: str) -> Parameter:
    found = loaded.parameters.get(name)
    if found is None:
        raise ConfigError(
            f"the campaign's SQL refers to the secret parameter {name}, which this process's "
            "configuration does not have",
            hint="give this process the configuration (and environment) of the campaign",
            code=PARAMETER_MISSING,
        )
    return found
