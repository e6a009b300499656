"""What people read: numbers with their units, and text without secrets. Pure; no locale."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from rivet_fleet.contracts.codec import to_plain
from rivet_fleet.contracts.foreign import printable
from rivet_fleet.contracts.url import MASK

LONG_FROM = 6
"""So many exports are told in a line each, where nobody asks for details."""
_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def rfc3339(at_s: float) -> str:
    """Epoch seconds as ``2026-01-31T12:00:00.123Z``."""
    moment = datetime.fromtimestamp(at_s, tz=UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def clock_text(at_s: float) -> str:
    """Epoch seconds as ``12:00:00Z``, for lines that follow each other."""
    return datetime.fromtimestamp(at_s, tz=UTC).strftime("%H:%M:%SZ")


def count_text(count: int) -> str:
    """A count with thousands separators."""
    return f"{count:,}"


def counted(count: int, noun: str) -> str:
    """``1 chunk``, ``2 chunks``: for regular nouns."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def scaled_text(value: float, unit: str = "") -> str:
    """``1.2 M``, ``830 k``: three significant digits, decimal prefixes."""
    for factor, prefix in _SCALES:
        if value >= factor * 0.9995:
            shown = value / factor
            digits = 2 if shown < 9.995 else 1 if shown < 99.95 else 0
            return f"{shown:.{digits}f} {prefix}{unit}"
    return f"{value:.0f} {unit}".rstrip()


def bytes_text(size_bytes: int) -> str:
    """A size with a decimal prefix: ``12.3 MB``."""
    return scaled_text(float(size_bytes), "B")


def rate_text(per_s: float | None, unit: str) -> str:
    """A rate, or a dash while nothing is known."""
    return "–" if per_s is None else f"{scaled_text(per_s, unit)}/s"


def rows_rate_text(rows_per_s: float | None) -> str:
    """``80.1 k rows/s``, or a dash while nothing is known."""
    return "–" if rows_per_s is None else f"{scaled_text(rows_per_s)} rows/s"


def duration_text(duration_s: float | None) -> str:
    """``0.4 s``, ``12 s``, ``3 m 05 s``, ``2 h 07 m``, or a dash."""
    if duration_s is None:
        return "–"
    if duration_s < 9.95:
        return f"{max(duration_s, 0.0):.1f} s"
    whole = round(duration_s)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} m"


# ------------------------------------------------------------------------------------------
# The one chokepoint between what happened and what anybody reads (Rivet: Redaction).
#
# Every renderer of this layer takes a ``Redactor``; its default masks URL passwords and
# ``password=…`` values, the one that processes give also knows the secrets that were resolved.
# Messages come from servers we do not control, so terminal control characters go as well.

Redactor = Callable[[str], str]
"""Text in, the same text without secrets out. Never raises; redacting twice changes nothing."""

_BREAKS = re.compile(r"[\t\n\v\f\r]")
_SPACE = re.compile(r"[\s\x00-\x1f]+")
LINE_CHARS_MAX = 400


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
