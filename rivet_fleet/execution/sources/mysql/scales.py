"""Values of a column as positions on a line, and back: what can be cut in the middle.

Only for choosing where to ask and where to cut; the order itself is always the server's.
"""

from __future__ import annotations

import datetime
import itertools
import re
from dataclasses import dataclass
from typing import Protocol

from rivet_fleet.execution.sources.mysql.dialect import BYTES, NUMBERS, family
from rivet_fleet.execution.sources.mysql.keytext import (
    TextForm,
    bytes_literal,
    key_bytes,
    written_as_bytes,
)

_DECIMAL = re.compile(r"(-?\d+)(?:\.\d+)?")
_EPOCH = datetime.datetime(1, 1, 1)
_LAST = datetime.datetime(9999, 12, 31, 23, 59, 59)
_SECOND = datetime.timedelta(seconds=1)


class Scale(Protocol):
    """A monotonous map between a column's texts and whole numbers."""

    def position(self, text: str) -> int:
        """The number of the interval the value lies in."""
        ...

    def text(self, position: int) -> str:
        """The smallest value of that interval, as ``literal`` takes it."""
        ...


@dataclass(frozen=True, slots=True)
class _Whole:
    """Integers, and decimals by their whole part."""

    def position(self, text: str) -> int:
        """The number itself."""
        match = _DECIMAL.fullmatch(text)
        return int(match[1]) if match else 0

    def text(self, position: int) -> str:
        """The number itself."""
        return str(position)


@dataclass(frozen=True, slots=True)
class _Seconds:
    """Dates and moments by their second."""

    date_only: bool

    def position(self, text: str) -> int:
        """Days or seconds since the year 1. Raises ValueError for a date that is none."""
        moment = datetime.datetime.fromisoformat(text)
        unit = datetime.timedelta(days=1) if self.date_only else _SECOND
        return (moment - _EPOCH) // unit

    def text(self, position: int) -> str:
        """The beginning of that day or second."""
        unit = datetime.timedelta(days=1) if self.date_only else _SECOND
        moment = _EPOCH + min(position, (_LAST - _EPOCH) // unit) * unit
        return moment.date().isoformat() if self.date_only else moment.isoformat(sep=" ")


@dataclass(frozen=True, slots=True)
class _Prefix:
    """Text, and bytes as hexadecimal, by the characters behind the prefix the extremes share.

    Digits and Latin letters keep their order under the usual collations; where they do not, and
    for other characters, pieces are uneven: the cuts stay cuts all the same.
    """

    prefix: str
    digits: str

    def position(self, text: str) -> int:
        """The number that the next characters spell."""
        rest = text[len(self.prefix) :].lower().ljust(_WIDTH, "\0")
        value = 0
        for character in rest[:_WIDTH]:
            below = sum(digit.lower() <= character for digit in self.digits)
            value = value * len(self.digits) + max(0, below - 1)
        return value

    def text(self, position: int) -> str:
        """The prefix and these characters."""
        if position >= len(self.digits) ** _WIDTH:
            return self.prefix + self.digits[-1] * (_WIDTH + 2)
        found = ""
        for _ in range(_WIDTH):
            position, digit = divmod(position, len(self.digits))
            found = self.digits[digit] + found
        return self.prefix + found


@dataclass(frozen=True, slots=True)
class _Coded:
    """Text that is written as its bytes, by the ASCII that its values begin with."""

    charset: str
    inner: _Prefix

    def position(self, text: str) -> int:
        """The number that the next bytes spell."""
        return self.inner.position(key_bytes(text, self.charset).decode("latin-1"))

    def text(self, position: int) -> str:
        """The prefix and ASCII characters behind it: well-formed, whatever else there is."""
        return bytes_literal(self.inner.text(position).encode("latin-1"), self.charset)


_HEX_DIGITS = "0123456789ABCDEF"
_WORD_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_WIDTH = 6
"""Characters behind the prefix that are told apart: an even number, for whole bytes."""


_WIDE = ("ucs2", "utf32")
"""Character sets without ASCII."""


def scale_of(
    native_type: str, lowest: str, highest: str, form: TextForm | None = None
) -> Scale | None:
    """The scale on which a column's values lie, None where there is none. ``form`` of a text."""
    name = family(native_type)
    if name in (*NUMBERS, "decimal"):
        return _Whole()
    if name in ("date", "datetime", "timestamp"):
        scale = _Seconds(date_only=name == "date")
        try:
            scale.position(lowest), scale.position(highest)
        except ValueError:  # A zero date has no place on a calendar.
            return None
        return scale
    if form is not None and written_as_bytes(form):
        return _coded(form.charset, lowest, highest)
    shared = _shared_prefix(lowest, highest)
    if name in BYTES:
        return _Prefix(shared[: len(shared) // 2 * 2], _HEX_DIGITS)
    if name in ("char", "varchar", "text", "tinytext"):
        return _Prefix(shared, _WORD_DIGITS)
    return None


def _coded(charset: str, lowest: str, highest: str) -> Scale | None:
    if charset in _WIDE:
        return None
    ends = (key_bytes(text, charset).decode("latin-1") for text in (lowest, highest))
    plain = itertools.takewhile(str.isascii, _shared_prefix(*ends))
    return _Coded(charset, _Prefix("".join(plain), _WORD_DIGITS))


def _shared_prefix(one: str, other: str) -> str:
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(character for character, _ in same)
