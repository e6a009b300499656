"""Where PyMySQL's exceptions stop: everything beyond raises only ``rivet_fleet.errors``."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator

import pymysql

from rivet_fleet.contracts.url import DatabaseUrl, redact
from rivet_fleet.errors import SourceError
from rivet_fleet.execution.sources.mysql.errnos import ErrorClass, classify

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
    1698: "this user is only let in by the server machine's own login; give it a password",
    1792: "exports read only; the query tries to write",
    1969: "the statement ran into its limit; raise `statement_timeout_s`, or make chunks "
    "smaller, or check that the key has an index",
    2003: "is the server running, and is it listening on that host and port?",
    2026: "check `tls.mode` and the certificate",
    2059: "the server asks for a way of logging in that is not supported, or needs TLS: check "
    "`tls.mode` and the user's authentication plugin",
    1040: "the server has no free connection; lower the number of workers",
    1203: "the user has too many connections; lower the number of workers",
}
_HINTS[3024] = _HINTS[1969]


@contextlib.contextmanager
def mysql_errors(url: DatabaseUrl, doing: str) -> Iterator[None]:
    """Turn any PyMySQL error inside the block into ours, by its number, without secrets.

    ``doing`` completes the sentence "… while <doing>".
    """
    try:
        yield
    except pymysql.MySQLError as error:
        raise translate(error, url, doing) from None


def translate(error: pymysql.MySQLError, url: DatabaseUrl, doing: str) -> SourceError:
    """Our error for one of PyMySQL's: class and retry by the table of error numbers."""
    errno, said = told(error)
    found = classify(errno)
    number = f"{errno}, " if errno else ""
    message = f"{url.identity}: {_clean(said, url)} ({number}while {doing})"
    return _build(found, message, errno)


def translate_connect(error: Exception, url: DatabaseUrl) -> SourceError:
    """Our error for a connection that could not be made: PyMySQL's, or of the TLS library."""
    errno, said = told(error)
    cause = getattr(error, "original_exception", error)
    if isinstance(cause, ssl.SSLError):
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


def _build(found: ErrorClass, message: str, errno: int) -> SourceError:
    return found.error(
        message,
        hint=_HINTS.get(errno),
        code=f"MYSQL_{errno}" if errno else None,
        retry=found.retry,
        extra_delay_s=found.extra_delay_s,
    )


def _clean(text: str, url: DatabaseUrl) -> str:
    secrets = (url.password,) if url.password else ()
    return redact(" ".join(text.split()), secrets)
