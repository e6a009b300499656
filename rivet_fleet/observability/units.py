"""Numbers as people read them: sizes, rates, durations, moments. Pure; no locale."""

from __future__ import annotations

from datetime import UTC, datetime

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
