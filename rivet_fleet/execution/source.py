"""The seam to a source database: introspect it, and read one chunk page by page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from rivet_fleet.contracts.basis import BasisDifference, BasisFact
from rivet_fleet.contracts.counters import CounterReading
from rivet_fleet.contracts.facts import (
    Asked,
    FactsRequest,
    Listing,
    ServerFacts,
    SourceFacts,
    SourceNote,
)
from rivet_fleet.contracts.keys import ChunkRange, KeyTuple, RelationName
from rivet_fleet.contracts.plan import ReadPlan, TuningPlan
from rivet_fleet.contracts.proof import ChangeReading
from rivet_fleet.contracts.window import Newest, NewestRequest

if TYPE_CHECKING:
    from rivet_fleet.execution.proof import PageProofs


@dataclass(frozen=True, slots=True, kw_only=True)
class PageLimit:
    """How much one page may hold. The reader never returns more than ``rows_max`` rows of a
    keyset chunk; for spans and blocks it translates rows by the density it has seen.

    A piecewise reader hands a page on in pieces of about ``piece_rows_max`` rows or
    ``piece_bytes_max`` bytes on the wire, whichever comes first; None is the page as a whole.
    """

    rows_max: int
    bytes_max: int
    piece_rows_max: int | None = None
    piece_bytes_max: int | None = None
    pages_max: int = 1
    """So many pages may be asked for at once, by a reader that knows where they begin: nothing but
    a stop acts before the last of them has come (ADR 0031)."""
    page_s: float = 0.0
    """How long one of them is expected to take at the source; 0: nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One SQL statement's worth of rows, or a piece of it (0 rows are possible and do not mean
    the end).

    ``batch`` has exactly the reader's schema, or is packed where that was asked for.
    ``statement_s`` is how long the source has been busy with the statement so far, from sending it
    to the last byte received, whatever was handed on of it before. ``pace_s`` is what of it this
    page took, by which the next one is sized: the same, unless one statement gives many pages.
    ``complete`` is False while the statement goes on: the next call gives more of the same page.
    ``last`` is True when the chunk has no further page. ``asked_rows``: how many rows
    it might have had, where it was asked for at once with others. ``followed``: the next one was,
    too, and is under way.
    """

    batch: pa.RecordBatch
    statement_s: float
    pace_s: float
    wire_bytes: int
    last: bool
    complete: bool = True
    asked_rows: int | None = None
    followed: bool = False


class ChunkReader(Protocol):
    """Reads one chunk. After a transient error ``reconnect`` and ``read_page`` again: the page
    that failed is read anew from its beginning, no row is seen twice and none is skipped."""

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of every page, with ``rivet.*`` field metadata."""
        ...

    @property
    def resumable(self) -> bool:
        """False when a failed statement cannot be continued inside the chunk."""
        ...

    @property
    def piecewise(self) -> bool:
        """True when pages may be handed on in pieces (ADR 0016). What was handed on of a page that
        fails stays read: the next page begins behind it."""
        ...

    @property
    def changed(self) -> dict[str, int]:
        """Per column: how many values a stated policy had to change so far."""
        ...

    @property
    def reached(self) -> KeyTuple | None:
        """The chunk key of the last row that was read, as ``ChunkRange`` has it; None before the
        first one, of a chunk without a key, and of pages that come packed."""
        ...

    @property
    def lost_bytes(self) -> int:
        """Bytes received of statements that failed and not handed on, so far."""
        ...

    @property
    def longest_statement_s(self) -> float:
        """How long the source was busy with one statement of this chunk at most, so far: its
        pages, those that failed, and what was asked around them."""
        ...

    def pack(self) -> None:
        """From the next page on, columns may come packed (ADR 0014)."""
        ...

    def count_pages(self, proofs: PageProofs, timeout_s: float) -> None:
        """From the next page on, the server is asked about those that ``proofs`` wants: whether
        it counts as many rows between their bounds (ADR 0019). A difference is raised by
        ``read_page`` as DataIntegrityError."""
        ...

    def read_page(self, limit: PageLimit) -> Page:
        """The next page, or the next piece of one. Raises SourceError (by retry class),
        MalformedData, ValueTooLarge."""
        ...

    def reconnect(self) -> None:
        """Drop the connection and take a new one, to a source that is still what the plan rests
        on. Raises SourceError, SchemaDrift."""
        ...

    def prove(self) -> tuple[BasisDifference, ...]:
        """Behind the last page: that the plan rests on what it rested on (ADR 0018). What has
        changed since the plan without harm, also what was found before. Raises SchemaDrift: the
        chunk's rows may not be the plan's; SourceError: ask again."""
        ...

    def close(self) -> None:
        """End the statement, if any, and give the connection back. Never raises."""
        ...


class Source(Protocol):
    """One database. Opened lazily; one connection at a time; not shared between threads."""

    def look_ahead(self, relations: Sequence[RelationName]) -> None:
        """At relations that ``introspect`` will be asked about one by one: an engine may ask its
        catalogue for many at once. What is found serves each of them once; what ails one of them
        is told by its own question. Raises SourceUnavailable."""
        ...

    def introspect(self, request: FactsRequest) -> SourceFacts:
        """Facts about one table or query. Raises SourceRefused when it is not there."""
        ...

    def newest(self, request: NewestRequest) -> Newest:
        """The greatest cursor as it is now, in the server's own order. Raises StatementTimeout
        when that takes too long: a cursor without an index is a scan of the table."""
        ...

    def read_changes(self, relation: RelationName) -> ChangeReading:
        """How often rows of the relation were changed, as the server counts it. A question to
        statistics, bounded to seconds. Raises SourceError."""
        ...

    def count_rows(self, read: ReadPlan, chunk_range: ChunkRange, timeout_s: float) -> int:
        """How many rows of the range, in the plan's window, this user sees now through the name
        that the plan gives. ``timeout_s`` is its limit. Raises StatementTimeout, and ConfigError
        for a range of blocks."""
        ...

    def measure(
        self,
        read: ReadPlan,
        chunk_range: ChunkRange,
        asked: Sequence[Asked],
        tuning: TuningPlan,
    ) -> tuple[Decimal | None, ...]:
        """The number of rows of a range of a table's key, in the plan's window, and then each
        measure that is asked for, in one statement under the limits of a page; None where there is
        no value. Raises SourceError, SourceRefused for an answer that is no number."""
        ...

    def open_chunk(
        self, read: ReadPlan, chunk_range: ChunkRange, tuning: TuningPlan
    ) -> ChunkReader:
        """A reader for one chunk. Raises SchemaDrift, before the first row, when the source's
        columns are not the planned ones (names, order, native types), or when what the plan rests
        on has changed (ADR 0018)."""
        ...

    def list_relations(self) -> Listing:
        """Every relation that the user may see, the server's own and partitions left out, by
        schema and name. One question to the catalogue; no table is touched."""
        ...

    def describe_server(self) -> ServerFacts:
        """The server as this user meets it now. Raises SourceUnavailable or SourceRefused."""
        ...

    def check_readable(
        self, relation: RelationName | None, query: str | None
    ) -> tuple[SourceNote, ...]:
        """Prove that every column may be read, without reading a row; what is worth knowing
        about the reading. Raises SourceRefused, with the missing privilege as its hint."""
        ...

    def read_counters(self) -> CounterReading:
        """The server's own counters now, everybody's work in them, and what it is like. A
        question to statistics, bounded to seconds. Raises SourceError."""
        ...

    def position(self) -> str:
        """How far the server has come in its log (LSN, GTID) now; empty where it does not say.
        Raises SourceError."""
        ...

    def identify(self) -> tuple[BasisFact, ...]:
        """Who the source is, in the facts of kind ``source`` that a plan seals (ADR 0018); nothing
        where the server does not say. Raises SourceError."""
        ...

    def ping(self) -> str:
        """Connect, and say the server's version. Raises SourceUnavailable or SourceRefused."""
        ...

    @property
    def longest_statement_s(self) -> float:
        """How long the source was busy with one statement of ours at most, since the last count or
        the opening of the last chunk began."""
        ...

    def close(self) -> None:
        """Close the connection. Never raises."""
        ...
