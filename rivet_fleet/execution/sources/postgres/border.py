"""Where psycopg's exceptions stop: everything beyond raises only ``rivet_fleet.errors``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg

from rivet_fleet.contracts.url import DatabaseUrl, redact
from rivet_fleet.errors import RetryClass, SourceError, SourceRefused, SourceUnavailable
from rivet_fleet.execution.sources.postgres.dialect import (
    ErrorClass,
    classify,
    classify_connect,
)
from rivet_fleet.execution.sources.postgres.heaps import broken_seal
from rivet_fleet.execution.sources.postgres.poolers import pooler_word

_HINTS: dict[str, str] = {
    "57014": "the statement ran into its limit; raise `statement_timeout_s`, or make chunks "
    "smaller, or check that the key has an index",
    "42501": "the user needs USAGE on the schema and SELECT on the table: "
    "GRANT USAGE ON SCHEMA …, GRANT SELECT ON … TO the user",
    "42P01": "check the name's schema and spelling; names are case-sensitive here",
    "42703": "check the column's spelling; names are case-sensitive here",
    "42601": "the `query:` is not valid SQL for this server",
    "25006": "exports read only; the query tries to write",
    "53300": "the server has no free connection; lower the number of workers",
}
_CONNECT_HINTS: tuple[tuple[str, str], ...] = (
    ("password", "check the password (`password_env`, `url_env` or `url_file`)"),
    ("role", "check the user name in the source's URL"),
    ("database", "check the database name in the source's URL"),
    ("pg_hba", "the server's pg_hba.conf does not let this user in from this host"),
    ("refused", "is the server running, and is it listening on that host and port?"),
    ("translate host", "check the host name"),
    ("resolve", "check the host name"),
    ("SSL", "check `tls.mode` and the certificate"),
    ("certificate", "check `tls.mode` and `tls.ca_file`"),
)


@contextlib.contextmanager
def postgres_errors(url: DatabaseUrl, doing: str) -> Iterator[None]:
    """Turn any psycopg error inside the block into ours, by SQLSTATE, without secrets.

    ``doing`` completes the sentence "… while <doing>".
    """
    try:
        yield
    except psycopg.Error as error:
        raise broken_seal(error) or translate(error, url, doing) from None


def translate(error: psycopg.Error, url: DatabaseUrl, doing: str) -> SourceError:
    """Our error for one of psycopg's: class and retry by the dialect's table."""
    said = _clean(str(error), url)
    sqlstate = error.sqlstate
    if (word := pooler_word(said)) is not None and sqlstate in (None, "08P01"):
        return _build(word.means, f"{url.identity}: {said} (while {doing})", word.hint, None)
    if sqlstate is not None:
        found, hint, code = classify(sqlstate), _HINTS.get(sqlstate), f"SQLSTATE_{sqlstate}"
        message = f"{url.identity}: {said} ({sqlstate}, while {doing})"
    else:
        found, hint, code = _without_sqlstate(error), None, None
        message = f"{url.identity}: {said} (while {doing})"
    return _build(found, message, hint, code)


def translate_connect(error: psycopg.Error, url: DatabaseUrl) -> SourceError:
    """Our error for a connection that could not be made: ``connected`` is False."""
    ours = _translate_connect(error, url)
    ours.connected = False
    return ours


def _translate_connect(error: psycopg.Error, url: DatabaseUrl) -> SourceError:
    if error.sqlstate is not None:
        return translate(error, url, "connecting")
    said = _clean(str(error), url)
    if (word := pooler_word(said)) is not None:
        return _build(word.means, f"cannot connect to {url.identity}: {said}", word.hint, None)
    if isinstance(error, psycopg.ProgrammingError):
        found = classify_connect("invalid connection option")
    else:
        found = classify_connect(said)
    hint = next((hint for fragment, hint in _CONNECT_HINTS if fragment in said), None)
    return _build(found, f"cannot connect to {url.identity}: {said}", hint, None)


def _without_sqlstate(error: psycopg.Error) -> ErrorClass:
    """Errors psycopg makes itself: the connection broke, or the call was wrong."""
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return ErrorClass(error=SourceUnavailable, retry=RetryClass.RECONNECT)
    return ErrorClass(error=SourceRefused, retry=RetryClass.PERMANENT)


def _build(found: ErrorClass, message: str, hint: str | None, code: str | None) -> SourceError:
    return found.error(
        message, hint=hint, code=code, retry=found.retry, extra_delay_s=found.extra_delay_s
    )


def _clean(text: str, url: DatabaseUrl) -> str:
    secrets = (url.password,) if url.password else ()
    return redact(" ".join(text.split()), secrets)
