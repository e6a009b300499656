import pytest

from bench.contenders import FLOOR_NAMES
from bench.goals import ONE_WORKER, chunk_cost, judge, memory_growth
from bench.links import BETWEEN, Link
from bench.parts import MANY, ONE, PAGES, STATEMENT
from bench.rivet_cli import RIVET_CLI
from bench.schema import Engine
from bench.small import FLEET, HUNDRED, MEMORY
from bench.stores import LOCAL, MANY_PARTS, STORE
from bench.values import Goal, Section
from tests.unit.bench.samples import (
    help_times,
    lifecycle,
    point,
    rate,
    results,
    run,
    section,
)

PSQL = FLOOR_NAMES[Engine.POSTGRES]


def goal(part: str, *sections: Section) -> Goal:
    (found,) = [each for each in judge(results(*sections)) if part in each.name]
    return found


def contest(*runs, engine: str = "postgres") -> Section:
    return section(f"contest/{engine}/lineitem", runs=runs)


@pytest.mark.parametrize(("wall_s", "met"), [(1.15, True), (1.16, False)])
def test_wall_is_judged_against_the_floor_of_the_same_rounds(wall_s, met):
    found = contest(run(PSQL, group="floor", wall_s=1.0), run(ONE_WORKER, wall_s=wall_s))
    assert goal("wall over the COPY floor", found).passed is met


def test_rows_per_cpu_second_are_those_of_one_worker():
    two = run("rivet-fleet, 2 workers", client_cpu_s=0.1)
    found = contest(run(PSQL, group="floor"), run(ONE_WORKER, client_cpu_s=1.2), two)
    (mine,) = [g for g in judge(results(found)) if g.name.endswith("rows per client CPU-second")]
    assert (mine.measured, mine.passed) == ("833,333", False)


@pytest.mark.parametrize(("wall_s", "rss_mb", "met"), [(1.1, 200, True), (1.2, 201, False)])
def test_a_store_is_judged_against_a_folder(wall_s, rss_mb, met):
    found = section(
        "stores/postgres/lineitem",
        runs=(
            run(LOCAL, wall_s=1.0),
            run(STORE, wall_s=wall_s),
            run(MANY_PARTS, peak_rss_bytes=rss_mb * 2**20),
            run("a peer", group="duckdb", wall_s=9.0),
        ),
    )
    assert goal("postgres lineitem into a local S3 server, 1 worker: wall", found).passed is met
    assert goal("postgres lineitem into a local S3 server, 1 worker: its", found).passed is met
    assert goal("mariadb lineitem into a local S3 server, 1 worker: wall", found).passed is None


def test_the_best_peer_is_the_one_with_the_most_rows_per_cpu_second():
    found = contest(
        run(PSQL, group="floor", client_cpu_s=0.01),
        run(ONE_WORKER, client_cpu_s=1.0),
        run("slow", group="dlt", client_cpu_s=9.0),
        run("good", group="duckdb", client_cpu_s=1.5),
    )
    judged = goal("best peer", found)
    assert "(good)" in judged.name
    assert (judged.measured, judged.passed) == ("×1.50", True)


def test_a_peer_that_failed_is_no_best_peer():
    broken = run("broken", group="duckdb", client_cpu_s=0.01, error="died")
    assert goal("best peer", contest(run(ONE_WORKER), broken)).passed is None


def test_one_worker_is_compared_with_one_connection():
    found = contest(
        run(FLOOR_NAMES[Engine.MARIADB], group="floor"),
        run(ONE_WORKER, wall_s=2.0, client_cpu_s=1.0),
        run("ConnectorX, streamed", group="connectorx", wall_s=3.0, client_cpu_s=2.0),
        run("ConnectorX, whole, 2 connections", group="connectorx", wall_s=1.0, client_cpu_s=1.0),
        engine="mariadb",
    )
    assert goal("connection: wall", found).measured == "×1.50"
    assert goal("connection: client CPU", found).measured == "×2.00"


def test_protocol_time_is_judged_at_a_hundred_chunks_only():
    found = section("chunks/postgres/lineitem", lifecycles=(lifecycle(1, 5.0), lifecycle(100, 0.2)))
    judged = goal("postgres: coordinator and protocol", found)
    assert (judged.measured, judged.passed) == ("2.0 %", True)
    assert goal("mariadb: coordinator and protocol", found).passed is None


def test_the_worst_table_decides_what_short_statements_cost():
    sections = [
        section(f"servo/postgres/{table}", runs=(run(STATEMENT, wall_s=1.0), run(PAGES, wall_s=w)))
        for table, w in (("lineitem", 1.02), ("wide", 1.09))
    ]
    judged = goal("postgres: pages of the default target", *sections)
    assert (judged.measured, judged.passed) == ("9.0 %", False)


def test_one_long_statement_in_one_run_is_one_too_many():
    short = run(ONE_WORKER, longest_statement_s=0.1)
    long = run(ONE_WORKER, 2, longest_statement_s=0.201)
    assert goal("longest statement", contest(short)).passed is True
    assert goal("longest statement", contest(short, long)).passed is False


def test_the_one_statement_that_is_meant_to_be_long_does_not_count():
    found = section("servo/postgres/wide", runs=(run(STATEMENT, longest_statement_s=9.0),))
    assert goal("longest statement", found).passed is None


def test_a_long_statement_of_the_memory_runs_counts_too():
    found = section("memory/postgres/events", memory=(point(10, 100, longest_statement_s=0.3),))
    assert goal("longest statement", found).passed is False


def test_memory_has_a_ceiling_and_does_not_grow():
    points = (point(10**4, 80), point(10**5, 100), point(10**6, 110), point(10**7, 114))
    found = section("memory/postgres/events", memory=points)
    assert memory_growth(points) == 1.14
    assert goal("any number of rows", found).passed is True
    more = section("memory/mariadb/wide", memory=(point(10, 100), point(1000, 151)))
    assert goal("any number of rows", found, more).passed is False
    assert goal("a hundredth", found, more).measured == "×1.51"


def test_growth_is_unknown_with_too_few_sizes():
    assert memory_growth([point(10**4, 80), point(10**5, 100)]) is None
    assert memory_growth([]) is None


def test_a_failed_run_is_an_error_and_no_proof_of_flatness():
    found = section("memory/postgres/wide", memory=(point(10, 9), point(1000, 9, error="died")))
    assert goal("a hundredth", found).passed is None
    assert goal("every row", found).measured == "1 of 2"


def test_only_our_own_errors_break_the_promise():
    peer = run("x", group="dlt", error="died")
    assert goal("every row", contest(run(ONE_WORKER), peer)).passed is True


def test_help_is_judged_by_its_median():
    assert goal("`rivet-fleet --help`", help_times(0.1, 0.15, 0.9)).passed is True


def test_each_backend_has_its_own_rate():
    found = section("claims", claims=(rate("sqlite", 600.0), rate("postgres", 600.0, locked=1)))
    assert goal("sqlite state", found).passed is True
    assert goal("postgres state", found).passed is False
    assert goal("locked", found).passed is False


def test_nothing_measured_is_neither_kept_nor_broken():
    assert {each.passed for each in judge(results())} == {None}


def test_chunk_costs_are_paired_by_round():
    runs = (run(ONE, 1, 1.0), run(MANY, 1, 1.1), run(ONE, 2, 2.0), run(MANY, 2, 2.2))
    assert chunk_cost(section("chunks/postgres/lineitem", runs=runs)) == pytest.approx(0.1)


@pytest.mark.parametrize(("wall_s", "met"), [(0.9, True), (0.91, False)])
def test_many_small_tables_are_judged_against_the_other_program(wall_s, met):
    runs = (run(FLEET, table=HUNDRED, wall_s=wall_s), run(RIVET_CLI, table=HUNDRED, wall_s=1.0))
    found = section("small/postgres", runs=runs)
    assert goal(f"{HUNDRED}: wall over", found).passed is met
    assert goal("500 tables of 1,000 rows: wall over", found).passed is None


def test_a_fleets_memory_is_judged_by_its_shared_pages_counted_once():
    one = run(FLEET, table=MEMORY, tree_rss_bytes=600 * 2**20, tree_pss_bytes=300 * 2**20)
    assert goal("PSS", section("small/postgres", runs=(one,))).passed is True


@pytest.mark.parametrize(("wall_s", "met"), [(1.15, True), (1.16, False)])
def test_a_far_server_is_judged_against_the_same_wire_without_its_length(wall_s, met):
    near, far = (Link(encrypted=False, rtt_ms=rtt, megabits_per_s=1_000).name for rtt in (0, 50))
    runs = (
        run(f"{near}{BETWEEN}{ONE_WORKER}", wall_s=1.0),
        run(f"{far}{BETWEEN}{ONE_WORKER}", wall_s=wall_s),
    )
    assert (
        goal(
            "postgres lineitem, 1 worker: wall at RTT",
            section("links/postgres/lineitem", runs=runs),
        ).passed
        is met
    )
    assert goal("mariadb lineitem, 1 worker: wall at RTT").passed is None
