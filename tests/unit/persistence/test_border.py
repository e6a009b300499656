"""Which driver error becomes which of ours, and that no secret comes along."""

from __future__ import annotations

import sqlite3

import psycopg
import pytest
from sqlalchemy import exc

from rivet_fleet.errors import StateError, StateRefused, StateUnavailable
from rivet_fleet.persistence.database import SQLITE_CODES, SQLSTATES, border, meaning_of


def wrapped(orig: BaseException, *, lost: bool = False) -> exc.DBAPIError:
    return exc.DBAPIError("SELECT 1", {}, orig, connection_invalidated=lost)


def sqlstate(code: str) -> exc.DBAPIError:
    return wrapped(psycopg.errors.lookup(code)("nothing"))


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("08006", StateUnavailable),
        ("57P01", StateUnavailable),
        ("57014", StateUnavailable),
        ("53300", StateUnavailable),
        ("40P01", StateUnavailable),
        ("25006", StateUnavailable),
        ("28P01", StateRefused),
        ("3D000", StateRefused),
        ("42501", StateRefused),
        ("42P01", StateRefused),
        ("23505", StateRefused),
        ("42601", StateRefused),
    ],
)
def test_sqlstates(code: str, error: type[StateError]) -> None:
    assert meaning_of(sqlstate(code)).error is error


def test_only_conflicts_are_repeated_at_once() -> None:
    assert meaning_of(sqlstate("40001")).again and meaning_of(sqlstate("40P01")).again
    assert not meaning_of(sqlstate("57014")).again


def test_a_lost_connection_is_unavailable_whatever_it_says() -> None:
    assert meaning_of(wrapped(psycopg.OperationalError("x"), lost=True)).error is StateUnavailable


@pytest.mark.parametrize("code", SQLITE_CODES)
def test_sqlite_extended_codes_fall_back_to_their_primary(code: int) -> None:
    failure = sqlite3.OperationalError("disk")
    failure.sqlite_errorcode = code | (3 << 8)
    assert meaning_of(wrapped(failure)) == SQLITE_CODES[code]


def test_every_meaning_is_a_state_error() -> None:
    for meaning in (*SQLSTATES.values(), *SQLITE_CODES.values()):
        assert issubclass(meaning.error, StateError)


def test_messages_hold_no_secret() -> None:
    orig = psycopg.OperationalError("could not connect to postgresql://u:hunter2@h/db hunter2")
    with pytest.raises(StateUnavailable) as caught, border("postgresql://u@h/db", ("hunter2",)):
        raise wrapped(orig)
    assert "hunter2" not in str(caught.value) and "hunter2" not in repr(caught.value)
