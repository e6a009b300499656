"""Values as text, written alike in every session: ISO, in UTC, whatever DateStyle, TimeZone and
``bytea_output`` are.

The server writes JSON's dates and moments in ISO 8601 under every DateStyle (manual, "JSON
Functions"), and reads a date that begins with its year under every one of them ("Date/Time Input").
"""

from __future__ import annotations

import re

from rivet_fleet.execution.sources.postgres.dialect import quote_literal

_ZERO = "'0'::pg_catalog.interval"
"""UTC. A zone's name could be another zone's abbreviation in somebody's ``timezone_abbreviations``.
"""


def at_utc(expression: str) -> str:
    """A moment's wall clock in UTC, or the moment of a wall clock there."""
    return f"pg_catalog.timezone({_ZERO}, {expression})"


def steady_text(type_name: str, expression: str) -> str | None:
    """The text of a value of ``date``, ``timestamp``, ``timestamptz`` or ``bytea`` as a session in
    UTC and ISO writes it; None for a type whose text is the same in all, or in none."""
    if type_name == "bytea":
        return f"pg_catalog.textcat(E'\\\\x', pg_catalog.encode({expression}, 'hex'))"
    if type_name == "date":
        return _iso(expression)
    if type_name == "timestamp":
        return f"pg_catalog.replace({_iso(expression)}, 'T', ' ')"
    if type_name == "timestamptz":
        clock = f"pg_catalog.replace({_iso(at_utc(expression))}, 'T', ' ')"
        zoned = f"pg_catalog.textcat({clock}, '+00')"
        # The era stands last, and infinity has no zone.
        zoned = f"pg_catalog.replace({zoned}, ' BC+00', '+00 BC')"
        return f"pg_catalog.replace({zoned}, 'infinity+00', 'infinity')"
    return None


def _iso(expression: str) -> str:
    return f"pg_catalog.btrim(pg_catalog.to_json({expression})::pg_catalog.text, '\"')"


_WALL_CLOCK = re.compile(r"(\d+-\d\d-\d\d(?: \d\d:\d\d:\d\d(?:\.\d+)?)?)( BC)?")


def moment_literal(text: str) -> str:
    """A moment's text as a literal without a type: a wall clock without a zone is one in UTC."""
    found = _WALL_CLOCK.fullmatch(text)
    return quote_literal(f"{found[1]} +00{found[2] or ''}" if found else text)
