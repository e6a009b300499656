"""The session that a user's SQL means: its own time zone and text forms, not ours.

A table is read in a session of ours (``statements.ISOLATED_TEXT_FORMS``). A ``query:`` was written
by somebody for a session as the server gives it: there ``now()::date`` is the day of its zone,
``'01/02/2026'`` a day in January or in February, and ``ts::text`` what its DateStyle writes. What
decides that is read from the session before anything is set in it, sealed in the plan, and set
again in every transaction that holds the query; what is ours around the query is written so that
none of it matters (``keyorder``, ``statements.select_expression``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.contracts.facts import ColumnFacts
from rivet_fleet.errors import ConfigError

Own = tuple[tuple[str, str], ...]
"""Settings and their values, as the server says them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """One setting that changes what a SELECT returns. ``plain``: the value that a plan need not
    speak of, as it is the server program's own; None where every database has its locale's."""

    plain: str | None
    tracked: bool = False
    """Told to the client whenever it changes, so a pooler keeps it for each client."""


SEALED: Mapping[str, Meaning] = {
    # How values become text, and text becomes values.
    "TimeZone": Meaning(plain="UTC", tracked=True),
    "DateStyle": Meaning(plain="ISO, MDY", tracked=True),
    "IntervalStyle": Meaning(plain="postgres", tracked=True),
    "timezone_abbreviations": Meaning(plain="Default"),
    "bytea_output": Meaning(plain="hex"),
    "extra_float_digits": Meaning(plain="1"),
    "xmlbinary": Meaning(plain="base64"),
    "xmloption": Meaning(plain="content"),
    "array_nulls": Meaning(plain="on"),
    "quote_all_identifiers": Meaning(plain="off"),
    "lc_monetary": Meaning(plain=None),
    "lc_numeric": Meaning(plain=None),
    "lc_time": Meaning(plain=None),
    # What operators and functions mean.
    "transform_null_equals": Meaning(plain="off"),
    "default_text_search_config": Meaning(plain=None),
    # Whether a policy hides rows or fails the statement.
    "row_security": Meaning(plain="on"),
}
"""Sealed and set again. Not here, and why:

``search_path``, ``role``: what the plan rests on; another one is refused (ADR 0018).
``standard_conforming_strings``: always on, for a query that it would change is refused.
``backslash_quote``, ``restrict_nonsystem_relation_kind``: they only refuse statements.
``gin_fuzzy_search_limit``: always 0, and said: a run returns all rows.
Isolation level and limits of time: ours, for the sake of others (ADR 0013).
``enable_*``, costs, ``jit``, ``synchronize_seqscans``: how rows are found, never which.
Settings with a dot in their names (extensions, an application's own): what the role and the
database set of them is compared by digest, and another one refused; their values may be secrets.
"""

WATCHING = (
    *("auto_explain", "pgaudit", "pg_stat_statements", "pg_stat_kcache", "pg_stat_monitor"),
    *("pg_qualstats", "pg_wait_sampling", "pg_hint_plan", "plpgsql"),
)
"""Extensions that look on or plan: what is set of them changes no row."""
FUZZY = "gin_fuzzy_search_limit"
PLAIN_STRINGS = "standard_conforming_strings"
_OF_MOMENTS = ("TimeZone", "DateStyle")
_UTC_NAMES = frozenset(("UTC", "ETC/UTC", "GMT", "ETC/GMT", "UCT", "ETC/UCT", "ZULU"))


def question(*, shared: bool) -> str:
    """What to ask a session in which nothing is set, on our own path. In a ``shared`` one others
    may have left settings: there only those count that a pooler keeps for each client."""
    names = ", ".join(f"'{name}'" for name in (*SEALED, FUZZY))
    kept = ", ".join(f"'{name}'" for name, one in SEALED.items() if one.tracked)
    value = f"CASE WHEN name IN ({kept}) THEN setting ELSE reset_val END" if shared else "setting"
    return f"SELECT name, {value} FROM pg_catalog.pg_settings WHERE name IN ({names})"


def ordered(answer: Iterable[tuple[str, str]]) -> Own:
    """The answer to ``question`` in the table's order; a setting that the server does not have is
    left out."""
    found = dict(answer)
    return tuple((name, found[name]) for name in (*SEALED, FUZZY) if name in found)


def sealed(own: Own) -> Own:
    """What is kept of it in a plan; a zone that is UTC by another name is UTC."""
    kept = {name: value for name, value in own if name in SEALED}
    if kept.get("TimeZone", "").upper() in _UTC_NAMES:
        kept["TimeZone"] = "UTC"
    return tuple(kept.items())


def check_strings(query: str, plain_strings: str | None) -> None:
    """Raises ConfigError for a query that means something else under its user's
    ``standard_conforming_strings`` than under ours."""
    if plain_strings == "off" and "\\" in _MARKED.sub("", query):
        raise ConfigError(
            "the query holds a backslash, and standard_conforming_strings is off for this user: "
            "the same text would be another one in our session, where it is on; nothing was read",
            hint="write strings with backslashes as E'…', which mean the same under both",
            code="RIVET_QUERY_STRINGS",
        )


_MARKED = re.compile(r"\b[eE]'(?:[^'\\]|''|\\.)*'", re.DOTALL)

_STEADY = re.compile(
    r"(?:numeric|inet|cidr|macaddr8?|bit|bit varying|xml|tsvector|tsquery|jsonpath|oid|xid8?|tid)"
    r"(?:\([0-9,]*\))?"
)
"""Types without an exact form of ours whose text no setting changes."""
_UNSTEADY_KINDS = (TypeKind.FLOAT32, TypeKind.FLOAT64, TypeKind.INTERVAL, TypeKind.LIST)


def _others(own: Own) -> dict[str, str]:
    """What is not as the server's program has it."""
    return {
        name: value
        for name, value in sealed(own)
        if SEALED[name].plain is not None and value != SEALED[name].plain
    }


def apart(own: Own) -> dict[str, str]:
    """What makes dates and moments of a view or a policy others than in our session."""
    return {name: value for name, value in _others(own).items() if name in _OF_MOMENTS}


def notes(own: Own, columns: Iterable[ColumnFacts], casts: Collection[str]) -> tuple[str, ...]:
    """What a plan says of the session its query is read in. ``columns`` before, ``casts``: names
    of what is cast to text."""
    others = _others(own)
    said = []
    if others:
        shown = "; ".join(f"{name} {value}" for name, value in others.items())
        said.append(
            f"the query is read in its user's own session, not in ours: {shown}. Its dates, "
            "moments and texts mean these; columns of the result arrive as the values they are"
        )
    limit = dict(own).get(FUZZY, "0")
    if limit != "0":
        said.append(
            f"the query is read whole: {FUZZY} is {limit} for its user, who gets some of the rows"
        )
    unsteady = [
        one.name
        for one in columns
        if one.name in casts
        and (
            one.type.kind in _UNSTEADY_KINDS
            if one.type is not None
            else not _STEADY.fullmatch(one.native_type)
        )
    ]
    if unsteady:
        said.append(
            f"column{'s'[: len(unsteady) - 1]} {', '.join(unsteady)}: the text that "
            f"{'it is' if len(unsteady) == 1 else 'they are'} cast to is written by the query's "
            "session (IntervalStyle, extra_float_digits, DateStyle, TimeZone, lc_monetary)"
        )
    return tuple(said)
