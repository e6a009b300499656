"""Text that others wrote (servers, names, values, files, answers), made fit to be kept and shown.

In this order, each step linear in what is left: cut, because a message may have any length; without
secrets, because a cut that came later could leave half of one; printable, because an escape
sequence in a message is a command to somebody's terminal. Values of rows are left out before that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable

from rivet_fleet.contracts.url import MASK, redact

SAID_CHARS_MAX = 16_000
"""More of one message is read by nobody, and costs every reader of the state."""
_IGNORABLE = (
    *((0x00AD, 0x00AD), (0x034F, 0x034F), (0x061C, 0x061C), (0x115F, 0x1160), (0x17B4, 0x17B5)),
    *((0x180B, 0x180F), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164)),
    *((0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8)),
    *((0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF)),
)
"""Default_Ignorable_Code_Point (Unicode, DerivedCoreProperties.txt), first and last. Nobody sees
them: two names that look alike are two, and tags are read by programs alone."""
_FORMATS = ((0xFFF9, 0xFFFB), (0x13430, 0x1343F))
"""Nor these, which only arrange what stands around them."""
_UNSEEN = [code for first, last in (*_IGNORABLE, *_FORMATS) for code in range(first, last + 1)]
_CONTROLS = [code for code in range(0x20) if chr(code) not in "\n\t"]
_CONTROLS += [*range(0x7F, 0xA0), 0x2028, 0x2029, *_UNSEEN]
_HIDDEN: dict[int, str | None] = {**dict.fromkeys(_CONTROLS), 0x0D: " "}
_HIDDEN |= dict.fromkeys(range(55296, 57344), "�")
_ESCAPED = {code: json.dumps(chr(code))[1:-1] for code in _HIDDEN if code > 0x7F}
_ESCAPED[0x7F] = "\\u007f"
"""Below that JSON escapes them itself."""


_LINE_ENDS = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")


def printable(text: str) -> str:
    """``text`` in which nothing moves a cursor, turns the writing or hides; line ends stay."""
    return text.translate(_HIDDEN)


def flat(text: str) -> str:
    """``printable`` on one line: a line end of others would begin a line that seems ours."""
    return printable(_LINE_ENDS.sub(" ", text))


def printable_json(text: str) -> str:
    """JSON in which these characters stand escaped: equal for a program, harmless to a terminal."""
    return text.translate(_ESCAPED)


def foreign_line(
    text: str, secrets: tuple[str, ...] = (), *, chars_max: int = SAID_CHARS_MAX
) -> str:
    """What somebody else said, on one line: cut, redacted, printable."""
    longest = max((len(secret) for secret in secrets), default=0)
    kept = text[: chars_max + longest]
    flat = redact(" ".join(kept.split()), secrets, foreign=True)
    if len(kept) < len(text):
        # A secret that the cut went through stands at the end.
        flat = flat[: max(0, len(flat) - longest)][:chars_max] + "…"
    # What a control character held apart may be a secret once it is gone.
    return redact(printable(flat), secrets, foreign=True)


# ------------------------------------------------------------------------------------------
# Values of rows in what servers and decoders say: left out of messages, unless somebody asks.
#
# A message reaches the state, the journal, logs and terminals, whose readers need not be those
# who may read the table. Of an error that is about a value its kind and its column are enough to
# act on; the whole sentence is kept apart (``RivetFleetError.unmasked``) for who has ``errors:
# {row_values: shown}``. Keys of rows are told all the same: a plan's ranges hold them anyway.

SHOWN_HINT = "`errors: {row_values: shown}` shows the value"
NOTHING_SAID = "the server's message is left out, since it may hold values of rows"
HOLE = "%s"
"""Where a sentence of a server has a name, a number or a value."""
_FRAME = " '\"`"
_DIGITS = re.compile(r"[-+0-9.eE]*")


def as_foreseen(said: str, sentences: Iterable[str], known: Collection[str] = ()) -> str | None:
    """What somebody else said, if it is one of these ``sentences``, with MASK in its holes; None
    for any other: who words a message of their own (RAISE, SIGNAL, a foreign server) can put a row
    into it with no mark around it, under any code. A hole keeps what is a word of ``known``.

    Of a longer message than anybody is shown the rest is not looked at: each sentence would be
    looked for in all of it.
    """
    said = said[:SAID_CHARS_MAX]
    for sentence in sentences:
        found = _holes(said, sentence.split(HOLE))
        if found is not None:
            return sentence % tuple(_hole(one, known) for one in found)
    return None


def _holes(said: str, fixed: list[str]) -> list[str] | None:
    """What stands between the ``fixed`` parts; the last hole takes the most. Linear."""
    first, *between = fixed
    if not said.startswith(first):
        return None
    if not between:
        return [] if said == first else None
    last = between.pop()
    at, end, found = len(first), len(said) - len(last), []
    for part in between:
        behind = said.find(part, at, end)
        if behind < 0:
            return None
        found.append(said[at:behind])
        at = behind + len(part)
    if at > end or not said.endswith(last):
        return None
    return [*found, said[at:end]]


_HOLE_CHARS_MAX = 400


def _hole(found: str, known: Collection[str]) -> str:
    if len(found) > _HOLE_CHARS_MAX:
        return MASK  # no name of ours is so long, and what is long is not taken apart
    bare = found.strip(_FRAME)
    pieces = [bare] if bare in known else [one.strip(_FRAME) for one in bare.split(".")]
    told = all(piece in known and not _DIGITS.fullmatch(piece) for piece in pieces)
    return found if told or not bare else MASK


def hinted(hint: str | None) -> str:
    """A hint that also says how to see what was left out."""
    return f"{hint}; {SHOWN_HINT}" if hint else SHOWN_HINT
