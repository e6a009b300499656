"""The frame's questions about keys and casts, over an engine in miniature: SQLite's own."""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from rivet_fleet.contracts.columns import ColumnType, TypeKind
from rivet_fleet.contracts.facts import (
    WALKED,
    ColumnFacts,
    FactsRequest,
    IndexFacts,
    ProbedDensity,
)
from rivet_fleet.contracts.keys import KeyTuple, RelationName
from rivet_fleet.contracts.window import Newest, NewestRequest
from rivet_fleet.errors import ConfigError, SourceRefused, StatementTimeout
from rivet_fleet.execution.engines.facts import (
    Keyed,
    KeyProbe,
    Look,
    NewestLook,
    Size,
    by_name,
    newest,
    refused_cast,
    thinned,
    with_casts,
)

ROWS = 100
TABLE = RelationName(schema="main", name="t")


class SqliteDialect:
    """A ``CursorKeys``; one column is enough here."""

    count = "count(*)"

    def column_ref(self, name: str) -> str:
        return f'"{name}"'

    def text_expression(self, name: str) -> str:
        return f'CAST("{name}" AS TEXT)'

    def first_of(self, columns: tuple[str, ...]) -> str:
        return f"coalesce({', '.join(map(self.column_ref, columns))}, NULL)"

    def first_text(self, columns: tuple[str, ...]) -> str:
        return f"CAST({self.first_of(columns)} AS TEXT)"

    def sign(self, name: str, sign: str) -> str:
        return sign

    def falling(self, name: str, expression: str) -> str:
        return f"{expression} DESC"

    def key_list(self, columns: tuple[str, ...]) -> str:
        return self.ordered(columns, "<")

    def ordered(self, columns: tuple[str, ...], sign: str) -> str:
        way = "DESC" if sign == ">" else "ASC"
        return ", ".join(f'"{name}" {way}' for name in columns)

    def key_of(self, columns: tuple[str, ...], row: tuple[Any, ...] | None) -> KeyTuple | None:
        return row

    def row_comparison(self, columns: tuple[str, ...], operator: str, values: KeyTuple) -> str:
        (name,), (value,) = columns, values
        return self.span_comparison(name, operator, value)

    def span_comparison(self, column: str, operator: str, value: str) -> str:
        return f"\"{column}\" {operator} '{value}'"

    def coalesced_comparison(self, column: str, fallback: str, operator: str, value: str) -> str:
        raise NotImplementedError


class SqliteKeys(Keyed[sqlite3.Connection]):
    def __init__(
        self,
        connection: sqlite3.Connection,
        columns: tuple[ColumnFacts, ...],
        indexes: tuple[IndexFacts, ...],
        size: Size,
    ) -> None:
        super().__init__(columns, indexes, size, SqliteDialect())
        self.connection, self.uses = connection, list[str]()

    @contextlib.contextmanager
    def asking(self, look: Look, shown: str) -> Iterator[sqlite3.Connection]:
        self.uses.append(f"{look.value} {shown}")
        try:
            yield self.connection
        except sqlite3.OperationalError as error:
            kind = StatementTimeout if str(error) == "interrupted" else SourceRefused
            raise kind(str(error)) from None

    def rows(self, at: sqlite3.Connection, sql: str) -> Sequence[tuple[Any, ...]]:
        return at.execute(sql).fetchall()

    def item(self, columns: tuple[str, ...]) -> str:
        return '"t"'

    def orderable(self, column: ColumnFacts) -> bool:
        return column.type is not None and column.type.kind is not TypeKind.FLOAT64

    def unfit(self, column: ColumnFacts) -> tuple[str, str] | None:
        return None if self.orderable(column) else (f"column {column.name} is a float", "another")

    def quoted(self, name: str) -> str:
        return f'"{name}"'

    def finite(self, name: str) -> str:
        return f"\"{name}\" < 'infinity'"

    def boundaries(
        self,
        at: sqlite3.Connection,
        probe: KeyProbe,
        lowest: KeyTuple,
        highest: KeyTuple | None,
        most: int,
    ) -> tuple[tuple[KeyTuple, ...], str]:
        found = self.rows(at, f"SELECT {probe.texts} FROM {probe.item} WHERE {probe.not_null}")
        return thinned([tuple(row) for row in found], most), "sample"


def column(name: str, kind: TypeKind | None, *, nullable: bool = False) -> ColumnFacts:
    return ColumnFacts(
        name=name,
        native_type=kind.value if kind else "strange",
        wire_type="1",
        type=ColumnType(kind=kind) if kind else None,
        nullable=nullable,
        unsupported_reason=None if kind else "strange types are not read",
    )


def index(name: str) -> IndexFacts:
    return IndexFacts(
        name=f"by_{name}", columns=(name,), unique=True, primary=name == "n", ordered=True
    )


COLUMNS = (
    column("n", TypeKind.INT64),
    column("strange", TypeKind.STRING),
    column("day", TypeKind.DATE, nullable=True),
    column("f", TypeKind.FLOAT64),
)
INDEXES = (index("n"), index("strange"), index("f"))


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """The server is asked by somebody to whom one column's collation is not known."""
    path = tmp_path_factory.mktemp("facts") / "t.db"
    with contextlib.closing(sqlite3.connect(path)) as owner:
        owner.create_collation("ours", lambda one, other: (one > other) - (one < other))
        owner.execute(
            "CREATE TABLE t (n INTEGER NOT NULL PRIMARY KEY, "
            "strange TEXT NOT NULL UNIQUE COLLATE ours, day TEXT, f REAL NOT NULL UNIQUE)"
        )
        for n in range(ROWS):
            day = ("infinity", None, f"2024-01-{n % 28 + 1:02}")[min(n, 2)]
            owner.execute("INSERT INTO t VALUES (?, ?, ?, ?)", (2 * n, f"s{n}", day, n / 7))
        owner.commit()
    with contextlib.closing(sqlite3.connect(path)) as reader:
        yield reader


@pytest.fixture
def keyed(connection: sqlite3.Connection) -> SqliteKeys:
    return SqliteKeys(connection, COLUMNS, INDEXES, Size(rows=None, provenance="none"))


def request(**asked: Any) -> FactsRequest:
    return FactsRequest(export_name="e", relation=TABLE, query=None, **asked)


def test_a_key_that_the_server_refuses_is_left_out_and_no_index_of_it_is_used(
    keyed: SqliteKeys,
) -> None:
    warnings: list[str] = []
    keys, indexes = keyed.describe(request(boundaries_max=4), warnings)
    assert [key.columns for key in keys] == [("n",)]
    (key,) = keys
    assert (key.minimum, key.maximum, key.has_nulls, key.unique) == (("0",), ("198",), False, True)
    assert key.boundaries == (("38",), ("78",), ("120",), ("160",)) and key.provenance == "sample"
    assert warnings == [
        "export e: key (strange) is left out: no such collation sequence: ours",
    ]
    assert [one.obstacle for one in indexes] == [None, "no such collation sequence: ours", None]


def test_a_refused_key_that_was_asked_for_is_refused_by_its_name(keyed: SqliteKeys) -> None:
    with pytest.raises(SourceRefused, match=r"export e: key \(strange\) cannot be one: no such"):
        keyed.describe(request(key_columns=("strange",)), [])


def test_what_cannot_be_a_key_is_refused_before_anything_is_asked(keyed: SqliteKeys) -> None:
    with pytest.raises(SourceRefused, match='export e: there is no column "x"'):
        keyed.describe(request(key_columns=("x",)), [])
    with pytest.raises(SourceRefused, match="export e: column f is a float"):
        keyed.describe(request(key_columns=("f",)), [])
    assert keyed.uses == []


def test_a_key_that_takes_too_long_is_left_out_even_when_it_was_asked_for(
    keyed: SqliteKeys,
) -> None:
    warnings: list[str] = []
    keyed.connection.set_progress_handler(lambda: 1, 10)
    try:
        assert keyed.describe(request(key_columns=("n",)), warnings) == ((), INDEXES)
    finally:
        keyed.connection.set_progress_handler(None, 0)
    assert warnings == ["key (n) could not be described within 30 s: is there an index on it?"]


def test_the_ends_of_a_moment_lie_within_the_calendar(keyed: SqliteKeys) -> None:
    (key,), _ = keyed.describe(request(key_columns=("day",)), [])
    assert (key.minimum, key.maximum) == (("2024-01-01",), ("2024-01-28",))
    assert key.has_nulls and not key.unique


def test_an_indexed_key_is_probed_and_walked_in_uses_of_their_own(keyed: SqliteKeys) -> None:
    (key,), _ = keyed.describe(
        request(key_columns=("n",), probe_density=True, walk_rows=40, boundaries_max=0), []
    )
    assert key.probed == ProbedDensity(rows=ROWS, keys=2 * ROWS - 1)
    assert key.boundaries == (("80",), ("160",)) and key.provenance == WALKED
    assert keyed.uses[0] == "looking at n" and {"probing n", "walking n"} < set(keyed.uses)


def test_a_key_without_an_index_is_neither_probed_nor_walked(
    connection: sqlite3.Connection,
) -> None:
    keyed = SqliteKeys(connection, COLUMNS, (), Size(rows=None, provenance="none"))
    (key,), _ = keyed.describe(request(key_columns=("n",), probe_density=True, walk_rows=40), [])
    assert key.probed is None and key.provenance != WALKED and keyed.uses == ["looking at n"]


def test_casts_are_applied_where_they_are_asked_for_or_needed() -> None:
    columns = (column("n", TypeKind.INT64), column("odd", None), column("odder", None))
    text = ColumnType(kind=TypeKind.STRING)

    def cast(one: ColumnFacts, override: str, *, asked: bool) -> ColumnFacts:
        if one.name == "odder":
            return refused_cast(one, override, "no way", "text")
        assert asked == (one.name == "n")
        return ColumnFacts(
            name=one.name, native_type=one.native_type, wire_type="t", type=text, nullable=True
        )

    n, odd, odder = with_casts(
        columns, request(casts=(("n", "text"),), unsupported_cast="text"), cast
    )
    assert (n.type, n.cast) == (text, None)
    assert (n.uncast, odd.uncast, odder.uncast) == columns
    assert (odd.type, odd.cast) == (text, "text")
    assert odd.unsupported_reason == "strange types are not read"
    assert odder.cast_refused and odder.type is None and odder.cast_hint is None
    assert odder.unsupported_reason == "this server cannot read it as text (no way)"
    with pytest.raises(ConfigError, match="names 'x', which is not there"):
        with_casts(columns, request(casts=(("x", "text"),)), cast)


def test_what_a_server_says_of_a_cast_is_cut_and_made_printable() -> None:
    odd = ColumnFacts(name="a", native_type="odd", type=None, nullable=True)
    reason = refused_cast(odd, "int", "no\x1b[2J\nway" + "!" * 100_000, "text").unsupported_reason
    assert "(no[2J way!!" in (reason or "")
    assert len(reason or "") < 500


def newest_of(keyed: SqliteKeys, mark: str | None, moved: str | None = None) -> Newest:
    request = NewestRequest(
        relation=TABLE, query=None, columns=("day",), above=None if mark is None else (mark,)
    )
    look = NewestLook(
        request=request,
        by_name=by_name(request, COLUMNS),
        keys=SqliteDialect(),
        item='"t"',
        beyond="'infinity'",
        moved=moved,
    )
    return newest(lambda sql: keyed.rows(keyed.connection, sql), look)


def test_the_newest_row_is_below_what_is_no_mark_and_the_rest_is_told(keyed: SqliteKeys) -> None:
    found = newest_of(keyed, None)
    assert found == Newest(values=("2024-01-28",), nulls=True, endless=True)
    assert newest_of(keyed, "2024-01-27") == found


def test_what_is_not_above_a_mark_is_at_it_or_below_it(keyed: SqliteKeys) -> None:
    at = newest_of(keyed, "2024-01-28")
    assert (at.values, at.below, at.vacant) == (None, None, False)
    reloaded = newest_of(keyed, "2024-02-01")
    assert (reloaded.values, reloaded.below, reloaded.vacant) == (None, ("2024-01-28",), False)


def test_a_table_without_a_mark_is_vacant_only_to_who_had_one(keyed: SqliteKeys) -> None:
    keyed.connection.execute("CREATE TEMP TABLE t (day TEXT)")
    try:
        assert newest_of(keyed, None) == Newest(values=None)
        assert newest_of(keyed, "2024-01-01") == Newest(values=None, vacant=True)
    finally:
        keyed.connection.execute("DROP TABLE temp.t")


def test_a_mark_is_moved_back_by_the_server(keyed: SqliteKeys) -> None:
    back = newest_of(keyed, "2024-01-28", "SELECT date('2024-01-28', '-2 days')")
    assert back.overlap == "2024-01-26"
    assert newest_of(keyed, "2024-01-28", "SELECT NULL").overlap is None


def test_a_cursor_that_is_not_there_is_refused() -> None:
    gone = NewestRequest(relation=TABLE, query=None, columns=("day",), fallback="gone")
    with pytest.raises(SourceRefused, match="there is no column gone"):
        by_name(gone, COLUMNS)
