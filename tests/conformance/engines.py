"""The engines that ``test_source.py`` runs against, one table each: how a database is had, the
words its SQL has for what every engine can do, and what its catalogue calls a session.

What a table does not have the engine cannot do (``without``), and says why it differs where it
should not (``faults``). A third engine is one more class here.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import pytest

from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.contracts.url import DatabaseUrl, parse_database_url
from rivet_fleet.demo.embedded import EmbeddedPostgres
from tests.conftest import MYSQL_URL_VARIABLE, service_database
from tests.integration.mysql_source_kit import Sql
from tests.waiting import until

READER, PASSWORD = f"conform_{os.getpid()}", "conform-secret"
"""The user that every source of the suite reads as: whatever it runs is ours."""
NUMBERS = 3000
"""How many rows the table ``numbers`` has: ``i`` from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyKind:
    """One kind of key: its column, and a value of it that tells row ``i`` from every other."""

    name: str
    ddl: str
    value: str
    collation: str | None = None
    """Asks the server for the name of its collation, where not every server has one."""
    cast: str | None = None
    """What the column is carried as, where its own values are not all carried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """One type of column, and its values: as SQL, and as Arrow stores them (moments: whole
    numbers; a list, an enum or JSON: what ``to_pylist`` gives)."""

    kind: TypeKind
    ddl: str
    values: tuple[tuple[str, object], ...]


def days(year: int, month: int, day: int) -> int:
    return (datetime(year, month, day, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).days


def micros(year: int, month: int, day: int, *rest: int) -> int:
    """Since 1970, of a moment in UTC."""
    apart = datetime(year, month, day, *rest, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (apart.days * 86_400 + apart.seconds) * 1_000_000 + apart.microseconds


_DAY_US = 86_400 * 1_000_000
_ID = "00112233-4455-6677-8899-aabbccddeeff"
_WIDE = 10**38 - 1

NUMBERS_CARRIED = (
    Carried(kind=TypeKind.INT16, ddl="smallint", values=(("-32768", -32768), ("32767", 32767))),
    Carried(kind=TypeKind.INT32, ddl="integer", values=(("-2147483648", -(2**31)), ("0", 0))),
    Carried(
        kind=TypeKind.INT64,
        ddl="bigint",
        values=(("-9223372036854775808", -(2**63)), ("9223372036854775807", 2**63 - 1)),
    ),
    Carried(
        kind=TypeKind.DECIMAL,
        ddl="decimal(38,0)",
        values=(("0", Decimal(0)), (f"-{_WIDE}", Decimal(-_WIDE)), (str(_WIDE), Decimal(_WIDE))),
    ),
    Carried(
        kind=TypeKind.DECIMAL,
        ddl="decimal(18,4)",
        values=(
            ("-0.0001", Decimal("-0.0001")),
            ("99999999999999.9999", Decimal(10**18 - 1) / 10**4),
        ),
    ),
    Carried(
        kind=TypeKind.DECIMAL,
        ddl="decimal(60,20)",
        values=(
            (f"{10**40 - 1}.00000000000000000001", Decimal(f"{10**40 - 1}.00000000000000000001")),
        ),
    ),
)
TEXTS = (("''", ""), ("'  padded '", "  padded "), ("'é😀 %s'", "é😀 %s"))
MOMENTS = (
    ("'9999-12-31 23:59:59.999999'", micros(9999, 12, 31, 23, 59, 59, 999_999)),
    ("'1969-12-31 23:59:59.999999'", -1),
)
TIMES = (("'00:00:00'", 0), ("'23:59:59.999999'", _DAY_US - 1))


class Server(ABC):
    """One database that a test module has for itself, through its administrator's eyes."""

    name: ClassVar[str]
    keys: ClassVar[tuple[KeyKind, ...]]
    carried: ClassVar[tuple[Carried, ...]]
    without: ClassVar[frozenset[TypeKind]]
    """Kinds that no type of the engine has."""
    sleep: ClassVar[str]
    """An expression that takes ``{}`` seconds."""
    raised: ClassVar[dict[str, str]]
    """What can go wrong on the server → an expression by which it does so at once, as the server
    words and numbers it."""
    writing: ClassVar[str]
    """A query that writes."""
    lock_timeout_s: ClassVar[float]
    """The shortest wait for a lock that the engine can be told."""
    analyze: ClassVar[str]
    """Gather statistics of a table."""
    flush: ClassVar[str]
    """What this session changed is counted at once, where that is late."""
    long_text: ClassVar[str]
    loosened: ClassVar[tuple[str, ...]]
    """Column ``a`` of a table may be NULL, and its ``c`` gets another precision."""
    parted: ClassVar[str]
    """The columns of a table in parts, and what follows them."""
    parts: ClassVar[tuple[str, ...]] = ()
    """What makes its parts, where that is no part of it."""
    whole_in_steps: ClassVar[bool] = False
    """What cannot be cut is fetched by a cursor: a statement for each page."""
    trains: ClassVar[bool] = True
    """Several pages are asked for at once where that is worth it."""
    near: ClassVar[str]
    """How far a server is (seconds) from which on it is."""
    faults: ClassVar[dict[str, str]] = {}
    """Tests that fail because the engine answers otherwise than the seam says → why."""

    def __init__(self, url: DatabaseUrl) -> None:
        self.owner = url
        self.url = replace(url, user=READER, password=PASSWORD)
        self._tables = 0
        self.kept: dict[str, Any] = {}
        """What one test makes and others use."""

    def table(self, columns: str, *inserts: str) -> str:
        """A new table, filled by ``inserts``: what stands behind INSERT INTO its name."""
        self._tables += 1
        name = f"t{self._tables}"
        self.sql(f"CREATE TABLE {name} ({columns})")
        for insert in inserts:
            self.sql(f"INSERT INTO {name} {insert}")
        return name

    def begin(self) -> None:
        """What every test may use."""
        self.sql("CREATE TABLE numbers (i bigint NOT NULL PRIMARY KEY)")
        self.sql("INSERT INTO numbers VALUES " + ", ".join(f"({i})" for i in range(1, NUMBERS + 1)))
        self.sql("CREATE TABLE armed (yes int NOT NULL)")
        self.sql("INSERT INTO armed VALUES (1)")

    def keys_named(self, name: str) -> KeyKind:
        return next(one for one in self.keys if one.name == name)

    @abstractmethod
    def sql(self, text: str) -> list[tuple[Any, ...]]:
        """One statement of the administrator's, committed; its rows."""

    @abstractmethod
    def quoted(self, name: str) -> str: ...

    @abstractmethod
    def sessions(self, *, running: str | None = None) -> list[int]:
        """The sessions of our reader; ``running``: those that run a statement with this text."""

    @abstractmethod
    def kill(self, session: int) -> None: ...

    @abstractmethod
    def cancel(self, session: int) -> None:
        """End what the session runs, and leave the session."""

    @abstractmethod
    def locked(self, table: str) -> contextlib.AbstractContextManager[None]:
        """Nobody else reads the table meanwhile."""

    @abstractmethod
    def ahead(self) -> AbstractContextManager[str]:
        """Meanwhile the server says how far it has come; this is further."""

    @abstractmethod
    def drop_key(self, table: str) -> None:
        """The primary key goes; the columns stay."""

    @abstractmethod
    def may_see_nothing(self) -> DatabaseUrl:
        """The URL of a user who may log in and read no table."""


class Postgres(Server):
    whole_in_steps = True
    near = "rivet_fleet.execution.sources.postgres.reading._NEAR_S"
    name = "postgres"
    without = frozenset({TypeKind.UINT64})
    sleep = "pg_sleep({})::text"
    raised: ClassVar = {
        "deadlock": "fail('40P01')",
        "memory": "fail('53200')",
        "disk": "fail('53100')",
        "shutdown": "fail('57P01')",
        "cancelled": "fail('57014')",
        "value": "fail('22012')",
    }
    writing = "SELECT nextval('written') AS n"
    lock_timeout_s = 0.1
    analyze = "ANALYZE {}"
    flush = "SELECT pg_stat_force_next_flush()"
    long_text = "text"
    loosened = (
        "ALTER TABLE {} ALTER a DROP NOT NULL",
        "ALTER TABLE {} ALTER c TYPE numeric(6,2)",
    )
    parted = "i int NOT NULL) PARTITION BY RANGE (i"
    parts = ("CREATE TABLE {0}_1 PARTITION OF {0} FOR VALUES FROM (0) TO (100)",)
    keys = (
        KeyKind(name="smallint", ddl="smallint", value="i - 300"),
        KeyKind(name="bigint", ddl="bigint", value="(i - 300) * 1000000007"),
        KeyKind(name="uuid", ddl="uuid", value="md5(i::text)::uuid"),
        KeyKind(name="text", ddl="text", value="(ARRAY['a', 'B', '_é''\\'])[1 + i % 3] || i"),
        KeyKind(name="text-C", ddl='text COLLATE "C"', value="chr((64 + i % 500)::int) || i"),
        KeyKind(
            name="text-linguistic",
            ddl="text",
            collation="SELECT collname FROM pg_collation WHERE collname ~ '^en[-_]' LIMIT 1",
            value="chr((97 + i % 26)::int) || '_' || i",
        ),
        KeyKind(name="char", ddl="char(9)", value="left(md5(i::text), 9)"),
        KeyKind(name="decimal", ddl="numeric(20,3)", value="(i - 300) * 1.001"),
        KeyKind(name="date", ddl="date", value="'1870-01-01'::date + i::int"),
        KeyKind(
            name="timestamp",
            ddl="timestamp",
            value="'2024-01-01'::timestamp + i * interval '1.000001 s'",
        ),
        KeyKind(
            name="timestamp_utc",
            ddl="timestamptz",
            value="'2024-03-31'::timestamptz + i * interval '61 s'",
        ),
        KeyKind(name="bytes", ddl="bytea", value="decode(md5(i::text), 'hex')"),
    )
    carried = (
        *NUMBERS_CARRIED,
        Carried(kind=TypeKind.BOOL, ddl="boolean", values=(("true", True), ("false", False))),
        Carried(
            kind=TypeKind.FLOAT32,
            ddl="real",
            values=(
                ("'-0'", -0.0),
                ("3.4028235e38", 3.4028234663852886e38),
                ("'NaN'", float("nan")),
            ),
        ),
        Carried(
            kind=TypeKind.FLOAT64,
            ddl="double precision",
            values=(
                ("1.7976931348623157e308", 1.7976931348623157e308),
                ("'-Infinity'", float("-inf")),
                ("5e-324", 5e-324),
            ),
        ),
        Carried(
            kind=TypeKind.DATE,
            ddl="date",
            values=(
                ("'4714-11-24 BC'", -2_440_588),
                ("'5874897-12-31'", 2_145_042_905),
                ("'1970-01-01'", 0),
            ),
        ),
        Carried(kind=TypeKind.TIME, ddl="time", values=TIMES),
        Carried(
            kind=TypeKind.TIMESTAMP,
            ddl="timestamp",
            values=(*MOMENTS, ("'4714-11-24 BC'", -2_440_588 * _DAY_US)),
        ),
        Carried(
            kind=TypeKind.TIMESTAMP_UTC,
            ddl="timestamptz",
            values=(
                ("'2024-03-31 02:30:00+02'", micros(2024, 3, 31, 0, 30)),
                ("'0001-01-01 00:00+00'", micros(1, 1, 1)),
            ),
        ),
        Carried(
            kind=TypeKind.STRING, ddl="text", values=(*TEXTS, ("repeat('ß', 70000)", "ß" * 70_000))
        ),
        Carried(kind=TypeKind.STRING, ddl="varchar(20)", values=TEXTS),
        Carried(
            kind=TypeKind.BINARY, ddl="bytea", values=(("''", b""), (r"'\x00ff5c'", b"\0\xff\\"))
        ),
        Carried(
            kind=TypeKind.JSON,
            ddl="json",
            values=(("'[]'", "[]"), ("""'{"a":  "é"}'""", '{"a":  "é"}')),
        ),
        Carried(
            kind=TypeKind.JSON,
            ddl="jsonb",
            values=(("""'{"a":  1}'""", '{"a": 1}'), ("'null'", "null")),
        ),
        Carried(kind=TypeKind.UUID, ddl="uuid", values=((f"'{_ID}'", uuid.UUID(_ID).bytes),)),
        Carried(kind=TypeKind.ENUM, ddl="mood", values=(("'so so'", "so so"), ("''", ""))),
        Carried(
            kind=TypeKind.INTERVAL, ddl="interval", values=(("'1 mon -2 days 03:00'", "P1M-2DT3H"),)
        ),
        Carried(
            kind=TypeKind.LIST, ddl="int[]", values=(("'{}'", []), ("'{1,NULL,-2}'", [1, None, -2]))
        ),
        Carried(
            kind=TypeKind.LIST, ddl="text[]", values=(("""'{"",NULL,"é,"}'""", ["", None, "é,"]),)
        ),
    )

    def __init__(self, server: EmbeddedPostgres) -> None:
        super().__init__(parse_database_url(server.create_database(READER)))
        self._administrator = psycopg.connect(server.url(READER), autocommit=True)
        self._hba = Path(str(self.sql("SHOW hba_file")[0][0]))

    def begin(self) -> None:
        super().begin()
        for statement in (
            f"CREATE ROLE {READER} LOGIN PASSWORD '{PASSWORD}'",
            f"CREATE ROLE {READER}_blind LOGIN PASSWORD '{PASSWORD}'",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {READER}",
            f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {READER}",
            "CREATE TYPE mood AS ENUM ('so so', '')",
            f"CREATE SEQUENCE written; GRANT ALL ON SEQUENCE written TO {READER}",
            "CREATE FUNCTION fail(state text) RETURNS int LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'as told' USING ERRCODE = state; END $$",
        ):
            self.sql(statement)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """The session's server asks nobody for a password; our own users it does."""
        before = self._hba.read_text()
        lines = (f"host all {name} all scram-sha-256\n" for name in (READER, f"{READER}_blind"))
        self._hba.write_text("".join(lines) + before)
        try:
            self.sql("SELECT pg_reload_conf()")
            until(self._asks)
            yield
        finally:
            self._hba.write_text(before)
            self.sql("SELECT pg_reload_conf()")

    def _asks(self) -> bool:
        target = replace(self.url, password="wrong").target
        try:
            psycopg.connect(**target).close()  # type: ignore[arg-type]
        except psycopg.OperationalError:
            return True
        return False

    def end(self) -> None:
        for name in (READER, f"{READER}_blind"):
            self.sql(f"DROP OWNED BY {name}; DROP ROLE {name}")
        self._administrator.close()

    def sql(self, text: str) -> list[tuple[Any, ...]]:
        found = self._administrator.execute(text.encode())
        return found.fetchall() if found.description else []

    def quoted(self, name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    def sessions(self, *, running: str | None = None) -> list[int]:
        # What a cursor fetches from is not shown.
        at_work = f" AND state = 'active' AND (query LIKE '%{running}%' OR query LIKE 'FETCH %')"
        working = "" if running is None else at_work
        query = f"SELECT pid FROM pg_stat_activity WHERE usename = '{READER}'{working}"
        return [int(pid) for (pid,) in self.sql(query)]

    def kill(self, session: int) -> None:
        self.sql(f"SELECT pg_terminate_backend({session}, 5000)")

    def cancel(self, session: int) -> None:
        self.sql(f"SELECT pg_cancel_backend({session})")

    @contextmanager
    def locked(self, table: str) -> Iterator[None]:
        with self._administrator.transaction():
            self.sql(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield

    def ahead(self) -> AbstractContextManager[str]:
        return contextlib.nullcontext("FFFFFFFF/0")

    def drop_key(self, table: str) -> None:
        query = f"SELECT conname FROM pg_constraint WHERE conrelid = '{table}'::regclass"
        for (name,) in self.sql(f"{query} AND contype = 'p'"):
            self.sql(f"ALTER TABLE {table} DROP CONSTRAINT {name}")

    def may_see_nothing(self) -> DatabaseUrl:
        return replace(self.url, user=f"{READER}_blind")


class Mysql(Server):
    """What MySQL and MariaDB have in common."""

    name = "mysql"
    trains = False
    near = "rivet_fleet.execution.sources.mysql.reading._NEAR_S"
    without = frozenset({TypeKind.INTERVAL, TypeKind.LIST, TypeKind.UUID})
    sleep = "sleep({})"
    raised: ClassVar = {
        "deadlock": "fail(1213)",
        "memory": "fail(1037)",
        "disk": "fail(1021)",
        "shutdown": "fail(1053)",
        "cancelled": "fail(1317)",
        "value": "fail(1365)",
    }
    writing = "SELECT writes() AS n"
    lock_timeout_s = 1.0
    analyze = "ANALYZE TABLE {}"
    flush = "DO 0"
    long_text = "longtext"
    loosened = ("ALTER TABLE {} MODIFY a int NULL, MODIFY c decimal(6,2)",)
    parted = "i int NOT NULL PRIMARY KEY) PARTITION BY HASH (i"
    keys = (
        KeyKind(name="int", ddl="int", value="i - 300"),
        KeyKind(
            name="bigint-unsigned",
            ddl="bigint unsigned",
            value="18446744073709551615 - i * 1000003",
        ),
        KeyKind(name="smallint-unsigned", ddl="smallint unsigned", value="i + 60000"),
        KeyKind(
            name="text", ddl="varchar(40)", value="concat(elt(1 + i % 3, 'a', 'B', '_é''\\\\'), i)"
        ),
        KeyKind(
            name="text-bin",
            ddl="varchar(40) COLLATE utf8mb4_bin",
            value="concat(elt(1 + i % 3, 'a', 'B', '😀 '), i)",
        ),
        KeyKind(
            name="text-linguistic",
            ddl="varchar(40) COLLATE utf8mb4_unicode_ci",
            value="concat(elt(1 + i % 3, 'a', 'B', 'é'), i)",
        ),
        KeyKind(
            name="text-latin1",
            ddl="varchar(40) CHARACTER SET latin1 COLLATE latin1_german1_ci",
            value="concat('ä', i, 'Z')",
        ),
        KeyKind(
            name="text-utf16", ddl="varchar(40) CHARACTER SET utf16", value="concat('ä', i, 'Z')"
        ),
        KeyKind(name="char", ddl="char(9)", value="left(sha2(i, 256), 9)"),
        KeyKind(name="bytes", ddl="varbinary(40)", value="unhex(left(sha2(i, 256), 32))"),
        KeyKind(name="bytes-fixed", ddl="binary(20)", value="unhex(left(sha2(i, 256), 32))"),
        KeyKind(name="decimal", ddl="decimal(20,3)", value="(i - 300) * 1.001"),
        KeyKind(name="date", ddl="date", value="'1870-01-01' + interval i day"),
        KeyKind(
            name="timestamp",
            ddl="datetime(6)",
            value="'2024-01-01' + interval i * 1000001 microsecond",
        ),
        KeyKind(name="timestamp_utc", ddl="timestamp(3)", value="'2024-01-01' + interval i second"),
        KeyKind(name="time", ddl="time(3)", value="sec_to_time((i - 300) * 600)", cast="text"),
        KeyKind(name="bit", ddl="bit(40)", value="i * 1000003"),
    )
    carried = (
        *NUMBERS_CARRIED,
        Carried(kind=TypeKind.BOOL, ddl="tinyint(1)", values=(("true", True), ("false", False))),
        Carried(kind=TypeKind.INT32, ddl="smallint unsigned", values=(("65535", 65535),)),
        Carried(kind=TypeKind.INT64, ddl="int unsigned", values=(("4294967295", 2**32 - 1),)),
        Carried(kind=TypeKind.INT16, ddl="year", values=(("2155", 2155), ("0", 0))),
        Carried(
            kind=TypeKind.UINT64,
            ddl="bigint unsigned",
            values=(("18446744073709551615", 2**64 - 1), ("0", 0)),
        ),
        Carried(
            kind=TypeKind.FLOAT32, ddl="float", values=(("-1.5", -1.5), ("16777217", 16777216.0))
        ),
        Carried(
            kind=TypeKind.FLOAT64,
            ddl="double",
            values=(
                ("1.7976931348623157e308", 1.7976931348623157e308),
                ("-2.2250738585072014e-308", -2.2250738585072014e-308),
            ),
        ),
        Carried(
            kind=TypeKind.DATE,
            ddl="date",
            values=(("'0001-01-01'", days(1, 1, 1)), ("'9999-12-31'", days(9999, 12, 31))),
        ),
        Carried(kind=TypeKind.TIME, ddl="time(6)", values=TIMES),
        Carried(
            kind=TypeKind.TIMESTAMP,
            ddl="datetime(6)",
            values=(*MOMENTS, ("'0001-01-01'", micros(1, 1, 1))),
        ),
        Carried(
            kind=TypeKind.TIMESTAMP_UTC,
            ddl="timestamp(6) NULL",
            values=(
                ("'1970-01-01 00:00:01'", 1_000_000),
                ("'2038-01-19 03:14:07.999999'", micros(2038, 1, 19, 3, 14, 7, 999_999)),
            ),
        ),
        Carried(
            kind=TypeKind.STRING,
            ddl="longtext",
            values=(*TEXTS, ("repeat('ß', 70000)", "ß" * 70_000)),
        ),
        Carried(kind=TypeKind.STRING, ddl="varchar(20)", values=TEXTS),
        Carried(kind=TypeKind.BINARY, ddl="blob", values=(("''", b""), ("x'00ff5c'", b"\0\xff\\"))),
        Carried(
            kind=TypeKind.JSON,
            ddl="json",
            values=(("'[]'", "[]"), ("""'{"a": "é"}'""", '{"a": "é"}')),
        ),
        Carried(
            kind=TypeKind.ENUM, ddl="enum('so so', '')", values=(("'so so'", "so so"), ("''", ""))
        ),
    )

    def __init__(self, url: str) -> None:
        super().__init__(parse_database_url(url))
        self._administrator = Sql(url)
        self.sql("SET time_zone = '+00:00'")

    def begin(self) -> None:
        super().begin()
        for name in (READER, f"{READER}_blind"):
            self.sql(f"CREATE USER '{name}'@'%' IDENTIFIED BY '{PASSWORD}'")
        database = self.quoted(self.owner.database)
        self.sql(f"GRANT SELECT, EXECUTE ON {database}.* TO '{READER}'@'%'")
        self.sql(f"GRANT SELECT ON {database}.armed TO '{READER}_blind'@'%'")
        self.sql(
            "CREATE FUNCTION fail(number int) RETURNS int DETERMINISTIC NO SQL "
            "BEGIN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'as told', MYSQL_ERRNO = number; "
            "RETURN 1; END"
        )
        self.sql(
            "CREATE FUNCTION writes() RETURNS int NOT DETERMINISTIC MODIFIES SQL DATA "
            "BEGIN DELETE FROM numbers; RETURN 1; END"
        )

    def end(self) -> None:
        for name in (READER, f"{READER}_blind"):
            self.sql(f"DROP USER '{name}'@'%'")
        self._administrator.connection.close()

    def sql(self, text: str) -> list[tuple[Any, ...]]:
        return self._administrator.execute(text)

    def quoted(self, name: str) -> str:
        return "`" + name.replace("`", "``") + "`"

    def sessions(self, *, running: str | None = None) -> list[int]:
        at_work = f" AND command <> 'Sleep' AND info LIKE '%{running}%'"
        working = "" if running is None else at_work
        query = f"SELECT id FROM information_schema.processlist WHERE user = '{READER}'{working}"
        return [int(number) for (number,) in self.sql(query)]

    def kill(self, session: int) -> None:
        self.sql(f"KILL {session}")
        until(lambda: session not in self.sessions(), what="the session's end")

    def cancel(self, session: int) -> None:
        self.sql(f"KILL QUERY {session}")

    @contextmanager
    def locked(self, table: str) -> Iterator[None]:
        self.sql(f"LOCK TABLES {table} WRITE")
        try:
            yield
        finally:
            self.sql("UNLOCK TABLES")

    @contextlib.contextmanager
    def ahead(self) -> Iterator[str]:
        ((version,),) = self.sql("SELECT VERSION()")
        if "MariaDB" not in version:
            ((uuid,),) = self.sql("SELECT @@server_uuid")
            yield f"{uuid}:1-999999999999"
            return
        self.sql("SET GLOBAL gtid_slave_pos = '0-1-5'")
        try:
            yield "0-1-6"
        finally:
            self.sql("SET GLOBAL gtid_slave_pos = ''")

    def drop_key(self, table: str) -> None:
        self.sql(f"ALTER TABLE {table} DROP PRIMARY KEY")

    def may_see_nothing(self) -> DatabaseUrl:
        return replace(self.url, user=f"{READER}_blind")


class Mariadb(Mysql):
    name = "mariadb"
    trains = True
    without = Mysql.without - {TypeKind.UUID}
    keys = (
        *Mysql.keys,
        KeyKind(
            name="uuid",
            ddl="uuid",
            value="concat(left(md5(i), 12), '4', mid(md5(i), 14, 3), '8', mid(md5(i), 18))",
        ),
    )
    carried = (
        *Mysql.carried,
        Carried(kind=TypeKind.UUID, ddl="uuid", values=((f"'{_ID}'", uuid.UUID(_ID).bytes),)),
    )


SERVERS: tuple[type[Server], ...] = (
    Postgres,
    Mariadb,
    *((Mysql,) if os.environ.get(MYSQL_URL_VARIABLE) else ()),
)
"""MySQL where a server of it is named: it is a service by address."""


@contextmanager
def opened(kind: type[Server], request: pytest.FixtureRequest) -> Iterator[Server]:
    """A database of this engine for the length of a block, with all that its table promises."""
    with contextlib.ExitStack() as stack:
        server: Postgres | Mysql
        if kind is Postgres:
            server = Postgres(request.getfixturevalue("postgres"))
        elif kind is Mariadb:
            server = Mariadb(request.getfixturevalue("mariadb").create_database(READER))
        else:
            server = Mysql(stack.enter_context(service_database()))
        server.begin()
        stack.callback(server.end)
        if isinstance(server, Postgres):
            stack.enter_context(server.guarded())
        yield server


def each(what: str) -> list[Any]:
    """Parameters (engine, one of its ``keys``, ``carried`` or ``raised``)."""
    return [
        pytest.param(kind, one, id=f"{kind.name}-{getattr(one, 'name', None) or _shown(one)}")
        for kind in SERVERS
        for one in getattr(kind, what)
    ]


def _shown(one: object) -> str:
    return one.ddl if isinstance(one, Carried) else str(one)
