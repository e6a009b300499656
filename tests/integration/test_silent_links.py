"""Half-open links: a silent source is asked what it does, a silent state is given up in time."""

from __future__ import annotations

import time

import psycopg
import pytest

from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import SourceUnavailable, StateUnavailable
from rivet_fleet.execution.engines import session as frame
from rivet_fleet.execution.engines.session import Liveness
from rivet_fleet.execution.sources.postgres import ENGINE as POSTGRES
from rivet_fleet.execution.sources.postgres import liveness
from rivet_fleet.execution.sources.postgres.liveness import ask, judge
from rivet_fleet.persistence.database import Database
from rivet_fleet.persistence.open import open_store
from rivet_fleet.persistence.postgres_dialect import PostgresDialect
from tests.integration.postgres_source_kit import LIMIT, facts_of, read_plan
from tests.integration.relay import relay

_BOUND_S = 15.0


@pytest.mark.parametrize(
    ("told_pid", "found", "state", "waits_for", "verdict"),
    [
        (7, True, "active", None, Liveness.AT_WORK),
        (7, True, "active", "IO", Liveness.AT_WORK),
        (7, True, "active", "Lock", Liveness.AT_WORK),
        (7, True, "active", "Client", Liveness.DEAD),
        (7, True, "idle", "Client", Liveness.DEAD),
        (7, True, "idle in transaction", "Client", Liveness.DEAD),
        (7, False, None, None, Liveness.DEAD),
        (7, True, None, None, Liveness.UNKNOWN),
        (7, True, "disabled", None, Liveness.UNKNOWN),
        (8, True, "idle", "Client", Liveness.UNKNOWN),
        (8, False, None, None, Liveness.UNKNOWN),
    ],
)
def test_the_verdict(told_pid, found, state, waits_for, verdict) -> None:
    assert (
        judge(own_pid=7, told_pid=told_pid, found=found, state=state, waits_for=waits_for)
        is verdict
    )


def test_the_server_tells_what_a_backend_does(database) -> None:
    parameters = {"conninfo": database}
    connection = psycopg.connect(database, autocommit=True)
    pid = connection.info.backend_pid
    assert ask(parameters, pid) is Liveness.DEAD
    connection.pgconn.send_query(b"SELECT pg_sleep(20)")
    assert ask(parameters, pid) is Liveness.AT_WORK
    connection.cancel_safe()
    connection.close()
    assert ask(parameters, 2**31 - 1) is Liveness.DEAD
    assert ask({"conninfo": database, "user": "nobody_here"}, pid) is Liveness.UNKNOWN
    assert ask({"conninfo": database, "port": "1"}, pid) is Liveness.DEAD


def test_a_statement_without_limit_may_be_silent_while_the_server_works(
    database, monkeypatch
) -> None:
    monkeypatch.setattr(frame, "QUIET_S", 0.1)
    source = POSTGRES.open_source(parse_database_url(database), application_name="rivet-test")
    with source._session.reading((), doing="waiting", timeout_s=0) as cursor:
        assert cursor.execute("SELECT 1 FROM pg_sleep(1.5)").fetchall() == [(1,)]
    source.close()


@pytest.mark.parametrize("reachable", [True, False], ids=["new-connections-work", "nothing-works"])
def test_a_dead_link_is_noticed_without_any_limit(database, monkeypatch, reachable) -> None:
    monkeypatch.setattr(frame, "QUIET_S", 0.2)
    monkeypatch.setattr(liveness, "ASK_MAX_S", 2)
    url = parse_database_url(database)
    with relay(url) as link:
        source = POSTGRES.open_source(link.through(url), application_name="rivet-test")
        assert source.ping()
        if reachable:
            direct = {"conninfo": database}
            monkeypatch.setattr(source._session, "_parameters", direct)
        began_s = time.monotonic()
        with (
            pytest.raises(SourceUnavailable, match="the link is dead"),
            source._session.reading((), doing="waiting", timeout_s=0) as cursor,
        ):
            link.silent.set()
            cursor.execute("SELECT 1")
        assert time.monotonic() - began_s < _BOUND_S
        source.close()


def test_a_distant_source_is_not_taken_for_a_slow_one(database) -> None:
    url = parse_database_url(database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (k int PRIMARY KEY)")
        connection.execute("INSERT INTO t SELECT generate_series(1, 100)")
    with relay(url) as link:
        source = POSTGRES.open_source(link.through(url), application_name="rivet-test")
        read = read_plan(facts_of(source, "t"))
        chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("k",))
        reader = source.open_chunk(read, chunk, TuningPlan())
        link.delay_s = 0.2
        page = reader.read_page(LIMIT)
        assert page.batch.num_rows == 100
        # Each of its three round trips took 0.4 s.
        assert page.statement_s < 0.2
        source.close()


def test_the_first_connection_to_the_state_does_not_hang(database) -> None:
    url = parse_database_url(database)
    # SQLAlchemy's own first question, right after the connection was made.
    with relay(url, silent_from=b"pg_catalog.version") as link:
        store = open_store(link.through(url).identity, answer_max_s=1.0)
        _expect_unavailable(store.now_s)
        store.close()


def test_a_rollback_of_the_state_does_not_hang(database) -> None:
    url = parse_database_url(database)
    with relay(url) as link:
        state = Database(PostgresDialect(link.through(url), answer_max_s=1.0))

        def work(tx) -> None:
            tx.scalar("SELECT 1")
            link.silent.set()
            raise ZeroDivisionError

        began_s = time.monotonic()
        with pytest.raises((ZeroDivisionError, StateUnavailable)):
            state.write(work)
        assert time.monotonic() - began_s < _BOUND_S
        state.close()


def test_a_silent_state_is_given_up_and_found_again(database) -> None:
    url = parse_database_url(database)
    with relay(url) as link:
        store = open_store(link.through(url).identity, answer_max_s=1.0)
        assert store.now_s() > 0
        link.silent.set()
        _expect_unavailable(store.now_s)
        link.silent.clear()
        assert store.now_s() > 0
        store.close()


def _expect_unavailable(call) -> None:
    began_s = time.monotonic()
    with pytest.raises(StateUnavailable):
        call()
    assert time.monotonic() - began_s < _BOUND_S
