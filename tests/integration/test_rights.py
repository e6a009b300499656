"""The name that the user gave decides whose rights count: policies and grants of what lies below
it (partitions, inheriting tables) say nothing, and those of the name itself everything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pyarrow.parquet as pq
import pytest

from rivet_fleet.contracts.keys import RangeKind, RelationName
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import SchemaDrift, SourceRefused
from rivet_fleet.execution.source import PageLimit, Source
from rivet_fleet.execution.sources.postgres import ENGINE as POSTGRES
from tests.integration.fleet_cli import Desk
from tests.integration.increment_kit import Follower, export_of
from tests.integration.postgres_source_kit import drain, read_plan
from tests.integration.shapes_kit import cut, look, shaped

PARTITIONED = """
CREATE TABLE {t} (id int, v text, at timestamptz NOT NULL DEFAULT now()) PARTITION BY RANGE (id);
CREATE TABLE {t}_a PARTITION OF {t} FOR VALUES FROM (0) TO (500);
CREATE TABLE {t}_b PARTITION OF {t} FOR VALUES FROM (500) TO (1001);
INSERT INTO {t} SELECT g, 'v', '2024-01-01'::timestamptz + g * interval '1 s'
FROM generate_series(1, 1000) g;
ANALYZE {t};
"""
INHERITED = """
CREATE TABLE {t} (id int, v text, at timestamptz NOT NULL DEFAULT now());
CREATE TABLE {t}_a () INHERITS ({t}); CREATE TABLE {t}_b (more int) INHERITS ({t});
INSERT INTO {t} SELECT g, 'v' FROM generate_series(1, 200) g;
INSERT INTO {t}_a SELECT g, 'v' FROM generate_series(201, 500) g;
INSERT INTO {t}_b SELECT g, 'v' FROM generate_series(501, 1000) g;
ANALYZE {t}; ANALYZE {t}_a; ANALYZE {t}_b;
"""
# What is granted and hidden, as the three cases of the field have it.
LEAF_POLICY = """
ALTER TABLE {t}_a ENABLE ROW LEVEL SECURITY; GRANT SELECT ON {t}, {t}_a, {t}_b TO {role};
"""
OWN_POLICY = """
ALTER TABLE {t} ENABLE ROW LEVEL SECURITY; GRANT SELECT ON {t}, {t}_a, {t}_b TO {role};
CREATE POLICY own ON {t} FOR SELECT TO {role} USING (id % 2 = 1);
"""
GRANT_ABOVE = "GRANT SELECT ON {t} TO {role};"
PAGE = PageLimit(rows_max=100, bytes_max=1 << 20)


@dataclass(slots=True, kw_only=True)
class Shop:
    """A database, its owner's connection, and a role that may read what it is granted."""

    url: str
    role: str
    sql: psycopg.Connection[tuple[object, ...]]

    def do(self, *texts: str, t: str = "t") -> None:
        for text in texts:
            self.sql.execute(text.format(t=t, role=self.role).encode())

    @property
    def reader_url(self) -> str:
        return self.url.replace("//postgres@", f"//{self.role}@")

    def seen(self, t: str = "t") -> list[int]:
        """What the named relation shows this very user."""
        with psycopg.connect(self.reader_url) as reader:
            return sorted(row[0] for row in reader.execute(f"SELECT id FROM {t}".encode()))


@pytest.fixture
def shop(database: str) -> Iterator[Shop]:
    role = f"reader_{database.rpartition('/')[2]}"
    with psycopg.connect(database, autocommit=True) as sql:
        sql.execute(f"CREATE ROLE {role} LOGIN".encode())
        yield Shop(url=database, role=role, sql=sql)
        sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


@pytest.fixture
def reader(shop: Shop) -> Iterator[Source]:
    source = POSTGRES.open_source(
        parse_database_url(shop.reader_url), application_name="rivet-test"
    )
    yield source
    source.close()


def delivered(source: Source, **knobs: object) -> list[int]:
    """The ids of all chunks, as planned, each row once."""
    export = shaped(**knobs)
    facts = look(source, export, schema="public")
    read = read_plan(facts)
    ids: list[int] = []
    for one in cut(facts, export).ranges:
        chunk = source.open_chunk(read, one, TuningPlan())
        ids += drain(chunk, PAGE).column("id").to_pylist()
    return sorted(ids)


# ---------------------------------------------------------------- at the command line


def desk_of(tmp_path: Path, shop: Shop, *tables: str, extra: str = "") -> Desk:
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": shop.reader_url})
    exports = "\n".join(
        f"  - {{name: {t}, table: {t}, format: parquet, {extra}"
        f" destination: {{type: local, path: ./out/{t}}}}}"
        for t in tables
    )
    desk.write(
        f"source: {{type: postgres, url_env: SHOP_URL}}\ncampaign: {{name: shop, workers: 1}}\n"
        f"exports:\n{exports}\n"
    )
    return desk


def files_of(desk: Desk, table: str) -> list[int]:
    found: list[int] = []
    for part in sorted((desk.out / table).rglob("*.parquet")):
        found += pq.read_table(part, columns=["id"]).column("id").to_pylist()
    return sorted(found)


def test_the_named_table_s_rights_count(tmp_path: Path, shop: Shop) -> None:
    for name, rights in (("ledger", LEAF_POLICY), ("doc", OWN_POLICY), ("part", GRANT_ABOVE)):
        shop.do(PARTITIONED, rights, t=name)
    desk = desk_of(tmp_path, shop, "ledger", "doc", "part")
    reports = {one["export_name"]: one for one in desk.cli("check", "--json").json["exports"]}
    assert "row-level security of public.ledger_a is active" in reports["ledger"]["reason"]
    assert "row-level security of public.doc is active" in reports["doc"]["reason"]
    assert "may read public.part, but not public.part_a" in reports["part"]["reason"]
    assert "3 of 3 export(s) may be read" in desk.cli("doctor").said
    desk.cli("run")
    assert files_of(desk, "ledger") == shop.seen("ledger") == list(range(1, 1001))
    assert files_of(desk, "doc") == shop.seen("doc") == list(range(1, 1001, 2))
    assert files_of(desk, "part") == shop.seen("part") == list(range(1, 1001))


def test_what_run_refuses_check_and_doctor_refuse(tmp_path: Path, shop: Shop) -> None:
    shop.do(
        "CREATE TABLE {t} (id int PRIMARY KEY, name text, ssn text); INSERT INTO {t} VALUES (1);"
        "ANALYZE {t}; GRANT SELECT (id, name) ON {t} TO {role}",
        t="person",
    )
    shop.do(
        "CREATE MATERIALIZED VIEW {t} AS SELECT 1 AS id WITH NO DATA;GRANT SELECT ON {t} TO {role}",
        t="empty",
    )
    told = {
        "may not read every column of public.person: ssn": 'GRANT SELECT ("ssn")',
        "has not been populated": "REFRESH MATERIALIZED VIEW",
    }
    desk = desk_of(tmp_path, shop, "person", "empty")
    for command in ("check", "doctor"):
        said = desk.cli(command, code=1).said
        assert all(what in said and hint in said for what, hint in told.items()), said
    for name, (what, hint) in zip(("person", "empty"), told.items(), strict=True):
        desk_of(tmp_path, shop, name)
        error = desk.refused("run", code=1, named=what, hint="")
        assert hint in f"{error['error']} {error['hint']}"
    found = desk.bare("init", "--source-url-env", "SHOP_URL", "--include", "*", "--discover").json
    reasons = " ".join(one["reason"] for one in found["skipped"])
    assert all(what in reasons for what in told), reasons


# ---------------------------------------------------------------- whose rights, in every mode


@pytest.mark.parametrize(
    "rights", [LEAF_POLICY, OWN_POLICY, GRANT_ABOVE], ids=["leaf", "own", "up"]
)
@pytest.mark.parametrize("tree", [PARTITIONED, INHERITED], ids=["partitioned", "inherited"])
def test_without_a_key_the_relation_is_read_by_its_own_rights(
    shop: Shop, reader: Source, tree: str, rights: str
) -> None:
    shop.do(tree, rights)
    for knobs in ({"mode": "full"}, {"chunk_count": 3}, {"chunk_column": "id", "chunk_count": 3}):
        assert delivered(reader, **knobs) == shop.seen(), knobs


@pytest.mark.parametrize(
    "rights", [LEAF_POLICY, OWN_POLICY, GRANT_ABOVE], ids=["leaf", "own", "up"]
)
def test_a_key_goes_through_the_relation(shop: Shop, reader: Source, rights: str) -> None:
    shop.do(PARTITIONED, "ALTER TABLE {t} ADD PRIMARY KEY (id)", rights)
    assert delivered(reader, chunk_count=3) == shop.seen()


@pytest.mark.parametrize(
    "rights", [LEAF_POLICY, OWN_POLICY, GRANT_ABOVE], ids=["leaf", "own", "up"]
)
def test_an_increment_is_read_by_the_relation_s_rights(
    shop: Shop, reader: Source, rights: str
) -> None:
    shop.do(PARTITIONED, rights)
    follower = Follower(source=reader, export=export_of(chunk_count=3), schema="public")
    assert follower.run() == shop.seen()
    before = set(shop.seen())
    shop.do("INSERT INTO {t} VALUES (0, 'late', '2024-01-02'), (999, 'late', '2024-01-02')")
    with psycopg.connect(shop.reader_url) as sql:
        late = [r[0] for r in sql.execute("SELECT id FROM t WHERE v = 'late' ORDER BY id")]
    assert follower.run() == late and before


@pytest.mark.parametrize(
    "rights", [LEAF_POLICY, OWN_POLICY, GRANT_ABOVE], ids=["leaf", "own", "up"]
)
def test_a_time_window_is_read_by_the_relation_s_rights(
    shop: Shop, reader: Source, rights: str
) -> None:
    shop.do(PARTITIONED, rights)
    export = export_of(
        mode="time_window", cursor_column=None, time_column="at", days_window=3650, chunk_count=3
    )
    assert Follower(source=reader, export=export, schema="public").run() == shop.seen()


def test_an_owner_is_bound_by_forced_policies(shop: Shop, reader: Source) -> None:
    shop.do(
        PARTITIONED,
        "ALTER TABLE {t} OWNER TO {role}; ALTER TABLE {t}_a OWNER TO {role};"
        "ALTER TABLE {t}_b OWNER TO {role}; ALTER TABLE {t} ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY own ON {t} USING (id <= 10);",
    )
    assert delivered(reader, chunk_count=3) == list(range(1, 1001))
    shop.do("ALTER TABLE {t} FORCE ROW LEVEL SECURITY")
    assert delivered(reader, chunk_count=3) == shop.seen() == list(range(1, 11))


def test_who_bypasses_policies_reads_the_heaps(shop: Shop, reader: Source) -> None:
    shop.do(PARTITIONED, OWN_POLICY, "ALTER ROLE {role} BYPASSRLS")
    facts = look(reader, shaped(), schema="public")
    assert facts.rights_apart is None
    assert {one.relation for one in cut(facts, shaped(chunk_count=2)).ranges} == {
        RelationName(schema="public", name="t_a"),
        RelationName(schema="public", name="t_b"),
    }
    assert delivered(reader, chunk_count=2) == list(range(1, 1001))


def test_a_role_of_the_url_is_the_user_whose_rights_count(shop: Shop) -> None:
    shop.do(PARTITIONED, OWN_POLICY, "GRANT {role} TO CURRENT_USER")
    url = f"{shop.url}?options=-c%20role%3D{shop.role}"
    source = POSTGRES.open_source(parse_database_url(url), application_name="rivet-test")
    try:
        assert delivered(source, chunk_count=3) == shop.seen() == list(range(1, 1001, 2))
        shop.do("REVOKE SELECT ON {t} FROM {role}")
        with pytest.raises(SourceRefused) as refused:
            delivered(source)
        assert shop.role in refused.value.message and shop.role in str(refused.value.hint)
    finally:
        source.close()


def test_grants_of_columns_do_not_cover_the_place_of_a_row(shop: Shop, reader: Source) -> None:
    shop.do(
        INHERITED,
        "GRANT SELECT ON {t}, {t}_a TO {role}; GRANT SELECT (id, v, at) ON {t}_b TO {role}",
    )
    facts = look(reader, shaped(), schema="public")
    assert "may read public.t, but not public.t_b" in str(facts.rights_apart)
    assert delivered(reader, chunk_count=3) == list(range(1, 1001))
    shop.do("GRANT SELECT (ctid) ON {t}_b TO {role}")
    assert look(reader, shaped(), schema="public").rights_apart is None
    assert delivered(reader, chunk_count=3) == list(range(1, 1001))


@pytest.mark.parametrize("tree", [PARTITIONED, INHERITED], ids=["partitioned", "inherited"])
def test_grants_of_columns_alone_are_read_by_one_statement(
    shop: Shop, reader: Source, tree: str
) -> None:
    shop.do(tree, "GRANT SELECT (id, v, at) ON {t} TO {role}")
    facts = look(reader, shaped(), schema="public")
    assert any("where its rows are" in one for one in facts.warnings)
    assert [one.kind for one in cut(facts, shaped()).ranges] == [RangeKind.WHOLE]
    assert delivered(reader) == shop.seen()
    shop.do("CREATE TABLE alone AS SELECT * FROM {t}; GRANT SELECT (id, v, at) ON alone TO {role}")
    shop.do("DROP TABLE {t} CASCADE; ALTER TABLE alone RENAME TO {t}")
    assert delivered(reader) == shop.seen() == list(range(1, 1001))


def test_views_are_read_by_their_own_rights(shop: Shop, reader: Source) -> None:
    shop.do(PARTITIONED, t="below")
    shop.do("CREATE VIEW {t} AS SELECT * FROM below; GRANT SELECT ON {t} TO {role}")
    assert delivered(reader) == list(range(1, 1001))
    shop.do("ALTER VIEW {t} SET (security_invoker = true)")
    with pytest.raises(SourceRefused, match="permission denied for table below"):
        delivered(reader)
    with pytest.raises(SourceRefused, match="permission denied for table below"):
        reader.check_readable(RelationName(schema="public", name="t"), None)
    shop.do(OWN_POLICY, t="below")
    assert delivered(reader) == shop.seen() == list(range(1, 1001, 2))


def test_a_page_reads_the_named_blocks_of_every_heap(shop: Shop, reader: Source) -> None:
    """Read through the relation, a page costs its own blocks: no heap is scanned as a whole."""
    shop.do(PARTITIONED, OWN_POLICY)
    export = shaped(chunk_count=3)
    facts = look(reader, export, schema="public")
    ranges = cut(facts, export).ranges
    assert {one.kind for one in ranges} == {RangeKind.BLOCKS} and len(ranges) == 3
    assert {one.relation for one in ranges} == {None}
    with psycopg.connect(shop.reader_url, autocommit=True) as sql:
        sql.execute("SET enable_seqscan = off")
        plan = sql.execute(
            "EXPLAIN SELECT * FROM t WHERE ctid >= '(1,0)' AND ctid < '(2,0)'"
        ).fetchall()
    said = "\n".join(str(row[0]) for row in plan)
    assert said.count("Tid Range Scan") == 2 and "Seq Scan" not in said, said


# ---------------------------------------------------------------- rights that change under way


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ALTER TABLE {t} ENABLE ROW LEVEL SECURITY", "row-level security became active"),
        ("ALTER TABLE {t}_b ENABLE ROW LEVEL SECURITY", "row-level security became active"),
        ("REVOKE SELECT ON {t} FROM {role}", "may not read every column of it any more"),
        ("REVOKE SELECT (v) ON {t} FROM {role}", None),
    ],
)
def test_rights_that_change_under_way_end_the_chunk(
    shop: Shop, reader: Source, change: str, said: str | None
) -> None:
    shop.do(PARTITIONED, "GRANT SELECT ON {t}, {t}_a, {t}_b TO {role}")
    facts = look(reader, shaped(), schema="public")
    assert facts.rights_apart is None
    leaf = cut(facts, shaped(mode="full")).ranges[-1]
    chunk = reader.open_chunk(read_plan(facts), leaf, TuningPlan())
    assert not chunk.read_page(PageLimit(rows_max=1, bytes_max=1 << 20)).last
    shop.do(change)
    if said is None:  # a table's grant still covers every column
        assert chunk.read_page(PAGE).batch.num_rows
        return
    with pytest.raises(SchemaDrift, match=said):
        chunk.read_page(PAGE)
