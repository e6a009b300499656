"""The session that a user's SQL means: the server's own mode and time zone, not ours.

A table is read in a session of ours (``statements.ISOLATED``). A ``query:`` was written by
somebody for a session as the server gives it: there ``"a"`` may be a column, ``||`` may join texts,
and a day begins at the server's midnight. What decides that is read from the session before
anything is set in it, sealed in the plan, and set again for every statement that holds the query.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rivet_fleet.execution.sources.mysql.dialect import family, quote_identifier, quote_text

Own = tuple[tuple[str, str], ...]
"""System variables and their values, as the server says them; empty where it did not say."""

VARIABLES = (
    *("sql_mode", "time_zone", "group_concat_max_len", "div_precision_increment"),
    *("default_week_format", "lc_time_names"),
)
"""What changes the values of a query. A server that is asked later, or another one that stands in
for it, may have other defaults: a run has one meaning."""
_SYSTEM = "system_time_zone"
_WRITES_ONLY = frozenset(
    (
        *("NO_AUTO_CREATE_USER", "NO_AUTO_VALUE_ON_ZERO", "NO_DIR_IN_CREATE", "NO_FIELD_OPTIONS"),
        *("NO_ENGINE_SUBSTITUTION", "NO_KEY_OPTIONS", "NO_TABLE_OPTIONS"),
    )
)
"""Modes that no SELECT sees; some are not known to the next version, which refuses to set them."""
_MEANING = frozenset(
    (
        *("ANSI_QUOTES", "PIPES_AS_CONCAT", "NO_BACKSLASH_ESCAPES", "IGNORE_SPACE", "ORACLE"),
        *("HIGH_NOT_PRECEDENCE", "EMPTY_STRING_IS_NULL", "NO_UNSIGNED_SUBTRACTION", "MSSQL"),
        *("REAL_AS_FLOAT", "PAD_CHAR_TO_FULL_LENGTH", "TIME_ROUND_FRACTIONAL", "DB2", "MAXDB"),
        *("TIME_TRUNCATE_FRACTIONAL", "ALLOW_INVALID_DATES", "POSTGRESQL", "ANSI"),
    )
)
"""Modes that few servers have, under which the same SQL means something else."""
_COMPUTED = frozenset(
    (
        *("NO_UNSIGNED_SUBTRACTION", "PAD_CHAR_TO_FULL_LENGTH", "TIME_ROUND_FRACTIONAL"),
        *("TIME_TRUNCATE_FRACTIONAL", "EMPTY_STRING_IS_NULL"),
    )
)
"""Those of them that count when an expression is computed; what it means was read when it was
stored."""
_NO_ZEROS = frozenset(("NO_ZERO_DATE", "NO_ZERO_IN_DATE", "TRADITIONAL"))
_UTC = "+00:00"
_UTC_NAMES = frozenset((_UTC, "-00:00", "UTC", "ETC/UTC", "GMT", "ETC/GMT"))
_INNER = "_rivet_query"
_EPOCH = "TIMESTAMP'1970-01-01 00:00:00'"


def question(*, shared: bool) -> str:
    """What to ask a fresh connection. A ``shared`` session is somebody else's: there the server's
    defaults count."""
    scope = "GLOBAL" if shared else "SESSION"
    asked = ", ".join(f"@@{scope}.{name}" for name in VARIABLES)
    return f"SELECT {asked}, @@{_SYSTEM}"


def sealed(answer: Iterable[object]) -> Own:
    """The answer to ``question`` as it is kept; the same meaning is always the same value."""
    found = {name: str(value) for name, value in zip((*VARIABLES, _SYSTEM), answer, strict=True)}
    system = found.pop(_SYSTEM)
    modes = [one for one in found["sql_mode"].split(",") if one and one not in _WRITES_ONLY]
    found["sql_mode"] = ",".join(modes)
    zone = found["time_zone"].upper()
    # An abbreviation like GMT is London's winter, too; UTC is nobody else's.
    if zone in _UTC_NAMES or (zone == "SYSTEM" and system == "UTC"):
        found["time_zone"] = _UTC
    return tuple(found.items())


def as_settings(own: Own) -> dict[str, str]:
    """The variables and what they are set to, as SQL."""
    return {name: value if value.isdecimal() else quote_text(value) for name, value in own}


def apart(own: Own) -> dict[str, str]:
    """What makes values of a view or of a virtual column others than in our session."""
    values = dict(own)
    modes = ",".join(one for one in values.get("sql_mode", "").split(",") if one in _COMPUTED)
    zone = values.get("time_zone", _UTC)
    return {
        **({"time_zone": zone} if zone != _UTC else {}),
        **({"sql_mode": modes} if modes else {}),
    }


def notes(own: Own, columns: Mapping[str, str], keys: Iterable[str]) -> tuple[str, ...]:
    """What a plan says of the session its query is read in. ``columns``: native types by name."""
    values = dict(own)
    said = []
    modes = [one for one in values.get("sql_mode", "").split(",") if one in _MEANING]
    if modes:
        said.append(f"the query is read in the server's own SQL mode: {', '.join(modes)}")
    if not own or values["time_zone"] == _UTC:
        return tuple(said)
    said.append(
        f"the query is read in the server's own time zone, {values['time_zone']}: now(), dates and "
        "texts compared with moments mean that zone; TIMESTAMP columns of the result arrive as UTC"
    )
    slow = sorted(set(keys) & _shifted(columns))
    if slow:
        said.append(
            f"no index can serve the key ({', '.join(slow)}) of this query: in a zone that is not "
            "UTC a TIMESTAMP is compared as a moment; a key of another type would be read faster"
        )
    return tuple(said)


def in_utc(query: str, columns: Mapping[str, str], own: Own) -> str:
    """The query with its TIMESTAMP columns as DATETIMEs in UTC, whatever the session's zone: the
    server knows the moment, which its local time does not tell (an hour is there twice, each
    autumn). The query itself where nothing must be changed. ``columns``: native types by name.

    A zero timestamp stays one. Where the mode makes NULL of it the statement fails instead (error
    1690): a value would be lost without a word.
    """
    values = dict(own)
    shifted = _shifted(columns) if values.get("time_zone", _UTC) != _UTC else set()
    if not shifted:
        return query
    zeros = not set(values["sql_mode"].split(",")) & _NO_ZEROS
    listed = ", ".join(
        f"{_moment(name, zeros=zeros) if name in shifted else _inner(name)} AS "
        f"{quote_identifier(name)}"
        for name in columns
    )
    return f"SELECT {listed} FROM (\n{query}\n) AS {_INNER}"


def _shifted(columns: Mapping[str, str]) -> set[str]:
    return {name for name, native_type in columns.items() if family(native_type) == "timestamp"}


def _inner(name: str) -> str:
    return f"{_INNER}.{quote_identifier(name)}"


def _moment(name: str, *, zeros: bool) -> str:
    """UNIX_TIMESTAMP of a TIMESTAMP column is the stored number, with its fraction; the rest is
    arithmetic without a zone. It is 0 for a zero date alone: a TIMESTAMP begins a second later."""
    column = _inner(name)
    seconds = f"UNIX_TIMESTAMP({column})"
    known = f"COALESCE({seconds}, 0)"  # of a zero date it may be NULL
    zero = column if zeros else f"{_EPOCH} + INTERVAL EXP(1000 + {known}) SECOND"
    return f"IF({column} IS NOT NULL AND {known} = 0, {zero}, {_EPOCH} + INTERVAL {seconds} SECOND)"
