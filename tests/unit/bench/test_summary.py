from dataclasses import replace

import pytest

from bench.summary import growth_bytes_per_row, median, ratios, summarise
from bench.values import MemoryPoint, RunResult

FLOOR = RunResult(
    engine="postgres",
    table="t",
    contender="floor",
    group="floor",
    round=1,
    rows=100,
    wall_s=2.0,
    client_cpu_s=0.5,
    server_cpu_s=1.0,
    peak_rss_bytes=10,
    tree_rss_bytes=10,
    longest_statement_s=2.0,
    statements=1,
    output_bytes=0,
)


def run(contender: str, number: int, wall_s: float, **changes: object) -> RunResult:
    return replace(FLOOR, contender=contender, round=number, wall_s=wall_s, **changes)


def test_a_ratio_is_taken_to_the_floor_of_its_own_round():
    # The machine was twice as slow in round 2: the ratio must not see it.
    floors = [run("floor", 1, 2.0), run("floor", 2, 4.0)]
    mine = [run("x", 1, 3.0), run("x", 2, 6.0)]
    assert ratios(mine, floors, lambda r: r.wall_s) == [1.5, 1.5]


def test_a_round_without_a_floor_has_no_ratio():
    assert ratios([run("x", 2, 3.0)], [run("floor", 1, 2.0)], lambda r: r.wall_s) == []


def test_a_floor_of_nothing_gives_no_ratio():
    floors = [run("floor", 1, 2.0, server_cpu_s=0.0)]
    assert ratios([run("x", 1, 3.0)], floors, lambda r: r.server_cpu_s) == []


@pytest.mark.parametrize(("values", "middle"), [([], None), ([3.0], 3.0), ([1.0, 9.0, 2.0], 2.0)])
def test_median(values, middle):
    assert median(values) == middle


def test_the_median_of_ratios_is_not_the_ratio_of_medians():
    runs = [
        *(run("floor", n, wall_s) for n, wall_s in ((1, 1.0), (2, 2.0), (3, 10.0))),
        *(run("x", n, wall_s) for n, wall_s in ((1, 3.0), (2, 4.0), (3, 10.0))),
    ]
    _, mine = summarise(runs, "floor")
    assert (mine.wall_s, mine.wall_ratio, mine.rounds) == (4.0, 2.0, 3)


def test_a_failed_run_counts_nowhere_and_is_told():
    runs = [run("floor", 1, 2.0), run("x", 1, 0.1, error="died"), run("x", 2, 5.0)]
    _, mine = summarise(runs, "floor")
    assert (mine.wall_s, mine.wall_ratio, mine.rounds, mine.errors) == (5.0, None, 1, ("died",))


def test_runs_against_a_failed_floor_have_no_ratio():
    runs = [run("floor", 1, 0.01, error="died"), run("x", 1, 5.0)]
    floor, mine = summarise(runs, "floor")
    assert (floor.wall_s, mine.wall_ratio) == (None, None)


def test_the_longest_statement_is_the_longest_of_all_rounds():
    runs = [run("x", n, 1.0, longest_statement_s=s) for n, s in ((1, 0.1), (2, 0.1), (3, 0.9))]
    assert summarise(runs, None)[0].longest_statement_s == 0.9


def test_the_same_reason_is_told_once():
    runs = [run("x", n, 0.0, error="not available") for n in (1, 2)]
    assert summarise(runs, "floor")[0].errors == ("not available",)


def test_rows_per_cpu_second_counts_the_rows_of_the_table():
    (summary,) = summarise([run("floor", 1, 2.0)], "floor")
    assert summary.rows_per_cpu_s == 200.0


def memory(rows: int, peak: int, error: str | None = None) -> MemoryPoint:
    return MemoryPoint(
        engine="postgres",
        table="t",
        rows=rows,
        peak_rss_bytes=peak,
        tree_rss_bytes=peak,
        longest_statement_s=0.1,
        wall_s=1.0,
        error=error,
    )


def test_growth_is_per_further_row_since_the_point_before():
    assert growth_bytes_per_row([memory(10, 100), memory(20, 150), memory(120, 150)]) == [
        None,
        5.0,
        0.0,
    ]


def test_growth_skips_a_failed_point():
    points = [memory(10, 100), memory(20, 1, error="died"), memory(30, 140)]
    assert growth_bytes_per_row(points) == [None, None, 2.0]
