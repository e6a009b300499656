"""SQL text for reading, built from values; nothing here talks to a server."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from rivet_fleet.contracts.columns import ColumnSpec, TypeKind
from rivet_fleet.contracts.facts import ColumnFacts
from rivet_fleet.contracts.keys import KeyTuple, RelationName
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.errors import ConfigError
from rivet_fleet.execution.engines.session import Settings
from rivet_fleet.execution.onestatement import LexicalRules, Quote, one_statement
from rivet_fleet.execution.parameters import Writing
from rivet_fleet.execution.sources.mysql.dialect import (
    ALIAS,
    BYTES,
    INTEGERS,
    NUMBERS,
    TEXTS,
    cast_expression,
    family,
    parse_override,
    quote_identifier,
    quote_relation,
    quote_text,
)
from rivet_fleet.execution.sources.mysql.keytext import (
    TextForm,
    checks_values,
    key_expression,
    key_literal,
    value_expression,
)
from rivet_fleet.execution.sources.mysql.querysession import Own, as_settings
from rivet_fleet.execution.sources.mysql.session import Server

NET_WRITE_TIMEOUT_S = 600
"""How long the server waits for us to take rows: a full disk or a slow encoder may pause us."""
_NEVER_S = 31_536_000
"""The largest lock timeouts there are; 0 would mean: do not wait at all."""

ISOLATED: Settings = (
    ("time_zone", "'+00:00'"),
    # One fixed mode: no ANSI_QUOTES, NO_BACKSLASH_ESCAPES or PAD_CHAR_TO_FULL_LENGTH of the
    # server's, and no mode that makes a zero date unreadable.
    ("sql_mode", "''"),
    ("net_write_timeout", str(NET_WRITE_TIMEOUT_S)),
    # A server may limit the rows of every SELECT, or refuse long ones: both would lose rows.
    ("sql_select_limit", "18446744073709551615"),
    ("sql_big_selects", "1"),
)
"""What decides how values become text and whether all rows come: the same for plans and pages. A
query has its own (``querysession``); our own SQL around it means the same under every mode."""


def page_settings(server: Server, tuning: TuningPlan, own: Own = ()) -> Settings:
    """Session settings of the pages. ``own``: of a query, what it was planned under."""
    return (
        *_isolated(own),
        *statement_limit(server, tuning.statement_timeout_s),
        *lock_limits(tuning.lock_timeout_s),
    )


def metadata_settings(server: Server, timeout_s: float, own: Own = ()) -> Settings:
    """Session settings of introspection. ``own``: of a query, what it is planned under."""
    fresh = server.at_least(mysql=(8,), mariadb=(9999,))
    return (
        *_isolated(own),
        *statement_limit(server, timeout_s),
        *lock_limits(5.0),
        # MySQL 8 shows the sizes of yesterday otherwise.
        *((("information_schema_stats_expiry", "0"),) if fresh else ()),
    )


def _isolated(own: Own) -> Settings:
    return tuple((dict(ISOLATED) | as_settings(own)).items())


def statement_limit(server: Server, timeout_s: float) -> Settings:
    """The server's own limit of one statement; 0 is none. Servers before it have none."""
    if not server.at_least(mariadb=(10, 1, 1), mysql=(5, 7, 8)):
        return ()
    if server.mariadb:
        return (("max_statement_time", f"{timeout_s:.3f}"),)
    return (("max_execution_time", str(round(timeout_s * 1000))),)


def lock_limits(timeout_s: float) -> Settings:
    """How long to wait for a table's and for a row's lock, in whole seconds."""
    seconds = str(max(1, round(timeout_s)) if timeout_s > 0 else _NEVER_S)
    rows = str(min(int(seconds), 1_073_741_824))
    return (("lock_wait_timeout", seconds), ("innodb_lock_wait_timeout", rows))


def from_item(relation: RelationName | None, query: str | None, *, index: str | None = None) -> str:
    """What stands after FROM: the relation, read by an index, or the user's query."""
    if relation is not None:
        forced = f" FORCE INDEX ({quote_identifier(index)})" if index else ""
        return f"{quote_relation(relation)} AS {ALIAS}{forced}"
    return f"(\n{bare_query(query or '')}\n) AS {ALIAS}"


_BACKSLASH = LexicalRules(
    word=r"[A-Za-z0-9_$\x80-\U0010ffff]+",
    line_comment=r"#[^\n]*|--(?=[\x00-\x20\x7f]|\Z)[^\n]*",
    quotes=(
        Quote(opening="'", closing="'", backslash=True),
        Quote(opening='"', closing='"', backslash=True),
        Quote(opening="`", closing="`"),
    ),
    nested_comments=False,
    executed_comment=r"/\*M?![0-9]*",
    hint=r"/\*\+(?:[^`\"'\\]|`[^`]*`|\"[^\"\\]*\"|'[^'\\]*')*+",
)
LEXICAL: tuple[LexicalRules, ...] = (
    _BACKSLASH,
    # What NO_BACKSLASH_ESCAPES, or ANSI_QUOTES for double quotes, makes of it.
    replace(_BACKSLASH, quotes=tuple(replace(one, backslash=False) for one in _BACKSLASH.quotes)),
    replace(
        _BACKSLASH,
        quotes=tuple(
            replace(one, backslash=one.backslash and one.closing != '"')
            for one in _BACKSLASH.quotes
        ),
    ),
)
"""Manual, "Comments" and "String Literals"."""


def bare_query(query: str, own: Own | None = None) -> str:
    """The user's query as part of a statement; a newline behind it ends a trailing comment.
    ``own``: the session it is read in, whose mode says what its quotes are; None: not known.
    Raises ConfigError unless it is one whole statement."""
    return one_statement(query, LEXICAL if own is None else (reading_of(own),))


def reading_of(own: Own) -> LexicalRules:
    """How a session with these settings reads a text."""
    modes = dict(own).get("sql_mode", "").split(",")
    if "NO_BACKSLASH_ESCAPES" in modes:
        return LEXICAL[1]
    return LEXICAL[2] if "ANSI_QUOTES" in modes else LEXICAL[0]


WRITING = Writing(rules=LEXICAL, literal=quote_text, name=quote_identifier)
"""A literal that is not plain is hexadecimal, so that no SQL mode can read it otherwise."""


def column_ref(name: str) -> str:
    """A column of what is read."""
    return f"{ALIAS}.{quote_identifier(name)}"


_AS_TEXT = (TypeKind.STRING, TypeKind.ENUM, TypeKind.JSON)


def checked_value(column: ColumnSpec, form: TextForm | None) -> TextForm | None:
    """The form of a text column whose values the server might change without a word: they are
    read as bytes, checked by the server. None for every other column."""
    stored = family(column.native_type) in (*TEXTS, "enum", "set")
    checked = stored and column.type.kind in _AS_TEXT and checks_values(form)
    return form if checked else None


def select_expression(
    column: ColumnSpec, form: TextForm | None = None, *, mariadb: bool = False
) -> str:
    """The column as the server sends it, under its own name, with its override's cast.
    ``form``: what its text is stored in."""
    expression, checked = column_ref(column.name), checked_value(column, form)
    if checked is not None:
        expression = value_expression(expression, checked)
    elif column.cast is not None:
        target = parse_override(column.cast)
        expression = cast_expression(expression, column.native_type, target, mariadb=mariadb)
    return f"{expression} AS {quote_identifier(column.name)}"


_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})*")
_SHORT_YEAR = re.compile(r"0*[1-9][0-9]?")
"""1 to 99: next to a year 50 is 2050 to the server, and 99 is 1999 (manual, "2-Digit Years in
Dates")."""


def literal(text: str, native_type: str, form: TextForm | None = None) -> str:
    """A key value as SQL. Raises ConfigError for a text that is no value of such a key."""
    name = family(native_type)
    if name in (*NUMBERS, "decimal"):
        if _NUMBER.fullmatch(text) is None:
            raise ConfigError(f"{text!r} is no value of a {native_type} key")
        # A cut between 0 and 1901, where no year of the type lies: 100 is itself.
        return "100" if name == "year" and _SHORT_YEAR.fullmatch(text) else text
    if name in BYTES:
        if _HEX.fullmatch(text) is None:
            raise ConfigError(f"{text!r} is no value of a {native_type} key")
        return f"X'{text}'"
    return key_literal(text, form)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """How chunk keys are compared and ordered: a ``KeyDialect`` and ``ProbedKeys``.

    ``native_types`` of every column, ``texts`` of those that have a character set. The server
    reads a row comparison ``(a, b) > (1, 2)`` by walking the index from its beginning; the same
    written out is a range of the index.
    """

    native_types: Mapping[str, str]
    texts: Mapping[str, TextForm] = field(default_factory=dict)
    count: ClassVar[str] = "count(*)"

    @classmethod
    def of(cls, columns: Iterable[ColumnFacts]) -> Keys:
        """For columns as the source describes them now."""
        found = tuple(columns)
        return cls(
            native_types={column.name: column.native_type for column in found},
            texts={
                column.name: TextForm(charset=column.charset, collation=column.collation)
                for column in found
                if column.charset is not None
            },
        )

    def text_expression(self, name: str, expression: str | None = None) -> str:
        """A key column as text from which ``literal`` makes the same value again; or an
        expression that has this column's type, character set and collation."""
        reference = expression or column_ref(name)
        if family(self.native_types[name]) in BYTES:
            return f"HEX({reference})"
        if family(self.native_types[name]) == "bit":
            reference = f"({reference} + 0)"
        return key_expression(reference, self.texts.get(name))

    def literal(self, column: str, value: str) -> str:
        """A value of this column as SQL, in its own character set and collation."""
        return literal(value, self.native_types[column], self.texts.get(column))

    def coalesced(self, column: str, fallback: str) -> str:
        """The first of two columns that is not NULL. Raises ConfigError for texts that are not
        alike: what comes out would be compared by the rules of neither."""
        ours, other = self.texts.get(column), self.texts.get(fallback)
        if ours != other:
            raise ConfigError(
                f"columns {column} and {fallback} have different character sets or collations "
                f"({_shown(ours)}, {_shown(other)}): together they have no order of their own",
                hint="choose two columns that are alike, or cast both in a `query:`",
            )
        return f"COALESCE({column_ref(column)}, {column_ref(fallback)})"

    def first_of(self, columns: tuple[str, ...]) -> str:
        """The column, or the first of two that is not NULL; raises as ``coalesced``."""
        name, *other = columns
        return self.coalesced(name, *other) if other else column_ref(name)

    def first_text(self, columns: tuple[str, ...]) -> str:
        """The same as text: both have the first one's character set and collation."""
        return self.text_expression(columns[0], self.first_of(columns))

    def sign(self, name: str, sign: str) -> str:
        """As it is: a column's type and collation say how it is compared."""
        return sign

    def falling(self, name: str, expression: str) -> str:
        """Likewise."""
        return f"{expression} DESC"

    def column_ref(self, name: str) -> str:
        """A column of what is read."""
        return column_ref(name)

    def key_list(self, columns: tuple[str, ...]) -> str:
        """What stands after ORDER BY: qualified, because a bare name prefers output columns."""
        return self.ordered(columns, "<")

    def ordered(self, columns: tuple[str, ...], sign: str) -> str:
        """The same, falling for ``>``."""
        way = " DESC" if sign == ">" else ""
        return ", ".join(column_ref(name) + way for name in columns)

    def key_of(self, columns: tuple[str, ...], row: tuple[Any, ...] | None) -> KeyTuple | None:
        """As it came."""
        return row

    def row_comparison(self, columns: tuple[str, ...], operator: str, values: KeyTuple) -> str:
        """``(a > 1 OR (a = 1 AND b >= 2))`` for ``(a, b) >= (1, 2)``."""
        if len(columns) != len(values):
            raise ValueError(f"{len(values)} key values for {len(columns)} key columns")
        (name, *names), (value, *rest) = columns, values
        if not names:
            return self.span_comparison(name, operator, value)
        strict = self.span_comparison(name, operator[0], value)
        equal = self.span_comparison(name, "=", value)
        inner = self.row_comparison(tuple(names), operator, tuple(rest))
        return f"({strict} OR ({equal} AND {inner}))"

    def span_comparison(self, column: str, operator: str, value: str) -> str:
        """One bound; a number may lie outside the column's type."""
        return f"{column_ref(column)} {operator} {self.literal(column, value)}"

    def reckons(self, column: str) -> bool:
        """Integers; of a year, two digits would mean another number."""
        return family(self.native_types[column]) in INTEGERS

    def coalesced_comparison(self, column: str, fallback: str, operator: str, value: str) -> str:
        """One bound of the first of two columns that is not NULL. A moment is cast: next to an
        expression, unlike next to a column, the server may compare it as text."""
        native = self.native_types[column]
        bound = self.literal(column, value)
        if family(native) in ("datetime", "timestamp"):
            bound = f"CAST({bound} AS DATETIME(6))"
        elif family(native) == "date":
            bound = f"CAST({bound} AS DATE)"
        return f"{self.coalesced(column, fallback)} {operator} {bound}"


def _shown(form: TextForm | None) -> str:
    return "none" if form is None else form.collation or form.charset
