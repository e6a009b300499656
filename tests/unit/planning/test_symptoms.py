"""From facts to findings, at every border; and the proof that a destination overwrites nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from rivet_fleet.contracts.destination import DestinationConnection
from rivet_fleet.contracts.doctor import DoctorCode, Gravity, HostLimits, StateHealth
from rivet_fleet.contracts.facts import NoteKind, ServerFacts, SourceNote
from rivet_fleet.errors import SourceBusy, SourceRefused
from rivet_fleet.execution.destination import Presence
from rivet_fleet.execution.durable import creates_only
from rivet_fleet.planning import symptoms
from rivet_fleet.planning.config.fields import MIB
from tests.model.destination import open_destination

C = DoctorCode


def server(**more) -> ServerFacts:
    return ServerFacts(
        **{
            "engine": "e",
            "version": "1",
            "user": "u",
            "database": "d",
            "tls": "TLSv1.3",
            "now_s": 0.0,
            "connections_max": 10,
            "connections_used": 4,
            **more,
        }
    )


def codes(found) -> dict[DoctorCode, Gravity]:
    return {one.code: one.gravity for one in found}


@pytest.mark.parametrize(
    ("most", "used", "readers", "code"),
    [
        (10, 4, 6, C.SOURCE_CONNECTIONS),
        (10, 4, 7, C.SOURCE_CONNECTIONS_LOW),
        (10, None, 9, C.SOURCE_CONNECTIONS),
        (10, None, 10, C.SOURCE_CONNECTIONS_LOW),
        (None, None, 2, C.SOURCE_CONNECTIONS_UNKNOWN),
    ],
)
def test_connections(most, used, readers, code) -> None:
    facts = server(connections_max=most, connections_used=used)
    assert code in codes(symptoms.of_server(facts, "s", loopback=False, readers=readers))


def test_the_advised_number_leaves_three_and_fits() -> None:
    facts = server(connections_max=20, connections_used=1)
    low = next(
        one
        for one in symptoms.of_server(facts, "s", loopback=False, readers=20)
        if one.code is C.SOURCE_CONNECTIONS_LOW
    )
    assert "campaign.workers: 17" in (low.hint or "")


def test_an_open_link_matters_only_when_it_leaves_the_machine() -> None:
    plain = server(tls=None)
    near = codes(symptoms.of_server(plain, "s", loopback=True, readers=1))
    far = codes(symptoms.of_server(plain, "s", loopback=False, readers=1))
    assert near[C.SOURCE_NOT_ENCRYPTED] is Gravity.INFO
    assert far[C.SOURCE_NOT_ENCRYPTED] is Gravity.WARNING
    assert C.SOURCE_ENCRYPTED in codes(symptoms.of_server(server(), "s", loopback=False, readers=1))


def test_every_note_of_an_engine_has_a_code() -> None:
    for kind in NoteKind:
        note = SourceNote(kind=kind, what="what", why="why")
        assert symptoms.from_note(note, "s").code.value.startswith("RIVET_SOURCE_")


def health(**more) -> StateHealth:
    return StateHealth(
        **{
            "target": "t",
            "schema_version": "0002",
            "known_version": "0002",
            "one_host": False,
            "now_s": 100.0,
            **more,
        }
    )


@pytest.mark.parametrize(
    ("changes", "code", "gravity"),
    [
        ({}, C.STATE_READY, Gravity.OK),
        ({"schema_version": None}, C.STATE_ABSENT, Gravity.INFO),
        ({"schema_version": "0001"}, C.STATE_OLD, Gravity.WARNING),
        ({"schema_version": "0003"}, C.STATE_NEWER, Gravity.ERROR),
        ({"obstacle": "no"}, C.STATE_NOT_WRITABLE, Gravity.ERROR),
        ({"one_host": True}, C.STATE_ONE_HOST, Gravity.INFO),
        ({"makers": (("public", "PUBLIC"),)}, C.STATE_SCHEMA_OPEN, Gravity.WARNING),
        ({"now_s": 105.1}, C.STATE_CLOCK_SKEW, Gravity.WARNING),
        ({"now_s": 94.9}, C.STATE_CLOCK_SKEW, Gravity.WARNING),
    ],
)
def test_the_state(changes, code, gravity) -> None:
    assert codes(symptoms.of_state(health(**changes), now_s=100.0))[code] is gravity


def test_five_seconds_are_no_skew() -> None:
    found = codes(symptoms.of_state(health(now_s=105.0), now_s=100.0))
    assert C.STATE_CLOCK_SKEW not in found


def test_little_space_and_unknown_space() -> None:
    code = C.SPOOL_SPACE_LOW
    assert list(symptoms.of_space(None, "s", code)) == []
    assert list(symptoms.of_space(1024 * MIB, "s", code)) == []
    assert codes(symptoms.of_space(1024 * MIB - 1, "s", code)) == {code: Gravity.WARNING}


def test_the_limits_of_the_host() -> None:
    enough = HostLimits(open_files=256, memory_bytes=(2 * 150 + 150) * MIB)
    found = symptoms.of_host(enough, workers=2, worker_memory_mb=150)
    assert codes(found) == {C.HOST_OPEN_FILES: Gravity.OK, C.HOST_MEMORY: Gravity.OK}
    scarce = HostLimits(open_files=255, memory_bytes=(2 * 150 + 150) * MIB - 1)
    found = symptoms.of_host(scarce, workers=2, worker_memory_mb=150)
    assert set(codes(found)) == {C.HOST_OPEN_FILES_LOW, C.HOST_MEMORY_LOW}


def test_an_error_is_a_finding_by_its_retry_class() -> None:
    def found(error):
        return symptoms.from_error(error, "s", C.SOURCE_REFUSED, C.SOURCE_UNREACHABLE, "why")

    refused = found(SourceRefused("no", hint="GRANT", code="X"))
    assert (refused.code, refused.retryable) == (C.SOURCE_REFUSED, False)
    assert (refused.hint, refused.detail_code) == ("GRANT", "X")
    busy = found(SourceBusy("later"))
    assert (busy.code, busy.retryable) == (C.SOURCE_UNREACHABLE, True)


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_a_destination_that_overwrites_nothing_is_told_from_one_that_does(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = DestinationConnection(kind=kind, prefix=str(tmp_path / "out"))
    destination = open_destination(plan)
    spool = tmp_path / "spool"
    spool.mkdir()
    assert creates_only(destination, spool)
    assert list(destination.list_visible()) == []
    assert list(destination.list_staged()) == []
    assert list(spool.iterdir()) == []

    def overwriting(receipt, path, digest) -> Presence:
        destination.put_atomic(path, b"the last one wins")
        return Presence.VISIBLE

    monkeypatch.setattr(type(destination), "publish", staticmethod(overwriting))
    assert not creates_only(destination, spool)
    assert list(destination.list_visible()) == []


def test_whose_part_of_the_state_it_is_and_which_sources_have_two_budgets() -> None:
    shared = health(read_by_others=frozenset({"pg://db/shop"}))
    found = codes(symptoms.of_namespace(shared, "team-a", ("pg://db/shop", "pg://db/own")))
    assert found == {C.STATE_NAMESPACE: Gravity.OK, C.STATE_SOURCE_SHARED: Gravity.WARNING}
    missing = codes(symptoms.of_namespace(shared, None, ("pg://db/shop",)))
    assert missing == {C.STATE_NAMESPACE_MISSING: Gravity.ERROR}
