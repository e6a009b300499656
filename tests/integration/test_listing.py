"""What a real server says about itself: its relations, its limits, what a user may read."""

from __future__ import annotations

import os
import re
import time

import pytest

from rivet_fleet.contracts.facts import NoteKind, RelationKind
from rivet_fleet.contracts.keys import RelationName
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import SourceRefused
from rivet_fleet.execution.registry import decoder_compiled, engine_names, open_source
from tests.integration.mysql_source_kit import Sql

POSTGRES = """
CREATE SCHEMA other;
CREATE TABLE filled (id bigint PRIMARY KEY, at timestamptz);
INSERT INTO filled SELECT i, now() FROM generate_series(1, 500) i;
CREATE TABLE never_analysed (id int); INSERT INTO never_analysed VALUES (1);
CREATE TABLE nothing_in (id int);
CREATE TABLE parted (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
INSERT INTO parted SELECT i, '2024-05-01' FROM generate_series(1, 70) i;
CREATE TABLE "Odd Name" ("A b" int PRIMARY KEY);
CREATE TABLE heir () INHERITS (filled);
CREATE VIEW seen AS SELECT * FROM filled;
CREATE MATERIALIZED VIEW kept AS SELECT 1 AS one;
CREATE TABLE other.secret (id int);
ANALYZE filled; ANALYZE parted; ANALYZE parted_1;
CREATE ROLE {role} LOGIN CONNECTION LIMIT 7;
GRANT SELECT ON filled, never_analysed TO {role};
CREATE TABLE half (a int, b int); GRANT SELECT (a) ON half TO {role};
CREATE TABLE mine (id int); ALTER TABLE mine ENABLE ROW LEVEL SECURITY;
GRANT SELECT ON mine TO {role};
"""


@pytest.fixture
def reader(postgres, database: str):
    """(URL of the owner, URL of a user that may read little)."""
    name = database.rpartition("/")[2]
    role = f"reader_{os.getpid()}_{abs(hash(name)) % 10_000}"
    postgres.psql(POSTGRES.format(role=role), database=name)
    return database, re.sub(r"//[^@]*@", f"//{role}@", database)


def test_every_relation_is_listed_once(reader) -> None:
    source = open_source("postgres", parse_database_url(reader[0]), application_name="t")
    listing = source.list_relations()
    source.close()
    found = {str(one.name): one for one in listing.relations}
    assert listing.default_schema == "public"
    assert "public.parted_1" not in found
    assert found["public.parted"].kind is RelationKind.PARTITIONED
    assert found["public.parted"].row_estimate == 70
    assert (found["public.filled"].row_estimate or 0) >= 500
    assert found["public.never_analysed"].row_estimate is None
    assert found["public.seen"].kind is RelationKind.VIEW
    assert found["public.kept"].kind is RelationKind.MATERIALIZED_VIEW
    assert str(found["public.heir"].inherits_from) == "public.filled"
    assert found['public."Odd Name"'].from_item == '"public"."Odd Name"'
    assert all(one.missing is None for one in listing.relations)


def test_a_missing_privilege_is_listed_with_its_grant(reader) -> None:
    source = open_source("postgres", parse_database_url(reader[1]), application_name="t")
    found = {str(one.name): one for one in source.list_relations().relations}
    assert found["public.filled"].missing is None
    assert "GRANT USAGE ON SCHEMA" in (found["other.secret"].missing or "")
    assert 'GRANT SELECT ON "public"."nothing_in"' in (found["public.nothing_in"].missing or "")
    assert source.check_readable(RelationName(schema="", name="filled"), None) == ()
    with pytest.raises(SourceRefused):
        source.check_readable(RelationName(schema="", name="half"), None)
    with pytest.raises(SourceRefused):
        source.check_readable(None, "SELECT * FROM other.secret")
    (note,) = source.check_readable(RelationName(schema="public", name="mine"), None)
    assert note.kind is NoteKind.HIDDEN_ROWS
    source.close()


def test_a_server_describes_itself(reader) -> None:
    source = open_source("postgres", parse_database_url(reader[1]), application_name="t")
    facts = source.describe_server()
    source.close()
    assert facts.connections_max == 7
    assert (facts.connections_used or 0) >= 1
    assert facts.tls is None
    assert abs(facts.now_s - time.time()) < 60
    assert facts.notes == ()
    owner = open_source("postgres", parse_database_url(reader[0]), application_name="t")
    assert [note.kind for note in owner.describe_server().notes] == [NoteKind.POWERFUL_USER]
    owner.close()


def test_a_user_who_may_write_is_named_with_what_it_may(reader, postgres) -> None:
    name, role = reader[0].rpartition("/")[2], re.findall(r"//([^@]*)@", reader[1])[0]
    postgres.psql(
        # Nothing is inherited: each would have to be taken on, and one statement does that.
        f"CREATE ROLE {role}_chief; CREATE ROLE {role}_boss NOINHERIT; ALTER ROLE {role} NOINHERIT;"
        f"GRANT {role}_boss TO {role}; GRANT {role}_chief TO {role}_boss;"
        f"GRANT DELETE ON mine TO {role}_boss; GRANT TRUNCATE ON half TO {role}_chief;"
        f"GRANT UPDATE (a) ON half TO {role}; GRANT INSERT ON filled, never_analysed TO {role};"
        f"GRANT USAGE, CREATE ON SCHEMA other TO {role}; ALTER ROLE {role} CREATEDB;"
        f"GRANT pg_execute_server_program TO {role}",
        database=name,
    )
    source = open_source("postgres", parse_database_url(reader[1]), application_name="t")
    (note,) = source.describe_server().notes
    source.close()
    assert note.kind is NoteKind.POWERFUL_USER and "GRANT SELECT" in (note.hint or "")
    for power in (
        *("CREATEDB", "membership in pg_execute_server_program", "CREATE on schema other"),
        *("INSERT on public.filled and 1 more", "UPDATE on public.half", "DELETE on public.mine"),
        "TRUNCATE on public.half",
    ):
        assert power in note.what


def test_a_user_of_another_engine_who_may_write_is_named(mysql_url_any: str) -> None:
    sql, user = Sql(mysql_url_any), f"may{os.getpid()}"
    sql.execute("CREATE TABLE mine (a int, `b) ON x` int)")
    sql.execute(f"CREATE USER '{user}'@'%' IDENTIFIED BY 'word'")
    told = []
    for grant in (
        "SELECT, PROCESS, SHOW VIEW ON *.*",
        "FILE ON *.*",
        f"UPDATE (a, `b) ON x`), INSERT ON `{sql.database}`.mine",
    ):
        sql.execute(f"GRANT {grant} TO '{user}'@'%'")
        reader = re.sub(r"//[^@]*@", f"//{user}:word@", mysql_url_any)
        source = open_source("mysql", parse_database_url(reader), application_name="t")
        told.append([one.what for one in source.describe_server().notes])
        source.close()
    sql.execute(f"DROP USER '{user}'@'%'")
    assert told[:2] == [[], ["the user may more than read: FILE on *.*"]]
    for power in ("FILE on *.*", f"UPDATE on `{sql.database}`.`mine`", "INSERT on "):
        assert power in told[2][0]


def test_a_role_of_another_engine_that_waits_to_be_taken_on_is_named(mysql_url_any: str) -> None:
    """Granted, not active: no SELECT of ours takes it on, but who has the password can."""
    sql, user = Sql(mysql_url_any), f"waits{os.getpid()}"
    roles = [f"`{user}_{kind}`" for kind in ("wr``x", "under", "reads")]
    for statement in (
        *(f"CREATE ROLE {role}" for role in roles),
        f"CREATE USER '{user}'@'%' IDENTIFIED BY 'word'",
        f"GRANT INSERT ON *.* TO {roles[1]}",
        f"GRANT {roles[1]} TO {roles[0]}",
        f"GRANT UPDATE ON `{sql.database}`.* TO {roles[0]}",
        *("CREATE TABLE shown (a int)", "CREATE TABLE hidden (a int)"),
        f"GRANT SELECT ON `{sql.database}`.shown TO '{user}'@'%'",
        f"GRANT SELECT ON `{sql.database}`.* TO {roles[2]}",
        f"GRANT {roles[2]} TO '{user}'@'%'",
    ):
        sql.execute(statement)
    reader = re.sub(r"//[^@]*@", f"//{user}:word@", mysql_url_any)
    told = []
    for more in ("", f"GRANT {roles[0]} TO '{user}'@'%'"):
        if more:
            sql.execute(more)
        source = open_source("mysql", parse_database_url(reader), application_name="t")
        told.append([one.what for one in source.describe_server().notes])
        # No role is kept.
        assert [one.name.name for one in source.list_relations().relations] == ["shown"]
        source.close()
    for one in (f"'{user}'@'%'", *roles):
        sql.execute(f"DROP {'USER' if one[0] == chr(39) else 'ROLE'} {one}")
    ((what,),) = told[1:]
    assert told[0] == []
    for power in (f"UPDATE on `{sql.database}`.*", "INSERT on *.*"):
        assert re.search(rf"{re.escape(power)} as role `?{user}_wr``x`", what), what


def test_every_engine_says_whether_its_decoder_is_compiled() -> None:
    assert {decoder_compiled(name) for name in engine_names()} <= {True, False}
