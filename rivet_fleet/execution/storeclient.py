"""What the modules of all stores say to their libraries and make of their answers."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any, TypeVar, cast

from rivet_fleet.contracts.destination import (
    DestinationConnection,
    authority_of,
    bucket_and_key,
)
from rivet_fleet.errors import (
    ConfigError,
    DestinationError,
    DestinationRefused,
    DestinationUnavailable,
)

S = TypeVar("S")
T = TypeVar("T")
_NO_CODE = re.compile(r"[^A-Za-z0-9_.: -]")
_CODE_CHARS_MAX = 80
TRUSTED_S = 10.0
"""For how long a bucket that has answered is taken to be there still, where a store tells an absent
object and an absent bucket alike."""
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


def bucket_of(connection: DestinationConnection, needed: str = "endpoint") -> tuple[str, str]:
    """The bucket, and the keys' beginning without slashes. Raises ConfigError for a prefix without
    a bucket, and for one with a place behind its ``@`` that no setting leads to: the cloud's own
    service has another bucket of that name, and it may be anybody's."""
    place = authority_of(connection.prefix)
    if "@" in place and needed not in connection.options:
        raise ConfigError(
            f"{connection.prefix} names the service {place.partition('@')[2]}, and no setting says "
            "how it is reached",
            hint="give the configuration of an export that delivers there (-c): nothing was asked",
        )
    bucket, below = bucket_and_key(connection.prefix)
    if not bucket:
        raise ConfigError(
            f"{connection.prefix} names no bucket",
            hint="write it behind the two slashes: scheme://bucket/prefix; nothing was asked",
        )
    return bucket, below


_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")


def end_of_range(told: str | None, at: int, size_bytes: int) -> int:
    """How large an object is, by the ``Content-Range`` of an answer of ``size_bytes`` that begins
    at ``at``; without one the answer is all of it. Raises ValueError for any other answer: whoever
    reads on by it would read without end, or something else."""
    if told is None and not at:
        return size_bytes
    found = _RANGE.fullmatch(told or "")
    if found is None or not size_bytes:
        raise ValueError("no range")
    first, last, end = map(int, found.groups())
    if (first, last + 1) != (at, at + size_bytes) or end < last + 1:
        raise ValueError("another range than was asked for")
    return end


def gone_on(before: T, more: T) -> T:
    """``more``, by which a listing goes on. Raises ValueError where it has come no farther."""
    if before == more:
        raise ValueError("a listing that stays where it is")
    return more


def understood(store: S, uri: str) -> S:
    """The same store, of which an answer that is not what its service promises (a field that is
    missing, a number that is none) is an error of ours and no program error."""
    return cast(S, _Understood(store, uri))


class _Understood:
    def __init__(self, store: object, uri: str) -> None:
        self._inner = store
        self._of = uri

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name.startswith("_") or not callable(found):
            return found
        if inspect.isgeneratorfunction(found):
            return partial(self._each, name, found)
        return partial(self._told, name, found)

    def _told(self, name: str, verb: Callable[..., Any], *words: Any, **named: Any) -> Any:
        with self._border(name):
            told = verb(*words, **named)
        return understood(told, self._of) if name == "begin" else told

    def _each(self, name: str, verb: Callable[..., Any], *words: Any, **named: Any) -> Any:
        with self._border(name):
            yield from verb(*words, **named)

    @contextlib.contextmanager
    def _border(self, name: str) -> Iterator[None]:
        try:
            yield
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            said = f"an answer that is none ({type(error).__name__})"
            raise store_error(self._of, name, status=None, code=said) from error


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
