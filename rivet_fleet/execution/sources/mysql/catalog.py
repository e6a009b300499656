"""Questions to the data dictionary, each one statement, each answer a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pymysql.constants import FIELD_TYPE, FLAG
from pymysql.protocol import FieldDescriptorPacket

from rivet_fleet.contracts.columns import ColumnType, Fidelity
from rivet_fleet.contracts.facts import ColumnFacts, IndexFacts
from rivet_fleet.contracts.keys import RelationName
from rivet_fleet.errors import SourceRefused
from rivet_fleet.execution.engines.facts import close_relations
from rivet_fleet.execution.engines.session import whole
from rivet_fleet.execution.sources.mysql import wire
from rivet_fleet.execution.sources.mysql.dialect import (
    ALIAS,
    Unsupported,
    column_type,
    family,
    keeps_unique,
    quote_relation,
)
from rivet_fleet.execution.sources.mysql.keytext import SHARING
from rivet_fleet.execution.sources.mysql.liveness import WatchedConnection, well_formed

Row = tuple[Any, ...]


def rows(connection: WatchedConnection, sql: str, values: Sequence[object] = ()) -> tuple[Row, ...]:
    """Every row of a small answer. Raises PyMySQL's errors."""
    with connection.cursor() as cursor:
        cursor.execute(sql, tuple(values) or None)
        return tuple(cursor.fetchall())


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A table or view as ``information_schema.TABLES`` has it."""

    name: RelationName
    base_table: bool
    storage_engine: str | None
    row_estimate: int | None
    row_width_bytes: int | None
    bytes: int


_TABLES = """
SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE, ENGINE, TABLE_ROWS, AVG_ROW_LENGTH, DATA_LENGTH
FROM information_schema.TABLES
WHERE TABLE_SCHEMA = COALESCE(%s, DATABASE()) AND TABLE_NAME = %s
"""


def find_relation(connection: WatchedConnection, wanted: RelationName) -> Relation:
    """The relation as named; an empty schema means the URL's database. The dictionary compares
    names without case, so an exact match goes first.

    Raises SourceRefused with close matches. What the user may not see is not there for it.
    """
    found = rows(connection, _TABLES, (wanted.schema or None, wanted.name))
    exact = [row for row in found if row[1] == wanted.name]
    folded = found and rows(connection, "SELECT @@lower_case_table_names")[0][0] != 0
    row = next(iter(exact or (found if folded else ())), None)
    if row is None:
        raise SourceRefused(
            f"table {wanted if wanted.schema else wanted.name} does not exist, or the user has "
            "no privilege on it",
            hint=_close_matches(connection, wanted),
            code="MYSQL_1146",
        )
    schema, name, kind, engine, row_estimate, width, size = row
    return Relation(
        name=RelationName(schema=schema, name=name),
        base_table=kind not in ("VIEW", "SYSTEM VIEW"),
        storage_engine=engine,
        row_estimate=None if row_estimate is None else whole(row_estimate),
        row_width_bytes=whole(width) if width else None,
        bytes=whole(size or 0),
    )


def _close_matches(connection: WatchedConnection, wanted: RelationName) -> str:
    home = wanted.schema or rows(connection, "SELECT DATABASE()")[0][0] or ""
    listed = rows(
        connection,
        "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA NOT IN "
        "('information_schema', 'mysql', 'performance_schema', 'sys') "
        "ORDER BY TABLE_SCHEMA <> %s LIMIT 20000",
        (home,),
    )
    return (
        close_relations(
            RelationName(schema=home, name=wanted.name),
            [RelationName(schema=schema, name=name) for schema, name in listed],
        )
        or "check the database and the spelling, and GRANT SELECT ON … TO the user"
    )


# ---------------------------------------------------------------- columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One column of a result as the server describes it. ``length`` is in bytes of display."""

    name: str
    type_code: int
    flags: int
    charset: int
    length: int
    scale: int
    origin: tuple[str, str, str] = ("", "", "")
    """Schema, table and column that it is as it stands; empty for an expression."""

    @property
    def wire_type(self) -> str:
        """The decoder's name of the form it travels in."""
        return wire.wire_type(self.type_code, self.flags, self.charset)


def _field(packet: bytes) -> Field:
    parsed: Any = FieldDescriptorPacket(packet, "utf8")
    return Field(
        name=parsed.name,
        type_code=parsed.type_code,
        flags=parsed.flags,
        charset=parsed.charsetnr,
        length=parsed.length,
        scale=parsed.scale,
        origin=(parsed.db.decode("utf-8", "replace"), parsed.org_table, parsed.org_name),
    )


def describe(connection: WatchedConnection, sql: str) -> tuple[Field, ...]:
    """The columns a statement would return: it is prepared, never run. Raises PyMySQL's errors,
    also for columns and tables the user may not read."""
    channel = wire.Channel(connection)
    channel.send(wire.COM_STMT_PREPARE, sql.encode())
    prepared = wire.parse_prepared(channel.packet())
    described: list[Field] = []
    for count, kept in ((prepared.parameters, False), (prepared.columns, True)):
        packets = [channel.packet() for _ in range(count)]
        if count:
            wire.check_end(channel.packet())
        with well_formed():
            described += [_field(packet) for packet in packets if kept]
    wire.close(channel, prepared)
    if prepared.parameters:
        raise SourceRefused("the query contains a placeholder (?)", hint="write the value")
    return tuple(described)


_COLUMNS = """
SELECT COLUMN_NAME, COLUMN_TYPE, IS_NULLABLE, COLUMN_COMMENT, EXTRA, CHARACTER_SET_NAME,
       COLLATION_NAME
FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s
ORDER BY ORDINAL_POSITION
"""
_JSON_CHECKS = """
SELECT c.CHECK_CLAUSE FROM information_schema.CHECK_CONSTRAINTS c
WHERE c.CONSTRAINT_SCHEMA = %s AND c.TABLE_NAME = %s AND c.CHECK_CLAUSE LIKE 'json\\_valid(%%'
"""


def relation_columns(
    connection: WatchedConnection, relation: Relation, *, mariadb: bool
) -> tuple[ColumnFacts, ...]:
    """The columns that ``SELECT *`` returns, in their order: invisible ones are not among them.

    MariaDB's JSON is a longtext with a check.
    """
    name = relation.name
    fields = describe(connection, f"SELECT * FROM {quote_relation(name)} AS {ALIAS}")
    known = {row[0]: row for row in rows(connection, _COLUMNS, (name.schema, name.name))}
    checks: set[str] = set()
    if mariadb and any(family(row[1]) == "longtext" for row in known.values()):
        found = rows(connection, _JSON_CHECKS, (name.schema, name.name))
        checks = {clause.replace("`", "").lower() for (clause,) in found}
    facts = []
    for field in fields:
        # Of a view over what the user may not see the dictionary shows no columns.
        _, native_type, nullable, comment, extra, charset, collation = known.get(field.name) or (
            *(field.name, native_type_of(field)),
            *("NO" if field.flags & FLAG.NOT_NULL else "YES", "", "", None, None),
        )
        facts.append(
            _facts(
                field.name,
                native_type,
                field.wire_type,
                nullable=nullable == "YES",
                comment=comment or None,
                json=f"json_valid({field.name})".lower() in checks,
                text=(charset, collation),
                set_on_update="on update" in (extra or "").lower(),
            )
        )
    return tuple(facts)


def marked_columns(connection: WatchedConnection, relation: Relation) -> dict[str, str]:
    """What the dictionary says of each column beside its type, in capitals: INVISIBLE is one that
    ``SELECT *`` leaves out, VIRTUAL GENERATED one that is computed when it is read."""
    found = rows(connection, _COLUMNS, (relation.name.schema, relation.name.name))
    return {row[0]: (row[4] or "").upper() for row in found}


def query_columns(
    connection: WatchedConnection, source: str, *, mariadb: bool
) -> tuple[ColumnFacts, ...]:
    """The columns a query would return, without running it. ``source`` is a FROM item."""
    fields = _described_as_stored(connection, f"SELECT * FROM {source}")
    texts = _texts(connection, {field.charset for field in fields} - {_CHARSET_BINARY}, mariadb)
    return tuple(
        _facts(
            field.name,
            native_type_of(field),
            field.wire_type,
            nullable=not field.flags & FLAG.NOT_NULL,
            text=texts.get(field.charset, (None, None)),
        )
        for field in fields
    )


def _described_as_stored(connection: WatchedConnection, sql: str) -> tuple[Field, ...]:
    """As ``describe``, but text has its own collation's number: of what the server is to convert,
    it tells the connection's (manual, "character_set_results")."""
    rows(connection, "SET SESSION character_set_results = NULL")
    restore = "SET SESSION character_set_results = utf8mb4"
    try:
        found = describe(connection, sql)
    except wire.StatementFailed:
        rows(connection, restore)
        raise  # after any other error the connection is given up
    rows(connection, restore)
    return found


_COLLATIONS = """
SELECT ID, CHARACTER_SET_NAME, COLLATION_NAME FROM information_schema.COLLATIONS WHERE ID IN ({})
"""
_RENAMED = ("utf8mb3", "utf8", "utf8mb4", "ucs2", "utf16", "utf32")
"""Character sets with collations of which MariaDB (10.10 and later) tells every client the
number of an older one."""


def _texts(
    connection: WatchedConnection, numbers: set[int], mariadb: bool
) -> dict[int, tuple[str | None, str | None]]:
    """Character set and collation by number; no collation where the number may not be its own."""
    if not numbers:
        return {}
    listed = ", ".join(str(number) for number in sorted(numbers))
    return {
        whole(number): (charset, None if mariadb and charset in _RENAMED else collation)
        for number, charset, collation in rows(connection, _COLLATIONS.format(listed))
    }


def _facts(
    name: str,
    native_type: str,
    wired: str,
    *,
    nullable: bool,
    comment: str | None = None,
    json: bool = False,
    text: tuple[str | None, str | None] = (None, None),
    set_on_update: bool = False,
) -> ColumnFacts:
    understood = column_type(native_type, json=json)
    unsupported = understood if isinstance(understood, Unsupported) else None
    if isinstance(understood, ColumnType) and text[0] in SHARING:
        understood = replace(understood, fidelity=Fidelity.COMPATIBLE)
    return ColumnFacts(
        name=name,
        native_type="json" if json else native_type,
        type=understood if isinstance(understood, ColumnType) else None,
        nullable=nullable,
        wire_type=wired,
        comment=comment,
        unsupported_reason=unsupported.reason if unsupported else None,
        cast_hint=unsupported.cast_hint if unsupported else None,
        order=unsupported.order if unsupported else None,
        charset=text[0],
        collation=text[1],
        set_on_update=set_on_update,
    )


_INTEGER_NAMES = {
    FIELD_TYPE.TINY: "tinyint",
    FIELD_TYPE.SHORT: "smallint",
    FIELD_TYPE.INT24: "mediumint",
    FIELD_TYPE.LONG: "int",
    FIELD_TYPE.LONGLONG: "bigint",
}
_PLAIN_NAMES = {
    FIELD_TYPE.FLOAT: "float",
    FIELD_TYPE.DOUBLE: "double",
    FIELD_TYPE.DATE: "date",
    FIELD_TYPE.NEWDATE: "date",
    FIELD_TYPE.DATETIME: "datetime(6)",
    FIELD_TYPE.TIMESTAMP: "timestamp(6)",
    FIELD_TYPE.TIME: "time(6)",
    FIELD_TYPE.YEAR: "year",
    FIELD_TYPE.JSON: "json",
    FIELD_TYPE.GEOMETRY: "geometry",
    242: "vector",
}


def native_type_of(field: Field) -> str:
    """A query's column as a ``COLUMN_TYPE``, from its definition on the wire."""
    code, length, scale = field.type_code, field.length, field.scale
    if code in _INTEGER_NAMES:
        name = _INTEGER_NAMES[code]
        shown = "tinyint(1)" if name == "tinyint" and length == 1 else name
        return f"{shown} unsigned" if field.flags & FLAG.UNSIGNED else shown
    if code in (FIELD_TYPE.DECIMAL, FIELD_TYPE.NEWDECIMAL):
        signed = not field.flags & FLAG.UNSIGNED
        precision = length - (1 if scale else 0) - (1 if signed else 0)
        return f"decimal({precision},{scale})"
    if code == FIELD_TYPE.BIT:
        return f"bit({length})"
    if code in _PLAIN_NAMES:
        return _PLAIN_NAMES[code]
    if field.flags & (FLAG.ENUM | FLAG.SET):
        return "enum" if field.flags & FLAG.ENUM else "set"
    return "longblob" if field.charset == _CHARSET_BINARY else "longtext"


_CHARSET_BINARY = 63

# ---------------------------------------------------------------- indexes

_STATISTICS = """
SELECT * FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s
"""


def indexes(connection: WatchedConnection, relation: Relation) -> tuple[IndexFacts, ...]:
    """Every index, the primary key first. Columns of the view differ between versions, so they
    are taken by name. Unique is what the table's own storage engine keeps so."""
    with connection.cursor() as cursor:
        cursor.execute(_STATISTICS, (relation.name.schema, relation.name.name))
        names = [str(column[0]).upper() for column in cursor.description or ()]
        parts = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    by_index: dict[str, list[dict[str, Any]]] = {}
    for part in sorted(parts, key=lambda part: whole(part["SEQ_IN_INDEX"])):
        by_index.setdefault(part["INDEX_NAME"], []).append(part)
    found = [_index(name, group, relation.storage_engine) for name, group in by_index.items()]
    return tuple(sorted(found, key=lambda one: (not one.primary, not one.unique, one.name)))


def _index(name: str, parts: list[dict[str, Any]], storage_engine: str | None) -> IndexFacts:
    unique = all(whole(part["NON_UNIQUE"]) == 0 for part in parts)
    kept = keeps_unique(storage_engine)
    expression = any(part["COLUMN_NAME"] is None for part in parts)
    hidden = any(
        part.get("IS_VISIBLE", "YES") == "NO" or part.get("IGNORED", "NO") == "YES"
        for part in parts
    )
    return IndexFacts(
        name=name,
        columns=tuple(part["COLUMN_NAME"] for part in parts if part["COLUMN_NAME"]),
        unique=unique and kept,
        primary=kept and name == "PRIMARY",
        # The optimizer does not use an invisible or ignored index, however it is told to.
        ready=not hidden,
        # A prefix is unique in the prefix's own order only.
        partial=any(part["SUB_PART"] is not None for part in parts),
        expression=expression,
        ordered=all(part["INDEX_TYPE"] == "BTREE" for part in parts)
        and len({part["COLLATION"] for part in parts}) == 1
        and parts[0]["COLLATION"] is not None,
        obstacle=f"storage engine {storage_engine} does not keep it so"
        if unique and not kept
        else None,
    )
