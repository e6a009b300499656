"""Random trees of partitions and inheriting tables under random grants and policies: what is
delivered is what the named relation shows this very user, or nothing at all."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import psycopg
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import SourceRefused
from rivet_fleet.execution.source import PageLimit, Source
from rivet_fleet.execution.sources.postgres import ENGINE as POSTGRES
from tests.integration.postgres_source_kit import drain, read_plan
from tests.integration.shapes_kit import cut, look, shaped

PAGE = PageLimit(rows_max=7, bytes_max=1 << 20)
ROWS = 90
GRANTS = ("", "SELECT", "SELECT (id, v)", "SELECT (id, v, ctid)", "SELECT (id)")
POLICIES = ("", "true", "id % 2 = 0", "id <= 40", "v = current_user")
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """Of one table: ``GRANT``, its policies, and whether they bind its owner as well."""

    grant: str
    policy: str
    secured: bool
    forced: bool
    owned: bool


# A table is granted, open and not its reader's more often than not, or nothing would be read.
RIGHTS = st.builds(
    Rights,
    grant=st.sampled_from(("SELECT", "SELECT", "SELECT", *GRANTS)),
    policy=st.sampled_from(POLICIES),
    secured=st.sampled_from((False, False, True)),
    forced=st.booleans(),
    owned=st.sampled_from((False, False, False, True)),
)


@st.composite
def trees(draw: st.DrawFn) -> tuple[bool, list[Rights], bool]:
    """Partitioned or inherited; the rights of the root and of two to four below it; BYPASSRLS."""
    below = draw(st.integers(min_value=1, max_value=3))
    rights = draw(st.lists(RIGHTS, min_size=below + 1, max_size=below + 1))
    return draw(st.booleans()), rights, draw(st.sampled_from((False, False, False, True)))


def statements(schema: str, role: str, partitioned: bool, tables: list[Rights]) -> list[str]:
    names = ["t", *(f"leaf_{i}" for i in range(1, len(tables)))]
    by = " PARTITION BY RANGE (id)" if partitioned else ""
    found = [
        f"CREATE SCHEMA {schema}; GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}",
        f"SET search_path = {schema}",
        f"CREATE TABLE t (id int, v text){by}",
    ]
    step = ROWS // (len(tables) - 1)
    for i, name in enumerate(names[1:]):
        low = i * step
        high = "MAXVALUE" if name == names[-1] else str(low + step)
        found.append(
            f"CREATE TABLE {name} PARTITION OF t FOR VALUES FROM ({low}) TO ({high})"
            if partitioned
            else f"CREATE TABLE {name} (more int) INHERITS (t)"
        )
        into = "t" if partitioned else name
        found.append(
            f"INSERT INTO {into} SELECT g, CASE WHEN g % 3 = 0 THEN '{role}' ELSE repeat('x', 900)"
            f" END FROM generate_series({low}, {low + step - 1}) g"
        )
    for name, one in zip(names, tables, strict=True):
        if one.policy:
            found.append(f"CREATE POLICY p ON {name} FOR SELECT USING ({one.policy})")
        if one.secured:
            found.append(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY")
        if one.forced:
            found.append(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY")
        if one.grant:
            found.append(f"GRANT {one.grant} ON {name} TO {role}")
        if one.owned:
            found.append(f"ALTER TABLE {name} OWNER TO {role}")
    return found


def delivered(source: Source, schema: str, **knobs: object) -> list[int] | None:
    """The ids of all chunks, as planned; None for a refusal before anything was read."""
    export = shaped(**knobs)
    try:
        facts = look(source, export, schema=schema)
    except SourceRefused:
        return None
    ids: list[int] = []
    for one in cut(facts, export).ranges:
        event(f"read by {one.kind.value}, {'its heap' if one.relation else 'the relation'}")
        chunk = source.open_chunk(read_plan(facts), one, TuningPlan())
        ids += drain(chunk, PAGE).column("id").to_pylist()
    return sorted(ids)


def seen(url: str, schema: str) -> list[int] | None:
    """What SQL shows the reader under the relation's name; None when it refuses."""
    with psycopg.connect(url) as reader:
        try:
            rows = reader.execute(f"SELECT * FROM {schema}.t".encode()).fetchall()
        except psycopg.errors.InsufficientPrivilege:
            return None
    return sorted(row[0] for row in rows)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(tree=trees())
def test_what_is_delivered_is_what_the_name_shows(
    database: str, tree: tuple[bool, list[Rights], bool]
) -> None:
    partitioned, tables, bypasses = tree
    number = next(_numbers)
    role = f"looker_{database.rpartition('/')[2]}_{number}"
    schema = f"s{number}"
    url = database.replace("//postgres@", f"//{role}@")
    with psycopg.connect(database, autocommit=True) as sql:
        sql.execute(f"CREATE ROLE {role} LOGIN {'BYPASSRLS' if bypasses else ''}".encode())
        try:
            for text in statements(schema, role, partitioned, tables):
                sql.execute(text.encode())
            expected = seen(url, schema)
            source = POSTGRES.open_source(parse_database_url(url), application_name="rivet-test")
            try:
                assert delivered(source, schema, mode="full") == expected
                assert delivered(source, schema, chunk_count=3) == expected
            finally:
                source.close()
        finally:
            sql.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE".encode())
            sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())
