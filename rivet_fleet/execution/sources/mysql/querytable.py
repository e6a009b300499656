"""Whether a query's rows are one table's, asked of the server: what its name stands for, which
columns come from where, and how it would read them (ADR 0028).

Which functions may answer twice the server does not say: those that are known not to are listed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pymysql

from rivet_fleet.contracts.facts import (
    ColumnFacts,
    IndexFacts,
    KeyedQuery,
    QueryTable,
    leading_index,
)
from rivet_fleet.contracts.keys import RelationName
from rivet_fleet.execution.engines.facts import UNKNOWN_SIZE, Size
from rivet_fleet.execution.engines.onetable import OneTable, Words, one_table
from rivet_fleet.execution.onestatement import Token, TokenKind
from rivet_fleet.execution.sources.mysql import catalog
from rivet_fleet.execution.sources.mysql.border import refused
from rivet_fleet.execution.sources.mysql.dialect import family, quote_identifier
from rivet_fleet.execution.sources.mysql.liveness import WatchedConnection
from rivet_fleet.execution.sources.mysql.querysession import Own, in_utc
from rivet_fleet.execution.sources.mysql.statements import column_ref, from_item, reading_of


def _name(sql: str, piece: Token) -> str | None:
    text = sql[piece.start : piece.end]
    if piece.kind is TokenKind.QUOTED and piece.quote is not None and not piece.quote.backslash:
        quote = text[:1]
        # Without ANSI_QUOTES a text in double quotes is none; it is taken for a name here, which
        # stands for nothing then.
        return text[1:-1].replace(quote * 2, quote) if quote in ("`", '"') else None
    if piece.kind is not TokenKind.WORD or text[0].isdigit():
        return None
    return text


_CLOCK = (
    *("now", "curdate", "curtime", "sysdate", "current_date", "current_time", "current_timestamp"),
    *("localtime", "localtimestamp", "utc_date", "utc_time", "utc_timestamp"),
    # Beside a DATETIME a TIME takes the date of today.
    "time",
)
WORDS = Words(
    name=_name,
    others=frozenset(
        (
            *("straight_join", "high_priority", "sql_small_result", "sql_big_result", "partition"),
            *("sql_buffer_result", "sql_no_cache", "sql_cache", "sql_calc_found_rows", "all"),
            *("json_table", "match", "against", "use", "force", "ignore", "next", "previous"),
        )
    ),
    clauses=frozenset(
        (
            *("in", "and", "or", "not", "where", "when", "then", "else", "case", "between", "like"),
            *("xor", "div", "mod", "is", "rlike", "regexp", "select", "binary", "as"),
            *("char", "decimal", "numeric", "varchar", "datetime", "signed", "unsigned"),
        )
    ),
    either=frozenset(),
    moments=frozenset(_CLOCK),
    # In braces a text may be a TIME: {t '10:00'}.
    symbols=frozenset("@?{"),
)
_KNOWN = frozenset(
    (
        *("abs", "acos", "asin", "atan", "atan2", "ceil", "ceiling", "cos", "cot", "crc32", "exp"),
        *("degrees", "floor", "ln", "log", "log10", "log2", "mod", "pi", "pow", "power", "radians"),
        *("round", "sign", "sin", "sqrt", "tan", "truncate", "conv", "bin", "hex", "oct", "unhex"),
        *("if", "ifnull", "nullif", "coalesce", "greatest", "least", "isnull", "interval", "field"),
        *("cast", "convert", "char", "ascii", "ord", "length", "char_length", "character_length"),
        *("octet_length", "bit_length", "bit_count", "concat", "concat_ws", "elt", "find_in_set"),
        *("format", "insert", "instr", "lcase", "left", "locate", "lower", "lpad", "ltrim", "mid"),
        *("position", "repeat", "replace", "reverse", "right", "rpad", "rtrim", "space", "strcmp"),
        *("substr", "substring", "substring_index", "trim", "ucase", "upper", "quote", "md5"),
        *("sha", "sha1", "sha2", "to_base64", "from_base64", "soundex", "inet_aton", "inet_ntoa"),
        *("date", "timestamp", "year", "month", "day", "dayofmonth", "dayofweek", "week"),
        *("dayofyear", "hour", "minute", "second", "microsecond", "quarter", "weekday", "extract"),
        *("yearweek", "date_add", "date_sub", "adddate", "subdate", "datediff"),
        *("date_format", "last_day", "makedate", "period_add"),
        *("period_diff", "time_to_sec", "timestampadd", "timestampdiff", "to_days"),
        *("to_seconds", "from_days", "monthname", "dayname", "time_format"),
        *("json_extract", "json_unquote", "json_value", "json_length", "json_type", "json_valid"),
        *("json_object", "json_array", "json_contains", "json_keys", "json_quote", "json_query"),
        *("regexp_replace", "regexp_substr", "regexp_instr", "regexp_like"),
    )
)
"""Functions of the server whose answer follows from what they are given and from the settings that
are sealed with a query; none makes a TIME of what is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The table, its columns and indexes, and what the query can show of them."""

    relation: catalog.Relation
    table: QueryTable
    columns: tuple[ColumnFacts, ...]
    indexes: tuple[IndexFacts, ...]
    size: Size = UNKNOWN_SIZE


def query_table(
    connection: WatchedConnection, query: str, own: Own, *, mariadb: bool
) -> Found | str:
    """The one table whose rows the query's are, or why it is not taken for one: the end of a
    sentence about it. Nothing of the query is run; ``query``: bare, in its own session. Raises
    SourceRefused, StatementTimeout."""
    one = one_table(query, reading_of(own), WORDS)
    if isinstance(one, str):
        return one
    doubtful = {".".join(parts) for parts in one.calls if len(parts) > 1}
    doubtful |= {parts[0] for parts in one.calls if len(parts) == 1} - _known(one)
    if doubtful:
        return f"it calls {min(doubtful)}, which may not answer row by row, and alike for each page"
    if len(one.parts) > 2:
        return "what it reads from is no table"
    schema, name = ("", *one.parts)[-2:]
    relation = catalog.find_relation(connection, RelationName(schema=schema, name=name))
    fields = catalog.describe(connection, query)
    place = (relation.name.schema, relation.name.name)
    if not relation.base_table:
        return "what it reads from is no table"
    if any(field.origin[2] and field.origin[:2] != place for field in fields):
        return "a column of it comes from elsewhere"
    columns = catalog.relation_columns(connection, relation, mariadb=mariadb)
    strange = {one.lower() for one in one.dotted} - {column.name.lower() for column in columns}
    if strange - {"*"}:
        return f"it asks its table for {min(strange)}, which is no column of it"
    daily = _of_today(one, fields, columns)
    if daily:
        return (
            f"beside a moment {min(daily)}, a TIME, is one of today, for each page of its own day"
        )
    indexes = catalog.indexes(connection, relation)
    queries = tuple(_keyed(connection, one, fields, columns, indexes, own))
    keys = {index.columns for index in indexes} & {keyed.columns for keyed in queries}
    shown = {name for key in keys for name in key}
    table = QueryTable(
        relation=relation.name,
        columns=tuple(column for column in columns if column.name in shown),
        queries=queries,
    )
    kept = tuple(index for index in indexes if index.unique and index.columns in keys)
    return Found(relation=relation, table=table, columns=columns, indexes=kept)


def _of_today(
    one: OneTable, fields: tuple[catalog.Field, ...], columns: tuple[ColumnFacts, ...]
) -> set[str]:
    """The TIME columns that the query does not only return: what they are compared with or made
    of may be a moment."""
    used = {n.lower() for n in one.used(returned_only=all(field.origin[2] for field in fields))}
    return {c.name for c in columns if family(c.native_type) == "time" and c.name.lower() in used}


def _known(one: OneTable) -> set[str]:
    return {parts[0] for parts in one.calls if parts[0].lower() in _KNOWN}


def _keyed(
    connection: WatchedConnection,
    one: OneTable,
    fields: tuple[catalog.Field, ...],
    columns: tuple[ColumnFacts, ...],
    indexes: tuple[IndexFacts, ...],
    own: Own,
) -> Iterator[KeyedQuery]:
    """The query for each unique index whose columns it shows, or can show."""
    types = {column.name: column.native_type for column in columns}
    returned = {field.name.lower(): field for field in fields}
    for index in indexes:
        names = index.columns
        if not index.unique or not names or not set(names) <= types.keys():
            continue
        added = [name for name in names if name.lower() not in returned]
        itself = all(
            returned[name.lower()].name == returned[name.lower()].origin[2] == name
            for name in names
            if name not in added
        )
        own_types = {name: types[name] for name in names}
        # A TIMESTAMP that is written anew in UTC is no column of an index any more.
        shifted = in_utc("", own_types, own) != ""
        if not itself or shifted or (added and one.star):
            continue
        hint = f" FORCE INDEX ({quote_identifier(leading_index(indexes, names) or index.name)})"
        listed = [f"{one.reference}.{quote_identifier(name)}" for name in added]
        keyed = KeyedQuery(
            columns=names,
            sql=one.with_columns(listed, hint),
            added=tuple((name, types[name]) for name in added),
        )
        if _plain(connection, keyed):
            yield keyed


def _plain(connection: WatchedConnection, keyed: KeyedQuery) -> bool:
    """Whether the server reads the table itself for a page, and not the query's rows first."""
    keys = ", ".join(map(column_ref, keyed.columns))
    page = f"SELECT {keys} FROM {from_item(None, keyed.sql)} ORDER BY {keys} LIMIT 1"
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN FORMAT=TRADITIONAL {page}")
            names = [str(one[0]).lower() for one in cursor.description or ()]
            plan = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    except pymysql.MySQLError as error:
        if not refused(error):
            raise
        return False
    return [row["select_type"] for row in plan] == ["SIMPLE"]
