"""Which relations a name that is not there may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from rivet_fleet.contracts.keys import RelationName

SHOWN = 3


def close_relations(wanted: RelationName, listed: Sequence[RelationName]) -> str | None:
    """The sentence "did you mean …?" with three of ``listed`` at most; None when none is close.

    ``wanted`` has the schema it was looked for in. What lies in that schema comes before any
    namesake elsewhere: a server often holds a dozen copies of one application.
    """

    def likeness(relation: RelationName) -> float:
        return difflib.SequenceMatcher(None, str(wanted), str(relation)).ratio()

    folded = wanted.name.lower()
    near = difflib.get_close_matches(wanted.name, {each.name for each in listed}, n=SHOWN)
    close = [each for each in listed if each.name.lower() == folded or each.name in near]
    close.sort(
        key=lambda each: (
            each.schema != wanted.schema,
            each.name.lower() != folded,
            -likeness(each),
            str(each),
        )
    )
    return f"did you mean {', '.join(map(str, close[:SHOWN]))}?" if close else None
