"""What is told of an error of PostgreSQL's: its own sentences, never a row in them.

A server says of a row whatever the SQL it runs makes of it, under any
code: a cast to regclass is class 42, and RAISE has every SQLSTATE. So its words are kept where a
row cannot be in them: it speaks of a place in the statement's own text, or of rights to something
that is there, or it is one of the sentences below, without what stands in their holes.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import psycopg
import psycopg.errors

from rivet_fleet.contracts.foreign import NOTHING_SAID, as_foreseen

_OF_THE_CATALOG = frozenset(
    (
        *("aclcheck_error", "aclcheck_error_col", "check_enable_rls", "ExecOpenScanRelation"),
        "PreventCommandIfReadOnly",
    )
)
"""Functions of the server that word an error about something they found."""
_TYPES = frozenset(
    (
        *("smallint", "integer", "bigint", "oid", "numeric", "real", "double precision", "boolean"),
        *("date", "time", "timestamp", "interval", "time with time zone", "uuid", "bytea", "money"),
        *("timestamp with time zone", "json", "jsonb", "jsonpath", "xml", "inet", "cidr", "bit"),
        *("macaddr", "point", "pg_lsn", "tid", "tsquery", "tsvector", "character", "UTF8"),
        *("character varying", "TO", "BY"),
    )
)
_SENTENCES = (
    "canceling statement due to statement timeout",
    "canceling statement due to lock timeout",
    "canceling statement due to user request",
    "canceling statement due to conflict with recovery",
    "canceling autovacuum task",
    "terminating connection due to administrator command",
    "terminating connection due to conflict with recovery",
    "terminating connection due to idle-in-transaction timeout",
    "terminating connection due to transaction timeout",
    "terminating connection due to idle-session timeout",
    "terminating connection because of crash of another server process",
    "terminating connection due to unexpected postmaster exit",
    "the database system is shutting down",
    "the database system is starting up",
    "the database system is in recovery mode",
    "the database system is not yet accepting connections",
    "sorry, too many clients already",
    "too many connections for role %s",
    "too many connections for database %s",
    "remaining connection slots are reserved for %s",
    "deadlock detected",
    "could not serialize access due to %s",
    "out of memory",
    "out of shared memory",
    "temporary file size exceeds %s",
    "could not resize shared memory segment %s: %s",
    "could not write to file %s: %s",
    "could not extend file %s: %s",
    "could not read block%s",
    "could not open file %s: %s",
    "could not open relation with OID %s",
    "could not find %s",
    "cache lookup failed for %s",
    "invalid page in block %s of relation %s",
    "missing chunk number %s for toast value %s in %s",
    "unexpected chunk number %s for toast value %s in %s",
    "invalid memory alloc request size %s",
    "stack depth limit exceeded",
    "cached plan must not change result type",
    "materialized view %s has not been populated",
    "currval of sequence %s is not yet defined in this session",
    "lastval is not yet defined in this session",
    "cannot access temporary tables of other sessions",
    "could not connect to server %s",
    "cannot execute %s in a read-only transaction",
    "current transaction is aborted, commands ignored until end of transaction block",
    "permission denied for %s",
    "relation %s does not exist",
    "column %s does not exist",
    "function %s does not exist",
    "type %s does not exist",
    "schema %s does not exist",
    "role %s does not exist",
    "collation %s for encoding %s does not exist",
    "unrecognized configuration parameter %s",
    "invalid value for parameter %s: %s",
    "invalid input syntax for type %s: %s",
    "invalid input syntax for type %s",
    "invalid input value for enum %s: %s",
    "value %s is out of range for type %s",
    "%s is out of range for type %s",
    "value out of range: overflow",
    "value out of range: underflow",
    "smallint out of range",
    "integer out of range",
    "bigint out of range",
    "oid out of range",
    "timestamp out of range",
    "timestamp out of range: %s",
    "date out of range for timestamp",
    "date out of range: %s",
    "interval out of range",
    "interval field value out of range: %s",
    "date/time field value out of range: %s",
    "time zone displacement out of range: %s",
    "time zone %s not recognized",
    "numeric field overflow",
    "value overflows numeric format",
    "division by zero",
    "value too long for type %s",
    "bit string length %s does not match type %s",
    "negative substring length not allowed",
    "cannot take square root of a negative number",
    "cannot take logarithm of zero",
    "cannot take logarithm of a negative number",
    "zero raised to a negative power is undefined",
    "a negative number raised to a non-integer power yields a complex result",
    "invalid byte sequence for encoding %s: %s",
    "invalid byte sequence for encoding %s",
    "character with byte sequence %s in encoding %s has no equivalent in encoding %s",
    "unsupported Unicode escape sequence",
    "invalid regular expression: %s",
    "invalid hexadecimal digit: %s",
    "invalid hexadecimal data: odd number of digits",
    "invalid symbol %s found while decoding base64 sequence",
    "malformed array literal: %s",
    "malformed record literal: %s",
    "malformed range literal: %s",
    "array subscript out of range",
    "invalid value %s for %s",
    "invalid escape string",
    "invalid XML content",
    "invalid XML document",
    "cannot extract elements from a scalar",
    "cannot extract elements from an object",
    "cannot cast jsonb %s to type %s",
    "more than one row returned by a subquery used as an expression",
    "query returned more than one row",
    "null value cannot be assigned to variable %s declared NOT NULL",
    "control reached end of function without RETURN",
)
"""Fixed sentences of the server, a rule before an exception of it; what reads in another language
is none of them, and is told by its SQLSTATE. Server: postgres.c, aclchk.c, parse_relation.c,
elog.c's callers below utils/adt."""
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


def without_values(
    sqlstate: str, error: psycopg.Error, known: Collection[str]
) -> tuple[str, str | None]:
    """(what was said, what may be told of it where that may be about a row; else None). Details and
    context quote rows, and are left out."""
    said, diag = str(error).strip(), error.diag
    # A statement within ours may be made of a row: so are the names that it speaks of.
    inner = diag.internal_query or diag.context
    if diag.statement_position and not inner:
        return said, None
    primary = diag.message_primary or said.partition("\n")[0]
    if diag.source_function in _OF_THE_CATALOG and not inner:
        return f"{primary}\n{diag.message_hint or ''}", None
    kept = as_foreseen(primary, _SENTENCES, {*_TYPES, *known})
    if kept == primary and not diag.message_detail:
        return primary, None
    return said, kept or f"{_condition(sqlstate)}{NOTHING_SAID}"


def _condition(sqlstate: str) -> str:
    """What the standard calls it, for a sentence to begin with; nothing where it has no name."""
    try:
        name = psycopg.errors.lookup(sqlstate).__name__
    except KeyError:
        return ""
    return f"{_HUMP.sub(' ', name).lower()}; "
