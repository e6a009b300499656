"""docs/reference/types.md says what the type tables do: no type missing, none invented."""

from __future__ import annotations

import psycopg

from rivet_fleet.contracts.columns import ColumnType, Fidelity, TypeKind
from rivet_fleet.contracts.typereport import CheckReport, ColumnReport, ExportReport, TargetColumn
from rivet_fleet.execution.sources.mysql import dialect as mysql
from rivet_fleet.execution.sources.postgres import dialect
from rivet_fleet.execution.sources.postgres.dialect import CatalogType, column_type
from rivet_fleet.execution.types import parquet_name
from tests.house.test_documented import REFERENCE, assert_same


def rows_below(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading of types.md, cells without backticks."""
    text = (REFERENCE / "types.md").read_text(encoding="utf-8")
    body = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in body.splitlines() if line.startswith("|")][2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def test_every_canonical_type_is_documented_with_its_file_type() -> None:
    rows = rows_below("In the file")
    assert_same([row[0] for row in rows], [kind.value for kind in TypeKind], "canonical type")
    for name, _, parquet, _ in rows:
        kind = TypeKind(name)
        if kind in (TypeKind.DECIMAL, TypeKind.LIST):
            continue
        expected = parquet_name(ColumnType(kind=kind))
        expected = {
            "TIMESTAMP(us)": "TIMESTAMP(us), not adjusted",
            "TIMESTAMP(us, UTC)": "TIMESTAMP(us), adjusted to UTC",
        }.get(expected, expected)
        assert parquet == expected, name


def test_every_postgres_type_is_documented_as_its_dialect_has_it() -> None:
    named = {psycopg.postgres.types[oid].name: oid for oid in dialect.SCALAR_KINDS}
    rows = {row[0]: row for row in rows_below("PostgreSQL")}
    plain = [name for name in rows if not name.startswith(("any ", "an "))]
    assert_same(plain, list(named), "PostgreSQL type")
    for name, oid in named.items():
        typmod = ((12 << 16) | 2) + 4 if name == "numeric" else -1
        found = column_type(CatalogType(oid=oid, typmod=typmod, name=name))
        assert isinstance(found, ColumnType), name
        assert rows[name][1:3] == [found.kind.value, found.fidelity.value], name
    enum = column_type(CatalogType(oid=99_999, typtype="e", name="mood"))
    assert isinstance(enum, ColumnType)
    assert rows["any enum"][1:3] == [enum.kind.value, enum.fidelity.value]
    listed = column_type(CatalogType(oid=1007, element=CatalogType(oid=23, name="int4")))
    assert isinstance(listed, ColumnType)
    assert rows["an array of the above"][1:3] == [listed.kind.value, listed.fidelity.value]


def test_every_mysql_type_is_documented_as_its_dialect_has_it() -> None:
    documented: dict[str, list[str]] = {}
    for row in rows_below("MySQL and MariaDB"):
        for name in row[0].replace(" and between", "").replace(" and all others", "").split(","):
            documented[name.strip().strip("`")] = row
    # ``decimal(10,2)`` was taken apart at its comma.
    documented["decimal(10,2)"] = documented.pop("decimal(10")
    del documented["2)"], documented["bool"]
    whole = {f"{name}{sign}" for name in mysql._INTEGERS for sign in ("", " unsigned")}
    bits = {"tinyint(1)", "bit(1)", "bit(2)", "bit(63)", "bit(64)", "decimal(10,2)"}
    assert_same(list(documented), [*whole, *bits, *mysql._SCALARS], "MySQL type")
    for name, row in documented.items():
        found = mysql.column_type(name)
        assert isinstance(found, ColumnType), name
        assert row[1:3] == [found.kind.value, found.fidelity.value], name


def test_every_key_of_the_check_report_is_documented() -> None:
    text = (REFERENCE / "check-report.md").read_text(encoding="utf-8")
    for kind in (CheckReport, ExportReport, ColumnReport, TargetColumn):
        for name in kind.__dataclass_fields__:
            assert f"`{name}`" in text, f"{kind.__name__}.{name} is not documented"
    for fidelity in Fidelity:
        assert f"`{fidelity.value}`" in text
