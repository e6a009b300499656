"""PostgreSQL in tables: types, overrides, error classes, capabilities, quoting. No I/O.

Type OIDs: ``pg_type.dat`` of the server. SQLSTATE: manual, appendix "PostgreSQL Error Codes".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, Fidelity, TypeKind
from rivet_fleet.contracts.facts import SourceCapabilities
from rivet_fleet.contracts.keys import RelationName
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.errors import ConfigError
from rivet_fleet.execution.engines.session import (
    CONFLICT,
    FULL,
    GONE,
    LOCKED,
    REFUSED,
    RESOURCES,
    RESTARTING,
    TIMED_OUT,
    ErrorClass,
)
from rivet_fleet.execution.onestatement import LexicalRules, Quote, one_statement
from rivet_fleet.execution.paging import Select, Walk
from rivet_fleet.execution.parameters import Writing
from rivet_fleet.execution.sources.postgres.querysession import FUZZY, PLAIN_STRINGS, Own

ENGINE_NAMES = ("postgres", "postgresql")
DEFAULT_PORT = 5432
ALIAS = "_rivet"
"""The alias of what is read. Keys are always written with it: a bare name in ORDER BY means
the output column, which may be a cast."""

OWN_PATH = "pg_catalog, pg_temp"
"""The search path of statements that name nothing of the user's."""

# ---------------------------------------------------------------- types

OID_JSONB = 3802
OID_TEXT = 25
OID_OID = 26
OID_BPCHAR = 1042
SCALAR_KINDS: dict[int, TypeKind] = {
    16: TypeKind.BOOL,
    17: TypeKind.BINARY,
    19: TypeKind.STRING,  # name
    20: TypeKind.INT64,
    21: TypeKind.INT16,
    23: TypeKind.INT32,
    OID_TEXT: TypeKind.STRING,
    OID_OID: TypeKind.INT64,
    114: TypeKind.JSON,
    700: TypeKind.FLOAT32,
    701: TypeKind.FLOAT64,
    OID_BPCHAR: TypeKind.STRING,
    1043: TypeKind.STRING,
    1082: TypeKind.DATE,
    1083: TypeKind.TIME,
    1114: TypeKind.TIMESTAMP,
    1184: TypeKind.TIMESTAMP_UTC,
    1186: TypeKind.INTERVAL,
    1700: TypeKind.DECIMAL,
    2950: TypeKind.UUID,
    OID_JSONB: TypeKind.JSON,
}
TEXT_READ_AS_IS = ("19", str(OID_BPCHAR), "1043")
"""Wire types a string override leaves alone: ``char(n)::text`` would cut the padding off. Not
25: that is also what other types become when they are cast to text."""
NOT_REALLY_ARRAYS = (22, 30)
"""int2vector and oidvector: array-like on the wire, zero-based, internal."""

FIDELITY: dict[TypeKind, Fidelity] = {
    TypeKind.JSON: Fidelity.LOGICAL_STRING,
    TypeKind.ENUM: Fidelity.COMPATIBLE,
    TypeKind.INTERVAL: Fidelity.COMPATIBLE,
    TypeKind.LIST: Fidelity.COMPATIBLE,
}
PRECISION_MAX = 76


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogType:
    """A column's type as the catalogue tells it, domains already resolved to their base."""

    oid: int
    typmod: int = -1
    typtype: str = "b"
    """``pg_type.typtype``: b base, c composite, d domain, e enum, p pseudo, r/m range."""
    name: str = ""
    element: CatalogType | None = None
    """The element's type when this is a true array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsupported:
    """Why a type cannot be carried, and the cast that would help."""

    reason: str
    cast_hint: str = "text"
    order: TypeKind = TypeKind.STRING
    """See ``ColumnFacts``: every value proves that its text comes back as the same one."""


def column_type(catalog: CatalogType) -> ColumnType | Unsupported:
    """The canonical type of a catalogue type, or why there is none."""
    if catalog.element is not None:
        return _list_type(catalog.element)
    if catalog.typtype == "e":
        return ColumnType(kind=TypeKind.ENUM, fidelity=Fidelity.COMPATIBLE)
    kind = SCALAR_KINDS.get(catalog.oid)
    if kind is None:
        return Unsupported(reason=f"type {catalog.name} has no exact representation")
    if kind is TypeKind.DECIMAL:
        return numeric_type(catalog.typmod)
    return ColumnType(kind=kind, fidelity=FIDELITY.get(kind, Fidelity.EXACT))


def _list_type(element: CatalogType) -> ColumnType | Unsupported:
    if element.typtype == "d" or element.element is not None or element.oid == OID_OID:
        return Unsupported(reason=f"arrays of {element.name} are not carried")
    inner = column_type(element)
    if isinstance(inner, Unsupported):
        return Unsupported(reason=f"array whose elements cannot be carried: {inner.reason}")
    return ColumnType(kind=TypeKind.LIST, element=inner, fidelity=Fidelity.COMPATIBLE)


def numeric_type(typmod: int) -> ColumnType | Unsupported:
    """Decode ``atttypmod`` of numeric: 16 bits precision, 11 bits signed scale (PG ≥ 15)."""
    if typmod < 4:
        return Unsupported(
            reason="numeric without a precision can hold any number of digits",
            cast_hint="decimal(38,10)",
            order=TypeKind.DECIMAL,
        )
    precision = ((typmod - 4) >> 16) & 0xFFFF
    scale = (((typmod - 4) & 0x7FF) ^ 1024) - 1024
    # Parquet knows neither a negative scale nor a scale above the precision: the same values
    # are carried exactly by a wider decimal.
    precision, scale = (precision - scale, 0) if scale < 0 else (max(precision, scale), scale)
    if precision > PRECISION_MAX:
        reason = f"numeric with {precision} digits (the limit is 76)"
        return Unsupported(reason=reason, order=TypeKind.DECIMAL)
    return ColumnType(kind=TypeKind.DECIMAL, precision=precision, scale=scale)


# ---------------------------------------------------------------- overrides


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One ``columns:`` override: what arrives, and the SQL that makes the server send it. A type
    that is no word of the grammar names its schema: it would be looked up on the search path."""

    type: ColumnType
    wire_oid: int
    sql_type: str


_OVERRIDE_NAMES: dict[str, tuple[TypeKind, int, str]] = {
    **dict.fromkeys(("bool", "boolean"), (TypeKind.BOOL, 16, "boolean")),
    **dict.fromkeys(("int2", "smallint", "int16"), (TypeKind.INT16, 21, "smallint")),
    **dict.fromkeys(("int4", "int", "integer", "int32"), (TypeKind.INT32, 23, "integer")),
    **dict.fromkeys(("int8", "bigint", "int64"), (TypeKind.INT64, 20, "bigint")),
    **dict.fromkeys(("float4", "real", "float32"), (TypeKind.FLOAT32, 700, "real")),
    **dict.fromkeys(
        ("float8", "double", "float64", "double precision"),
        (TypeKind.FLOAT64, 701, "double precision"),
    ),
    "date": (TypeKind.DATE, 1082, "pg_catalog.date"),
    **dict.fromkeys(
        ("timestamp", "timestamp_ns"), (TypeKind.TIMESTAMP, 1114, "pg_catalog.timestamp")
    ),
    **dict.fromkeys(
        ("timestamp_tz", "timestamptz", "timestamp_utc", "timestamp_tz_ns"),
        (TypeKind.TIMESTAMP_UTC, 1184, "pg_catalog.timestamptz"),
    ),
    **dict.fromkeys(
        ("text", "string", "varchar", "char", "bpchar", "name"),
        (TypeKind.STRING, 25, "pg_catalog.text"),
    ),
    **dict.fromkeys(
        ("binary", "bytea", "blob", "varbinary"), (TypeKind.BINARY, 17, "pg_catalog.bytea")
    ),
    **dict.fromkeys(("json", "jsonb"), (TypeKind.JSON, 114, "pg_catalog.json")),
    "uuid": (TypeKind.UUID, 2950, "pg_catalog.uuid"),
}
_DECIMAL_OVERRIDE = re.compile(r"(?:decimal|numeric)\s*\(\s*(\d{1,9})\s*(?:,\s*(\d{1,9})\s*)?\)")


def parse_override(text: str) -> Override:
    """``columns:`` override → what it means. Raises ConfigError: nothing else becomes SQL."""
    name = " ".join(text.strip().lower().split())
    if match := _DECIMAL_OVERRIDE.fullmatch(name):
        precision, scale = int(match[1]), int(match[2] or 0)
        if not (1 <= precision <= PRECISION_MAX and scale <= precision):
            raise ConfigError(f"{text}: precision must be 1 to 76 and scale at most the precision")
        # Plain numeric: numeric(p,s) would round. The decoder refuses what does not fit.
        decimal = ColumnType(kind=TypeKind.DECIMAL, precision=precision, scale=scale)
        return Override(type=decimal, wire_oid=1700, sql_type="numeric")
    found = _OVERRIDE_NAMES.get(name)
    if found is None:
        raise ConfigError(
            f"{text!r} is not a type a column can be cast to",
            hint="known: decimal(p,s), " + ", ".join(sorted(_OVERRIDE_NAMES)),
        )
    kind, wire_oid, sql_type = found
    fidelity = FIDELITY.get(kind, Fidelity.EXACT)
    return Override(
        type=ColumnType(kind=kind, fidelity=fidelity), wire_oid=wire_oid, sql_type=sql_type
    )


_WIDENING = {
    (TypeKind.INT16, TypeKind.INT32),
    (TypeKind.INT16, TypeKind.INT64),
    (TypeKind.INT32, TypeKind.INT64),
    (TypeKind.FLOAT32, TypeKind.FLOAT64),
    (TypeKind.INT16, TypeKind.FLOAT64),
    (TypeKind.INT32, TypeKind.FLOAT64),
    (TypeKind.BOOL, TypeKind.INT32),
    (TypeKind.DATE, TypeKind.TIMESTAMP),
    (TypeKind.TIMESTAMP, TypeKind.TIMESTAMP_UTC),
    (TypeKind.TIMESTAMP_UTC, TypeKind.TIMESTAMP),
}


_INTEGERS = (TypeKind.INT16, TypeKind.INT32, TypeKind.INT64)
_ROUNDED_FROM_TEXT = (
    TypeKind.FLOAT32,
    TypeKind.FLOAT64,
    TypeKind.DATE,
    TypeKind.TIMESTAMP,
    TypeKind.TIMESTAMP_UTC,
)
_ROUNDED_FROM_UNKNOWN = (*_INTEGERS, *_ROUNDED_FROM_TEXT, TypeKind.BOOL)


def override_fidelity(own: TypeKind | None, target: TypeKind) -> Fidelity:
    """How faithful a cast is: the server rounds floats, dates and integers without a word.

    ``own`` is None for a type without an exact form (numeric without a precision, money, …).
    """
    if own is target:
        return FIDELITY.get(target, Fidelity.EXACT)
    if target is TypeKind.STRING:
        return Fidelity.LOGICAL_STRING
    if own is None:
        rounded = target in _ROUNDED_FROM_UNKNOWN
        return Fidelity.LOSSY if rounded else FIDELITY.get(target, Fidelity.EXACT)
    if own in (TypeKind.STRING, TypeKind.ENUM):
        rounded = target in _ROUNDED_FROM_TEXT
        return Fidelity.LOSSY if rounded else FIDELITY.get(target, Fidelity.COMPATIBLE)
    # Plain numeric keeps every digit of an integer, but only 15 of a float.
    whole_to_decimal = target is TypeKind.DECIMAL and own in _INTEGERS
    return Fidelity.EXACT if whole_to_decimal or (own, target) in _WIDENING else Fidelity.LOSSY


# ---------------------------------------------------------------- errors


SQLSTATES: dict[str, ErrorClass] = {
    "57014": TIMED_OUT,  # statement_timeout, or an administrator's pg_cancel_backend
    "57P01": RESTARTING,  # admin shutdown, pg_terminate_backend
    "57P02": RESTARTING,
    "57P03": RESTARTING,
    "57P05": GONE,  # idle_session_timeout
    "25P03": GONE,  # idle_in_transaction_session_timeout
    "25P04": GONE,  # transaction_timeout: the connection is gone, and ours sets it to 0
    "53300": FULL,
    "40001": CONFLICT,  # serialization, or a standby's recovery conflict
    "40P01": CONFLICT,
    "55P03": LOCKED,
}
SQLSTATE_CLASSES: dict[str, ErrorClass] = {
    "08": GONE,
    "53": RESOURCES,
}


def classify(sqlstate: str) -> ErrorClass:
    """The class of an SQLSTATE: exact code, then its two-letter class, else refused for good."""
    return SQLSTATES.get(sqlstate) or SQLSTATE_CLASSES.get(sqlstate[:2]) or REFUSED


# ---------------------------------------------------------------- capabilities, quoting


def capabilities(server_version_num: int) -> SourceCapabilities:
    """What a server of this ``server_version_num`` can do (TID range scans: 14)."""
    return SourceCapabilities(
        keyset=True, composite_keyset=True, block_ranges=server_version_num >= 140000
    )


def quote_identifier(name: str) -> str:
    """``name`` as a quoted identifier: exact, whatever its case or script."""
    if "\0" in name:
        raise ConfigError("an identifier cannot hold a NUL character")
    return '"' + name.replace('"', '""') + '"'


def quote_relation(relation: RelationName) -> str:
    """``"schema"."name"``."""
    return f"{quote_identifier(relation.schema)}.{quote_identifier(relation.name)}"


def quote_literal(text: str) -> str:
    """``text`` as a literal that means the same under any ``standard_conforming_strings``."""
    if "\0" in text:
        raise ConfigError("a key value cannot hold a NUL character")
    quoted = text.replace("'", "''")
    return " E'" + quoted.replace("\\", "\\\\") + "'" if "\\" in text else f"'{quoted}'"


# ------------------------------------------------------------------------------------------
# SQL text for reading, built from values; nothing here talks to a server.
#
# It runs on the user's search path, which the user's queries, views and policies need: whatever
# is ours in it names its schema. Keys are compared by ``keyorder``.

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
        # A page is over before compiled code would pay.
        ("jit", "off"),
        # A chunk is one process of the server, as budgets count it.
        ("max_parallel_workers_per_gather", "0"),
        *nudges,
    )


def whole_read(tuning: TuningPlan) -> tuple[tuple[str, str], ...]:
    """Settings of a cursor that is read to its end: a plan for all of its rows, and a transaction
    that may rest between two FETCHes while their rows are written."""
    idle_ms = round(tuning.whole_read_timeout_s * 1000)
    return (
        ("cursor_tuple_fraction", "1"),
        ("idle_in_transaction_session_timeout", str(idle_ms)),
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


# ------------------------------------------------------------------------------------------
# Values as text, written alike in every session: ISO, in UTC, whatever DateStyle, TimeZone and
# ``bytea_output`` are.
#
# The server writes JSON's dates and moments in ISO 8601 under every DateStyle (manual, "JSON
# Functions"), and reads a date that begins with its year under every one of them ("Date/Time
# Input").

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
