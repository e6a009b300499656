"""Two supervisors as two hosts on one state: one dies whole, the other finishes."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator

from chaos.arena import Arena
from chaos.conftest import product_of_sources
from chaos.processes import Coordinator, kill, until
from chaos.scenario import Campaign, Shape
from chaos.source_data import DEVICES, ORDERS

_SHAPE = Shape(chunk_count=60, workers=2, throttle_ms=20, batch_size=10)
"""Throttled, so that there is a middle of the campaign to die in."""


_RUNNING = "SELECT task_id FROM chunk_task WHERE status = 'running'"


def _kill_whole_host(coordinator: Coordinator) -> None:
    """Power cut: supervisor and workers at once, nobody says goodbye. The supervisor is frozen
    first, so that it cannot rescue anything."""
    coordinator.signal(signal.SIGSTOP)
    workers = coordinator.workers()
    for worker in workers:
        kill(worker)
    coordinator.signal(signal.SIGKILL)
    coordinator.process.wait()


@contextlib.contextmanager
def _held(campaign: Campaign, coordinator: Coordinator) -> Iterator[None]:
    """Its workers are paused in the middle of their chunks: the campaign cannot end meanwhile."""
    until(
        lambda: len(campaign.query(_RUNNING)) >= _SHAPE.workers, what="every worker holds a chunk"
    )
    workers = coordinator.workers()
    for worker in workers:
        campaign.pause(worker)
    try:
        yield
    finally:
        for worker in workers:
            kill(worker, signal.SIGCONT)


def _both_at_work(campaign: Campaign, first: Coordinator) -> Coordinator:
    """A second host joins; returns its supervisor when both hold chunks."""
    with _held(campaign, first):
        second = campaign.start(command="resume", host_id="host-b", arguments=["--join"])
        until(lambda: "host-b" in _hosts_at_work(campaign), what="host-b is at work")
    until(lambda: {"host-a", "host-b"} <= _hosts_at_work(campaign), what="both hosts are at work")
    return second


def _hosts_at_work(campaign: Campaign) -> set[str]:
    rows = campaign.query("SELECT DISTINCT owner_host FROM chunk_task WHERE status = 'running'")
    return {str(host) for (host,) in rows}


@product_of_sources(["postgres"])
def test_the_other_host_finishes(quiet_arena: Arena, state: str) -> None:
    with quiet_arena.campaign(state, tables=[ORDERS, DEVICES], shape=_SHAPE) as campaign:
        first = campaign.start(host_id="host-a")
        second = _both_at_work(campaign, first)
        killed_at_s = time.time()
        _kill_whole_host(first)
        assert second.wait(90.0) == 0
        campaign.expect_exactly_once()
        campaign.expect_completed()
        reasons = {
            message
            for at_s, event, message in campaign.events()
            if event == "chunk.reaped" and at_s > killed_at_s
        }
        assert reasons == {"lease expired"}, "nobody can look into another host's processes"
        campaign.expect_tidy()


@product_of_sources(["postgres"])
def test_two_hosts_end_together(quiet_arena: Arena, state: str) -> None:
    with quiet_arena.campaign(state, tables=[ORDERS, DEVICES], shape=_SHAPE) as campaign:
        first = campaign.start(host_id="host-a")
        second = _both_at_work(campaign, first)
        assert (first.wait(90.0), second.wait(90.0)) == (0, 0)
        campaign.expect_exactly_once()
        campaign.expect_completed()
        campaign.expect_tidy()


@product_of_sources(["postgres"])
def test_a_second_coordinator_is_refused(quiet_arena: Arena, state: str) -> None:
    with quiet_arena.campaign(state, tables=[ORDERS], shape=_SHAPE) as campaign:
        first = campaign.start(host_id="host-a")
        with _held(campaign, first):
            for host_id in ("host-a", "host-b"):
                second = campaign.start(host_id=host_id)
                assert second.wait(60.0) == 1
                told = second.log.read_text()
                assert "RIVET_CAMPAIGN_COORDINATED" in told and "--join" in told, told
                assert f"pid {first.pid} on host-a" in told
        assert first.wait(90.0) == 0
        campaign.expect_exactly_once()
        campaign.expect_completed()


@product_of_sources(["sqlite"])
def test_sqlite_on_a_second_host_is_refused(quiet_arena: Arena, state: str) -> None:
    with quiet_arena.campaign(state, tables=[ORDERS], shape=_SHAPE) as campaign:
        first = campaign.start(host_id="host-a")
        with _held(campaign, first):
            second = campaign.start(command="resume", host_id="host-b", arguments=["--join"])
            assert second.wait(60.0) == 1
        told = second.log.read_text()
        assert "in use by host host-a" in told, told
        assert first.wait(90.0) == 0
        campaign.expect_exactly_once()
        campaign.expect_completed()
