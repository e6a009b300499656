"""What the modules of all stores say to their libraries and make of their answers."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

from rivet_fleet.contracts.destination import DestinationConnection
from rivet_fleet.errors import (
    ConfigError,
    DestinationError,
    DestinationRefused,
    DestinationUnavailable,
)

_NO_CODE = re.compile(r"[^A-Za-z0-9_.: -]")
_CODE_CHARS_MAX = 80
_LATER = (408, 409, 425, 429)

_clients: dict[tuple[int, str, tuple[tuple[str, str], ...]], Any] = {}


class Said(Exception):
    """A service's code, where it is an answer and no failure."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def store_error(
    uri: str, verb: str, *, status: int | None, code: str, hint: str | None = None
) -> DestinationError:
    """Our error for a store's answer: ``status`` is HTTP's, None where there was none; ``code`` the
    store's own name for it, never its text, in which anything may stand. ``verb``: what was asked,
    with the permission it takes as its cloud names it (``s3:PutObject``)."""
    said = _NO_CODE.sub("?", code)[:_CODE_CHARS_MAX] + (f" ({status})" if status else "")
    if status in (401, 403):
        return DestinationRefused(
            f"{uri} refuses {verb}: {said}",
            hint=hint
            or f"check the credentials and that they may {verb}; reading a key that is "
            "not there takes the permission to list",
            code="RIVET_STORE_DENIED",
        )
    # 501 is for good: the service does not have what was asked of it.
    if status is None or status in _LATER or (status >= 500 and status != 501):
        return DestinationUnavailable(
            f"{uri} did not answer {verb}: {said}",
            hint=hint or "it is tried again; check the service and the way to it",
            code="RIVET_STORE_UNAVAILABLE",
        )
    return DestinationRefused(
        f"{uri} cannot do {verb}: {said}",
        hint=hint or "check bucket, region and endpoint",
        code="RIVET_STORE_REFUSED",
    )


def import_store(library: str, extra: str) -> ModuleType:
    """A store's library, to be used by the settings of its destination alone. Raises ConfigError
    where it is not installed."""
    try:
        fsspec_config = importlib.import_module("fsspec.config")
        module = importlib.import_module(library)
    except ImportError as error:
        raise ConfigError(
            f"a destination of type {extra} needs {library}, which is not installed here "
            f"({error.name or type(error).__name__})",
            hint=f"install this program's extra {extra} from its own folder; the index has none",
            code="RIVET_STORE_NOT_INSTALLED",
        ) from None
    # From files of this user and FSSPEC_*: another endpoint or key than the destination's own.
    fsspec_config.conf.clear()
    return module


def shared_client(
    connection: DestinationConnection, made: Callable[[DestinationConnection], Any]
) -> Any:
    """One client for all prefixes that are reached by the same settings: it takes 10 MB. Of this
    process alone: one that was made before a fork does not work behind it."""
    settings = (*sorted(connection.options.items()), *sorted(connection.secrets.items()))
    key = (os.getpid(), connection.kind, settings)
    found = _clients.get(key)
    if found is None:
        found = _clients[key] = made(connection)
    return found
