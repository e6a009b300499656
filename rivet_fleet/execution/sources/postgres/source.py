"""The PostgreSQL source: the seam's verbs over one session."""

from __future__ import annotations

from dataclasses import replace

from rivet_fleet.contracts.basis import BasisFact
from rivet_fleet.contracts.facts import FactsRequest, SourceFacts
from rivet_fleet.contracts.harm import HarmReading
from rivet_fleet.contracts.keys import ChunkRange, RelationName
from rivet_fleet.contracts.listing import Listing, ServerFacts, SourceNote
from rivet_fleet.contracts.login import CAREFUL, Login
from rivet_fleet.contracts.plan import ReadPlan, TuningPlan
from rivet_fleet.contracts.proof import ChangeReading
from rivet_fleet.contracts.url import DatabaseUrl
from rivet_fleet.contracts.window import Newest, NewestRequest
from rivet_fleet.execution.chunkreader import PagedReader
from rivet_fleet.execution.drift import Footing, check_columns
from rivet_fleet.execution.proving import count_select
from rivet_fleet.execution.sources.postgres import changes, listing
from rivet_fleet.execution.sources.postgres.basis import Basis
from rivet_fleet.execution.sources.postgres.harm import read_harm
from rivet_fleet.execution.sources.postgres.introspect import columns_now, introspect
from rivet_fleet.execution.sources.postgres.keyfacts import METADATA_TIMEOUT_S
from rivet_fleet.execution.sources.postgres.newest import newest
from rivet_fleet.execution.sources.postgres.reading import PostgresReading
from rivet_fleet.execution.sources.postgres.session import Session
from rivet_fleet.execution.sources.postgres.statements import catalog_settings, from_item
from rivet_fleet.execution.windowing import compared_columns


class PostgresSource:
    """A ``Source``. One connection, opened at first use; not shared between threads."""

    def __init__(self, session: Session, *, max_value_bytes: int | None) -> None:
        self._session = session
        self._value_bytes_max = max_value_bytes
        self._basis = Basis(session)

    def introspect(self, request: FactsRequest) -> SourceFacts:
        """Facts about one table or query; see ``Source``."""
        self._session.undoing = request.query is not None
        return introspect(self._session, self._basis, request)

    def newest(self, request: NewestRequest) -> Newest:
        """The greatest cursor; see ``Source``."""
        self._session.undoing = request.query is not None
        return newest(self._session, request)

    def read_changes(self, relation: RelationName) -> ChangeReading:
        """The server's counters of a relation; see ``Source``."""
        return changes.read_changes(self._session, relation)

    def count_rows(self, read: ReadPlan, chunk_range: ChunkRange, timeout_s: float) -> int:
        """The rows that this user sees now; see ``Source``."""
        self._session.undoing = read.query is not None
        compared, encoding = compared_columns(read.window, chunk_range), self._session.encoding
        with self._session.transaction(
            catalog_settings(METADATA_TIMEOUT_S, read.session),
            doing="comparing the source with the plan",
            timeout_s=METADATA_TIMEOUT_S,
        ) as cursor:
            _, keys = columns_now(
                cursor, read.relation, read.query, compared, encoding, steady=bool(read.session)
            )
        item = from_item(read.relation, read.query)
        select = count_select(keys, item, chunk_range, read.window)
        return changes.count_rows(self._session, select, timeout_s, read.session)

    def open_chunk(
        self, read: ReadPlan, chunk_range: ChunkRange, tuning: TuningPlan
    ) -> PagedReader:
        """A reader for one chunk. Raises SchemaDrift before the first row."""
        self._session.undoing = read.query is not None
        footing = Footing(read, chunk_range, lambda: self._basis.look(read, chunk_range))
        compared, encoding = compared_columns(read.window, chunk_range), self._session.encoding
        own = self._session.own if read.relation is None else ()
        with self._session.transaction(
            catalog_settings(METADATA_TIMEOUT_S, read.session),
            doing="comparing the source with the plan",
            timeout_s=METADATA_TIMEOUT_S,
        ) as cursor:
            now, keys = columns_now(
                cursor, read.relation, read.query, compared, encoding, steady=bool(read.session)
            )
            check_columns(read, now)
            footing.judge(self._basis.now(cursor, read, chunk_range, own))
        if self._value_bytes_max is not None:
            lower = min(self._value_bytes_max, tuning.max_value_bytes)
            tuning = replace(tuning, max_value_bytes=lower)
        engine = PostgresReading(self._session, read, tuning, keys)
        return PagedReader(engine, read, chunk_range, footing, row_bytes_max=tuning.max_row_bytes)

    def list_relations(self) -> Listing:
        """Every relation the user may see; see ``Source``."""
        return listing.list_relations(self._session)

    def describe_server(self) -> ServerFacts:
        """The server as this user meets it; see ``Source``."""
        return listing.describe_server(self._session)

    def check_readable(
        self, relation: RelationName | None, query: str | None
    ) -> tuple[SourceNote, ...]:
        """Whether every column may be read; see ``Source``."""
        self._session.undoing = query is not None
        return listing.check_readable(self._session, relation, query)

    def read_harm(self) -> HarmReading:
        """The server's counters; see ``Source``."""
        return read_harm(self._session)

    def identify(self) -> tuple[BasisFact, ...]:
        """Who the source is; see ``Source``."""
        return self._basis.of_source()

    def ping(self) -> str:
        """Connect, ask, and say the server's version."""
        with self._session.transaction((), doing="saying hello", timeout_s=10.0) as cursor:
            cursor.execute("SELECT")
        return self._session.server_version

    def close(self) -> None:
        """Close the connection. Never raises."""
        self._session.close()


def open_source(
    url: DatabaseUrl,
    *,
    tls_mode: str | None = None,
    tls_ca_file: str | None = None,
    application_name: str,
    login: Login = CAREFUL,
    max_value_bytes: int | None = None,
) -> PostgresSource:
    """A source for ``url``; connects at first use. libpq options in the URL are honoured.

    ``max_value_bytes`` lowers the limit of the tuning, never raises it. Raises ConfigError for
    an unknown ``tls_mode``.
    """
    session = Session(
        url,
        tls_mode=tls_mode,
        tls_ca_file=tls_ca_file,
        application_name=application_name,
        login=login,
    )
    return PostgresSource(session, max_value_bytes=max_value_bytes)
