"""The looks at a source's counters, in every store: the first before, the last after."""

from __future__ import annotations

from rivet_fleet.contracts.counters import CounterReading
from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.state import JournalFilter
from rivet_fleet.persistence.store import Store
from tests.campaigns import campaign_plan

C1, RUN = CampaignId("c1"), RunId("c1-e0")


def look(at_s: float, **counters: int) -> CounterReading:
    return CounterReading(
        engine="postgresql", taken_at_s=at_s, counters=counters, context={"version": "18.4"}
    )


def told(store: Store) -> list[object]:
    only = JournalFilter(events=(EventName.SOURCE_COUNTED.value,))
    found = store.journal(campaign_id=C1, only=only, newest=True, limit=10)
    return [entry.data["risen"] for entry in found]


def test_the_first_look_before_counts_and_the_last_after(store: Store) -> None:
    store.submit(campaign_plan(chunks=(1,)))
    store.note_counters_before(RUN, "shop", look(1.0, blks_read=10, deadlocks=1))
    store.note_counters_before(RUN, "shop", look(2.0, blks_read=500, deadlocks=2))
    (running,) = store.counters(C1)
    assert store.counters_of(RUN) == running and store.counters_of(RunId("other")) is None
    assert (running.before.taken_at_s, running.after, running.risen) == (1.0, None, None)
    store.note_counters_after(RUN, look(3.0, blks_read=40, deadlocks=1))
    store.note_counters_after(RUN, look(4.0, blks_read=50, deadlocks=1))
    (ended,) = store.counters(C1)
    assert ended.risen == {"blks_read": 40, "deadlocks": 0}
    assert ended.before.context == {"version": "18.4"}
    assert told(store) == [{"blks_read": 30, "deadlocks": 0}, {"blks_read": 40, "deadlocks": 0}]


def test_counters_that_fell_say_nothing(store: Store) -> None:
    """The server was restarted, or its statistics were reset."""
    store.submit(campaign_plan(chunks=(1,)))
    store.note_counters_before(RUN, "shop", look(1.0, blks_read=10))
    store.note_counters_after(RUN, look(2.0, blks_read=4))
    assert store.counters(C1)[0].risen is None
    assert told(store) == [None]


def test_nothing_after_without_a_look_before_and_nothing_of_unknown_runs(store: Store) -> None:
    store.submit(campaign_plan(chunks=(1,)))
    store.note_counters_after(RUN, look(2.0, blks_read=4))
    store.note_counters_before(RunId("nobody"), "shop", look(1.0, blks_read=4))
    assert store.counters(C1) == [] and told(store) == []


def test_it_is_forgotten_with_its_export(store: Store) -> None:
    store.submit(campaign_plan(chunks=(1,)))
    store.note_counters_before(RUN, "shop", look(1.0, blks_read=10))
    store.cancel(C1)
    store.reset_export("shop", "e0", chunks_only=True)
    store.submit(campaign_plan(chunks=(1,), campaign_id="c2"))
    assert store.counters(CampaignId("c2")) == [] and store.counters(C1) == []
