"""The MySQL and MariaDB source when things go wrong: broken links, limits, drift, refusals."""

from __future__ import annotations

import contextlib
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pymysql
import pytest

from rivet_fleet.contracts.facts import FactsRequest
from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.demo.embedded import free_port
from rivet_fleet.errors import (
    ConfigError,
    RetryClass,
    SchemaDrift,
    SourceBusy,
    SourceRefused,
    SourceUnavailable,
    StatementTimeout,
)
from rivet_fleet.execution.engines import session as frame
from rivet_fleet.execution.engines.session import Liveness
from rivet_fleet.execution.source import PageLimit
from rivet_fleet.execution.sources.mysql import ENGINE as MYSQL
from rivet_fleet.execution.sources.mysql import liveness, session
from rivet_fleet.execution.sources.mysql.liveness import ask, judge
from rivet_fleet.execution.sources.mysql.session import Proxy
from rivet_fleet.execution.sources.mysql.statements import page_settings
from tests.integration.mysql_source_kit import (
    LIMIT,
    Sql,
    drain,
    facts_of,
    read_all,
    read_plan,
    source,
    sql,
)
from tests.integration.relay import relay
from tests.servers.mariadb import EmbeddedMariadb, embedded_mariadb

__all__ = ["source", "sql"]

WHOLE = ChunkRange(kind=RangeKind.WHOLE)


def test_a_server_killed_in_the_middle_of_a_page_costs_that_page(monkeypatch) -> None:
    """The first bytes of a page have arrived when the server dies."""
    with embedded_mariadb() as server:
        url = server.create_database("x")
        own = Sql(url)
        own.numbers(3000)
        own.execute("CREATE TABLE t (i int NOT NULL PRIMARY KEY, pad varchar(4000) NOT NULL)")
        own.execute("INSERT INTO t SELECT i, repeat('x', 4000) FROM numbers")
        source = MYSQL.open_source(parse_database_url(url), application_name="rivet-test")
        chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("i",))
        reader = source.open_chunk(read_plan(facts_of(source, "t")), chunk, TuningPlan())
        small = PageLimit(rows_max=100, bytes_max=1 << 20)
        rows = reader.read_page(small).batch.column("i").to_pylist()
        arrivals: list[int] = []
        receive = liveness.PatientFile._receive

        def die_after_the_third(self, buffer, *until) -> int:
            arrived = receive(self, buffer, *until)
            arrivals.append(arrived)
            if len(arrivals) == 3:
                server.stop(mode="immediate")
            return arrived

        with monkeypatch.context() as patched:
            patched.setattr(liveness.PatientFile, "_receive", die_after_the_third)
            with pytest.raises(SourceUnavailable) as caught:
                reader.read_page(PageLimit(rows_max=2000, bytes_max=1 << 30))
        assert caught.value.retry is RetryClass.RECONNECT and sum(arrivals) > 1000
        with pytest.raises(SourceUnavailable):
            reader.reconnect()
        server.start()
        reader.reconnect()
        rows += drain(reader).column("i").to_pylist()
        source.close()
    assert rows == list(range(1, 3001))


@pytest.mark.parametrize("timeout_s", [0.3, 0.0])
def test_a_slow_statement_runs_into_its_limit_if_there_is_one(sql, source, timeout_s) -> None:
    sql.numbers(10)
    query = "SELECT i, sleep(0.1) AS s FROM numbers"
    facts = source.introspect(FactsRequest(export_name="q", relation=None, query=query))
    read = read_plan(facts, query=query)
    if timeout_s == 0.0:
        assert read_all(source, read, WHOLE, whole_read_timeout_s=0.0).num_rows == 10
        return
    reader = source.open_chunk(read, WHOLE, TuningPlan(whole_read_timeout_s=timeout_s))
    # MySQL lets a SLEEP that its limit interrupts return 1 and goes on to the limit's error.
    with pytest.raises(StatementTimeout) as caught:
        drain(reader)
    assert caught.value.retry is RetryClass.PERMANENT
    assert source.ping()


def test_a_statement_limit_leaves_the_page_to_be_read_again(sql, source) -> None:
    sql.numbers(3000)
    chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("i",))
    query = "SELECT i, if(i between 100 and 2000, sleep(0.004), 0) AS s FROM numbers"
    facts = source.introspect(
        FactsRequest(export_name="q", relation=None, query=query, key_columns=("i",))
    )
    read = read_plan(facts, query=query)
    chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("i",), upper=("300",))
    reader = source.open_chunk(read, chunk, TuningPlan(statement_timeout_s=0.5))
    rows = reader.read_page(PageLimit(rows_max=50, bytes_max=1 << 20)).batch.column("i").to_pylist()
    before = source._session.connection.own_id
    with pytest.raises(StatementTimeout):
        reader.read_page(PageLimit(rows_max=1000, bytes_max=1 << 20))
    # The server ended the statement, not the connection.
    assert source._session.connection.own_id == before
    rows += drain(reader, PageLimit(rows_max=60, bytes_max=1 << 20)).column("i").to_pylist()
    assert rows == list(range(1, 300))


def test_a_table_changed_between_pages_is_told(sql, source) -> None:
    sql.numbers(3000)
    chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("i",))
    reader = source.open_chunk(read_plan(facts_of(source, "numbers")), chunk, TuningPlan())
    reader.read_page(LIMIT)
    sql.execute("ALTER TABLE numbers MODIFY i int NOT NULL")
    with pytest.raises(SchemaDrift, match="column i"):
        reader.read_page(LIMIT)
    sql.execute("DROP TABLE numbers")
    with pytest.raises(SourceBusy):
        reader.read_page(LIMIT)


def test_a_query_that_writes_is_refused(sql, source) -> None:
    sql.numbers(3)
    if sql.mariadb:
        sql.execute("CREATE SEQUENCE s")
        query = "SELECT NEXTVAL(s) AS n"
    else:
        sql.execute(
            "CREATE FUNCTION f() RETURNS int NOT DETERMINISTIC MODIFIES SQL DATA "
            "BEGIN DELETE FROM numbers; RETURN 1; END"
        )
        query = "SELECT f() AS n"
    with pytest.raises(SourceRefused) as caught:
        facts = source.introspect(FactsRequest(export_name="q", relation=None, query=query))
        read_all(source, read_plan(facts, query=query), WHOLE)
    assert caught.value.hint == "exports read only; the query tries to write"


# ---------------------------------------------------------------- sessions

SHOWN = (
    *("time_zone", "sql_mode", "lock_wait_timeout", "innodb_lock_wait_timeout"),
    *("net_write_timeout", "sql_select_limit", "sql_big_selects"),
)


def variables(connection: pymysql.Connection, mariadb: bool) -> list[object]:
    limit = "max_statement_time" if mariadb else "max_execution_time"
    with connection.cursor() as cursor:
        cursor.execute("SELECT " + ", ".join(f"@@SESSION.{name}" for name in (*SHOWN, limit)))
        return list(cursor.fetchone() or ())


def read_and_fail(source, read, chunk) -> None:
    """Pages, a statement that the server ends, and one that it refuses."""
    read_all(source, read, chunk)
    settings = page_settings(source._session.server, TuningPlan(statement_timeout_s=0.2))
    for text in ("SELECT count(*) FROM numbers a, numbers b, numbers c, numbers d", "SELECT nope"):
        with (
            contextlib.suppress(SourceRefused, StatementTimeout),
            source._session.reading(settings, doing="failing", timeout_s=0.2) as connection,
        ):
            connection.cursor().execute(text)


@pytest.mark.parametrize("proxy", [Proxy.PROXYSQL, Proxy.MULTIPLEXED])
def test_a_borrowed_session_is_given_back_as_it_was(sql, source, proxy) -> None:
    sql.numbers(1000)
    connection = source._session.connection
    source._session._server = replace(source._session.server, proxy=proxy)
    facts = facts_of(source, "numbers")
    assert proxy.value in facts.warnings[0]
    # Settings of the clients before us, none of them what we use.
    theirs = {"time_zone": "'+05:45'", "sql_mode": "'ANSI_QUOTES'", "sql_select_limit": "77"}
    for name, value in theirs.items():
        connection.cursor().execute(f"SET SESSION {name} = {value}")
    before = variables(connection, sql.mariadb)
    for kind in (RangeKind.KEYSET, RangeKind.SPAN, RangeKind.WHOLE):
        columns = () if kind is RangeKind.WHOLE else ("i",)
        read_and_fail(source, read_plan(facts), ChunkRange(kind=kind, columns=columns))
    assert source._session.connection is connection
    assert variables(connection, sql.mariadb) == before
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM information_schema.innodb_trx "
                       "WHERE trx_mysql_thread_id = CONNECTION_ID()")  # fmt: skip
        assert cursor.fetchone() == (0,)


def test_a_borrowed_session_without_settings_is_asked_for_none(mysql_url_any, source) -> None:
    """A hello and a signal set nothing: there is nothing to ask for, and nothing to restore."""
    connection = source._session.connection
    source._session._server = replace(source._session.server, proxy=Proxy.MULTIPLEXED)
    assert source.ping() == source._session.server.version_text
    signals = MYSQL.open_signals(parse_database_url(mysql_url_any), application_name="rivet-test")
    signals._session._connection, signals._session._server = connection, source._session.server
    assert signals.read("running_sessions") >= 0
    assert signals.query("SELECT 7") == 7
    assert source._session.connection is connection, "no error of the server's or the client's"
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM information_schema.innodb_trx "
                       "WHERE trx_mysql_thread_id = CONNECTION_ID()")  # fmt: skip
        assert cursor.fetchone() == (0,)


def test_a_borrowed_session_that_breaks_is_never_given_back(sql, source) -> None:
    """A crash of the sink: the connection goes, and with it the transaction and its settings."""
    sql.numbers(1000)
    connection = source._session.connection
    source._session._server = replace(source._session.server, proxy=Proxy.MULTIPLEXED)
    reader = source.open_chunk(read_plan(facts_of(source, "numbers")), WHOLE, TuningPlan())
    reader.read_page(PageLimit(rows_max=10, bytes_max=1 << 20))  # all of it: it is one block
    assert source._session.connection is connection
    settings = page_settings(source._session.server, TuningPlan())
    with (
        pytest.raises(OSError, match="on fire"),
        source._session.reading(settings, doing="encoding", timeout_s=5.0),
    ):
        raise OSError("the disk is on fire")
    assert not connection.open


def test_nothing_of_ours_is_left_on_the_server(sql, source) -> None:
    sql.numbers(1000)
    before = sql.execute("SHOW GLOBAL VARIABLES")
    statements = "SHOW GLOBAL STATUS LIKE 'Prepared_stmt_count'"
    (held,) = sql.execute(statements)
    read_and_fail(source, read_plan(facts_of(source, "numbers")), WHOLE)
    assert sql.execute(statements) == [held]
    source.close()
    moving = ("gtid", "timestamp", "last_gtid", "innodb_buffer_pool_load")
    after = [row for row in sql.execute("SHOW GLOBAL VARIABLES") if not row[0].startswith(moving)]
    assert after == [row for row in before if not row[0].startswith(moving)]


# ---------------------------------------------------------------- silence

DEAD, AT_WORK, UNKNOWN = Liveness.DEAD, Liveness.AT_WORK, Liveness.UNKNOWN


@pytest.mark.parametrize(
    ("told_id", "found", "command", "state", "verdict"),
    [
        (7, True, "Query", "executing", AT_WORK),
        (7, True, "Execute", "Waiting for table metadata lock", AT_WORK),
        (7, True, "Execute", None, AT_WORK),
        (7, True, "Execute", "Writing to net", DEAD),
        (7, True, "Execute", "Sending to client", DEAD),
        (7, True, "Sleep", "", DEAD),
        (7, False, None, None, DEAD),
        (8, True, "Sleep", "", UNKNOWN),
    ],
)
def test_the_verdict(told_id, found, command, state, verdict) -> None:
    given = {"found": found, "command": command, "state": state}
    assert judge(own_id=7, told_id=told_id, **given) is verdict


def test_the_server_tells_what_a_thread_does(sql, source, mysql_url_any) -> None:
    own = source._session
    other = MYSQL.open_source(parse_database_url(mysql_url_any), application_name="rivet-test")
    busy = other._session.connection
    assert ask(lambda: own._dial(5), busy.own_id) is DEAD
    busy._execute_command(3, "SELECT sleep(20)")
    deadline_s = time.monotonic() + 10.0
    while ask(lambda: own._dial(5), busy.own_id) is not AT_WORK:
        assert time.monotonic() < deadline_s
    sql.execute(f"KILL {busy.own_id}")
    assert ask(lambda: own._dial(5), 2**31 - 1) is DEAD
    nobody = session.Session(
        replace(own.url, user="nobody_here", password="x"),
        tls_mode=None,
        tls_ca_file=None,
        application_name="x",
    )
    assert ask(lambda: nobody._dial(5), busy.own_id) is UNKNOWN
    away = session.Session(
        replace(own.url, port=free_port()), tls_mode=None, tls_ca_file=None, application_name="x"
    )
    assert ask(lambda: away._dial(5), busy.own_id) is DEAD


def test_a_statement_without_limit_may_be_silent_while_the_server_works(
    source, monkeypatch
) -> None:
    monkeypatch.setattr(frame, "QUIET_S", 0.1)
    with source._session.reading((), doing="waiting", timeout_s=0) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT sleep(1.5)")
        assert cursor.fetchall() == ((0,),)


@pytest.mark.parametrize("reachable", [True, False], ids=["new-connections-work", "nothing-works"])
def test_a_dead_link_is_noticed_without_any_limit(mysql_url_any, monkeypatch, reachable) -> None:
    monkeypatch.setattr(frame, "QUIET_S", 0.2)
    monkeypatch.setattr(session, "ASK_MAX_S", 1)
    url = parse_database_url(mysql_url_any)
    with relay(url) as link:
        source = MYSQL.open_source(link.through(url), application_name="rivet-test")
        assert source.ping()
        if reachable:
            direct = {"host": url.host, "port": url.port}
            parameters = source._session._parameters | direct
            monkeypatch.setattr(source._session, "_parameters", parameters)
        began_s = time.monotonic()
        with (
            pytest.raises(SourceUnavailable, match="the link is dead"),
            source._session.reading((), doing="waiting", timeout_s=0) as connection,
        ):
            link.silent.set()
            connection.cursor().execute("SELECT 1")
        assert time.monotonic() - began_s < 15.0
        source.close()


def test_a_silent_link_is_given_up_at_the_limit(source, monkeypatch) -> None:
    monkeypatch.setattr(frame, "SILENCE_GRACE_S", -9.8)
    with (
        pytest.raises(SourceUnavailable, match="the link is dead"),
        source._session.reading((), doing="waiting", timeout_s=10) as connection,
    ):
        connection.cursor().execute("SELECT sleep(30)")
    assert source.ping()


# ---------------------------------------------------------------- connecting


def test_connections_that_cannot_be_made(mysql_url_any) -> None:
    url = parse_database_url(mysql_url_any)
    cases = [
        (replace(url, database="nowhere"), SourceRefused, "database name"),
        (replace(url, user="nobody_here"), SourceRefused, "user name"),
        (replace(url, password="wrong-Pässwörd-😀"), SourceRefused, "password"),
        (replace(url, port=free_port()), SourceUnavailable, "running"),
    ]
    for target, error, hint in cases:
        source = MYSQL.open_source(target, application_name="rivet-test")
        with pytest.raises(error) as caught:
            source.ping()
        assert target.identity in caught.value.message
        assert hint in (caught.value.hint or "")
        assert "wrong-P" not in f"{caught.value!r} {source!r}"
    with pytest.raises(ConfigError, match="no-such-option"):
        MYSQL.open_source(
            replace(url, options=(*url.options, ("no_such_option", "1"))), application_name="x"
        )
    with pytest.raises(ConfigError, match=r"tls\.mode"):
        MYSQL.open_source(url, tls_mode="perhaps", application_name="x")


@pytest.fixture
def tls_server(tmp_path, mariadb: EmbeddedMariadb):
    """A MariaDB with a certificate for 127.0.0.1, and the authority's file."""
    run = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    with embedded_mariadb() as server:
        server.stop()
        folder = server.directory
        files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
        names = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
        subprocess.run([*run, *files, *names], check=True, capture_output=True)
        (folder / "key.pem").chmod(0o644)
        server.settings = {"ssl_cert": f"{folder}/cert.pem", "ssl_key": f"{folder}/key.pem"}
        server.start()
        yield server, str(folder / "cert.pem")


@pytest.mark.parametrize("mode", ["disable", "prefer", "require", "verify-ca", "verify-full"])
def test_tls_modes(tls_server, mode) -> None:
    server, authority = tls_server
    url = parse_database_url(server.create_database("x"))
    ca_file = authority if mode.startswith("verify") else None
    source = MYSQL.open_source(
        url, tls_mode=mode, tls_ca_file=ca_file, application_name="rivet-test"
    )
    with source._session.reading((), doing="asking", timeout_s=5.0) as connection:
        cursor = connection.cursor()
        cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
        cipher = cursor.fetchall()[0][1]
    assert bool(cipher) is (mode != "disable")
    Sql(server.url("x")).numbers(20000)
    got = read_all(source, read_plan(facts_of(source, "numbers")), WHOLE)
    assert got.num_rows == 20000
    source.close()
    if mode.startswith("verify"):
        with pytest.raises(SourceRefused, match="certificate") as caught:
            MYSQL.open_source(url, tls_mode=mode, application_name="rivet-test").ping()
        assert "tls.mode" in (caught.value.hint or "")
    if mode == "verify-full":
        other = replace(url, host="localhost")
        with pytest.raises(SourceRefused, match="certificate"):
            MYSQL.open_source(
                other, tls_mode=mode, tls_ca_file=authority, application_name="rivet-test"
            ).ping()


def test_tls_is_not_given_up_quietly(mysql_database) -> None:
    """A server without TLS is refused by every mode that asks for it."""
    url = parse_database_url(mysql_database)
    for mode in ("require", "verify-ca", "verify-full"):
        with pytest.raises(SourceRefused, match="SSL is required"):
            MYSQL.open_source(url, tls_mode=mode, application_name="rivet-test").ping()


def test_servers_side_by_side_share_no_folder_for_temporary_tables(mariadb) -> None:
    """One that starts deletes every "#sql…" it finds there: another's would crash it."""
    with contextlib.closing(Sql(mariadb.url()).connection) as link, link.cursor() as cursor:
        cursor.execute("SELECT @@tmpdir")
        ((folder,),) = cursor.fetchall()
    assert Path(folder).parent == mariadb.directory
