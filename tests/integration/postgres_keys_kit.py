"""Key types of every kind, a text type of somebody's own beside them, and a hostile search path."""

from __future__ import annotations

from dataclasses import replace

import psycopg

from rivet_fleet.contracts.facts import FactsRequest, SourceFacts
from rivet_fleet.contracts.keys import ChunkRange, KeyTuple, RangeKind
from rivet_fleet.contracts.plan import ReadPlan, TuningPlan
from rivet_fleet.execution.source import PageLimit, Source
from tests.integration.postgres_source_kit import drain, read_plan, relation

Sql = psycopg.Connection[tuple[object, ...]]

SIGNS = ("<", "<=", "=", ">=", ">")
OWN_TYPE = """
CREATE SCHEMA ext;
CREATE TYPE ext.ci;
CREATE FUNCTION ext.ci_in(cstring) RETURNS ext.ci LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION ext.ci_out(ext.ci) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE ext.ci (INPUT = ext.ci_in, OUTPUT = ext.ci_out, LIKE = text, CATEGORY = 'S',
                    COLLATABLE = true);
CREATE CAST (ext.ci AS text) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (text AS ext.ci) WITHOUT FUNCTION AS ASSIGNMENT;
CREATE FUNCTION ext.ci_cmp(ext.ci, ext.ci) RETURNS int4 LANGUAGE sql IMMUTABLE STRICT AS
  $$ SELECT pg_catalog.bttextcmp(pg_catalog.lower($1::pg_catalog.text),
                               pg_catalog.lower($2::pg_catalog.text)) $$;
""" + "".join(
    f"""CREATE FUNCTION ext.ci_{n}(ext.ci, ext.ci) RETURNS bool LANGUAGE plpgsql IMMUTABLE
  STRICT AS $$ BEGIN RETURN ext.ci_cmp($1, $2) OPERATOR(pg_catalog.{sign}) 0; END $$;
CREATE OPERATOR ext.{sign} (LEFTARG = ext.ci, RIGHTARG = ext.ci, FUNCTION = ext.ci_{n});
"""
    for n, sign in enumerate(SIGNS)
)
OWN_TYPE += (
    "CREATE OPERATOR CLASS ext.ci_ops DEFAULT FOR TYPE ext.ci USING btree AS "
    + ", ".join(f"OPERATOR {n} ext.{sign}" for n, sign in enumerate(SIGNS, 1))
    + ", FUNCTION 1 ext.ci_cmp(ext.ci, ext.ci); GRANT USAGE ON SCHEMA ext TO PUBLIC;"
)
"""citext without its library: letters of either case are equal, text's operators are not."""

_CAPTURED = ("text", "int4", "int8", "name", "oid", "date", "timestamptz", "uuid", "bytea")
HOSTILE = (
    "CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC;"
    "CREATE FUNCTION evil.count(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 0::bigint';"
    "CREATE FUNCTION evil.pg_backend_pid() RETURNS int LANGUAGE sql AS 'SELECT 1';"
    "CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql AS $$SELECT '1'$$;"
    "CREATE FUNCTION evil.to_regclass(text) RETURNS regclass LANGUAGE sql AS "
    "$$SELECT 'pg_catalog.pg_class'::regclass$$;"
    "CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS $$SELECT 'infinity'::"
    "timestamptz$$;"
    + "".join(
        f"CREATE FUNCTION evil.never(pg_catalog.{name}, pg_catalog.{name}) RETURNS bool "
        "LANGUAGE sql AS 'SELECT false';"
        + "".join(
            f"CREATE OPERATOR evil.{sign} (LEFTARG = pg_catalog.{name}, "
            f"RIGHTARG = pg_catalog.{name}, FUNCTION = evil.never);"
            for sign in (*SIGNS, "<>")
        )
        for name in _CAPTURED
    )
    + "CREATE DOMAIN evil.text AS varchar(2); CREATE DOMAIN evil.date AS varchar(3);"
    "CREATE DOMAIN evil.oid AS varchar(1); CREATE DOMAIN evil.tid AS varchar(1);"
    "CREATE DOMAIN evil.timestamptz AS varchar(4); CREATE DOMAIN evil.int4 AS varchar(1);"
)
"""What a schema in front of pg_catalog can take away from a name: the very types' operators,
functions, and types."""

VALUES: dict[str, str] = {
    "bool": "false true",
    "bytea": r"\x \x00 \x5c \x7fff \xff",
    "name": "a B b \\ ' é",
    "int8": "-9223372036854775808 -1 0 7 9223372036854775807",
    "int2": "-32768 -1 0 7 32767",
    "int4": "-2147483648 -1 0 7 2147483647",
    "text": "a A b B aa \\ \\\\ ' é É ß {} ~ 10 9",
    "oid": "0 1 7 2147483648 4294967295",
    "oidvector": "{1} {}",
    "tid": "(0,1) (0,2) (10,1) (9,7)",
    "bpchar": "a A b aa é",
    "varchar": "a A b aa é",
    "date": "-infinity 0044-03-15BC 1999-12-31 2024-02-29 infinity",
    "time": "00:00 00:00:00.000001 23:59:59.999999 24:00",
    "timestamp": "-infinity 0044-03-15BC 1999-12-31T23:59:59.999999 2024-02-29 infinity",
    "timestamptz": "-infinity 0044-03-15BC 1999-12-31T23:59:59.999999 2024-02-29 infinity",
    "timetz": "00:00+00 00:00+01 23:59:59.999999-15:59 24:00+00",
    "interval": "P0D P1D P1M P-1M PT0.000001S P1M1DT-1S",
    "bit": "000 001 100 111",
    "varbit": "0 1 00 000 111",
    "numeric": "-Infinity -1.50 0 0.1 0.10000000000000000001 1e100 Infinity NaN",
    "uuid": "00000000-0000-0000-0000-000000000000 7fffffff-0000-0000-0000-000000000000 "
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "inet": "0.0.0.0 10.0.0.1/8 10.0.0.1 10.0.0.1/24 ::1 ::ffff:1.2.3.4",
    "cidr": "10.0.0.0/8 10.0.0.0/24 ::/0",
    "macaddr": "00:00:00:00:00:01 08:00:2b:01:02:03",
    "macaddr8": "00:00:00:00:00:00:00:01 08:00:2b:01:02:03:04:05",
    "pg_lsn": "0/0 0/1 16/B374D848",
    "xid8": "0 1 18446744073709551615",
    "tsvector": "a a:1 'b':2A c",
    "tsquery": "a a&b !a",
    "int4range": "empty [1,2) [1,) (,5)",
    "int4multirange": "{} {[1,2)} {[1,2),[5,)}",
    "ext.ci": "a B b2 C aa é z",
    "mood": "sad ok happy",
    "price": "1.50 2.00 10.00",
    "pair": '(1,x) (1,y) (2,"a,b")',
}
"""Values by type, in no order. What the server's list names and this does not is a failure."""
NO_KEYS = {"char", "float4", "float8", "jsonb", "money", "anyarray", "record"}
"""Types that are ordered, and whose values are no keys to us: by kind, or by an obstacle."""
POLYMORPHIC = {"anyenum": "mood", "anyrange": "int4range", "anymultirange": "int4multirange"}
EXTRA = """
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN price AS numeric(10,2) CHECK (VALUE > 0);
CREATE TYPE pair AS (a int, b text);
"""


def fill(sql: Sql, table: str, native: str, values: str, collation: str = "") -> None:
    """One table of one key: every value of the list, and its number."""
    sql.execute(f"CREATE TABLE {table} (k {native} {collation} NOT NULL, v int)".encode())
    for number, value in enumerate(values.split()):
        sql.execute(f"INSERT INTO {table} VALUES (%s, {number})".encode(), [value])
    sql.execute(f"CREATE UNIQUE INDEX ON {table} (k); ANALYZE {table}".encode())


def facts_of_key(source: Source, table: str, *asked: str) -> SourceFacts:
    """What is planned with; types that are not carried come as text."""
    return source.introspect(
        FactsRequest(
            export_name=table,
            relation=relation(table),
            query=None,
            key_columns=asked,
            unsupported_cast="text",
            boundaries_max=10,
        )
    )


def plan_of(facts: SourceFacts) -> ReadPlan:
    read = read_plan(facts, [(c.name, c.cast) for c in facts.columns if c.cast])
    return replace(read, on_unrepresentable="coerce")


def numbers(
    source: Source,
    read: ReadPlan,
    columns: tuple[str, ...] = ("k",),
    *,
    rows: int = 1,
    lower: KeyTuple | None = None,
    upper: KeyTuple | None = None,
) -> list[int]:
    """The rows of a chunk, page by page, as they came."""
    chunk = ChunkRange(kind=RangeKind.KEYSET, columns=columns, lower=lower, upper=upper)
    limit = PageLimit(rows_max=rows, bytes_max=1 << 20)
    return drain(source.open_chunk(read, chunk, TuningPlan()), limit).column("v").to_pylist()
