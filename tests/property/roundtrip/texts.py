"""Hostile texts, bytes and numbers, for every engine. Chance comes in as a ``Random``."""

from __future__ import annotations

import json
from random import Random

TEXTS = (
    "",
    " ",
    "  padded  ",
    "NULL",
    "null",
    "\\N",
    "\\",
    '"',
    '""',
    "'",
    ",",
    ";",
    "\n",
    "\r",
    "\r\n",
    "\t",
    "a\nb",
    '"a","b"',
    "{a,b}",
    "{}",
    "é",
    "e\u0301",
    "ß",
    "日本語",
    "\U0001f600",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\ufeff",
    "\ufffd",
    "\uffff",
    "\U0010ffff",
    "\u2028",
    "\u202eoverride",
    "\x01",
    "\x1f",
    "\x7f",
    "\x80",
    "0",
    "-0",
    "1e400",
    "NaN",
    "infinity",
    "true",
    "2024-02-30",
    "0000-00-00",
    "=1+1",
    "#",
    "--",
    "$1",
    "%s",
    "a" * 4000,
    "\U0001f600" * 500,
)
_ALPHABET = "aA0 _,;\"'\\\n\r\t%éß日\U0001f600\x01\u2028"


def text(rng: Random, *, length_max: int = 40) -> str:
    """Any text without NUL and without surrogates."""
    if rng.random() < 0.5:
        return rng.choice(TEXTS)
    return "".join(_letter(rng) for _ in range(rng.randint(0, length_max)))


def _letter(rng: Random) -> str:
    if rng.random() < 0.7:
        return rng.choice(_ALPHABET)
    code = rng.choice((rng.randint(1, 0x7F), rng.randint(0x80, 0xFFFF), rng.randint(1, 0x10FFFF)))
    return "x" if 0xD800 <= code < 0xE000 else chr(code)


def octets(rng: Random, *, length_max: int = 40) -> bytes:
    """Any bytes."""
    if rng.random() < 0.4:
        return rng.choice(
            (
                b"",
                b"\0",
                b"\0" * 8,
                b"\xff",
                b"\xff\xfe",
                b"a\0b",
                b"\\x00",
                b"\r\n",
                bytes(range(256)),
            )
        )
    return rng.randbytes(rng.randint(0, length_max))


def integer(rng: Random, low: int, high: int) -> int:
    """Edges often, else anything between, small ones preferred."""
    pick = rng.random()
    if pick < 0.3:
        return rng.choice((low, high, low + 1, high - 1, 0 if low <= 0 <= high else low))
    if pick < 0.6:
        return max(low, min(high, rng.randint(-1000, 1000)))
    return rng.randint(low, high)


def fixed(rng: Random, precision: int, scale: int) -> str:
    """A number of at most ``precision`` digits, ``scale`` of them behind the point; the scale
    may be negative or above the precision."""
    edge = 10**precision - 1
    unscaled = rng.choice((0, 1, -1, edge, -edge, rng.randint(-edge, edge), rng.randint(-99, 99)))
    unscaled = max(-edge, min(edge, unscaled))
    if scale <= 0:
        return str(unscaled * 10**-scale)
    digits = str(abs(unscaled)).rjust(scale + 1, "0")
    return ("-" if unscaled < 0 else "") + digits[:-scale] + "." + digits[-scale:]


def json_value(rng: Random, depth: int = 3) -> object:
    """Anything JSON can say, apart from NUL in a string."""
    pick = rng.random()
    if depth and pick < 0.25:
        return [json_value(rng, depth - 1) for _ in range(rng.randint(0, 4))]
    if depth and pick < 0.5:
        return {
            text(rng, length_max=6): json_value(rng, depth - 1) for _ in range(rng.randint(0, 4))
        }
    choices = (None, True, False, rng.randint(-(10**20), 10**20), 1.5, -0.0, 1e-300, text(rng))
    return rng.choice(choices)


def json_text(rng: Random) -> str:
    """JSON with spaces where they may stand."""
    return json.dumps(
        json_value(rng),
        ensure_ascii=rng.random() < 0.5,
        separators=rng.choice(((",", ":"), (" , ", " : "), (",\n", ":\t"))),
    )


def civil(days: int) -> tuple[int, int, int]:
    """Days since 1970-01-01 → year (0 is 1 BC), month, day."""
    shifted = days + 719_468
    era, of_era = divmod(shifted, 146_097)
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month_index = (5 * of_year + 2) // 153
    day = of_year - (153 * month_index + 2) // 5 + 1
    month = month_index + 3 if month_index < 10 else month_index - 9
    return year + era * 400 + (month <= 2), month, day


def clock_text(us: int) -> str:
    """Microseconds → ``HH:MM:SS.ffffff``."""
    seconds, fraction = divmod(us, 1_000_000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{fraction:06d}"


NAMES = (
    "plain",
    "UPPER",
    "with space",
    'with "quotes"',
    "with,comma",
    "select",
    "ünïcode",
    "日本",
    "\U0001f600",
    "a.b",
    "percent%s",
    "dollar$1",
    "semi;colon",
    "back\\slash",
    "'apostrophe'",
    "{brace}",
    "tab\there",
    "line\nbreak",
)


def name(rng: Random, index: int) -> str:
    """A column name that is unique whatever a reader does with case."""
    return f"{rng.choice(NAMES)} {index}"
