"""Measuring real processes: nothing is mocked, nothing waits for time."""

import os
import subprocess
import sys

from bench.process import PeakSampler, run_measured

MB = 2**20
BIG_CHILD = "b = bytearray(b'x') * (64 << 20); print('ready', flush=True); input()"
PARENT = (
    "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]]); p.wait()"
)


def test_the_high_water_mark_of_a_grandchild_is_seen():
    command = [sys.executable, "-c", PARENT, BIG_CHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        sampler = PeakSampler(parent.pid)
        sampler.start()
        assert parent.stdout.readline() == b"ready\n"
        peaks = sampler.finish()
        parent.communicate(b"\n")
    root = peaks.pop(parent.pid)
    (child,) = peaks.values()
    assert child.rss_bytes > 64 * MB > root.rss_bytes > MB
    assert "bytearray" in child.command


def test_a_child_does_not_inherit_the_memory_its_parent_had_at_the_fork():
    parent = "b = bytearray(b'x') * (64 << 20); " + PARENT
    child = "print('ready', flush=True); input()"
    command = [sys.executable, "-c", parent, child]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        sampler = PeakSampler(process.pid)
        sampler.start()
        assert process.stdout.readline() == b"ready\n"
        peaks = sampler.finish()
        process.communicate(b"\n")
    root = peaks.pop(process.pid)
    assert [p.rss_bytes < 64 * MB < root.rss_bytes for p in peaks.values()] == [True]


def test_the_cpu_of_a_whole_tree_is_counted(tmp_path):
    work = "import time\nwhile time.process_time() < 0.3: pass"
    command = [sys.executable, "-c", PARENT, work]
    found = run_measured(command, folder=tmp_path, env=os.environ, timeout_s=60)
    assert found.exit_code == 0 and found.cpu_s >= 0.3


def test_last_words_and_exit_code_are_kept(tmp_path):
    command = [sys.executable, "-c", "import sys; sys.exit('it broke')"]
    found = run_measured(command, folder=tmp_path, env=os.environ, timeout_s=60)
    assert (found.exit_code, found.last_words) == (1, "it broke")


def test_a_command_that_takes_too_long_is_killed(tmp_path):
    endless = [sys.executable, "-c", "while True: pass"]
    found = run_measured(endless, folder=tmp_path, env=os.environ, timeout_s=0.5)
    assert found.exit_code == -9
