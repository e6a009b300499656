"""One table there and back: random or from a fixture; a mismatch is made small and kept."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Protocol

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, TypeKind
from rivet_fleet.errors import RivetFleetError
from rivet_fleet.execution.types import canonical_name
from tests.property.roundtrip import readers, texts
from tests.property.roundtrip.families import Column, Family, fill
from tests.property.roundtrip.product import Extracted, extract

FIXTURES = Path(__file__).parent / "fixtures"
KEY = "row id"


class Tables(Protocol):
    """One engine's side of the proof."""

    url: str
    source: dict[str, Any]

    def place(self, number: int) -> str:
        """Where the numbered table stands, as the configuration names it."""
        ...

    def create(self, table: str, columns: list[Column], *, key: str, keyed: bool) -> None: ...

    def printed(self, table: str, columns: list[Column], key: str) -> list[list[bytes | None]]: ...

    def drop(self, table: str) -> None: ...

    def expected(self, family: Family, kind: ColumnType, cell: bytes | None) -> tuple[Any, int]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch(Exception):
    """A value that arrived as another one. ``column`` holds the values of its whole column."""

    reader: str
    column: Column
    row: int
    printed: bytes | None
    expected: Any
    got: Any

    def __str__(self) -> str:
        return (
            f"{self.reader}: {self.column.family.ddl} as {self.column.family.canonical}: the "
            f"server prints {self.printed!r}, expected {self.expected!r}, got {self.got!r}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a table is read: policy, cuts and page sizes."""

    coerce: bool
    chunked: dict[str, Any]
    keyed: bool
    batch_size: int
    query: bool = False


_numbers = itertools.count(1)


def random_way(rng: Random) -> Way:
    """Any strategy the planner knows, with pages small enough to be many."""
    keyed = rng.random() < 0.6
    count = rng.randint(1, 4)
    cuts: tuple[dict[str, Any], ...] = (
        {"mode": "full"},
        {"mode": "chunked", "chunk_count": count},
        {"mode": "chunked", "chunk_column": KEY, "chunk_count": count},
    )
    query = rng.random() < 0.2
    return Way(
        coerce=rng.random() < 0.6,
        # A query has no key of its own: one chunk, or cut by a column.
        chunked=rng.choice(cuts[::2] if query else cuts),
        query=query,
        keyed=keyed,
        batch_size=rng.choice((7, 100, 1000, 100_000)),
    )


def random_columns(
    rng: Random, family: Callable[[Random], Family], rows: int, *, columns: int, unfit: bool
) -> list[Column]:
    """A random schema, filled; the key stands anywhere."""
    made = []
    lists = rng.random() < 0.5  # CSV refuses lists: without them the table goes there, too.
    for index in range(columns):
        chosen = family(rng)
        while _is_list(chosen) and not lists:
            chosen = family(rng)
        column = Column(name=texts.name(rng, index), family=chosen, not_null=rng.random() < 0.2)
        fill(column, rng, rows, unfit=unfit)
        made.append(column)
    made.insert(rng.randint(0, columns), key_column(rows))
    return made


def _is_list(family: Family) -> bool:
    return family.canonical.startswith("list<")


def key_column(rows: int) -> Column:
    """1 to ``rows``, under a name that needs quotes."""
    family = Family(ddl="bigint", canonical="int64", make=lambda rng: "0")
    values: list[str | None] = [str(n) for n in range(1, rows + 1)]
    return Column(name=KEY, family=family, not_null=True, values=values)


def there_and_back(folder: Path, tables: Tables, columns: list[Column], way: Way) -> int:
    """Write, extract, read, compare. The number of values compared; raises Mismatch."""
    table = tables.place(next(_numbers))
    try:
        tables.create(table, columns, key=KEY, keyed=way.keyed)
        printed = tables.printed(table, columns, KEY)
        folder.mkdir(parents=True, exist_ok=True)
        exports = [_export("parquet", table, columns, way)]
        if not any(_is_list(column.family) for column in columns):
            exports.append(_export("csv", table, columns, way))
        done = extract(folder, tables.source, tables.url, exports, defaults=_policies(way))
    finally:
        tables.drop(table)
    for extracted in done:
        _compare(tables, extracted, columns, printed, way)
        for path in extracted.paths:
            path.unlink()
    return len(printed) * len(columns)


def _export(form: str, table: str, columns: list[Column], way: Way) -> dict[str, Any]:
    prefix = "" if way.query else f"{table}."
    return {
        "name": form,
        **({"query": f"SELECT * FROM {table}"} if way.query else {"table": table}),
        "format": form,
        "columns": {f"{prefix}{c.name}": c.family.override for c in columns if c.family.override},
        "tuning": {"batch_size": way.batch_size},
        **way.chunked,
    }


def _policies(way: Way) -> dict[str, str]:
    policy = "coerce" if way.coerce else "fail"
    return {"on_unrepresentable": policy, "on_unsupported": "text"}


# ---------------------------------------------------------------- comparing

_READERS: dict[str, tuple[Callable[..., readers.Rows], ...]] = {
    "parquet": (readers.parquet_by_pyarrow, readers.parquet_by_duckdb),
    "csv": (readers.csv_by_pyarrow, readers.csv_by_duckdb),
}


def _compare(
    tables: Tables,
    extracted: Extracted,
    columns: list[Column],
    printed: list[list[bytes | None]],
    way: Way,
) -> None:
    specs = extracted.plan.read.columns
    _check_plan(columns, specs, way)
    assert extracted.rows == len(printed), "rows were lost or doubled"
    cells = [[row[i] for row in printed] for i in range(len(columns))]
    wanted = [
        [tables.expected(column.family, spec.type, cell) for cell in printed_cells]
        for column, spec, printed_cells in zip(columns, specs, cells, strict=True)
    ]
    for read in _READERS[extracted.plan.format.format]:
        found = _in_key_order(read(extracted.paths, specs), columns) if printed else []
        for index, values in enumerate(found):
            sees = readers.duckdb_sees if read is readers.parquet_by_duckdb else _exactly
            for row, ((value, _), got) in enumerate(zip(wanted[index], values, strict=True)):
                if not sees(value, specs[index].type)(got):
                    raise Mismatch(
                        reader=read.__name__,
                        column=columns[index],
                        row=row,
                        printed=cells[index][row],
                        expected=value,
                        got=got,
                    )
    changed = {
        column.name: total
        for column, pairs in zip(columns, wanted, strict=True)
        if (total := sum(count for _, count in pairs))
    }
    assert extracted.changed == changed, f"changed values are miscounted, {way}"
    nulls = {
        column.name: sum(value is None for value, _ in pairs)
        for column, pairs in zip(columns, wanted, strict=True)
    }
    assert not printed or extracted.nulls == nulls, "NULLs are miscounted"


def _exactly(expected: Any, kind: ColumnType) -> Callable[[Any], bool]:
    return lambda got: type(got) is type(expected) and got == expected


def _in_key_order(found: readers.Rows, columns: list[Column]) -> readers.Rows:
    key = next(i for i, column in enumerate(columns) if column.name == KEY)
    order = sorted(range(len(found[key])), key=found[key].__getitem__)
    assert [found[key][i] for i in order] == list(range(1, len(order) + 1)), "not each row once"
    return [[values[i] for i in order] for values in found]


_MAY_BECOME_NULL = (
    *(TypeKind.DECIMAL, TypeKind.DATE, TypeKind.TIME, TypeKind.TIMESTAMP),
    *(TypeKind.TIMESTAMP_UTC, TypeKind.INTERVAL, TypeKind.LIST),
)


def _check_plan(columns: list[Column], specs: tuple[ColumnSpec, ...], way: Way) -> None:
    assert [spec.name for spec in specs] == [column.name for column in columns]
    for column, spec in zip(columns, specs, strict=True):
        assert canonical_name(spec.type) == column.family.canonical, (column.family.ddl, way)
        required = column.not_null or (column.name == KEY and way.keyed)
        relaxed = way.coerce and spec.type.kind in _MAY_BECOME_NULL
        # What a query's columns promise is the engine's to know.
        relaxed = relaxed or (way.query and spec.nullable)
        # A cast may turn anything into NULL, as far as the engine knows.
        relaxed = relaxed or (spec.cast is not None and spec.nullable)
        assert spec.nullable is (not required or relaxed), column.family.ddl


# ---------------------------------------------------------------- making a mismatch small


def minimised(folder: Path, tables: Tables, found: Mismatch, way: Way) -> Mismatch:
    """The same mismatch with fewer rows, and with shorter text, as far as it still shows."""
    way = replace(way, chunked={"mode": "full"}, batch_size=100_000)

    def fails(values: list[str | None]) -> Mismatch | None:
        column = replace(found.column, values=values)
        try:
            there_and_back(folder, tables, [key_column(len(values)), column], way)
        except Mismatch as smaller:
            return smaller
        except (AssertionError, RivetFleetError):
            return None
        return None

    best = fails([found.column.values[found.row]]) or fails(found.column.values) or found
    best = _fewer_rows(best, fails)
    return _shorter_text(best, fails) if len(best.column.values) == 1 else best


Fails = Callable[[list[str | None]], Mismatch | None]


def _fewer_rows(best: Mismatch, fails: Fails) -> Mismatch:
    size = len(best.column.values) // 2
    while size:
        for start in range(0, len(best.column.values), size):
            values = best.column.values
            smaller = fails([*values[:start], *values[start + size :]]) if len(values) > 1 else None
            if smaller is not None:
                best = smaller
                break
        else:
            size //= 2
    return best


def _shorter_text(best: Mismatch, fails: Fails) -> Mismatch:
    (text,) = best.column.values
    size = len(text or "") // 2
    while size:
        (text,) = best.column.values
        for start in range(0, len(text or ""), size):
            smaller = _still_valid(fails, (text or "")[:start] + (text or "")[start + size :])
            if smaller is not None:
                best = smaller
                break
        else:
            size //= 2
    return best


def _still_valid(fails: Fails, text: str) -> Mismatch | None:
    """A cut may leave no value of the type at all: then the server refuses it."""
    try:
        return fails([text])
    except Exception:
        return None


# ---------------------------------------------------------------- fixtures


def keep(engine: str, found: Mismatch, way: Way) -> Path:
    """Write a mismatch down, so that it is replayed from now on."""
    family = found.column.family
    body = {
        "engine": engine,
        "setup": list(family.setup),
        "ddl": family.ddl,
        "canonical": family.canonical,
        "override": family.override,
        "coerce": way.coerce,
        "values": found.column.values,
        "found": str(found),
    }
    text = json.dumps(body, indent=1, ensure_ascii=True)
    path = FIXTURES / f"{engine}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    path.write_text(text + "\n", encoding="utf-8")
    return path


def fixtures(engine: str) -> list[Path]:
    """Everything that was ever wrong on this engine."""
    return sorted(FIXTURES.glob(f"{engine}-*.json"))


def replay(folder: Path, tables: Tables, path: Path) -> int:
    """Read one fixture's values again, in every way."""
    body = json.loads(path.read_text(encoding="utf-8"))
    family = Family(
        ddl=body["ddl"],
        canonical=body["canonical"],
        make=lambda rng: "",
        setup=tuple(body["setup"]),
        override=body["override"],
    )
    values = body["values"]
    column = Column(name="kept", family=family, values=values)
    way = Way(coerce=body["coerce"], chunked={"mode": "full"}, keyed=True, batch_size=1000)
    return there_and_back(folder, tables, [key_column(len(values)), column], way)
