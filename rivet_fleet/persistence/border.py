"""Where the drivers' exceptions end: one table from SQLSTATE or SQLite code to our errors."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import exc

from rivet_fleet.contracts.foreign import SAID_CHARS_MAX, foreign_line
from rivet_fleet.errors import StateError, StateRefused, StateUnavailable

_MIGRATE = "run `rivet-fleet state migrate` with this version of the program"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What a driver's code means to us. ``again``: the server rolled back; repeat at once."""

    error: type[StateError]
    hint: str | None = None
    again: bool = False


_UNAVAILABLE = Meaning(error=StateUnavailable)
_UNREACHABLE = Meaning(
    error=StateUnavailable,
    hint="is the state database running and reachable from here? Its URL comes from --state-url, "
    "RIVET_FLEET_STATE_URL or `state:`; nothing is lost, start again when it is there",
)
_AGAIN = Meaning(error=StateUnavailable, again=True)
_SPACE = Meaning(error=StateUnavailable, hint="free space for the state database")

SQLSTATES: dict[str, Meaning] = {
    "08": _UNAVAILABLE,
    "53": _UNAVAILABLE,
    "53100": _SPACE,
    "57": _UNAVAILABLE,
    "58": _UNAVAILABLE,
    "40": _AGAIN,
    "55P03": _AGAIN,
    "25P03": _UNAVAILABLE,
    "25P04": _UNAVAILABLE,
    "25006": Meaning(
        error=StateUnavailable, hint="the state URL points at a read-only server or standby"
    ),
    "28": Meaning(error=StateRefused, hint="check the user and password of the state URL"),
    "3D": Meaning(error=StateRefused, hint="create the state database first"),
    "42501": Meaning(error=StateRefused, hint="the state user needs rights on its schema"),
    "42P01": Meaning(error=StateRefused, hint=_MIGRATE),
    "42703": Meaning(error=StateRefused, hint=_MIGRATE),
    "23": Meaning(error=StateRefused),
}
"""Longest prefix wins; the class is the first two characters (PostgreSQL manual, appendix A)."""

SQLITE_CODES: dict[int, Meaning] = {
    sqlite3.SQLITE_BUSY: _AGAIN,
    sqlite3.SQLITE_LOCKED: _AGAIN,
    sqlite3.SQLITE_IOERR: Meaning(error=StateUnavailable, hint="check the disk of the state"),
    sqlite3.SQLITE_FULL: _SPACE,
    sqlite3.SQLITE_NOMEM: _UNAVAILABLE,
    sqlite3.SQLITE_INTERRUPT: _UNAVAILABLE,
    sqlite3.SQLITE_PROTOCOL: _AGAIN,
    sqlite3.SQLITE_SCHEMA: _AGAIN,
    sqlite3.SQLITE_CORRUPT: Meaning(
        error=StateRefused, hint="restore the state from a backup, or start with a new one"
    ),
    sqlite3.SQLITE_NOTADB: Meaning(
        error=StateRefused, hint="the state path is a file that is not a SQLite database"
    ),
    sqlite3.SQLITE_READONLY: Meaning(
        error=StateRefused, hint="the state file and its directory must be writable"
    ),
    sqlite3.SQLITE_PERM: Meaning(error=StateRefused, hint="check the rights of the state file"),
    sqlite3.SQLITE_CANTOPEN: Meaning(
        error=StateRefused, hint="the state's directory must exist and be writable"
    ),
    sqlite3.SQLITE_CONSTRAINT: Meaning(error=StateRefused),
}
"""By primary result code (the low byte of the extended one; sqlite.org/rescode.html)."""

_OTHERWISE = Meaning(error=StateRefused)


@contextlib.contextmanager
def border(target: str, secrets: tuple[str, ...] = ()) -> Iterator[None]:
    """Turn every driver or SQLAlchemy error of the block into a StateError.

    ``target`` names the state database without a secret.
    """
    try:
        yield
    except exc.DBAPIError as failure:
        raise _translate(failure, target, secrets) from None
    except exc.TimeoutError:
        raise StateUnavailable(
            f"no free connection to the state database {target}",
            hint="every connection of this process's pool is busy",
        ) from None
    except exc.SQLAlchemyError as failure:
        raise StateRefused(f"state database {target}: {type(failure).__name__}") from None


def meaning_of(failure: exc.DBAPIError) -> Meaning:
    """What the driver's error means. Pure."""
    orig = failure.orig
    if failure.connection_invalidated:
        return _UNAVAILABLE
    if isinstance(orig, sqlite3.Error):
        return _sqlite_meaning(orig)
    # A driver is known by what its errors carry, so that only the one in use is imported.
    state = getattr(orig, "sqlstate", "")
    if state:
        found = [SQLSTATES[p] for p in (state, state[:2]) if p in SQLSTATES]
        return found[0] if found else _OTHERWISE
    # libpq reports a connection that could not be made, or broke, without any SQLSTATE.
    operational = any(kind.__name__ == "OperationalError" for kind in type(orig).__mro__)
    without_state = state is None and operational
    return _connecting(orig) if without_state else _OTHERWISE


def _connecting(orig: BaseException | None) -> Meaning:
    text = str(orig)
    for sign, state in _CONNECT_REFUSALS:
        if sign in text:
            return SQLSTATES[state]
    return _UNREACHABLE


# During connection start-up libpq keeps the server's SQLSTATE to itself; these are the server's
# own untranslated texts for the three refusals a user can repair.
_CONNECT_REFUSALS = (
    ("password authentication failed", "28"),
    ("no password supplied", "28"),
    ("no pg_hba.conf entry", "28"),
    ("role ", "28"),
    ("does not exist", "3D"),
)


def _sqlite_meaning(orig: sqlite3.Error) -> Meaning:
    code = getattr(orig, "sqlite_errorcode", None)
    if code is None:
        return _OTHERWISE
    if "no such table" in str(orig) or "no such column" in str(orig):
        return Meaning(error=StateRefused, hint=_MIGRATE)
    return SQLITE_CODES.get(code & 0xFF, _OTHERWISE)


def _translate(failure: exc.DBAPIError, target: str, secrets: tuple[str, ...]) -> StateError:
    meaning = meaning_of(failure)
    first_line = (str(failure.orig)[:SAID_CHARS_MAX].strip().splitlines() or [""])[0]
    told = foreign_line(first_line, secrets, chars_max=500)
    return meaning.error(f"state database {target}: {told}", hint=meaning.hint)
