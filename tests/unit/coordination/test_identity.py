"""Who lives on this host: pids are reused, start times are not."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

from rivet_fleet.contracts.keys import WorkerId
from rivet_fleet.coordination.fleet import (
    host_id,
    new_worker_id,
    pid_started_at_s,
    process_alive,
    this_process,
)
from rivet_fleet.coordination.journal import read_metrics
from rivet_fleet.coordination.operate import campaign_status
from tests.unit.coordination.fleets import CAMPAIGN, make_fleet, open_store


def test_this_process_lives_and_another_start_time_does_not():
    me = this_process("me")
    assert process_alive(me.pid, me.pid_started_at_s)
    assert not process_alive(me.pid, me.pid_started_at_s - 1.0)


def test_an_ended_process_is_dead_even_before_it_is_waited_for():
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    started_at_s = pid_started_at_s(child.pid)
    child.stdout.read()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert started_at_s is not None
    assert not process_alive(child.pid, started_at_s)
    child.wait()
    assert not process_alive(child.pid, started_at_s)


def test_status_asks_the_kernel_for_workers_of_its_own_host(tmp_path):
    """By their rows all have just been heard of; a zombie and a reused pid are no worker."""
    store = open_store(time.time)
    fleet = make_fleet(store, tmp_path)
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    children = {name: subprocess.Popen(sleeper) for name in ("lives", "zombie", "ended", "reused")}
    beats = {
        name: replace(
            this_process(name), pid=child.pid, pid_started_at_s=pid_started_at_s(child.pid)
        )
        for name, child in children.items()
    }
    beats["reused"] = replace(beats["reused"], pid_started_at_s=1.0)
    beats["elsewhere"] = replace(beats["ended"], host_id="other", worker_id=WorkerId("other"))
    beats["elsewhere"] = replace(beats["elsewhere"], name="elsewhere")
    try:
        for identity in beats.values():
            store.renew(identity, [], 60.0, 1)
        for name in ("zombie", "ended"):
            os.kill(children[name].pid, signal.SIGKILL)
            os.waitid(os.P_PID, children[name].pid, os.WEXITED | os.WNOWAIT)
        children["ended"].wait()
        view = store.campaign(CAMPAIGN)
        shown = {one.name: one for one in campaign_status(fleet, view).workers}
        metrics = read_metrics(fleet, view, export_name=None, last=1)
    finally:
        for child in children.values():
            child.kill()
            child.wait()
    assert {name for name, one in shown.items() if one.alive} == {"lives", "elsewhere"}
    assert {name for name, one in shown.items() if one.gone} == {"zombie", "ended", "reused"}
    assert metrics.now.workers_alive == 2


def test_a_process_that_is_hidden_from_us_is_not_dead(monkeypatch):
    """Of another user, where /proc shows only one's own; it exists, or it could not be refused."""

    def forbidden(pid, number):
        raise PermissionError

    nobody = 2**22 + 1
    assert not process_alive(nobody, 1.0)
    monkeypatch.setattr(os, "kill", forbidden)
    assert process_alive(nobody, 1.0)


def test_the_host_is_the_same_for_every_process_of_it():
    code = "from rivet_fleet.coordination.fleet import host_id; print(host_id())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == host_id()


def test_worker_ids_are_never_reused():
    assert len({new_worker_id() for _ in range(1000)}) == 1000
