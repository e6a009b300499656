"""The one chokepoint between what happened and what anybody reads (inventory §11.10).

Every renderer of this layer takes a ``Redactor``; its default masks URL passwords and
``password=…`` values, and ``redactor_for`` adds the secrets the configuration resolved.
Messages come from servers we do not control, so terminal control characters go as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rivet_fleet.contracts.codec import to_plain
from rivet_fleet.contracts.foreign import printable
from rivet_fleet.contracts.url import MASK, redact

Redactor = Callable[[str], str]
"""Text in, the same text without secrets out. Never raises; redacting twice changes nothing."""

_BREAKS = re.compile(r"[\t\n\v\f\r]")
_SPACE = re.compile(r"[\s\x00-\x1f]+")
LINE_CHARS_MAX = 400


def redactor_for(secrets: Iterable[str]) -> Redactor:
    """A redactor that also knows these secrets, wherever they stand."""
    known = tuple(s for s in secrets if s)
    return lambda text: redact(text, known)


def one_line(text: str, redactor: Redactor, chars_max: int = LINE_CHARS_MAX) -> str:
    """``text`` redacted, on one line and at most ``chars_max`` long.

    Redaction comes first: cutting first could leave half a secret that no rule recognises.
    """
    flat = printable(_SPACE.sub(" ", redactor(text))).strip()
    # Removing a control character may join the two halves of a secret.
    flat = redactor(flat)
    return flat if len(flat) <= chars_max else flat[: chars_max - 1] + "…"


def safe_line(text: str, redactor: Redactor) -> str:
    """``text`` redacted and on one line of its full length; runs of spaces stay (columns)."""
    return redactor(printable(_BREAKS.sub(" ", redactor(text))))


def redact_plain(value: object, redactor: Redactor) -> Any:
    """Plain JSON with every string, key and number redacted on its own.

    Done before rendering, because a rendered JSON line hides secrets behind escapes and
    because masking inside the line could break it.
    """
    return _redacted(to_plain(value), redactor)


def _redacted(plain: object, redactor: Redactor) -> Any:
    if isinstance(plain, str):
        return redactor(plain)
    if isinstance(plain, Mapping):
        return {redactor(str(k)): _field(str(k), v, redactor) for k, v in plain.items()}
    if isinstance(plain, (list, tuple)):
        return [_redacted(item, redactor) for item in plain]
    if plain is None or isinstance(plain, bool):
        return plain
    text = str(plain)
    if redactor(text) != text:
        return MASK
    return plain if isinstance(plain, (int, float)) else text


def _field(key: str, value: object, redactor: Redactor) -> Any:
    """A field whose very name says secret (``password``) is masked whatever it holds."""
    probe = f"{key}=x"
    telling = isinstance(value, (str, int, float)) and not isinstance(value, bool) and value != ""
    if telling and redactor(probe) == f"{key}={MASK}":
        return MASK
    return _redacted(value, redactor)
