import pytest

from bench.server import statement_durations_s

LOG = b"""\
2026-01-01 00:00:00.000 UTC [7] LOG:  duration: 12.500 ms  statement: COPY (SELECT 1) TO STDOUT
2026-01-01 00:00:00.100 UTC [7] LOG:  duration: 0.030 ms  parse <unnamed>: SELECT 1
2026-01-01 00:00:00.200 UTC [7] LOG:  checkpoint complete: write=0.1 s
2026-01-01 00:00:00.300 UTC [7] LOG:  duration: 1500.001 ms  execute <unnamed>: COPY t TO STDOUT
"""


def test_durations_are_read_from_the_servers_log_in_seconds():
    assert statement_durations_s(LOG) == pytest.approx([0.0125, 0.00003, 1.500001])


def test_a_log_without_statements_has_no_durations():
    assert statement_durations_s(b"") == []
