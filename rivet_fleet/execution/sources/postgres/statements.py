"""SQL text for reading, built from values; nothing here talks to a server.

It runs on the user's search path, which the user's queries, views and policies need: whatever is
ours in it names its schema. Keys are compared by ``keyorder``.
"""

from __future__ import annotations

import re

from rivet_fleet.contracts.columns import ColumnSpec, TypeKind
from rivet_fleet.contracts.keys import RelationName
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.execution.onestatement import LexicalRules, Quote, one_statement
from rivet_fleet.execution.paging import Select, Walk
from rivet_fleet.execution.parameters import Writing
from rivet_fleet.execution.sources.postgres.dialect import (
    ALIAS,
    OWN_PATH,
    TEXT_READ_AS_IS,
    Override,
    parse_override,
    quote_identifier,
    quote_literal,
    quote_relation,
)
from rivet_fleet.execution.sources.postgres.querysession import FUZZY, PLAIN_STRINGS, Own
from rivet_fleet.execution.sources.postgres.steadytext import at_utc, steady_text

IDLE_IN_TRANSACTION_TIMEOUT_S = 60
"""A worker that stops between BEGIN and COMMIT must not hold back the source's vacuum."""

ISOLATED_TEXT_FORMS: tuple[tuple[str, str], ...] = (
    ("TimeZone", "'UTC'"),
    ("DateStyle", "'ISO, MDY'"),
    ("IntervalStyle", "'iso_8601'"),
    ("bytea_output", "'hex'"),
    ("extra_float_digits", "3"),
    ("quote_all_identifiers", "off"),
)
"""What decides how values become text: the same for plans, keys and casts of a table. A query has
its own (``querysession``)."""
_ALWAYS = (
    # A role may ask for some of the rows that an inverted index finds, whichever they are.
    (FUZZY, "0"),
    (PLAIN_STRINGS, "on"),
)

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
    tuning: TuningPlan, nudges: tuple[tuple[str, str], ...] = (), own: Own = ()
) -> tuple[tuple[str, str], ...]:
    """``SET LOCAL`` settings of one page; every one ends with its transaction. ``own``: of a
    query, what it was planned under."""
    return (
        *_meaning(own),
        ("statement_timeout", str(round(tuning.statement_timeout_s * 1000))),
        ("lock_timeout", str(round(tuning.lock_timeout_s * 1000))),
        ("idle_in_transaction_session_timeout", f"'{IDLE_IN_TRANSACTION_TIMEOUT_S}s'"),
        ("jit", "off"),
        ("max_parallel_workers_per_gather", "0"),
        *nudges,
    )


def metadata_settings(timeout_s: float, own: Own = ()) -> tuple[tuple[str, str], ...]:
    """``SET LOCAL`` settings of introspection. ``own``: of a query, what it is planned under."""
    return (
        *_meaning(own),
        ("statement_timeout", str(round(timeout_s * 1000))),
        ("lock_timeout", "'5s'"),
        ("idle_in_transaction_session_timeout", f"'{IDLE_IN_TRANSACTION_TIMEOUT_S}s'"),
    )


def catalog_settings(timeout_s: float, own: Own = ()) -> tuple[tuple[str, str], ...]:
    """``SET LOCAL`` settings of what asks the catalogue alone: names are the server's own.
    ``own``: of a query that is described between such questions."""
    return (*metadata_settings(timeout_s, own), ("search_path", OWN_PATH))


def _meaning(own: Own) -> tuple[tuple[str, str], ...]:
    if not own:
        return (*ISOLATED_TEXT_FORMS, *_ALWAYS)
    return (*((name, quote_literal(value)) for name, value in own), *_ALWAYS)


def from_item(relation: RelationName | None, query: str | None, *, only: bool = False) -> str:
    """What stands after FROM: the relation, ``ONLY`` a heap, or the user's query."""
    if relation is not None:
        return f"{'ONLY ' if only else ''}{quote_relation(relation)} AS {ALIAS}"
    return f"(\n{bare_query(query or '')}\n) AS {ALIAS}"


_WORD = r"[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*|[0-9]+"
"""A number ends where its digits do: ``1$$`` begins a text."""
_CONTINUED = r"(?:[ \t\f\v]|--[^\n\r]*+)*+[\n\r](?:[ \t\n\r\f\v]|--[^\n\r]*+[\n\r])*+'"
"""What stands between two pieces of one text: a line's end, and comments."""
_ESCAPES = Quote(opening=r"[eE]'", closing="'", backslash=True, continued=_CONTINUED)
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


WRITING = Writing(rules=(LEXICAL,), literal=quote_literal, name=quote_identifier)


def column_ref(name: str) -> str:
    """A column of what is read."""
    return f"{ALIAS}.{quote_identifier(name)}"


def select_expression(column: ColumnSpec, *, steady: bool = False) -> str:
    """The column as the server sends it, under its own name, with its override's cast. ``steady``:
    the session is a query's own, which must not decide what our cast means."""
    reference = column_ref(column.name)
    if column.cast is None:
        return f"{reference} AS {quote_identifier(column.name)}"
    override = parse_override(column.cast)
    if override.type.kind is TypeKind.STRING and column.wire_type in TEXT_READ_AS_IS:
        return f"{reference} AS {quote_identifier(column.name)}"
    cast = _steady_cast(reference, column.native_type, override) if steady else None
    return f"{cast or f'{reference}::{override.sql_type}'} AS {quote_identifier(column.name)}"


_TIMED = re.compile(r"(?P<name>timestamp|date|bytea)(?:\(\d\))?(?P<zone> with time zone)?(?: .*)?")


def _steady_cast(reference: str, native_type: str, override: Override) -> str | None:
    """A cast that some session would understand otherwise, as one in UTC and ISO understands it;
    None for every other one."""
    found = _TIMED.fullmatch(native_type)
    if found is None:
        return None
    own = "timestamptz" if found["zone"] else found["name"]
    kind = override.type.kind
    if kind is TypeKind.STRING:
        return steady_text(own, reference)
    if own == "timestamptz" and kind in (TypeKind.DATE, TypeKind.TIMESTAMP):
        return f"{at_utc(reference)}::{override.sql_type}"
    if own in ("timestamp", "date") and kind is TypeKind.TIMESTAMP_UTC:
        return at_utc(f"{reference}::pg_catalog.timestamp")
    return None


def select_list(
    columns: tuple[ColumnSpec, ...], hidden: tuple[str, ...] = (), *, steady: bool = False
) -> str:
    """Every planned column by name, then the expressions that only paging needs. ``steady``: see
    ``select_expression``."""
    listed = (select_expression(column, steady=steady) for column in columns)
    return ", ".join((*listed, *hidden))


def block_range(block_first: int, block_end: int | None) -> tuple[str, ...]:
    """Conditions for heap blocks ``[block_first, block_end)``."""
    first = f"{ALIAS}.ctid OPERATOR(pg_catalog.>=) '({block_first},0)'::pg_catalog.tid"
    if block_end is None:
        return (first,)
    return (first, f"{ALIAS}.ctid OPERATOR(pg_catalog.<) '({block_end},0)'::pg_catalog.tid")


def copy_statement(select: Select) -> str:
    """The SELECT as one binary COPY."""
    return f"COPY ({select.sql()}) TO STDOUT (FORMAT BINARY)"
