"""A follower of the journal on PostgreSQL, where entries may commit out of the order of ids."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.state import JournalFilter
from rivet_fleet.coordination.journal import LATE_MAX_S, Follower
from rivet_fleet.persistence.database import Transaction
from rivet_fleet.persistence.journal import note
from tests.stores import SqlBackend

C1 = CampaignId("c1")
ONLY = JournalFilter(events=("worker.died",))


def event(message: str, campaign: str = C1) -> Event:
    return Event(
        name=EventName.WORKER_DIED, message=message, campaign_id=CampaignId(campaign), data={}
    )


@pytest.fixture(scope="module")
def server_backend(postgres) -> Iterator[SqlBackend]:  # type: ignore[no-untyped-def]
    backend = SqlBackend(postgres.create_database("test_store_following"))
    yield backend
    backend.store.close()


@pytest.mark.parametrize("only", [None, ONLY])
def test_an_entry_that_commits_late_is_told_once(
    server_backend: SqlBackend, only: JournalFilter | None
) -> None:
    server_backend.wipe()
    store, db = server_backend.store, server_backend.sql._db
    store.write_journal(event("first"))
    (first,) = store.journal()
    follower = Follower(store, C1, only, after_id=first.journal_id)
    with db.engine.connect() as connection, db.dialect.writing(connection):
        note(Transaction(connection, db.dialect), event("late"))
        store.write_journal(event("of another campaign", "c2"))
        store.write_journal(event("second"))
        assert [e.message for e in follower.look(0.0)] == ["second"]
        assert follower.look(10.0) == []
        seen = store.journal(campaign_id=C1)
        newcomer = Follower(
            store, C1, only, after_id=seen[-1].journal_id, known=[e.journal_id for e in seen]
        )
        too_late = Follower(store, C1, only, after_id=first.journal_id)
        assert [e.message for e in too_late.look(0.0)] == ["second"]
    store.write_journal(event("third"))
    assert [e.message for e in follower.look(20.0)] == ["late", "third"]
    assert [e.message for e in newcomer.look(20.0)] == ["late", "third"]
    assert [e.message for e in too_late.look(LATE_MAX_S + 1)] == ["third"], "no gap for ever"
    for one in (follower, newcomer, too_late):
        assert one.look(30.0, last=True) == []


def test_the_last_look_does_not_wait_to_ask_again(server_backend: SqlBackend) -> None:
    server_backend.wipe()
    store, db = server_backend.store, server_backend.sql._db
    store.write_journal(event("first"))
    follower = Follower(store, C1, after_id=store.journal()[0].journal_id)
    with db.engine.connect() as connection, db.dialect.writing(connection):
        note(Transaction(connection, db.dialect), event("late"))
        store.write_journal(event("second"))
        follower.look(0.0)
        follower.look(5.0)
    assert follower.look(5.1) == []
    assert [e.message for e in follower.look(5.1, last=True)] == ["late"]
