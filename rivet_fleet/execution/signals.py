"""The seam to what a governor watches: numbers of a source that our own reading cannot move.

Each engine's ``signals`` module lists what it can tell; numbers from an HTTP endpoint are the
same everywhere.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import socket
import time
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit

from rivet_fleet.errors import ConfigError, SourceRefused, SourceUnavailable

ANSWER_MAX_S = 5.0
"""A signal that takes longer is no signal."""
ANSWER_BYTES_MAX = 256 * 1024
"""Of a database's answer that holds one number: a governor asks again and again, and is charged to
no budget."""
_ANSWER_BYTES_MAX = 65_536
_WIRE_BYTES_MAX = 4 * _ANSWER_BYTES_MAX
"""Of one answer with its head and its framing: a chunk may claim any length, or none."""
_REDIRECTS_MAX = 3
_LATE = "timed out"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalSpec:
    """One number an engine can tell. ``counter``: it only grows, and its growth counts.
    ``needs`` names the privilege without which it would read too low."""

    meaning: str
    counter: bool = False
    needs: str | None = None


class SourceSignals(Protocol):
    """One monitoring connection. Opened lazily; not shared between threads."""

    def read(self, name: str) -> float:
        """The engine's own signal. Raises SourceError, ConfigError for an unknown name, and
        SourceRefused when a privilege is missing: a number that is too low is worse than none."""
        ...

    def query(self, sql: str) -> float:
        """The one number of a query. Raises SourceError."""
        ...

    @property
    def usable(self) -> bool:
        """True when there is a connection, and nothing is known to have ended it: asking makes no
        further one."""
        ...

    def close(self) -> None:
        """Close the connection. Never raises."""
        ...


def one_number(rows: object, what: str) -> float:
    """The number of a result of one row and one column: a finite one, since NaN is above no
    threshold. Raises SourceRefused."""
    if isinstance(rows, (list, tuple)) and len(rows) == 1 and len(rows[0]) == 1:
        found = _finite(rows[0][0])
        if found is not None:
            return found
    raise SourceRefused(f"{what} did not give one number")


def _finite(value: Any) -> float | None:
    try:
        found = float(value)
    except (ArithmeticError, TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def unknown_signal(name: str, known: object) -> ConfigError:
    """The refusal of a signal this engine does not have."""
    return ConfigError(
        f"this engine has no signal {name}",
        hint=f"known: {', '.join(sorted(known))}; or give it sql or http",  # type: ignore[call-overload]
    )


def read_http(url: str, pointer: str | None) -> float:
    """A number from an endpoint. Raises SourceUnavailable, SourceRefused.

    The whole answer has ``ANSWER_MAX_S``, however it trickles, and 64 KB. Nothing of the
    environment is used (no proxy), and a redirect leads to the same scheme, host and port or
    nowhere: the endpoint's owner must not choose whom we ask. What follows ``?`` may be a key, and
    is in no message; nor is where a redirect leads, which may repeat it.
    """
    began_s = time.monotonic()
    target, shown = url, url.partition("?")[0]
    for _ in range(_REDIRECTS_MAX + 1):
        status, moved_to, body = _answer(target, shown, began_s + ANSWER_MAX_S)
        if status not in (301, 302, 303, 307, 308):
            break
        elsewhere = _within(url, target, moved_to)
        if elsewhere is None:
            raise SourceRefused(
                f"{shown} redirects to another place",
                hint="name the endpoint itself in the configuration",
            )
        target = elsewhere
    if status != 200 or len(body) > _ANSWER_BYTES_MAX:
        what = f"status {status}" if status != 200 else f"more than {_ANSWER_BYTES_MAX} bytes"
        raise SourceUnavailable(f"{shown} answered with {what}")
    text = body.decode("utf-8", "replace")
    try:
        found = _finite(text.strip() if pointer is None else _pointed(json.loads(text), pointer))
    except (ValueError, TypeError, LookupError, RecursionError):
        found = None
    if found is None:
        where = f" at {pointer}" if pointer else ""
        raise SourceRefused(f"{shown} answered no number{where}")
    return found


def _within(url: str, target: str, moved_to: str) -> str | None:
    """Where a redirect of ``target`` leads; None when that is not where ``url`` is."""
    try:
        elsewhere = urljoin(target, moved_to)
        return elsewhere if urlsplit(elsewhere)[:2] == urlsplit(url)[:2] else None
    except ValueError:
        return None


class _Bounded(io.RawIOBase):
    """What a socket receives, up to ``_WIRE_BYTES_MAX`` and ``ends_s`` (monotonic); what is more,
    or later, is an OSError."""

    def __init__(self, link: socket.socket, ends_s: float) -> None:
        self._link, self._ends_s = link, ends_s
        self._received = link.makefile("rb", buffering=0)
        self._left_bytes = _WIRE_BYTES_MAX

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        # A timeout of a socket begins anew with every byte; this one does not.
        self._link.settimeout(_left_s(self._ends_s))
        count = self._received.readinto(buffer) or 0
        self._left_bytes -= count
        if self._left_bytes < 0:
            raise OSError(f"more than {_WIRE_BYTES_MAX} bytes")
        return count

    def close(self) -> None:
        self._received.close()
        super().close()

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What ``http.client`` asks a socket for."""
        return io.BufferedReader(self)


def _left_s(ends_s: float) -> float:
    """What is left until then. Raises TimeoutError."""
    left_s = ends_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError(_LATE)
    return left_s


def _connected(host: str, port: int, *, encrypted: bool, ends_s: float) -> socket.socket:
    """A socket to the first address that takes us; addresses and TLS have what is left together.
    Raises OSError."""
    import ssl

    why: OSError = TimeoutError(_LATE)
    # The resolver knows no limit of ours: a sample ends without this thread (ADR 0013).
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM):
        link = socket.socket(family, kind, protocol)
        try:
            link.settimeout(_left_s(ends_s))
            link.connect(address)
            if not encrypted:
                return link
            link.settimeout(_left_s(ends_s))
            return ssl.create_default_context().wrap_socket(link, server_hostname=host)
        except OSError as error:
            link.close()
            why = error
    raise why


def _answer(url: str, shown: str, ends_s: float) -> tuple[int, str, bytes]:
    """(status, where a redirect leads, body), or SourceUnavailable, which calls it ``shown``."""
    import http.client

    parts = urlsplit(url)
    kind = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    if parts.scheme not in kind or not parts.hostname:
        raise SourceRefused(f"{shown} is no http:// or https:// URL")
    bounded: Any = _Bounded  # of a socket, http.client asks its file alone
    try:
        connection = kind[parts.scheme](parts.hostname, parts.port)
        connection.response_class = lambda link, **how: http.client.HTTPResponse(
            bounded(link, ends_s), **how
        )
        encrypted = parts.scheme == "https"
        link = _connected(connection.host, connection.port, encrypted=encrypted, ends_s=ends_s)
        with contextlib.closing(connection):
            connection.sock = link
            link.settimeout(_left_s(ends_s))
            query = f"?{parts.query}" if parts.query else ""
            connection.request("GET", f"{parts.path or '/'}{query}")
            with connection.getresponse() as answer:
                body = answer.read(_ANSWER_BYTES_MAX + 1)
                return answer.status, answer.headers.get("Location", ""), body
    except (http.client.HTTPException, OSError, ValueError) as error:
        late = isinstance(error, TimeoutError)
        why = f"no whole answer within {ANSWER_MAX_S:g} s" if late else str(error)
        if isinstance(error, http.client.InvalidURL):
            why = "no URL that can be asked"  # its own words repeat it, spelled as Python does
        if parts.query:
            why = why.replace(parts.query, "***")
        raise SourceUnavailable(f"{shown}: {why}") from None


def _pointed(document: Any, pointer: str) -> Any:
    """RFC 6901."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        document = document[int(key)] if isinstance(document, list) else document[key]
    return document
