"""A walk that does not move on ends with an error, whatever circle it runs in."""

from __future__ import annotations

import itertools

import pytest

from rivet_fleet.errors import ExitCode, MalformedData
from rivet_fleet.execution.engines.facts import walk_keys
from rivet_fleet.execution.paging import Progress
from rivet_fleet.execution.source import PageLimit
from tests.unit.execution.test_pieces import Engine, reader_of

ONE_ROW = PageLimit(rows_max=1, bytes_max=1000)


@pytest.mark.parametrize("before", [0, 1, 5, 100])
@pytest.mark.parametrize("circle", [1, 2, 3, 17])
def test_every_circle_is_found(before: int, circle: int) -> None:
    walk = itertools.chain(range(before), itertools.cycle(range(before, before + circle)))
    progress, steps = Progress(("k",)), 0
    with pytest.raises(MalformedData, match=r"chunk key \(k\).*that key again") as caught:
        for step in itertools.islice(walk, 5 * (before + circle)):
            progress.to(">", (str(step),))
            steps += 1
    assert steps <= 4 * (before + circle)
    assert caught.value.code == "RIVET_KEY_NO_PROGRESS"
    assert caught.value.exit_code is ExitCode.DATA_INTEGRITY
    assert "another key" in (caught.value.hint or "")


def test_a_walk_that_rises_is_left_alone() -> None:
    progress = Progress(("k",))
    for step in range(5000):
        progress.to(">=", (str(step),))
        progress.to(">", (str(step),))


class Misread(Engine):
    """A source to which some numbers in a literal mean others."""

    def __init__(self, read_as: dict[int, int]) -> None:
        super().__init__(10)
        self.read_as = read_as

    def open_stream(self, select, columns, walk, *, packed, held=False):
        sql = select.sql()
        for number, other in self.read_as.items():
            if f"'{number}'" in sql:
                where = tuple(one.replace(f"'{number}'", f"'{other}'") for one in select.where)
                select = type(select)(
                    columns=select.columns, source=select.source, where=where, limit=select.limit
                )
                break
        return super().open_stream(select, columns, walk, packed=packed)


@pytest.mark.parametrize("read_as", [{4: 3}, {4: 2}, {4: 1}, {9: 2}])
def test_pages_that_come_back_end_the_chunk(read_as) -> None:
    reader = reader_of(Misread(read_as))
    with pytest.raises(MalformedData, match="that key again"):
        for _ in range(100):
            reader.read_page(ONE_ROW)


def test_a_page_that_begins_with_the_row_it_was_to_begin_behind() -> None:
    reader = reader_of(Misread({2: 1}))
    two = PageLimit(rows_max=2, bytes_max=1000)
    reader.read_page(two)
    with pytest.raises(MalformedData, match="that key again"):
        reader.read_page(two)


def test_an_index_walk_that_stands_still_is_told() -> None:
    def at(key, operator, skip):
        return ("5",) if key is not None else ("1",)

    with pytest.raises(MalformedData, match=r"chunk key \(a, b\)"):
        walk_keys(at, columns=("a", "b"), every=3, boundaries_max=10)
