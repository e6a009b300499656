"""The verbs of a source, of a chunk's reading and of signals, as far as they are every engine's.

An engine answers ``Questions`` over one of its sessions; what stands between the seam and the
answers is here once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from rivet_fleet.contracts.basis import BasisFact
from rivet_fleet.contracts.columns import ColumnSpec
from rivet_fleet.contracts.counters import CounterReading
from rivet_fleet.contracts.facts import (
    Asked,
    FactsRequest,
    Listing,
    ServerFacts,
    SourceFacts,
    SourceNote,
    number_of,
)
from rivet_fleet.contracts.keys import ChunkRange, RelationName
from rivet_fleet.contracts.plan import ReadPlan, TuningPlan
from rivet_fleet.contracts.proof import ChangeReading
from rivet_fleet.contracts.window import Newest, NewestRequest
from rivet_fleet.errors import RelationLocked, SourceBusy, SourceRefused, StatementTimeout
from rivet_fleet.execution.chunkreader import PagedReader, ReadingEngine, text_column
from rivet_fleet.execution.engines.decoding import BatchDecoder, Decoders
from rivet_fleet.execution.engines.ground import ChunkGround, EngineReader, Ground
from rivet_fleet.execution.engines.session import (
    OTHER_ANSWER,
    EngineSession,
    Settings,
    verbs_are_answered,
    whole,
)
from rivet_fleet.execution.paging import KeyDialect
from rivet_fleet.execution.proof import COUNT, count_select
from rivet_fleet.execution.types import Footing


class Basis(Protocol):
    """What plans rest on, asked over one session (ADR 0018)."""

    def look(self, read: ReadPlan, chunk_range: ChunkRange) -> tuple[BasisFact, ...]:
        """What the plan rests on in this chunk, as it is now. Raises SourceError."""
        ...

    def of_source(self) -> tuple[BasisFact, ...]:
        """Who the source is. Raises SourceError."""
        ...


S = TypeVar("S", bound=EngineSession[Any, Any])
B = TypeVar("B", bound=Basis)
D = TypeVar("D", bound=BatchDecoder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """What was found of a relation before it was asked about alone."""

    found: Any
    """What ``introspect`` begins with."""
    changes: ChangeReading | None = None
    """Read before it; None once it was taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """How the rows of a plan are counted: by these keys of ``item``, under these settings."""

    keys: KeyDialect
    item: str
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions(Generic[S, B]):
    """What an engine answers over one of its sessions. What is named as a verb of ``Source`` is
    that verb, and raises as it does."""

    basis: Callable[[S], B]
    look_ahead: Callable[[S, B, Sequence[RelationName]], Mapping[RelationName, Ahead]]
    """Of many relations at once; nothing of those of which it is not to be had so. Raises
    SourceError."""
    introspect: Callable[[S, B, FactsRequest, Any], SourceFacts]
    """The last is what ``look_ahead`` found of the table, or None."""
    resolve: Callable[[S, RelationName], RelationName]
    """A name without a schema, as the session finds it. Raises SourceRefused."""
    newest: Callable[[S, NewestRequest], Newest]
    """Of a name that is resolved."""
    position: Callable[[S, bool], str]
    """How far the server has come in what it repeats of others; empty where it does not say. The
    flag: to compare others with, without what it has of itself alone. Raises SourceError."""
    reached: Callable[[str, str], bool]
    """Whether a server at the second position has all that one at the first had. Pure."""
    read_changes: Callable[[S, RelationName], ChangeReading]
    counting: Callable[[S, ReadPlan, ChunkRange, float], Counting]
    """The last is the count's limit in seconds."""
    measuring: Callable[[S, ReadPlan, ChunkRange, TuningPlan], Counting]
    """As ``counting``, along the index of the range's key."""
    measured: Callable[[str, Asked], str]
    """The SQL of a measure of a column, as the text of a number. Pure."""
    together: Callable[[Sequence[str]], str]
    """Measures as a select list, however many there are. Pure."""
    look: Callable[[S, B, Footing, ReadPlan, ChunkRange], Any]
    """At the columns and at the footing; what ``reading`` takes of it. Raises SchemaDrift; while
    the plan's name stands for nothing SourceBusy, or SourceRefused where a swap leaves no such
    moment."""
    reading: Callable[[S, Any, ReadPlan, ChunkRange, TuningPlan], ReadingEngine]
    """Behind a look, of this chunk or of one of the same shape. Asks nothing."""
    mixed: Callable[[S], bool]
    """Whether one connection may lead to several servers in turn that say how far they have come.
    Raises SourceError."""
    steady: Callable[[S], bool]
    """Whether one session of one server answers whatever a connection asks. Raises SourceError."""
    list_relations: Callable[[S], Listing]
    describe_server: Callable[[S], ServerFacts]
    check_readable: Callable[[S, RelationName | None, str | None], tuple[SourceNote, ...]]
    read_counters: Callable[[S], CounterReading]
    ping: Callable[[S], str]


_AHEAD_MAX = 200
"""Relations of one look ahead."""
BEHIND = "RIVET_SOURCE_BEHIND"
BEHIND_S_MAX = 5.0
"""So long a replica is waited for before another one is asked."""
_BEHIND_LOOK_S = 0.2
_BEHIND_DELAY_S = 2.0
_POSITION_CHARS_MAX = 65_536
"""Of a server's answer; a longer one is not compared."""
_SHOWN_CHARS = 80


class Abreast(Generic[S]):
    """Whether a session's server has come as far as the one that a plan's window was drawn on. A
    host name may stand for several replicas, and each connection may lead to another one."""

    def __init__(self, session: S, questions: Questions[S, Any]) -> None:
        self._session, self._ask = session, questions
        self._proven: tuple[object, str] | None = None

    def position(self, *, planning: bool) -> str:
        """See ``Questions.position``; a server that refuses to say does not say. Raises
        SourceError."""
        try:
            found = self._ask.position(self._session, planning)
        except (SourceRefused, StatementTimeout):
            return ""
        return found if len(found) <= _POSITION_CHARS_MAX else ""

    def prove(self, read: ReadPlan) -> None:
        """Raises SourceBusy while it has not, and leaves the server: the next connection may lead
        to another one. A server never goes back: one connection is asked once."""
        if not read.position:
            return
        proven = (self._session.connection, read.position)
        if self._proven == proven and not self._ask.mixed(self._session):
            return
        until_s = time.monotonic() + BEHIND_S_MAX
        while (now := self.position(planning=False)) and not self._ask.reached(read.position, now):
            if time.monotonic() > until_s:
                self._session.close()
                raise SourceBusy(
                    f"{self._session.url.identity}: this server has not come as far as the one "
                    f"that the export was planned on: it is at {now[:_SHOWN_CHARS]}, and the plan "
                    f"has seen {read.position[:_SHOWN_CHARS]}",
                    hint="a replica is behind, and rows below the new mark may be missing there: "
                    "they are asked for again; or let the source's URL name one server",
                    code=BEHIND,
                    extra_delay_s=_BEHIND_DELAY_S,
                )
            time.sleep(_BEHIND_LOOK_S)
        self._proven = proven


@verbs_are_answered
class EngineSource(Generic[S, B]):
    """A ``Source``. One connection, opened at first use; not shared between threads."""

    def __init__(
        self, session: S, questions: Questions[S, B], *, max_value_bytes: int | None
    ) -> None:
        """``max_value_bytes`` lowers the limit of a chunk's tuning, never raises it."""
        self._session, self._ask = session, questions
        self._value_bytes_max = max_value_bytes
        self._basis = questions.basis(session)
        self._abreast = Abreast(session, questions)
        self._ground = Ground(session)
        self._ahead: dict[RelationName, Ahead] = {}

    def look_ahead(self, relations: Sequence[RelationName]) -> None:
        """At relations that will be asked about one by one; see ``Source``."""
        self._session.undoing = False
        self._ahead.clear()
        wanted = list(dict.fromkeys(relations))
        for first in range(0, len(wanted), _AHEAD_MAX):
            some = wanted[first : first + _AHEAD_MAX]
            # What ails one of them is told where it alone is asked about.
            with contextlib.suppress(SourceRefused, StatementTimeout, RelationLocked):
                self._ahead |= self._ask.look_ahead(self._session, self._basis, some)

    def introspect(self, request: FactsRequest) -> SourceFacts:
        """Facts about one table or query; see ``Source``."""
        self._session.undoing = request.query is not None
        ahead = self._ahead.pop(request.relation, None) if request.relation else None
        found = ahead.found if ahead else None
        return self._ask.introspect(self._session, self._basis, request, found)

    def newest(self, request: NewestRequest) -> Newest:
        """The greatest cursor; see ``Source``."""
        self._session.undoing = request.query is not None
        relation = request.relation
        if relation is not None and not relation.schema:
            request = replace(request, relation=self._ask.resolve(self._session, relation))
        found = self._ask.newest(self._session, request)
        # Behind the look, so that it holds all that was seen.
        return replace(found, position=self._abreast.position(planning=True))

    def read_changes(self, relation: RelationName) -> ChangeReading:
        """The server's counters of a relation; see ``Source``."""
        ahead = self._ahead.get(relation)
        if ahead is not None and ahead.changes is not None:
            self._ahead[relation] = replace(ahead, changes=None)
            return ahead.changes
        return self._ask.read_changes(self._session, relation)

    def count_rows(self, read: ReadPlan, chunk_range: ChunkRange, timeout_s: float) -> int:
        """The rows that this user sees now; see ``Source``."""
        session = self._session
        session.undoing = read.query is not None
        session.times.begin()
        self._abreast.prove(read)
        how = self._ask.counting(session, read, chunk_range, timeout_s)
        select = count_select(how.keys, how.item, chunk_range, read.window)
        with session.reading(how.settings, doing="counting rows", timeout_s=timeout_s) as at:
            ((counted,),) = session.rows(at, select)
        return whole(counted)

    def measure(
        self, read: ReadPlan, chunk_range: ChunkRange, asked: Sequence[Asked], tuning: TuningPlan
    ) -> tuple[Decimal | None, ...]:
        """Measures of columns; see ``Source``."""
        session = self._session
        session.undoing = False
        self._abreast.prove(read)
        how = self._ask.measuring(session, read, chunk_range, tuning)
        wanted = [self._ask.measured(how.keys.column_ref(one.column.name), one) for one in asked]
        select = count_select(how.keys, how.item, chunk_range, read.window)
        listed = (COUNT, *([self._ask.together(wanted)] if wanted else []))
        select = select.replace(COUNT, ", ".join(listed), 1)
        limit_s = tuning.statement_timeout_s
        with session.reading(how.settings, doing="measuring columns", timeout_s=limit_s) as at:
            (found,) = session.rows(at, select)
        try:
            cells = [one for cell in found for one in (cell if isinstance(cell, list) else [cell])]
            numbers = tuple(map(number_of, cells))
            if len(numbers) != len(asked) + 1 or numbers[0] is None:
                raise ValueError("another number of answers")
            return numbers
        except ValueError as wrong:
            raise SourceRefused(
                f"{session.url.identity}: of a measure of a column the server says {wrong}",
                hint="is it the server that it should be?",
                code=OTHER_ANSWER,
            ) from None

    def open_chunk(
        self, read: ReadPlan, chunk_range: ChunkRange, tuning: TuningPlan
    ) -> PagedReader:
        """A reader for one chunk. Raises SchemaDrift before the first row."""
        self._session.undoing = read.query is not None
        self._session.times.begin()
        if self._value_bytes_max is not None:
            lower = min(self._value_bytes_max, tuning.max_value_bytes)
            tuning = replace(tuning, max_value_bytes=lower)

        def look() -> tuple[BasisFact, ...]:
            self._abreast.prove(read)
            return self._basis.look(read, chunk_range)

        def opened() -> Any:
            self._abreast.prove(read)
            return self._ask.look(self._session, self._basis, footing, read, chunk_range)

        ground = self._ground.under(read, chunk_range)
        footing = Footing(read, chunk_range, look, columns=ground.columns)
        found = ground.found if ground.proven else opened()
        return EngineReader(
            self._session,
            self._ask.reading(self._session, found, read, chunk_range, tuning),
            read,
            chunk_range,
            footing,
            row_bytes_max=tuning.max_row_bytes,
            chunk=ChunkGround(
                ground=self._ground,
                found=found,
                spared=opened if ground.proven else None,
                steady=lambda: self._ask.steady(self._session),
            ),
        )

    def list_relations(self) -> Listing:
        """Every relation the user may see; see ``Source``."""
        return self._ask.list_relations(self._session)

    def describe_server(self) -> ServerFacts:
        """The server as this user meets it; see ``Source``."""
        return self._ask.describe_server(self._session)

    def check_readable(
        self, relation: RelationName | None, query: str | None
    ) -> tuple[SourceNote, ...]:
        """Whether every column may be read; see ``Source``."""
        self._session.undoing = query is not None
        return self._ask.check_readable(self._session, relation, query)

    def read_counters(self) -> CounterReading:
        """The server's counters; see ``Source``."""
        return self._ask.read_counters(self._session)

    def position(self) -> str:
        """How far the server has come; see ``Source``."""
        return self._abreast.position(planning=False)

    def identify(self) -> tuple[BasisFact, ...]:
        """Who the source is; see ``Source``."""
        return self._basis.of_source()

    def ping(self) -> str:
        """Connect, ask, and say the server's version."""
        return self._ask.ping(self._session)

    @property
    def longest_statement_s(self) -> float:
        """Since the last count or the opening of the last chunk began; see ``Source``."""
        return self._session.times.longest_s

    def close(self) -> None:
        """Close the connection. Never raises."""
        self._session.close()


class EngineReading(Generic[S, D]):
    """The half of a ``ReadingEngine`` that is every engine's. The session belongs to the source."""

    _text_types: ClassVar[tuple[str, str]]
    """The native type and the wire type of a text column."""
    _decoders: Decoders[D]

    def __init__(self, session: S, read: ReadPlan, tuning: TuningPlan) -> None:
        self._session, self._read, self._tuning = session, read, tuning
        self._coerce = read.on_unrepresentable == "coerce"
        self._decoder: D | None = None

    @property
    def decodes_at_once(self) -> bool:
        """With the compiled decoder."""
        return self._decoders.compiled() is not None

    @property
    def identity(self) -> str:
        """Host, port, database and user."""
        return self._session.url.identity

    @property
    def connected(self) -> bool:
        """Whether the session has a connection that can be used."""
        return self._session.usable

    @property
    def longest_statement_s(self) -> float:
        """Of the chunk, which began with its opening."""
        return self._session.times.longest_s

    def hidden_column(self, name: str) -> ColumnSpec:
        """A text column."""
        native_type, wire_type = self._text_types
        return text_column(name, native_type=native_type, wire_type=wire_type)

    def _open_decoder(self, columns: tuple[ColumnSpec, ...], *, packed: bool) -> D:
        """For one page, which will be as large as the one before."""
        self._decoder = self._decoders.open(
            columns,
            max_value_bytes=self._tuning.max_value_bytes,
            coerce=self._coerce,
            packed=packed,
            like=self._decoder,
        )
        return self._decoder
