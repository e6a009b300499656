"""SQL text for reading, built from values; nothing here talks to a server.

Key values are untyped literals: PostgreSQL gives each the type and the collation of the column
it is compared with, which is what the index uses (manual, "Operator Type Resolution").
"""

from __future__ import annotations

import re

from rivet_fleet.contracts.columns import ColumnSpec, TypeKind
from rivet_fleet.contracts.keys import KeyTuple, RelationName
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.execution.onestatement import LexicalRules, Quote, one_statement
from rivet_fleet.execution.paging import Select, Walk
from rivet_fleet.execution.sources.postgres.dialect import (
    ALIAS,
    TEXT_READ_AS_IS,
    parse_override,
    quote_identifier,
    quote_literal,
    quote_relation,
)

IDLE_IN_TRANSACTION_TIMEOUT_S = 60
"""A worker that stops between BEGIN and COMMIT must not hold back the source's vacuum."""

ISOLATED_TEXT_FORMS: tuple[tuple[str, str], ...] = (
    ("TimeZone", "'UTC'"),
    ("DateStyle", "'ISO, MDY'"),
    ("IntervalStyle", "'iso_8601'"),
    ("bytea_output", "'hex'"),
    ("extra_float_digits", "3"),
    ("quote_all_identifiers", "off"),
    # A role may ask for some of the rows that an inverted index finds, whichever they are.
    ("gin_fuzzy_search_limit", "0"),
)
"""What decides how values become text and whether all rows come: the same for plans, keys and
casts."""

KEY_WALK: tuple[tuple[str, str], ...] = (
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_sort", "off"),
)
"""Nudges towards walking the key's index in order, so that a page costs only its own rows."""

NUDGES: dict[Walk, tuple[tuple[str, str], ...]] = {
    Walk.ANY: (),
    Walk.KEY: KEY_WALK,
    Walk.BLOCKS: (("enable_seqscan", "off"),),
}
"""Planner settings of a page's transaction."""


def page_settings(
    tuning: TuningPlan, nudges: tuple[tuple[str, str], ...] = ()
) -> tuple[tuple[str, str], ...]:
    """``SET LOCAL`` settings of one page; every one ends with its transaction."""
    return (
        *ISOLATED_TEXT_FORMS,
        ("statement_timeout", str(round(tuning.statement_timeout_s * 1000))),
        ("lock_timeout", str(round(tuning.lock_timeout_s * 1000))),
        ("idle_in_transaction_session_timeout", f"'{IDLE_IN_TRANSACTION_TIMEOUT_S}s'"),
        ("jit", "off"),
        ("max_parallel_workers_per_gather", "0"),
        *nudges,
    )


def metadata_settings(timeout_s: float) -> tuple[tuple[str, str], ...]:
    """``SET LOCAL`` settings of introspection."""
    return (
        *ISOLATED_TEXT_FORMS,
        ("statement_timeout", str(round(timeout_s * 1000))),
        ("lock_timeout", "'5s'"),
        ("idle_in_transaction_session_timeout", f"'{IDLE_IN_TRANSACTION_TIMEOUT_S}s'"),
    )


def from_item(relation: RelationName | None, query: str | None, *, only: bool = False) -> str:
    """What stands after FROM: the relation, ``ONLY`` a heap, or the user's query."""
    if relation is not None:
        return f"{'ONLY ' if only else ''}{quote_relation(relation)} AS {ALIAS}"
    return f"(\n{bare_query(query or '')}\n) AS {ALIAS}"


_WORD = r"[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*|[0-9][A-Za-z0-9_.$]*"
_ESCAPES = Quote(opening=r"[eE]'", closing="'", backslash=True, continued=r"[^\S\n\r]*[\n\r]\s*'")
LEXICAL = LexicalRules(
    word=_WORD,
    line_comment=r"--[^\n\r]*",
    quotes=(_ESCAPES, Quote(opening="'", closing="'"), Quote(opening='"', closing='"')),
    nested_comments=True,
    tagged=r"\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*)?\$",
)
"""Manual, "Lexical Structure", with standard_conforming_strings as it is by default: a query whose
plain strings hide quotes by backslashes writes them as E'…'."""


def bare_query(query: str) -> str:
    """The user's query as part of a statement; a newline behind it ends a trailing comment.
    Raises ConfigError unless it is one whole statement."""
    return one_statement(query, (LEXICAL,))


def column_ref(name: str) -> str:
    """A column of what is read."""
    return f"{ALIAS}.{quote_identifier(name)}"


def select_expression(column: ColumnSpec) -> str:
    """The column as the server sends it, under its own name, with its override's cast."""
    reference = column_ref(column.name)
    if column.cast is None:
        return f"{reference} AS {quote_identifier(column.name)}"
    override = parse_override(column.cast)
    if override.type.kind is TypeKind.STRING and column.wire_type in TEXT_READ_AS_IS:
        return f"{reference} AS {quote_identifier(column.name)}"
    return f"{reference}::{override.sql_type} AS {quote_identifier(column.name)}"


def select_list(columns: tuple[ColumnSpec, ...], hidden_keys: tuple[str, ...] = ()) -> str:
    """Every planned column by name, then the keys that only paging needs, as text."""
    expressions = [select_expression(column) for column in columns]
    expressions += [f"{column_ref(name)}::text" for name in hidden_keys]
    return ", ".join(expressions)


def key_list(columns: tuple[str, ...]) -> str:
    """``_rivet."a", _rivet."b"``: qualified, because ORDER BY prefers output names."""
    return ", ".join(column_ref(name) for name in columns)


def row_comparison(columns: tuple[str, ...], operator: str, values: KeyTuple) -> str:
    """``(k1, k2) >= ('a', 'b')``: one row comparison, which an index can serve."""
    if len(columns) != len(values):
        raise ValueError(f"{len(values)} key values for {len(columns)} key columns")
    literals = ", ".join(quote_literal(value) for value in values)
    if len(columns) == 1:
        return f"{key_list(columns)} {operator} {literals}"
    return f"({key_list(columns)}) {operator} ({literals})"


_INTEGER = re.compile(r"-?\d+")


def span_comparison(column: str, operator: str, value: str) -> str:
    """One bound of a span. Integers stand bare: a bound may lie outside the column's type."""
    literal = value if _INTEGER.fullmatch(value) else quote_literal(value)
    return f"{column_ref(column)} {operator} {literal}"


def coalesced_comparison(column: str, fallback: str, operator: str, value: str) -> str:
    """One bound of the first of two columns that is not NULL."""
    expression = f"COALESCE({column_ref(column)}, {column_ref(fallback)})"
    return f"{expression} {operator} {quote_literal(value)}"


def block_range(block_first: int, block_end: int | None) -> tuple[str, ...]:
    """Conditions for heap blocks ``[block_first, block_end)``."""
    first = f"{ALIAS}.ctid >= '({block_first},0)'::tid"
    if block_end is None:
        return (first,)
    return (first, f"{ALIAS}.ctid < '({block_end},0)'::tid")


def copy_statement(select: Select) -> str:
    """The SELECT as one binary COPY."""
    return f"COPY ({select.sql()}) TO STDOUT (FORMAT BINARY)"
