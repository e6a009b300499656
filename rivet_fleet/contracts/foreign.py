"""Text that others wrote (servers, names, values, files, answers), made fit to be kept and shown.

In this order, each step linear in what is left: cut, because a message may have any length; without
secrets, because a cut that came later could leave half of one; printable, because an escape
sequence in a message is a command to somebody's terminal. Values of rows are left out before that.
"""

from __future__ import annotations

import re

from rivet_fleet.contracts.url import MASK, redact

SAID_CHARS_MAX = 16_000
"""More of one message is read by nobody, and costs every reader of the state."""
_DIRECTION = (*range(0x200E, 0x2010), *range(0x2028, 0x202F), *range(0x2066, 0x206A))
_CONTROLS = [code for code in range(0x20) if chr(code) not in "\n\t"]
_CONTROLS += [*range(0x7F, 0xA0), *_DIRECTION]
_HIDDEN: dict[int, str | None] = {**dict.fromkeys(_CONTROLS), 0x0D: " "}
_HIDDEN |= dict.fromkeys(range(55296, 57344), "�")
_ESCAPED = {code: f"\\u{code:04x}" for code in _HIDDEN if code >= 0x7F}
"""Below that JSON escapes them itself."""


def printable(text: str) -> str:
    """``text`` in which nothing moves a cursor, turns the writing or hides; line ends stay."""
    return text.translate(_HIDDEN)


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
_QUOTES = "\"'"
_NUMBER = re.compile(r"(?<![A-Za-z_])[-+]?[0-9][0-9A-Za-z.:+-]*")
_BEHIND_COLON = re.compile(r": (?!\*\*\*).*", re.DOTALL)


def without_values(sentence: str) -> str:
    """A sentence about a value, without it: whatever stands between its first quote and its last
    one (a value may hold quotes), numbers, and what stands behind a colon."""
    text = sentence
    first = min((at for at in map(text.find, _QUOTES) if at >= 0), default=-1)
    if first >= 0:
        last = max(map(text.rfind, _QUOTES))
        text = text[:first] + MASK + (text[last + 1 :] if last > first else "")
    return _BEHIND_COLON.sub(f": {MASK}", _NUMBER.sub(MASK, text))


def hinted(hint: str | None) -> str:
    """A hint that also says how to see what was left out."""
    return f"{hint}; {SHOWN_HINT}" if hint else SHOWN_HINT
