"""The seam to what a governor watches: numbers of a source that our own reading cannot move.

Each engine's ``signals`` module lists what it can tell; numbers from an HTTP endpoint are the
same everywhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

from rivet_fleet.errors import ConfigError, SourceRefused, SourceUnavailable

ANSWER_MAX_S = 5.0
"""A signal that takes longer is no signal."""
_ANSWER_BYTES_MAX = 65_536


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

    No proxy of the environment is used, and no redirect to another scheme is followed.
    """
    import urllib.error
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=ANSWER_MAX_S) as answer:
            text = answer.read(_ANSWER_BYTES_MAX).decode("utf-8", "replace")
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise SourceUnavailable(f"{url}: {error}") from None
    try:
        return float(text.strip() if pointer is None else _pointed(json.loads(text), pointer))
    except (ValueError, TypeError, KeyError, IndexError):
        where = f" at {pointer}" if pointer else ""
        raise SourceRefused(f"{url} answered no number{where}") from None


def _pointed(document: Any, pointer: str) -> Any:
    """RFC 6901."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        document = document[int(key)] if isinstance(document, list) else document[key]
    return document
