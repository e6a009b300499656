"""Run after run over one table: each row exactly once, late ones at least once (ADR 0011).

The decision is the planner's, the SQL is the readers'; SQLite, which compares rows and NULLs as
the sources do, stands for the server, so that hundreds of histories cost seconds.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.contracts.keys import ChunkRange, KeyTuple, RangeKind
from rivet_fleet.contracts.window import Newest, NewestRequest, RowWindow
from rivet_fleet.execution.paging import KeyDialect, Select, above, windowed
from rivet_fleet.planning.config.models import ExportConfig
from rivet_fleet.planning.window import Moving, Windowed, newest_request, window_of
from tests.postgres_keys import PlainKeys
from tests.unit.planning.shapes import column, index, table

DIALECT: KeyDialect = PlainKeys()
FACTS = table(
    columns=(
        column("id", TypeKind.STRING),
        column("at", TypeKind.TIMESTAMP, nullable=True),
        column("made", TypeKind.TIMESTAMP, nullable=True),
    ),
    indexes=(index("pk", "id", primary=True),),
)
NO_KEY = table(columns=FACTS.columns, indexes=())
OVERLAP = 5


def export(**knobs: object) -> ExportConfig:
    return ExportConfig.model_validate(
        {
            "name": "t",
            "table": "t",
            "mode": "incremental",
            "cursor_column": "at",
            "format": "parquet",
            "destination": {"type": "local", "path": "o"},
            **knobs,
        }
    )


COALESCE = {"incremental_cursor_mode": "coalesce", "cursor_fallback_column": "made"}


def text(value: int) -> str:
    """Texts in the order of the numbers."""
    return f"{value:06}"


class Server:
    """A table, and the two questions a source answers about it."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:")
        self.db.execute('CREATE TABLE t ("id" TEXT PRIMARY KEY, "at" TEXT, "made" TEXT)')
        self.rows = 0

    def add(self, at: int | None, made: int | None = None) -> int:
        self.rows += 1
        values = [None if one is None else text(one) for one in (at, made)]
        self.db.execute("INSERT INTO t VALUES (?, ?, ?)", (text(self.rows), *values))
        return self.rows

    def newest(self, request: NewestRequest, overlap: int) -> Newest:
        first = '"at"' if request.fallback is None else 'coalesce("at", "made")'
        keys = "".join(f', "{name}"' for name in request.columns[1:])
        where = " AND ".join((f"{first} IS NOT NULL", *above(DIALECT, request)))
        order = ", ".join(f"{one} DESC" for one in (first, *(['"id"'] if keys else [])))
        row = self.db.execute(
            f"SELECT {first}{keys} FROM t AS _rivet WHERE {where} ORDER BY {order} LIMIT 1"
        ).fetchone()
        back = text(max(0, int(request.above[0]) - overlap)) if overlap and request.above else None
        return Newest(values=None if row is None else tuple(row), overlap=back)

    def read(self, window: RowWindow, cuts: Sequence[int]) -> list[int]:
        """The window, chunk by chunk of the key."""
        edges: list[KeyTuple | None] = [None, *((text(cut),) for cut in sorted(set(cuts))), None]
        found: list[int] = []
        for low, high in itertools.pairwise(edges):
            chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("id",), lower=low, upper=high)
            where = [f"\"id\" >= '{low[0]}'"] if low else []
            where += [f"\"id\" < '{high[0]}'"] if high else []
            select = Select(columns='"id"', source="t AS _rivet", where=tuple(where))
            sql = windowed(select, DIALECT, window, chunk).sql()
            found += [int(row[0]) for row in self.db.execute(sql)]
        return found


def plan(server: Server, one: ExportConfig, mark: str | None, facts=FACTS) -> Windowed:
    request = newest_request(one, facts, None, mark)
    assert request is not None
    moving = Moving(mark=mark, newest=server.newest(request, int(one.cursor_overlap_s or 0)))
    found = window_of(one, facts, moving, 0.0)
    assert isinstance(found, Windowed)
    return found


STEPS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 2), max_size=4),
        st.lists(st.integers(0, 2), max_size=4),
        st.lists(st.integers(0, 60), max_size=3),
        st.sampled_from(["completed", "failed", "repeated"]),
    ),
    max_size=8,
)
"""Of each run: how far the cursor rises before and behind its planning, cuts, how it ends."""


@given(steps=STEPS, nulls=st.sets(st.integers(0, 40)), coalesce=st.booleans())
@settings(max_examples=150, deadline=None)
def test_the_union_of_all_runs_is_each_row_exactly_once(steps, nulls, coalesce) -> None:
    server, mark, delivered, now, wanted = Server(), None, [], 10, []
    one = export(**(COALESCE if coalesce else {}))

    def write(rises: Sequence[int]) -> None:
        nonlocal now
        for rise in rises:
            now += rise
            hidden = server.rows in nulls
            number = server.add(None if hidden else now, now if hidden and coalesce else None)
            if coalesce or not hidden:
                wanted.append(number)

    for before, behind, cuts, end in [*steps, ([], [], [], "completed")]:
        write(before)
        planned = plan(server, one, mark)
        write(behind)
        rows = server.read(planned.window, cuts)
        if end == "repeated":
            # A resumed run reads the same set, whatever was written and however it is cut.
            write([1, 0])
            assert sorted(server.read(planned.window, [])) == sorted(rows)
        if end != "failed":
            delivered += rows
            assert planned.cursor is not None
            mark = planned.cursor.mark_after
    assert sorted(delivered) == wanted


@given(
    steps=st.lists(
        st.tuples(st.lists(st.integers(0, 3), max_size=4), st.lists(st.integers(0, OVERLAP))),
        max_size=6,
    )
)
@settings(max_examples=100, deadline=None)
def test_with_an_overlap_late_rows_are_read_at_least_once_and_never_twice_in_a_run(steps) -> None:
    server, mark, delivered, now = Server(), None, set(), 10
    one = export(cursor_overlap_s=OVERLAP)
    for rises, late in [*steps, ([], [])]:
        for back in late:  # below the mark of the last run, but not by more than the overlap
            server.add(max(0, now - back))
        for rise in rises:
            now += rise
            server.add(now)
        planned = plan(server, one, mark)
        rows = server.read(planned.window, [7, 20])
        assert len(rows) == len(set(rows))
        delivered |= set(rows)
        assert planned.cursor is not None
        mark = planned.cursor.mark_after
    assert delivered == set(range(1, server.rows + 1))


def test_without_a_key_a_tie_that_comes_late_is_the_stated_loss() -> None:
    server = Server()
    server.add(5)
    first = plan(server, export(), None, NO_KEY)
    assert server.read(first.window, []) == [1]
    assert "no key tells rows with the same at apart" in "; ".join(first.warnings)
    server.add(5)
    assert first.cursor is not None
    assert server.read(plan(server, export(), first.cursor.mark_after, NO_KEY).window, []) == []
