"""Fan-out never raises; the journal is written once and read back redacted."""

from __future__ import annotations

import pytest

from rivet_fleet.contracts.events import TRANSITION, Emit, Event, EventName
from rivet_fleet.contracts.killpoints import KillPointReached
from rivet_fleet.errors import StateUnavailable
from rivet_fleet.observability.journal import (
    SINK_FAILURES,
    fan_out,
    journal_emit,
    render_journal,
)
from tests.unit.observability.views import entry, redactor_for

EVENT = Event(name=EventName.LEASE_LOST, message="somebody else owns it")


def test_a_broken_sink_is_reported_once_and_the_others_hear_everything() -> None:
    heard: list[Event] = []
    tries: list[Event] = []
    errors: list[tuple[Emit, BaseException]] = []

    def broken(event: Event) -> None:
        tries.append(event)
        raise StateUnavailable("away")

    emit = fan_out(broken, heard.append, on_error=lambda s, e: errors.append((s, e)))
    for _ in range(3):
        emit(EVENT)
    assert len(heard) == 3
    assert len(tries) == 3, "a sink that comes back must hear again"
    assert len(errors) == 1 and errors[0][0] is broken


@pytest.mark.parametrize("failure", SINK_FAILURES)
def test_no_sink_failure_gets_out(failure: type[BaseException]) -> None:
    def broken(event: Event) -> None:
        raise failure("no")

    def reporter(sink: Emit, error: BaseException) -> None:
        raise failure("the reporter is broken as well")

    fan_out(broken, on_error=reporter)(EVENT)


def test_the_default_reporter_does_not_raise() -> None:
    def broken(event: Event) -> None:
        raise OSError("disk gone")

    fan_out(broken)(EVENT)


def test_an_armed_kill_point_gets_through() -> None:
    def dying(event: Event) -> None:
        raise KillPointReached("kill point")

    with pytest.raises(KillPointReached):
        fan_out(dying)(EVENT)


def test_what_the_store_journals_itself_is_never_written_twice() -> None:
    written: list[Event] = []
    emit = journal_emit(written.append)
    for name in EventName:
        emit(Event(name=name))
    told = {event.name for event in written}
    assert {EventName.LEASE_LOST, EventName.CHUNK_PAUSED, EventName.CAMPAIGN_STOPPED} <= told
    assert not told & {
        EventName.PAGE_READ,
        EventName.PART_STAGED,
        *(e for e in EventName if e.by == TRANSITION),
    }
    rests = {EventName.CHUNK_PAUSED, EventName.CHUNK_RESUMED}  # no transitions
    assert told & {e for e in EventName if e.value.startswith("chunk.")} == rests


def test_the_journal_never_holds_a_secret() -> None:
    written: list[Event] = []
    emit = journal_emit(written.append, redactor_for(["hunter22"]))
    emit(Event(name=EventName.LEASE_LOST, message="hunter22", data={"a": ["hunter22"]}))
    assert "hunter22" not in repr(written)


def test_render_journal_is_one_redacted_line_per_entry() -> None:
    entries = [
        entry("chunk.reaped", message="worker died\nwith hunter22", data={"fence": 3, "x": None}),
        entry("campaign.completed", export_name=None, chunk_index=None, worker_id=None),
    ]
    text = render_journal(entries, redactor_for(["hunter22"]))
    first, second = text.splitlines()
    assert "chunk.reaped" in first and "orders chunk 12" in first and "fence=3" in first
    assert "[w1]" in first and "x=" not in first and "hunter22" not in text
    assert second.endswith("the last run of the campaign completed")


def test_journal_says_words_where_data_is_nested() -> None:
    data = {"changes": {"chunks_max": [None, 4]}, "forced": [], "refuses": True}
    text = render_journal([entry("budget.changed", message="", data=data)])
    assert "changes=(chunks_max (none, 4)) forced=() refuses=yes" in text
    assert "the budget of a source group is another one now" in text
    assert not {"{", "[None", "'", "`"} & {*text, text[text.index("changes") :][:9]}


def test_an_empty_journal_says_so() -> None:
    assert "no entries" in render_journal([])
