"""What MySQL and MariaDB contribute to the reading of one chunk; the reader is every engine's."""

from __future__ import annotations

import decimal
import math
from collections.abc import Generator
from dataclasses import replace

from rivet_fleet.contracts.columns import ColumnSpec, TypeKind
from rivet_fleet.contracts.facts import leading_index
from rivet_fleet.contracts.keys import ChunkRange, RangeKind, RelationName
from rivet_fleet.contracts.plan import ReadPlan, TuningPlan
from rivet_fleet.contracts.proof import ChangeReading
from rivet_fleet.errors import ConfigError, SchemaDrift
from rivet_fleet.execution.engines.session import maybe_swapped, real, whole
from rivet_fleet.execution.engines.source import EngineReading
from rivet_fleet.execution.paging import KeyDialect, Pager, Select, Walk
from rivet_fleet.execution.sources.mysql import introspect, statements
from rivet_fleet.execution.sources.mysql.border import SWAPPED_CODES
from rivet_fleet.execution.sources.mysql.catalog import find_relation, rows
from rivet_fleet.execution.sources.mysql.decoder import DECODERS, BatchDecoder
from rivet_fleet.execution.sources.mysql.dialect import quote_identifier
from rivet_fleet.execution.sources.mysql.introspect import Shape, read_shape
from rivet_fleet.execution.sources.mysql.keytext import carried_exactly
from rivet_fleet.execution.sources.mysql.liveness import WatchedConnection
from rivet_fleet.execution.sources.mysql.querysession import in_utc
from rivet_fleet.execution.sources.mysql.session import Proxy, Server, Session
from rivet_fleet.execution.sources.mysql.statements import bare_query, metadata_settings
from rivet_fleet.execution.sources.mysql.stream import StatementStream, statement_train
from rivet_fleet.execution.types import check_columns

# ------------------------------------------------------------------------------------------
# How often rows were changed, as the server counts it; and the rows of a relation, counted.
#
# The counters are those of the whole server: an upper bound for each of its tables, and never
# late. MySQL counts InnoDB's own work, cascades of foreign keys included; MariaDB only what
# statements ask of an engine (manuals: "Server Status Variables").

_LOOK_MAX_S = 5.0
_BY_ENGINE = ("Innodb_rows_inserted", "Innodb_rows_updated", "Innodb_rows_deleted")
_BY_STATEMENTS = ("Handler_write", "Handler_update", "Handler_delete")
_SINCE = ("Uptime", "Uptime_since_flush_status")
_STATUS = "SHOW GLOBAL STATUS WHERE Variable_name IN ({names})".format(
    names=", ".join(f"'{name}'" for name in (*_BY_ENGINE, *_BY_STATEMENTS, *_SINCE))
)
_CASCADES = """
SELECT COUNT(*) FROM information_schema.REFERENTIAL_CONSTRAINTS
WHERE CONSTRAINT_SCHEMA = %s AND TABLE_NAME = %s
  AND (DELETE_RULE NOT IN ('RESTRICT', 'NO ACTION') OR UPDATE_RULE NOT IN ('RESTRICT', 'NO ACTION'))
"""
_INNODB = "innodb"


def read_changes(session: Session, relation: RelationName) -> ChangeReading:
    """See ``Source.read_changes``. The status and the data dictionary; no table is touched."""
    with session.reading(
        metadata_settings(session.server, _LOOK_MAX_S),
        doing="reading how often rows were changed",
        timeout_s=_LOOK_MAX_S,
    ) as connection:
        found = find_relation(connection, relation)
        status = {str(name): whole(value) for name, value in rows(connection, _STATUS)}
        ((server, now_s),) = rows(connection, "SELECT @@server_id, UNIX_TIMESTAMP(SYSDATE())")
        names: tuple[str, ...] = _BY_STATEMENTS
        if set(_BY_ENGINE) <= status.keys() and (found.storage_engine or "").lower() == _INNODB:
            names = _BY_ENGINE
        elif not _counts_everything(connection, found.name):
            names = ()
    countable = found.base_table and bool(names) and set(names) <= status.keys()
    if not countable:
        return ChangeReading()
    inserted, updated, deleted = (status[name] for name in names)
    since = min(status[name] for name in _SINCE if name in status)
    return ChangeReading(
        inserted=inserted,
        updated=updated,
        deleted=deleted,
        epoch=f"{server} {names[0]}",
        since_s=real(now_s) - since,
    )


def _counts_everything(connection: WatchedConnection, name: RelationName) -> bool:
    """False where rows of this table are changed by the changes of others: no statement asks."""
    ((cascades,),) = rows(connection, _CASCADES, (name.schema, name.name))
    return not cascades


_TRANSACTIONAL = "SELECT e.ENGINE FROM information_schema.ENGINES e WHERE e.TRANSACTIONS = 'YES'"
_OTHERS = f"""
SELECT COUNT(*) FROM information_schema.TABLES t
WHERE t.TABLE_TYPE = 'BASE TABLE' AND t.ENGINE NOT IN ({_TRANSACTIONAL})
  AND t.TABLE_SCHEMA NOT IN ('information_schema', 'mysql', 'performance_schema', 'sys')
"""
_LEVELS = ("transaction_isolation", "tx_isolation")
_LASTING = ("REPEATABLE-READ", "SERIALIZABLE")


def keeps_snapshots(session: Session, relation: RelationName | None) -> bool:
    """True when a snapshot of ``Session.reading`` shows the same rows to all of its statements:
    of a table whose engine is transactional; of a view or a query only where there is no other
    table. Through a proxy our own level may have gone to another session: there the default must
    be one that lasts."""
    with session.reading(
        metadata_settings(session.server, _LOOK_MAX_S),
        doing="asking whether a snapshot lasts",
        timeout_s=_LOOK_MAX_S,
    ) as connection:
        if session.server.proxy is not Proxy.DIRECT:
            levels = rows(connection, f"SHOW VARIABLES WHERE Variable_name IN {_LEVELS}")
            if not {str(level) for _, level in levels} & set(_LASTING):
                return False
        if relation is not None:
            found = find_relation(connection, relation)
            if found.base_table:
                known = {str(name) for (name,) in rows(connection, _TRANSACTIONAL)}
                return found.storage_engine in known
        ((others,),) = rows(connection, _OTHERS)
        return not others


_EXACT_KEY_TEXT = (
    TypeKind.INT16,
    TypeKind.INT32,
    TypeKind.INT64,
    TypeKind.UINT64,
    TypeKind.DECIMAL,
    TypeKind.STRING,
    TypeKind.BINARY,
    TypeKind.UUID,
)
"""Kinds whose text we can write from the carried value. For all others (moments: a zero date is
no date; tinyint(1): true stands for more than 1) the page carries the key once more, as text."""
_BYTES_WIRE_TYPE = "253:binary"
_TRAINS_SINCE = (10, 3)
_NEAR_S = 0.002
"""A way that is shorter is no distance."""
_WAYS = 2
"""A statement is prepared, and executed."""
_WAY_SHARE = 0.05
"""Of the time that pages take, the ways there and back may be this part."""
_PAGES_MAX = 16
"""What they are asked by fits into the server's receive buffer: it reads nothing while it sends."""


def takes_several(server: Server) -> bool:
    """True of MariaDB that is met directly: it executes what was prepared last without being told
    its number, so that both can be asked at once."""
    return server.mariadb and server.version >= _TRAINS_SINCE and server.proxy is Proxy.DIRECT


class MysqlReading(EngineReading[Session, BatchDecoder]):
    """A ``ReadingEngine`` over one session. The session belongs to the source.

    A page of a key walks an index where there is one: the optimizer, left alone, may prefer to
    read and sort everything. Which one, is chosen here and with every new connection: meanwhile
    another table may have taken the name, with its indexes.
    """

    _text_types = ("varchar", "253")
    _decoders = DECODERS

    def __init__(
        self,
        session: Session,
        read: ReadPlan,
        chunk_range: ChunkRange,
        tuning: TuningPlan,
        now: Shape,
    ) -> None:
        """``now``: what ``looked`` gave, for this chunk or for one that is cut by the same key."""
        super().__init__(session, read, tuning)
        self._range = chunk_range
        self._index = self._choose_index(now)
        self._keys = statements.Keys.of(now.columns)
        self.keys: KeyDialect = self._keys

    def carries_key(self, column: ColumnSpec) -> bool:
        """Numbers, text, uuid and bytes: what ``key_text`` can write. Not text in a character set
        from which it does not come back as it was."""
        form = self._keys.texts.get(column.name)
        exact = carried_exactly(form, coerce=self._coerce)
        return column.type.kind in _EXACT_KEY_TEXT and exact

    def key_text(self, value: object) -> str:
        """A carried key value as ``literal`` takes it."""
        if isinstance(value, bytes):
            return value.hex()
        if isinstance(value, decimal.Decimal):
            return format(value, "f")
        return str(value)

    def select_list(self, columns: tuple[ColumnSpec, ...], hidden_keys: tuple[str, ...]) -> str:
        """Every planned column by name, then the hidden keys as text."""
        mariadb, texts = self._session.server.mariadb, self._keys.texts
        expressions = [
            statements.select_expression(one, texts.get(one.name), mariadb=mariadb)
            for one in columns
        ]
        for index, name in enumerate(hidden_keys):
            text = self._keys.text_expression(name)
            expressions.append(f"{text} AS {quote_identifier(f'_rivet_key_{index}')}")
        return ", ".join(expressions)

    def from_item(self, relation: RelationName | None, query: str | None, *, only: bool) -> str:
        """See ``statements.from_item``; there are no inheritance children here."""
        self._from = relation, None if query is None else self._in_utc(query)
        return statements.from_item(*self._from, index=self._index)

    def _in_utc(self, query: str) -> str:
        native_types = {column.name: column.native_type for column in self._read.columns}
        native_types |= dict(self._read.table.added if self._read.table else ())
        return in_utc(bare_query(query), native_types, self._read.session)

    def block_pager(self, columns: str, source: str, chunk_range: ChunkRange) -> Pager:
        """Always raises ConfigError: these engines have no ranges of physical blocks."""
        raise ConfigError("this source has no ranges of blocks", hint="plan the export again")

    def open_stream(
        self,
        select: Select,
        columns: tuple[ColumnSpec, ...],
        walk: Walk,
        *,
        packed: bool,
        held: bool = False,
    ) -> StatementStream:
        """One prepared statement; nothing is sent before the first receive."""
        tuning = self._tuning
        if self._range.kind is RangeKind.WHOLE:
            tuning = replace(tuning, statement_timeout_s=tuning.whole_read_timeout_s)
        settings = statements.page_settings(self._session.server, tuning, self._read.session)
        columns = tuple(self._as_sent(column) for column in columns)
        decoder = self._open_decoder(columns, packed=packed)
        sql, subject = self._now(select), str(self._read.relation or "the query")
        return StatementStream(
            self._session, sql, columns, settings, tuning, decoder, subject=subject, held=held
        )

    def pages_at_once(self, page_s: float) -> int:
        """So many that the way there and back is a small part of the time that they take."""
        if not (takes_several(self._session.server) and self.decodes_at_once):
            return 1
        way_s = self._session.times.way_s(math.inf)
        worth = 1 if way_s < _NEAR_S else math.ceil(_WAYS * way_s / (_WAY_SHARE * page_s))
        return max(1, min(worth, _PAGES_MAX))

    def open_train(
        self,
        selects: tuple[Select, ...],
        columns: tuple[ColumnSpec, ...],
        walk: Walk,
        *,
        packed: bool,
    ) -> Generator[StatementStream, None, None]:
        """Prepared and executed one behind the other; nothing is sent before the first receive."""
        columns = tuple(self._as_sent(column) for column in columns)
        return statement_train(
            self._session,
            tuple(self._now(select) for select in selects),
            columns,
            statements.page_settings(self._session.server, self._tuning, self._read.session),
            self._tuning,
            lambda: self._open_decoder(columns, packed=packed),
            subject=str(self._read.relation or "the query"),
        )

    def _as_sent(self, column: ColumnSpec) -> ColumnSpec:
        if statements.checked_value(column, self._keys.texts.get(column.name)) is None:
            return column
        return replace(column, wire_type=_BYTES_WIRE_TYPE)

    def count_sql(self, select: Select) -> str:
        """By the index that pages walk now."""
        return self._now(select)

    def _now(self, select: Select) -> str:
        # The pager knows the item of when the chunk was opened; the index may be another now.
        return replace(select, source=statements.from_item(*self._from, index=self._index)).sql()

    def keeps_snapshots(self) -> bool:
        """Only transactional tables do; see ``changes.keeps_snapshots``."""
        return keeps_snapshots(self._session, self._read.relation)

    def reconnect(self) -> None:
        """Drop the connection, take a new one and look again at what is read. Raises SourceError,
        SchemaDrift."""
        self._session.close()
        self._index = self._choose_index(looked(self._session, self._read, self._range))

    def _choose_index(self, now: Shape) -> str | None:
        chunk_range = self._range
        if chunk_range.kind not in (RangeKind.KEYSET, RangeKind.SPAN):
            return None
        # Behind a column's own index stands the primary key: it orders equal values as well.
        orders = (chunk_range.columns, chunk_range.columns[:1])
        indexes = (leading_index(now.indexes, columns) for columns in orders)
        return next((found for found in indexes if found is not None), None)


def looked(session: Session, read: ReadPlan, chunk_range: ChunkRange) -> Shape:
    """What is there now. Raises SchemaDrift when it is not what was planned, SourceBusy while the
    name stands for nothing."""
    with maybe_swapped(SWAPPED_CODES):
        now = read_shape(session, read.relation, read.query, read.session)
    check_columns(read, now.columns)
    if chunk_range.kind is RangeKind.KEYSET and read.relation is not None:
        _check_unique(read.relation, chunk_range.columns, now)
    return now


def _check_unique(relation: RelationName, columns: tuple[str, ...], now: Shape) -> None:
    """A page goes on behind its last key: of rows that share one, it would skip the rest."""
    if not any(
        set(key) <= set(columns) for key in introspect.usable_keys(now.columns, now.indexes)
    ):
        raise SchemaDrift(
            f"{relation}: the chunk key ({', '.join(columns)}) has no unique index any more",
            hint="give the table its key back and requeue the chunk, or plan the export again",
        )
