"""Text whose character set is its column's own: how it leaves the server, and comes back exactly.

The server converts text to UTF-8 on its way out and literals back on their way in. For many
character sets that is no way back: several codes share one character, or have none (ADR 0004).
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass

from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.contracts.facts import ColumnFacts
from rivet_fleet.errors import ConfigError
from rivet_fleet.execution.sources.mysql.dialect import quote_text

_CODECS = {
    **dict.fromkeys(("utf8mb4", "utf8mb3", "utf8"), "utf-8"),
    "utf16": "utf-16-be",
    "utf16le": "utf-16-le",
    "latin2": "iso8859_2",
    "latin5": "iso8859_9",
    "latin7": "iso8859_13",
    "koi8r": "koi8_r",
}
"""Character sets that Python has exactly as the server has them: a property test compares all."""
READABLE = frozenset((*_CODECS, "latin1"))
"""Character sets whose keys are written as the text they are: UTF-8 and back is the same key."""
_IMAGED = READABLE | {
    *("cp850", "cp852", "cp866", "koi8u", "macroman", "gb18030", "ucs2", "utf32"),
}
"""Character sets whose codes all have an image in UTF-8, if one that is no valid UTF-8."""
SHARING = frozenset(("armscii8", "big5", "cp932", "eucjpms", "sjis", "ujis"))
"""Character sets in which several codes stand for one character: read as text, they are one."""
UNSOUND = frozenset(("latin2_czech_cs",))
"""Collations under which the server does not find a key again that it was given: what they compare
depends on the memory behind a literal (MariaDB 10.11). No key has them."""
_ASCII = "ascii"
"""May hold bytes above 127 (MariaDB checks nothing). A key is written as if each byte were
latin1: what is ASCII stays as it is."""

_BYTEWISE = ("latin1", _ASCII)
_BYTES = re.compile(r"_(\w+) X'((?:[0-9A-F]{2})*)'")
_WORD = re.compile(r"\w+")
_AS_LATIN1 = {bytes([code]).decode("cp1252", "ignore") or chr(code): code for code in range(256)}
"""The server's latin1 is cp1252 without holes."""
_AGAIN = "plan the export again; a stored mark is reset by `rivet-fleet state reset`"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextForm:
    """The character set and the collation that a column's text is stored and compared in. No
    ``collation``: the source does not say which, and the column's own decides without a word."""

    charset: str
    collation: str | None = None

    def __post_init__(self) -> None:
        for name in (self.charset, self.collation):
            if name is not None and _WORD.fullmatch(name) is None:
                raise ConfigError(f"{name!r} is no name of a character set or collation")


def written_as_bytes(form: TextForm | None) -> bool:
    """True when keys of this form are written as their bytes."""
    return form is not None and form.charset not in READABLE and form.charset != _ASCII


def carried_exactly(form: TextForm | None, *, coerce: bool) -> bool:
    """True when a value that arrived as text is the key's own text, or was refused on its way."""
    return form is None or form.charset in READABLE or (form.charset == _ASCII and not coerce)


def key_expression(expression: str, form: TextForm | None) -> str:
    """A key as text from which ``key_literal`` makes the same key again: the text itself where
    that is exact, else the bytes as the server would write them."""
    if form is None or form.charset in READABLE:
        return f"CAST({expression} AS CHAR CHARACTER SET utf8mb4)"
    if form.charset == _ASCII:
        return f"CONVERT(CONVERT(CAST({expression} AS BINARY) USING latin1) USING utf8mb4)"
    return f"CONCAT('_{form.charset} X''', HEX({expression}), '''')"


def key_literal(text: str, form: TextForm | None) -> str:
    """The key as SQL, in its column's character set and collation. Without a form it is text that
    takes them from the column: a literal's own give way (manual, "Collation Coercibility").

    Raises ConfigError for a text that ``key_expression`` did not write.
    """
    if form is None:
        return quote_text(text)
    collate = f" COLLATE {form.collation}" if form.collation else ""
    if form.charset == "utf8mb4":
        return f"{quote_text(text)}{collate}"
    return f"{bytes_literal(key_bytes(text, form.charset), form.charset)}{collate}"


def key_bytes(text: str, charset: str) -> bytes:
    """The bytes that a key is stored as. Raises ConfigError for a text that ``key_expression``
    did not write."""
    with contextlib.suppress(UnicodeEncodeError, KeyError):
        if charset in _CODECS:
            return text.encode(_CODECS[charset])
        if charset in _BYTEWISE:
            return bytes(_AS_LATIN1[character] for character in text)
        match = _BYTES.fullmatch(text)
        if match is not None and match[1] == charset:
            return bytes.fromhex(match[2])
    raise ConfigError(
        f"{text!r} is no key of a column in the character set {charset}: it was written by an "
        "older program, or the column had another character set",
        hint=_AGAIN,
    )


def bytes_literal(written: bytes, charset: str) -> str:
    """As the server writes text of this character set: its bytes, whatever they stand for."""
    return f"_{charset} X'{written.hex().upper()}'"


def checks_values(form: TextForm | None) -> bool:
    """True when the server may convert a value to UTF-8 with loss, and says nothing."""
    return form is not None and form.charset not in _IMAGED


def value_expression(reference: str, form: TextForm) -> str:
    """A value's text as UTF-8 bytes, with a byte that is no UTF-8 for each character that has no
    image there (the server's answer is ``?`` or U+FFFD): the decoder's policy applies to it.

    A question mark is the text's own when the text comes back as it was; or, because several
    codes may share a character, when none is left of a text whose own were taken out before.
    """
    charset, value = form.charset, _bytes(reference)
    back = f"CONVERT(CONVERT({reference} USING utf8mb4) USING {charset})"
    comes_back = f"CONVERT({back} USING binary) = CONVERT({reference} USING binary)"
    # All these sets have ASCII's codes; a literal's collation gives way to the column's.
    asked, kept = bytes_literal(b"?", charset), bytes_literal(b"\1", charset)
    rest = _bytes(f"REPLACE({reference}, {asked}, {kept})")
    own = f"LOCATE(X'3F', {value}) = 0 OR {comes_back} OR LOCATE(X'3F', {rest}) = 0"
    marked = f"REPLACE(REPLACE({rest}, X'EFBFBD', X'FF'), X'3F', X'FF')"
    # Beyond max_allowed_packet REPLACE is NULL: what cannot be looked at is not taken for good.
    unseen = f"IF({reference} IS NULL, NULL, X'FF')"
    return (
        f"CASE WHEN LOCATE(X'EFBFBD', {value}) = 0 AND ({own}) THEN {value} "
        f"ELSE COALESCE(REPLACE({marked}, X'01', X'3F'), {unseen}) END"
    )


def _bytes(text: str) -> str:
    """Not CAST AS BINARY: that is NULL beyond max_allowed_packet."""
    return f"CONVERT(CONVERT({text} USING utf8mb4) USING binary)"


ORDERED_TEXTS = (TypeKind.STRING, TypeKind.ENUM)
_UNORDERABLE = (
    TypeKind.FLOAT32,
    TypeKind.FLOAT64,
    TypeKind.JSON,
    # The server compares an enum with text as text, but orders it by its number; comparing
    # numbers reads the whole index.
    TypeKind.ENUM,
)


def orderable(column: ColumnFacts) -> bool:
    """True when the column's text stands exactly for its place in the order."""
    if column.collation in UNSOUND:
        return False
    return column.type is not None and column.type.kind not in _UNORDERABLE
