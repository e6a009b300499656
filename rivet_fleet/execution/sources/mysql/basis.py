"""What a plan rests on, asked of ``information_schema``: facts by kind (ADR 0018).

One statement for a table, one more for each depth of a view. An ordinary reader may ask: of what a
privilege is missing for, the server says nothing, and nothing is compared.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

from rivet_fleet.contracts.basis import (
    INSTANCE,
    SERVER,
    UNKNOWN,
    BasisFact,
    BasisKind,
    Reliance,
    of_session,
    reliance,
    relies,
)
from rivet_fleet.contracts.keys import ChunkRange, RelationName
from rivet_fleet.contracts.plan import ReadPlan
from rivet_fleet.errors import SourceBusy
from rivet_fleet.execution.engines.session import whole
from rivet_fleet.execution.sources.mysql.catalog import Row, rows
from rivet_fleet.execution.sources.mysql.dialect import (
    keeps_unique,
    quote_identifier,
    quote_text,
)
from rivet_fleet.execution.sources.mysql.liveness import WatchedConnection
from rivet_fleet.execution.sources.mysql.session import Proxy, Server, Session
from rivet_fleet.execution.sources.mysql.statements import from_item, metadata_settings

_TIMEOUT_S = 30.0
_DEPTH_MAX = 8
_VIEWS_MAX = 64


def _arm(kind: str, *columns: str) -> str:
    """The head of one question: texts of different origin in one character set and collation."""
    padded = (*columns, *("NULL",) * (5 - len(columns)))
    texts = (f"CAST({one} AS CHAR CHARACTER SET utf8mb4)" for one in padded)
    return f"SELECT '{kind}', {', '.join(texts)}"


_PLACE_OF_SERVER = _arm(
    "place", "CONCAT(@@hostname, ':', @@port, ' ', @@datadir, ', id ', @@server_id)"
)
# MariaDB's server_uid is no number of a server: it is made of port and hardware address, which
# containers of different hosts share, and one container changes.
_PLACE = "WHERE TABLE_SCHEMA = {schema} AND TABLE_NAME = {name}"
_TABLE = f"""
{_arm("relation", "TABLE_TYPE", "CREATE_TIME", "ENGINE")} FROM information_schema.TABLES {_PLACE}
"""
_INDEXES = f"""
{_arm("index", "INDEX_NAME", "SEQ_IN_INDEX", "COLUMN_NAME", "`COLLATION`", "SUB_PART")}
FROM information_schema.STATISTICS {_PLACE} AND NON_UNIQUE = 0
"""
_KEYS = f"""
{_arm("key", "COLUMN_NAME", "COLUMN_TYPE", "IS_NULLABLE")} FROM information_schema.COLUMNS {_PLACE}
"""
_ORDER = f"""
{_arm("collation", "COLUMN_NAME", "COLLATION_NAME", "CHARACTER_SET_NAME")}
FROM information_schema.COLUMNS {_PLACE} AND COLLATION_NAME IS NOT NULL
"""
_ORDER_OF_QUERY = f"""
{_arm("collation", "{name}", "COLLATION({column})", "CHARSET({column})")}
FROM (SELECT 1 AS one) AS o LEFT JOIN (SELECT * FROM {{item}} LIMIT 0) AS q ON TRUE
"""
# What orders an expression is known without a row of it: LIMIT 0 runs nothing.
_VIEW = f"""
{_arm("definition", "TABLE_NAME", "VIEW_DEFINITION", "DEFINER", "SECURITY_TYPE", "TABLE_SCHEMA")}
FROM information_schema.VIEWS {_PLACE}
"""
_NAMED = re.compile(r"`((?:[^`]|``)+)`\.`((?:[^`]|``)+)`")


class Basis:
    """Asks for facts."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def of_relation(
        self, connection: WatchedConnection, name: RelationName
    ) -> tuple[BasisFact, ...]:
        """Everything that a plan of this table or view may rest on."""
        return self._relation(connection, name, {*BasisKind} - {BasisKind.KEY}, None)

    def of_query_table(
        self, connection: WatchedConnection, name: RelationName
    ) -> tuple[BasisFact, ...]:
        """The same of the table whose key cuts a query, and what its columns are."""
        return self._relation(connection, name, {*BasisKind}, None)

    def of_query(
        self, connection: WatchedConnection, query: str, columns: Iterable[str]
    ) -> tuple[BasisFact, ...]:
        """Everything that a plan of this query may rest on."""
        arms = [*self._own({*BasisKind}), *_order_of_query(query, columns)]
        return _facts(_ask(connection, arms))

    def now(
        self, connection: WatchedConnection, read: ReadPlan, chunk_range: ChunkRange
    ) -> tuple[BasisFact, ...]:
        """What the plan rests on in this chunk, as it is now. Raises SourceBusy while the name
        stands for nothing."""
        use = reliance(chunk_range, read.window)
        planned = [fact for fact in read.basis if relies(use, fact)]
        kinds = {fact.kind for fact in planned}
        if not kinds:
            return ()
        if read.relation is not None:
            return self._relation(connection, read.relation, kinds, use)
        shown = {column.name for column in read.columns} | read.hidden
        names = {fact.subject for fact in planned if fact.kind is BasisKind.COLLATION} & shown
        found = _ask(connection, [*self._own(kinds), *_order_of_query(read.query or "", names)])
        under = read.table and self._relation(connection, read.table.relation, kinds, use)
        return (*(under or ()), *_facts(found), *of_session(self._session.server.session))

    def look(self, read: ReadPlan, chunk_range: ChunkRange) -> tuple[BasisFact, ...]:
        """``now``, by itself. Raises SourceError."""
        with self._session.reading(
            metadata_settings(self._session.server, _TIMEOUT_S, read.session),
            doing="comparing the source with what the plan rests on",
            timeout_s=_TIMEOUT_S,
        ) as connection:
            return self.now(connection, read, chunk_range)

    def of_source(self) -> tuple[BasisFact, ...]:
        """The server alone, where it says who it is. Raises SourceError."""
        with self._session.reading(
            metadata_settings(self._session.server, _TIMEOUT_S, ()),
            doing="asking who the source is",
            timeout_s=_TIMEOUT_S,
        ) as connection:
            arms = self._own({BasisKind.SOURCE})
            return _facts(_ask(connection, arms)) if arms else ()

    def _relation(
        self,
        connection: WatchedConnection,
        name: RelationName,
        kinds: set[BasisKind],
        use: Reliance | None,
    ) -> tuple[BasisFact, ...]:
        place = {"schema": quote_text(name.schema), "name": quote_text(name.name)}
        server = self._session.server
        arms = [_TABLE.format(**place)]
        arms += [_INDEXES.format(**place)] if BasisKind.INDEX in kinds else []
        arms += [_KEYS.format(**place)] if BasisKind.KEY in kinds else []
        arms += [_ORDER.format(**place)] if BasisKind.COLLATION in kinds else []
        arms += [_VIEW.format(**place)] if BasisKind.DEFINITION in kinds else []
        found = _ask(connection, [*arms, *self._own(kinds)])
        table = next((row for row in found if row[0] == "relation"), None)
        if table is None:
            raise SourceBusy(
                f"table {name} is not there at this moment",
                hint="a swap may be on its way; otherwise plan the export again",
            )
        if not keeps_unique(table[3]):
            # Altered into one that declares keys alone: it has none that a chunk may rest on.
            found = tuple(row for row in found if row[0] != "index")
        facts = [one for one in _facts(found) if use is None or relies(use, one)]
        if "VIEW" not in table[1]:
            # Nothing but a view knows who reads it.
            facts = [one for one in facts if one.kind is not BasisKind.RIGHTS]
            facts.append(_created(table[2], server))
        else:
            facts += _beneath(connection, [row for row in found if row[0] == "definition"])
        return tuple(facts)

    def _own(self, kinds: set[BasisKind]) -> list[str]:
        """What is asked of the server and not of a table."""
        server = self._session.server
        roles = server.at_least(mariadb=(10, 0, 5), mysql=(8,))
        arms = []
        if BasisKind.SOURCE in kinds and server.proxy is Proxy.DIRECT:
            arms.append(_PLACE_OF_SERVER if server.mariadb else _arm("source", "@@server_uuid"))
        if BasisKind.RIGHTS in kinds:
            arms.append(_arm("rights", "CURRENT_USER()", "CURRENT_ROLE()" if roles else "NULL"))
        return arms


def _order_of_query(query: str, columns: Iterable[str]) -> list[str]:
    item = from_item(None, query)
    return [
        _ORDER_OF_QUERY.format(
            name=quote_text(name), column=f"q.{quote_identifier(name)}", item=item
        )
        for name in sorted(columns)
    ]


def _ask(connection: WatchedConnection, arms: list[str]) -> tuple[Row, ...]:
    """One statement of all questions."""
    return rows(connection, " UNION ALL ".join(arms)) if arms else ()


def _facts(found: tuple[Row, ...]) -> tuple[BasisFact, ...]:
    facts = []
    parts: dict[str, list[Row]] = {}
    for row in found:
        kind, subject, value = (str(one) for one in row[:3])
        if kind == "index":
            parts.setdefault(subject, []).append(row)
        elif kind == "collation":
            facts.append(_fact(BasisKind.COLLATION, subject, _order(row[3], value), subject))
        elif kind == "key":
            never_null = " not null" if row[3] == "NO" else ""
            facts.append(_fact(BasisKind.KEY, subject, value + never_null, subject))
        elif kind == "definition":
            facts.append(_definition(row))
        elif kind == "rights":
            # The host is where we connect from: another worker's is another one.
            role = f", role {value}" if row[2] not in (None, "", "NONE") else ""
            user = subject.rpartition("@")[0] + role
            facts.append(_fact(BasisKind.RIGHTS, "the reading user", user))
        elif kind == "source":
            facts.append(_fact(BasisKind.SOURCE, SERVER, subject))
        elif kind == "place":
            facts.append(_fact(BasisKind.SOURCE, INSTANCE, subject))
    for name, group in parts.items():
        ordered = sorted(group, key=lambda row: whole(row[2]))
        # A prefix is unique in the prefix's order only.
        if all(row[3] is not None and row[5] is None for row in ordered):
            terms = (f"{row[3]}{' desc' if row[4] == 'D' else ''}" for row in ordered)
            columns = tuple(str(row[3]) for row in ordered)
            facts.append(_fact(BasisKind.INDEX, name, f"({', '.join(terms)})", *columns))
    return tuple(facts)


def _fact(kind: BasisKind, subject: str, value: str, *columns: str) -> BasisFact:
    return BasisFact(kind=kind, subject=subject, value=value, columns=columns)


def _order(charset: Any, collation: Any) -> str:
    """MariaDB and MySQL write the old three-byte set under either of its names."""
    return ", ".join(re.sub(r"^utf8(?=_|$)", "utf8mb3", str(name)) for name in (charset, collation))


def _created(moment: Any, server: Server) -> BasisFact:
    """Replicas behind a multiplexer have each created the table when they did."""
    known = moment is not None and server.proxy is Proxy.DIRECT
    value = f"created {moment}" if known else UNKNOWN
    return _fact(BasisKind.RELATION, "table", value)


def _definition(row: Row) -> BasisFact:
    _, name, text, definer, security, schema = row
    digest = hashlib.sha256("\0".join(map(str, (text, definer, security))).encode()).hexdigest()
    value = digest[:32] if text else UNKNOWN
    return _fact(BasisKind.DEFINITION, f"view {schema}.{name}", value)


def _beneath(connection: WatchedConnection, top: list[Row]) -> list[BasisFact]:
    """The views that a view is made of: its stored text names each with its database."""
    seen = {(row[5], row[1]) for row in top}
    level, facts = top, []
    for _ in range(_DEPTH_MAX):
        named = {
            (schema.replace("``", "`"), name.replace("``", "`"))
            for row in level
            for schema, name in _NAMED.findall(row[2] or "")
        } - seen
        if not named or len(seen) + len(named) > _VIEWS_MAX:
            break
        seen |= named
        level = list(
            _ask(
                connection,
                [
                    _VIEW.format(schema=quote_text(schema), name=quote_text(name))
                    for schema, name in sorted(named)
                ],
            )
        )
        facts += [_definition(row) for row in level]
    return facts
