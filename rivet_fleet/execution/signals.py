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

    def close(self) -> None:
        """Close the connection. Never raises."""
        ...


def one_number(rows: object, what: str) -> float:
    """The number of a result of one row and one column. Raises SourceRefused."""
    if isinstance(rows, (list, tuple)) and len(rows) == 1 and len(rows[0]) == 1:
        value = rows[0][0]
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    raise SourceRefused(f"{what} did not give one number")


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
    is in no message.
    """
    began_s = time.monotonic()
    target, shown = url, url.partition("?")[0]
    for _ in range(_REDIRECTS_MAX + 1):
        left_s = ANSWER_MAX_S - (time.monotonic() - began_s)
        status, moved_to, body = _answer(target, max(left_s, 0.001))
        if status not in (301, 302, 303, 307, 308):
            break
        elsewhere = urljoin(target, moved_to)
        if urlsplit(elsewhere)[:2] != urlsplit(url)[:2]:
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
        found = float(text.strip() if pointer is None else _pointed(json.loads(text), pointer))
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        found = math.nan
    if not math.isfinite(found):
        where = f" at {pointer}" if pointer else ""
        raise SourceRefused(f"{shown} answered no number{where}")
    return found


class _Bounded(io.RawIOBase):
    """What a socket receives, up to ``_WIRE_BYTES_MAX``; more is an OSError."""

    def __init__(self, link: socket.socket) -> None:
        self._received = link.makefile("rb", buffering=0)
        self._left_bytes = _WIRE_BYTES_MAX

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
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


def _answer(url: str, within_s: float) -> tuple[int, str, bytes]:
    """(status, where a redirect leads, body), or SourceUnavailable."""
    import http.client
    import threading

    parts, shown = urlsplit(url), url.partition("?")[0]
    kind = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    if parts.scheme not in kind or not parts.hostname:
        raise SourceRefused(f"{shown} is no http:// or https:// URL")
    connection = kind[parts.scheme](parts.hostname, parts.port, timeout=within_s)
    bounded: Any = _Bounded  # of a socket, http.client asks its file alone
    connection.response_class = lambda link, **how: http.client.HTTPResponse(bounded(link), **how)
    late = threading.Event()
    links: list[socket.socket] = []

    def end() -> None:
        """A timeout of the socket begins anew with every byte; this one does not."""
        late.set()
        for link in links:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    deadline = threading.Timer(within_s, end)
    deadline.start()
    try:
        connection.connect()
        # The connection forgets it once a head says that the body ends with it.
        links.append(connection.sock)
        connection.request("GET", f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}")
        with connection.getresponse() as answer:
            body = answer.read(_ANSWER_BYTES_MAX + 1)
            if late.is_set():
                raise TimeoutError("timed out")
            return answer.status, answer.headers.get("Location", ""), body
    except (http.client.HTTPException, OSError, ValueError) as error:
        why = f"no whole answer within {ANSWER_MAX_S:g} s" if late.is_set() else str(error)
        if parts.query:
            why = why.replace(parts.query, "***")
        raise SourceUnavailable(f"{shown}: {why}") from None
    finally:
        deadline.cancel()
        connection.close()


def _pointed(document: Any, pointer: str) -> Any:
    """RFC 6901."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        document = document[int(key)] if isinstance(document, list) else document[key]
    return document
