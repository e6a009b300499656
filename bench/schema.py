"""The benchmark's tables as data: columns, their type in each engine, what must arrive. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum

GENERATION = 1
"""Raised whenever the generators' output changes: loaded tables of before are not used again."""


class Engine(Enum):
    """The source engines that are measured."""

    POSTGRES = "postgres"
    MARIADB = "mariadb"


class Kind(Enum):
    """How a column's values are compared between source and files."""

    WHOLE = "whole"
    DECIMAL = "decimal"
    DOUBLE = "double"
    BOOL = "bool"
    DATE = "date"
    MOMENT = "moment"
    """A timestamp, with or without zone: microseconds since 1970 as shown in UTC."""
    TEXT = "text"
    PADDED = "padded"
    """char(n): its text without trailing blanks, and its length with them."""
    LIST = "list"
    """text[]: joined by commas; JSON text in an engine without arrays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column. ``arrives`` is DuckDB's name of the type a faithful file has, by engine."""

    name: str
    kind: Kind
    postgres: str
    mariadb: str
    arrives: str
    arrives_mariadb: str | None = None

    def native(self, engine: Engine) -> str:
        """The type in this engine's DDL, with NOT NULL where it has one."""
        return self.postgres if engine is Engine.POSTGRES else self.mariadb

    def expected(self, engine: Engine) -> str:
        """DuckDB's name of the type that carries it unchanged."""
        other = self.arrives_mariadb
        return other if engine is Engine.MARIADB and other is not None else self.arrives

    def compared_as(self, engine: Engine) -> Kind:
        """Arrays are JSON text where there are no arrays; MariaDB strips char(n) itself."""
        if engine is Engine.MARIADB and self.kind in (Kind.LIST, Kind.PADDED):
            return Kind.TEXT
        return self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """One table: columns and the key in whose order its rows are generated."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    subset_of: str | None = None
    """Another table whose first rows it has."""

    def ddl(self, engine: Engine) -> str:
        """CREATE TABLE with its primary key."""
        lines = [f"    {column.name} {column.native(engine)}" for column in self.columns]
        lines.append(f"    PRIMARY KEY ({', '.join(self.key)})")
        return f"CREATE TABLE {self.name} (\n" + ",\n".join(lines) + "\n)"

    def digest(self, engine: Engine, *content: str) -> str:
        """Changes with the engine's DDL and whatever else ``content`` says."""
        text = "|".join((str(GENERATION), self.ddl(engine), *content))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def first(self, rows: int) -> TableSpec:
        """The same table with its first rows only, under its own name."""
        return TableSpec(
            name=f"{self.name}_{rows}", columns=self.columns, key=self.key, subset_of=self.name
        )


def _whole(name: str, postgres: str, mariadb: str, arrives: str) -> Column:
    return Column(name=name, kind=Kind.WHOLE, postgres=postgres, mariadb=mariadb, arrives=arrives)


def _money(name: str) -> Column:
    return Column(
        name=name,
        kind=Kind.DECIMAL,
        postgres="numeric(15,2) NOT NULL",
        mariadb="decimal(15,2) NOT NULL",
        arrives="DECIMAL(15,2)",
    )


def _date(name: str, null: str = " NOT NULL") -> Column:
    native = f"date{null}"
    return Column(name=name, kind=Kind.DATE, postgres=native, mariadb=native, arrives="DATE")


def _padded(name: str, length: int) -> Column:
    native = f"char({length}) NOT NULL"
    return Column(name=name, kind=Kind.PADDED, postgres=native, mariadb=native, arrives="VARCHAR")


def _text(name: str, postgres: str = "text", mariadb: str = "text") -> Column:
    return Column(name=name, kind=Kind.TEXT, postgres=postgres, mariadb=mariadb, arrives="VARCHAR")


LINEITEM = TableSpec(
    name="lineitem",
    key=("l_orderkey", "l_linenumber"),
    columns=(
        _whole("l_orderkey", "bigint NOT NULL", "bigint NOT NULL", "BIGINT"),
        _whole("l_partkey", "bigint NOT NULL", "bigint NOT NULL", "BIGINT"),
        _whole("l_suppkey", "bigint NOT NULL", "bigint NOT NULL", "BIGINT"),
        _whole("l_linenumber", "integer NOT NULL", "integer NOT NULL", "INTEGER"),
        *(_money(f"l_{name}") for name in ("quantity", "extendedprice", "discount", "tax")),
        _padded("l_returnflag", 1),
        _padded("l_linestatus", 1),
        *(_date(f"l_{name}") for name in ("shipdate", "commitdate", "receiptdate")),
        _padded("l_shipinstruct", 25),
        _padded("l_shipmode", 10),
        _text("l_comment", "varchar(44) NOT NULL", "varchar(44) NOT NULL"),
    ),
)
"""TPC-H lineitem, clause 1.4.1 of the TPC-H specification; rows by tpchgen-cli."""

EVENTS = TableSpec(
    name="events",
    key=("event_id",),
    columns=(
        _whole("event_id", "bigint NOT NULL", "bigint NOT NULL", "BIGINT"),
        _whole("user_id", "integer NOT NULL", "integer NOT NULL", "INTEGER"),
        _whole("device_id", "integer NOT NULL", "integer NOT NULL", "INTEGER"),
        _whole("kind", "smallint NOT NULL", "smallint NOT NULL", "SMALLINT"),
        Column(
            name="reading",
            kind=Kind.DOUBLE,
            postgres="double precision NOT NULL",
            mariadb="double NOT NULL",
            arrives="DOUBLE",
        ),
        Column(
            name="happened_at",
            kind=Kind.MOMENT,
            postgres="timestamp NOT NULL",
            mariadb="datetime(6) NOT NULL",
            arrives="TIMESTAMP",
        ),
    ),
)

WIDE = TableSpec(
    name="wide",
    key=("id",),
    columns=(
        _whole("id", "bigint NOT NULL", "bigint NOT NULL", "BIGINT"),
        _whole("account_id", "integer NOT NULL", "integer NOT NULL", "INTEGER"),
        Column(
            name="external_id",
            kind=Kind.TEXT,
            postgres="uuid NOT NULL",
            mariadb="uuid NOT NULL",
            arrives="UUID",
        ),
        _text("status", "text NOT NULL", "varchar(20) NOT NULL"),
        Column(
            name="active",
            kind=Kind.BOOL,
            postgres="boolean NOT NULL",
            mariadb="boolean NOT NULL",
            arrives="BOOLEAN",
        ),
        Column(
            name="created_at",
            kind=Kind.MOMENT,
            postgres="timestamp with time zone NOT NULL",
            mariadb="timestamp(6) NOT NULL",
            arrives="TIMESTAMP WITH TIME ZONE",
        ),
        Column(
            name="updated_at",
            kind=Kind.MOMENT,
            postgres="timestamp",
            mariadb="datetime(6)",
            arrives="TIMESTAMP",
        ),
        _date("due_on", ""),
        Column(
            name="amount",
            kind=Kind.DECIMAL,
            postgres="numeric(14,2)",
            mariadb="decimal(14,2)",
            arrives="DECIMAL(14,2)",
        ),
        Column(
            name="score",
            kind=Kind.DOUBLE,
            postgres="double precision",
            mariadb="double",
            arrives="DOUBLE",
        ),
        _whole("visits", "integer", "integer", "INTEGER"),
        *(_text(name) for name in ("email", "title", "body", "notes", "history")),
        *(
            Column(
                name=name,
                kind=Kind.LIST,
                postgres="text[]",
                mariadb="json",
                arrives="VARCHAR[]",
                arrives_mariadb="JSON",
            )
            for name in ("tags", "labels")
        ),
        *(
            Column(name=name, kind=Kind.TEXT, postgres=native, mariadb="json", arrives="JSON")
            for name, native in (("payload", "jsonb"), ("attributes", "json"))
        ),
    ),
)

TABLES = {table.name: table for table in (LINEITEM, EVENTS, WIDE)}
