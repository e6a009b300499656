import pytest

from bench.fleet import event_times
from bench.parts import lifecycle
from bench.peers_env import requirements
from bench.sources.mariadb import MariadbServer
from bench.sources.postgres import PostgresServer
from tests.unit.bench.samples import run

POSTGRES_LOG = b"""\
2026-01-01 00:00:00.000 UTC [7] LOG:  duration: 12.500 ms  statement: COPY (SELECT 1) TO STDOUT
2026-01-01 00:00:00.100 UTC [7] LOG:  duration: 0.030 ms  parse <unnamed>: SELECT 1
2026-01-01 00:00:00.200 UTC [7] LOG:  checkpoint complete: write=0.1 s
2026-01-01 00:00:00.300 UTC [7] LOG:  duration: 1500.001 ms  execute <unnamed>: COPY t TO STDOUT
"""
MARIADB_LOG = b"""\
# Time: 260101  0:00:00
# User@Host: root[root] @  [127.0.0.1]
# Thread_id: 7  Schema: bench  QC_hit: No
# Query_time: 1.500001  Lock_time: 0.000100  Rows_sent: 100  Rows_examined: 100
# Rows_affected: 0  Bytes_sent: 5000
SET timestamp=1767225600;
SELECT * FROM t;
# Query_time: 0.012500  Lock_time: 0.000000  Rows_sent: 1  Rows_examined: 0
"""


@pytest.mark.parametrize(
    ("server", "log", "wanted"),
    [
        (PostgresServer, POSTGRES_LOG, [0.0125, 0.00003, 1.500001]),
        (MariadbServer, MARIADB_LOG, [1.500001, 0.0125]),
    ],
)
def test_durations_are_read_from_the_servers_log_in_seconds(server, log, wanted):
    opened = object.__new__(server)
    assert opened.durations_s(log) == pytest.approx(wanted)
    assert opened.durations_s(b"") == []


def test_events_are_collected_by_name():
    journal = [
        {"event": "b", "at_s": 2.0},
        {"event": "a", "at_s": 1.0},
        {"event": "b", "at_s": 1.5},
    ]
    assert event_times(journal) == {"a": [1.0], "b": [1.5, 2.0]}


def test_what_is_not_reading_is_protocol():
    times = {
        "chunk.claimed": [10.0, 20.0],
        "part.staged": [18.0, 27.0, 28.0],
        "chunk.completed": [19.0, 30.0],
    }
    found = lifecycle(times, run("100 chunks", wall_s=25.0), chunk_count=100)
    assert (found.reading_s, found.protocol_s, found.wall_s) == (16.0, 4.0, 25.0)


def test_no_moment_of_chunks_that_overlap_counts_twice():
    times = {
        "chunk.claimed": [10.0, 17.0, 25.0],
        "part.staged": [18.0, 26.0, 34.0],
        "chunk.completed": [19.0, 27.0, 35.0],
    }
    found = lifecycle(times, run("100 chunks", wall_s=25.0), chunk_count=100)
    assert (found.reading_s, found.protocol_s) == (24.0, 1.0)


def test_a_chunk_without_rows_stages_nothing():
    times = {"chunk.claimed": [1.0], "chunk.completed": [2.0]}
    assert lifecycle(times, run("x"), chunk_count=1).protocol_s == 1.0


def test_a_lock_file_is_cut_into_its_requirements():
    lock = "a==1 \\\n  --hash=sha256:1\n  # via b\nb==2 ; os_name == 'nt' \\\n  --hash=sha256:2\n"
    first, second = requirements(lock)
    assert first.startswith("a==1") and "sha256:1" in first and "sha256:2" not in first
    assert second.startswith("b==2 ; os_name")
