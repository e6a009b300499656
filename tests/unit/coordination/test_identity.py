"""Who lives on this host: pids are reused, start times are not."""

import os
import subprocess
import sys

from rivet_fleet.coordination.fleet import (
    host_id,
    new_worker_id,
    pid_started_at_s,
    process_alive,
    this_process,
)


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


def test_the_host_is_the_same_for_every_process_of_it():
    code = "from rivet_fleet.coordination.fleet import host_id; print(host_id())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == host_id()


def test_worker_ids_are_never_reused():
    assert len({new_worker_id() for _ in range(1000)}) == 1000
