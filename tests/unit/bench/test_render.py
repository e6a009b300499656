import pytest

from bench.contenders import FLOOR_NAMES
from bench.parts import MANY, ONE, PAGES, STATEMENT
from bench.render import BEGIN, END, markdown_table, number, render, replace_between_markers
from bench.schema import Engine
from bench.values import Fidelity
from tests.unit.bench.samples import (
    MB,
    help_times,
    lifecycle,
    point,
    rate,
    results,
    run,
    section,
)

PSQL = FLOOR_NAMES[Engine.POSTGRES]
CONTEST = section(
    "contest/postgres/lineitem",
    runs=(
        run(PSQL, wall_s=2.0, group="floor"),
        run("x", wall_s=5.0, output_bytes=3 * MB),
        run("y", error="not available: no driver"),
    ),
    fidelity=(
        Fidelity(engine="postgres", table="lineitem", contender="x"),
        Fidelity(
            engine="postgres",
            table="lineitem",
            contender="z",
            types={"a": "DOUBLE", "b": "DOUBLE"},
            values=("c",),
            unreadable=("d",),
        ),
    ),
)
EVERYTHING = results(
    CONTEST,
    section(
        "chunks/postgres/lineitem",
        runs=(run(ONE, wall_s=1.0), run(MANY, wall_s=1.05)),
        lifecycles=(lifecycle(1, 0.1), lifecycle(100, 0.4)),
    ),
    section("servo/postgres/wide", runs=(run(STATEMENT, wall_s=1.0), run(PAGES, wall_s=1.02))),
    section("memory/postgres/events", memory=(point(10**5, 100), point(10**6, 100))),
    help_times(0.11, 0.12, 0.3),
    section("claims", claims=(rate("sqlite", 612.3),)),
)


def rows(text: str, first: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_contender_has_one_row_with_its_ratio():
    assert rows(render(EVERYTHING), "x")[0][:3] == ["x", "5.00", "2.50"]


def test_a_contender_that_could_not_run_has_dashes_and_its_reason():
    text = render(EVERYTHING)
    assert set(rows(text, "y")[0][1:-1]) == {"–"}
    assert "- y: not available: no driver" in text


def test_the_floor_decodes_no_rows():
    assert rows(render(EVERYTHING), PSQL)[0][4] == "–"


def test_what_a_peer_changed_is_named():
    assert rows(render(EVERYTHING), "z") == [["z", "a, b → DOUBLE", "c; not comparable: d"]]
    assert ["x", "none", "none"] in rows(render(EVERYTHING), "x")


def test_every_section_says_how_to_measure_it_again():
    text = render(EVERYTHING)
    assert text.count("\n    python -m bench --again") == len(EVERYTHING.sections)


def test_what_a_hundred_chunks_and_short_statements_cost():
    text = render(EVERYTHING)
    assert rows(text, "100")[0][1:] == ["9.600", "0.400", "4.0"]
    assert "chunks over one: 5.0 %" in text
    assert "What short statements cost: 2.0 %" in text


def test_goals_come_first_and_a_missed_one_stands_out():
    text = render(EVERYTHING)
    assert text.startswith("### Goals")
    (judged,) = rows(text, "`rivet-fleet --help`, wall")
    assert judged[-1] == "met"
    slow = render(results(help_times(0.4)))
    assert rows(slow, "`rivet-fleet --help`, wall")[0][-1] == "**not met**"


def test_every_row_of_a_table_has_as_many_cells_as_its_head():
    for block in render(EVERYTHING).split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1


def test_markdown_table_aligns_numbers_right_and_escapes():
    assert markdown_table(("a", "b"), [("x|y", "1")]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |"


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (1234.5, "1,234.50"), (0.0, "0.00")])
def test_number(value, text):
    assert number(value) == text


def test_only_what_stands_between_the_markers_is_replaced():
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert replace_between_markers(text, "new\n") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"


def test_replacing_twice_changes_nothing():
    once = replace_between_markers(f"{BEGIN}{END}", "new")
    assert replace_between_markers(once, "new") == once


def test_a_document_without_markers_is_refused():
    with pytest.raises(ValueError, match="markers"):
        replace_between_markers(f"only {BEGIN}", "new")
