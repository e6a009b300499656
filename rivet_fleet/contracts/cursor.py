"""How an incremental run goes on where the last one ended: policy and marks (ADR 0011).

A mark is one opaque text (PA4, CC8). It names its columns, so that a mark of one cursor is never
taken for a mark of another; nobody but ``mark_values`` looks inside.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from rivet_fleet.contracts.binding import Bound
from rivet_fleet.contracts.keys import KeyTuple, shown_key


@dataclass(frozen=True, slots=True, kw_only=True)
class CursorPlan:
    """The cursor of one export, sealed (CC2): a worker and ``apply`` know nothing else of it.

    ``columns``: the cursor, and behind it the key that tells equal cursors apart. ``mode`` is
    ``single_column``, ``coalesce`` or ``key``. The run reads from ``mark_before`` (None: from the
    beginning) to ``mark_after``; the two are equal when nothing is new. ``binding`` is what the
    mark means from this run on, ``binding_before`` what was stored beside it (ADR 0020).
    """

    mode: str
    columns: tuple[str, ...]
    fallback: str | None = None
    overlap_s: float = 0.0
    mark_before: str | None = None
    mark_after: str | None = None
    binding: tuple[Bound, ...] = ()
    binding_before: str | None = None


def mark_text(columns: tuple[str, ...], fallback: str | None, values: KeyTuple) -> str:
    """The mark as it is stored."""
    body: dict[str, object] = {"by": list(columns), "at": list(values)}
    if fallback is not None:
        body["or"] = fallback
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def mark_values(mark: str, columns: tuple[str, ...], fallback: str | None) -> KeyTuple | None:
    """The values of a stored mark; None when it is a mark of other columns."""
    try:
        body = json.loads(mark)
        same = (body["by"], body.get("or")) == (list(columns), fallback)
        values = tuple(str(one) for one in body["at"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return values if same and len(values) == len(columns) else None


def describe_mark(mark: str) -> str:
    """One short human line: ``updated_at, id = 2026-01-01 00:00:00, 7``."""
    try:
        body = json.loads(mark)
        first, *rest = body["by"]
        shown = f"coalesce({first}, {body['or']})" if "or" in body else first
        return f"{', '.join((shown, *rest))} = {shown_key(tuple(body['at']))}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return mark


def advances(before: str | None, after: str) -> bool:
    """True when a boundary moved on (PG3): as whole numbers, else as numbers, else by bytes.

    For people only: the source's own order is known to the source alone, which is why the mark
    itself is never compared but only replaced by the plan that began at it.
    """
    if before is None:
        return True
    return _values(before) < _values(after)


def _values(mark: str) -> list[tuple[int, float | int | bytes]]:
    try:
        texts = [str(one) for one in json.loads(mark)["at"]]
    except (ValueError, KeyError, TypeError):
        texts = [mark]
    return [_comparable(text) for text in texts]


def _comparable(text: str) -> tuple[int, float | int | bytes]:
    for make in (int, float):
        try:
            number = make(text)
        except ValueError:
            continue
        if number == number:  # not NaN
            return 0, number
    return 1, text.encode()
