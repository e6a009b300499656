"""The run journal: what is written to it by whom, and how it is read back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from rivet_fleet.contracts.events import Emit, Event, EventName
from rivet_fleet.contracts.state import JournalEntry
from rivet_fleet.contracts.url import redact
from rivet_fleet.errors import UsageError
from rivet_fleet.observability.redaction import Redactor, one_line, redact_plain
from rivet_fleet.observability.units import rfc3339

WRITTEN_BY_STORE: frozenset[EventName] = frozenset(
    {
        EventName.CAMPAIGN_SUBMITTED,
        EventName.SOURCE_COUNTED,
        EventName.CAMPAIGN_COMPLETED,
        EventName.CAMPAIGN_INCOMPLETE,
        EventName.CAMPAIGN_CANCELLED,
        EventName.BUDGET_CHANGED,
        EventName.GOVERNOR_ELECTED,
        EventName.GOVERNOR_SHED,
        EventName.GOVERNOR_REGAINED,
        EventName.GOVERNOR_PAUSED,
        EventName.GOVERNOR_RESUMED,
        EventName.GOVERNOR_ABORTED,
        EventName.SIGNAL_LOST,
        EventName.SIGNAL_FOUND,
        EventName.CHUNK_CLAIMED,
        EventName.PART_STAGED,
        EventName.PART_PUBLISHED,
        EventName.CHUNK_COMMITTED,
        EventName.CHUNK_COMPLETED,
        EventName.CHUNK_FAILED,
        EventName.CHUNK_RELEASED,
        EventName.CHUNK_REAPED,
        EventName.CHUNK_REOPENED,
        EventName.RUN_COMPLETED,
        EventName.MARK_MOVED,
        EventName.MARK_KEPT,
        EventName.MARK_ADOPTED,
        EventName.MARK_ACCEPTED,
        EventName.CAMPAIGN_ACCEPTED,
        EventName.RUN_FAILED,
        EventName.RUN_ACCEPTED,
    }
)
"""Events the store journals inside the transition's own transaction: true if and only if the
transition is. Emitting them as well would double them. Of a part's own events the store is told
with the transition they led to (``Told``)."""

NOT_JOURNALED: frozenset[EventName] = frozenset({EventName.PAGE_READ})
"""Too many to keep: a page is read several times a second per worker."""


def journal_emit(write: Callable[[Event], None], redactor: Redactor = redact) -> Emit:
    """An Emit that journals what the store does not journal by itself.

    ``write`` is the store's ``write_journal``; it may raise StateError, so put this into a
    ``fan_out``.
    """

    def emit(event: Event) -> None:
        if event.name in WRITTEN_BY_STORE or event.name in NOT_JOURNALED:
            return
        data = redact_plain(event.data, redactor)
        write(replace(event, message=redactor(event.message), data=data))

    return emit


def count_events(entries: Sequence[JournalEntry]) -> dict[str, int]:
    """How often each event happened, by its name: the input of the closing report."""
    counts: dict[str, int] = {}
    for entry in entries:
        counts[entry.event] = counts.get(entry.event, 0) + 1
    return counts


_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def since_s(text: str, now_s: float) -> float:
    """``90s``, ``10m``, ``2h``, ``1d`` before ``now_s``, or a moment in ISO 8601 (UTC when it
    names no zone), as epoch seconds. Raises UsageError."""
    ago = _AGO.fullmatch(text.strip())
    if ago:
        return now_s - float(ago[1]) * _SECONDS[ago[2]]
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(
            "--since needs a duration or a moment", hint="for example 10m or 2026-01-31T08:00:00Z"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def subject_of(entry: JournalEntry) -> str:
    """``orders chunk 12``, ``orders``, or nothing: what an entry is about."""
    name = entry.export_name or ""
    return f"{name} chunk {entry.chunk_index}".strip() if entry.chunk_index is not None else name


def render_journal(entries: Sequence[JournalEntry], redactor: Redactor = redact) -> str:
    """One line per entry in the order given: when, what, about what, by whom, and the rest."""
    if not entries:
        return "The journal has no entries for this selection.\n"
    subjects = [one_line(subject_of(e), redactor, 60) for e in entries]
    event_width = max(len(e.event) for e in entries)
    subject_width = max(map(len, subjects))
    lines = []
    for entry, subject in zip(entries, subjects, strict=True):
        details = " ".join(filter(None, (entry.message, pairs_text(entry.data, redactor))))
        worker = f"[{entry.worker_id}] " if entry.worker_id else ""
        head = f"{rfc3339(entry.at_s)}  {entry.event:<{event_width}}  {subject:<{subject_width}}"
        lines.append(f"{head}  {one_line(worker + details, redactor)}".rstrip())
    return "\n".join(lines) + "\n"


def pairs_text(data: Mapping[str, object], redactor: Redactor) -> str:
    """``key=value`` pairs of plain data, in their order, without nulls."""
    plain = redact_plain(data, redactor)
    return " ".join(f"{key}={value}" for key, value in plain.items() if value is not None)
