import dataclasses

import pytest

from bench.floors import judge
from bench.render import (
    BEGIN,
    END,
    markdown_table,
    number,
    render,
    replace_between_markers,
)
from bench.summary import summarise
from bench.tables import Table
from bench.values import Results
from tests.unit.bench.test_floors import point, rate
from tests.unit.bench.test_summary import run


def results(**changes: object) -> Results:
    runs = (
        run("psql", 1, 2.0),
        run("x", 1, 5.0, output_bytes=3 * 2**20),
        run("y", 1, 1.0, error="exit code 1: it broke"),
    )
    memory = (point(10**5, 100), point(10**6, 100))
    claims = (rate("sqlite", 612.3),)
    values = {
        "machine": {"cpu": "one of two cores"},
        "tables": (dataclasses.asdict(Table(name="t", rows=1234567, heap_bytes=5 * 2**20)),),
        "floor_contender": "psql",
        "runs": runs,
        "summaries": summarise(runs, "psql"),
        "memory": memory,
        "claims": claims,
        "floors": judge(runs[1:2], memory, claims),
        **changes,
    }
    return Results(**values)


def row(text: str, first: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_contender_has_one_row_with_its_ratio():
    assert row(render(results()), "x")[:3] == ["x", "5.00", "2.50"]


def test_a_failed_contender_has_dashes_and_its_reason():
    text = render(results())
    assert set(row(text, "y")[1:-1]) == {"–"}
    assert "- y failed: exit code 1: it broke" in text


def test_the_floor_decodes_no_rows():
    assert row(render(results()), "psql")[4] == "–"


def test_a_missed_floor_stands_out():
    text = render(results())
    assert row(text, "longest statement of any run")[-1] == "**FAIL**"
    assert row(text, "claims per second, sqlite state, 16 processes")[-2:] == ["612/s", "pass"]


def test_what_was_not_measured_is_not_shown():
    text = render(results(memory=(), claims=(), floors=()))
    assert "Memory" not in text and "Claims" not in text and "Floors" not in text


def test_every_row_of_a_table_has_as_many_cells_as_its_head():
    widths: dict[int, set[int]] = {}
    for at, block in enumerate(render(results()).split("\n\n")):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        widths[at] = {line.count("|") for line in lines}
    assert all(len(counts) <= 1 for counts in widths.values())


def test_markdown_table_aligns_numbers_right():
    assert markdown_table(("a", "b"), [("x", "1")]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


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
