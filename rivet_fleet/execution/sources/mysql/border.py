"""Where PyMySQL's exceptions stop: everything beyond raises only ``rivet_fleet.errors``."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator

import pymysql

from rivet_fleet.contracts.foreign import foreign_line
from rivet_fleet.contracts.rowvalues import NOTHING_SAID, hinted, without_values
from rivet_fleet.contracts.url import DatabaseUrl
from rivet_fleet.errors import RetryClass, SourceError, SourceRefused
from rivet_fleet.execution.sources.mysql.dialect import ALIAS
from rivet_fleet.execution.sources.mysql.errnos import ERRNOS, SWAPPED, ErrorClass, classify

CLIENT_ERRNOS = range(2000, 3000)
"""Errors the client finds itself: after them the connection is not in step any more."""

_HINTS: dict[int, str] = {
    1044: "the user may not use this database: GRANT SELECT ON the database TO the user",
    1045: "check the user name and the password (`password_env`, `url_env` or `url_file`), and "
    "that the server lets this user in from this host",
    1049: "check the database name in the source's URL",
    1054: "check the column's spelling",
    1060: "give each column of the query its own name with AS; case does not tell them apart",
    1064: "the `query:` is not valid SQL for this server",
    1142: "the user needs SELECT on the table: GRANT SELECT ON … TO the user",
    1143: "the user needs SELECT on every column that is read",
    1146: "check the name's database and spelling",
    1690: "a value of the query is out of its type's range; a zero TIMESTAMP is, too, where the "
    "server's time zone is not UTC and its mode has NO_ZERO_DATE: leave it out with WHERE, or "
    "read it as text with CAST(… AS CHAR)",
    1698: "this user is only let in by the server machine's own login; give it a password",
    1792: "exports read only; the query tries to write",
    1969: "the statement ran into its limit; raise `statement_timeout_s`, or make chunks "
    "smaller, or check that the key has an index",
    1129: "the server refuses this host after failed connections: FLUSH HOSTS lifts that",
    1176: "the table has no index of that name any more: plan the export again",
    1461: "the server's max_prepared_stmt_count is used up: some client leaves statements behind",
    2003: "is the server running, and is it listening on that host and port?",
    2026: "check `tls.mode` and the certificate",
    2059: "the server asks for a way of logging in that is not supported, or needs TLS: check "
    "`tls.mode` and the user's authentication plugin",
    2020: "no honest server answers so: is the right one at that address?",
    2061: "verify the server (`tls.mode: verify-full`, or `verify-ca` with its `ca_file`); without "
    "TLS give its own key (`tls.server_public_key_file`); `tls.allow_cleartext_password` "
    "allows clear-text methods over verified links, and hashed ones over encrypted links",
    2068: "no honest server asks for a file: check who answers at that address",
    1040: "the server has no free connection; lower the number of workers",
    1203: "the user has too many connections; lower the number of workers",
}
_HINTS[2027] = _HINTS[2020]
_HINTS[3024] = _HINTS[1969]
_LOCKED = (
    "the account is locked, or blocked for failed logins: ALTER USER … ACCOUNT UNLOCK lifts that"
)
_HINTS |= dict.fromkeys((3118, 3955, 4150, 4151), _LOCKED)


@contextlib.contextmanager
def mysql_errors(url: DatabaseUrl, doing: str, *, subject: str = "the query") -> Iterator[None]:
    """Turn any PyMySQL error inside the block into ours, by its number, without secrets.

    ``doing`` completes the sentence "… while <doing>"; ``subject`` is what the server knows by
    our alias alone.
    """
    try:
        yield
    except pymysql.MySQLError as error:
        raise translate(error, url, doing, subject=subject) from None


@contextlib.contextmanager
def maybe_swapped() -> Iterator[None]:
    """What was there when it was planned and is not now may be on its way back: another table is
    taking its name. So it is worth another try, and within its tries it ends as what it is."""
    try:
        yield
    except SourceRefused as error:
        if error.code in _SWAPPED_CODES:
            error.retry = RetryClass.TRANSIENT
        raise


_SWAPPED_CODES = frozenset(f"MYSQL_{errno}" for errno in SWAPPED)


def translate(
    error: pymysql.MySQLError, url: DatabaseUrl, doing: str, *, subject: str = "the query"
) -> SourceError:
    """Our error for one of PyMySQL's: class and retry by the table of error numbers."""
    errno, said = told(error)
    found = classify(errno)
    said = said.replace(f"'{ALIAS}'", f"'{subject}'").replace(f"'{ALIAS}.", "'")
    number = f"{errno}, " if errno else ""
    message = f"{url.identity}: {_clean(said, url)} ({number}while {doing})"
    kept = _without_values(errno, said)
    if kept is None:
        return _build(found, message, errno)
    shown = f"{url.identity}: {_clean(kept, url)} ({number}while {doing})"
    return _build(found, shown, errno, unmasked=message)


def translate_connect(error: Exception, url: DatabaseUrl) -> SourceError:
    """Our error for a connection that could not be made: PyMySQL's, or of the TLS library."""
    errno, said = told(error)
    cause = getattr(error, "original_exception", error)
    if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError):
        errno, said = 2013, f"TLS: {cause}"  # the link broke: nobody refused anything
    elif isinstance(cause, ssl.SSLError):
        errno, said = 2026, f"TLS: {cause}"
    elif isinstance(error, UnicodeError | ValueError | RuntimeError):
        errno = 2059
    ours = _build(classify(errno), f"cannot connect to {url.identity}: {_clean(said, url)}", errno)
    ours.connected = False
    return ours


def told(error: Exception) -> tuple[int, str]:
    """(error number, text) of an exception; number 0 where PyMySQL made it up without one."""
    match error.args:
        case (int(errno), text, *_):
            return errno, str(text)
        case _:
            return 0, str(error)


def refused(error: pymysql.MySQLError) -> bool:
    """True for the server's own no: asked again, it would say the same."""
    errno, _ = told(error)
    return classify(errno).retry is RetryClass.PERMANENT and errno not in CLIENT_ERRNOS


_WORDED_BY_OTHERS = frozenset((1643, 1644, 1645, 1296, 1429, 1430, 1431))
"""SIGNAL and RESIGNAL of a function, and what a foreign server said."""
_NAMES_ALONE = (
    *(1046, 1048, 1049, 1051, 1052, 1055, 1065, 1066, 1109, 1111, 1115, 1116, 1140, 1146, 1149),
    *(1193, 1210, 1221, 1222, 1227, 1234, 1235, 1241, 1242, 1247, 1248, 1253, 1267, 1270, 1271),
    *(1273, 1286, 1302, 1305, 1318, 1349, 1356, 1370, 1386, 1390, 1449, 1582, 1583, 1584, 1630),
)
"""Of wrong SQL and missing things."""
_OF_NAMES = frozenset((*_NAMES_ALONE, *ERRNOS, *SWAPPED, *_HINTS, *CLIENT_ERRNOS, 0)) - {
    1105,
    1690,
    *_WORDED_BY_OTHERS,
}
"""Errors whose messages hold names, limits and the statement's own text. 1105 says whatever has no
number of its own, of an XPath too, which may come from a row."""


def _without_values(errno: int, said: str) -> str | None:
    """What may be told of an error that may be about a value; None when it is about none."""
    if errno in _OF_NAMES:
        return None
    kept = NOTHING_SAID if errno in _WORDED_BY_OTHERS else without_values(said)
    return None if kept == said else kept


def _build(found: ErrorClass, message: str, errno: int, unmasked: str | None = None) -> SourceError:
    hint = _HINTS.get(errno)
    return found.error(
        message,
        hint=hint if unmasked is None else hinted(hint),
        unmasked=unmasked,
        code=f"MYSQL_{errno}" if errno else None,
        retry=found.retry,
        extra_delay_s=found.extra_delay_s,
    )


def _clean(text: str, url: DatabaseUrl) -> str:
    secrets = (url.password,) if url.password else ()
    return foreign_line(text, secrets)
