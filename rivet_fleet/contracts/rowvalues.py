"""Values of rows in what servers and decoders say: left out of messages, unless somebody asks.

A message reaches the state, the journal, logs and terminals, whose readers need not be those who
may read the table. Of an error that is about a value its kind and its column are enough to act on;
the whole sentence is kept apart (``RivetFleetError.unmasked``) for who has ``errors: {row_values:
shown}``. Keys of rows are told all the same: a plan's ranges hold them anyway.
"""

from __future__ import annotations

import re

from rivet_fleet.contracts.url import MASK

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
