"""What a pooler says and how it is recognised, without one."""

from __future__ import annotations

import psycopg
import psycopg.errors
import pytest

from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import RetryClass, SourceBusy, SourceRefused, SourceUnavailable
from rivet_fleet.execution.sources.postgres.border import is_pooled, translate, translate_connect

URL = parse_database_url("postgresql://reader@127.0.0.1:6432/shop")


def test_pids_that_differ_are_a_pooler() -> None:
    assert not is_pooled(7, 7, 7)
    assert is_pooled(7, 8)
    assert is_pooled(7, 7, 8)


@pytest.mark.parametrize(
    ("said", "error", "retry"),
    [
        ("transaction blocks not allowed in statement pooling mode", SourceRefused, "permanent"),
        ("query_wait_timeout", SourceBusy, "transient"),
        ("no more connections allowed (max_client_conn)", SourceBusy, "transient"),
        ("no such database: shop", SourceRefused, "permanent"),
        ("unsupported startup parameter: geqo", SourceRefused, "permanent"),
        ("server login has been failing, try again later", SourceUnavailable, "reconnect"),
    ],
)
def test_what_a_pooler_says(said: str, error: type[Exception], retry: str) -> None:
    """Connecting or later: the same word means the same."""
    later = translate(psycopg.errors.ProtocolViolation(said), URL, "reading a page")
    at_first = translate_connect(psycopg.OperationalError(f"connection failed: {said}"), URL)
    for ours in (later, at_first):
        assert type(ours) is error
        assert ours.retry is RetryClass(retry)
        assert error is SourceUnavailable or ours.hint


def test_a_server_that_says_the_same_with_a_state_of_its_own_is_no_pooler() -> None:
    said = 'column "query_wait_timeout" does not exist'
    ours = translate(psycopg.errors.UndefinedColumn(said), URL, "reading a page")
    assert type(ours) is SourceRefused
