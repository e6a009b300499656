"""Log lines and the versioned JSON event log: one way out, and it redacts.

Everything a process says in its log, its own lines and those of libraries, leaves through one
handler whose formatter redacts each field before rendering and each text line after it.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, MutableMapping
from typing import Any, TextIO

import structlog

from rivet_fleet.contracts.clock import Clock
from rivet_fleet.contracts.events import EVENT_VERSION, Emit, Event, EventName
from rivet_fleet.contracts.foreign import SAID_CHARS_MAX, printable, printable_json
from rivet_fleet.contracts.url import redact
from rivet_fleet.observability.redaction import Redactor, one_line, redact_plain
from rivet_fleet.observability.units import rfc3339

LOGGER_NAME = "rivet_fleet"
LEVELS = ("debug", "info", "warning", "error")
_LINE_CHARS_MAX = 4000

EVENT_LEVELS: dict[EventName, str] = {
    EventName.CAMPAIGN_SUBMITTED: "info",
    EventName.CAMPAIGN_RESUMED: "info",
    EventName.CAMPAIGN_COMPLETED: "info",
    EventName.CAMPAIGN_INCOMPLETE: "error",
    EventName.CAMPAIGN_CANCELLED: "warning",
    EventName.CAMPAIGN_STOPPED: "warning",
    EventName.PLAN_APPLIED: "info",
    EventName.EXPORT_PLANNED: "info",
    EventName.EXPORT_LEFT_OUT: "warning",
    EventName.SCHEMA_CHANGED: "warning",
    EventName.WORKER_STARTED: "info",
    EventName.WORKER_STOPPED: "info",
    EventName.WORKER_DIED: "warning",
    EventName.WORKER_RECYCLED: "info",
    EventName.WORKER_REFUSED: "error",
    EventName.BUDGET_CHANGED: "info",
    EventName.GOVERNOR_ELECTED: "info",
    EventName.GOVERNOR_SHED: "warning",
    EventName.GOVERNOR_REGAINED: "info",
    EventName.GOVERNOR_PAUSED: "warning",
    EventName.GOVERNOR_RESUMED: "info",
    EventName.GOVERNOR_ABORTED: "error",
    EventName.SIGNAL_LOST: "warning",
    EventName.SIGNAL_FOUND: "info",
    EventName.CHUNK_CLAIMED: "debug",
    EventName.CHUNK_PAUSED: "info",
    EventName.CHUNK_RESUMED: "info",
    EventName.PAGE_READ: "debug",
    EventName.PART_STAGED: "debug",
    EventName.CHUNK_COMMITTED: "debug",
    EventName.PART_PUBLISHED: "debug",
    EventName.CHUNK_COMPLETED: "info",
    EventName.CHUNK_FAILED: "warning",
    EventName.CHUNK_RELEASED: "info",
    EventName.CHUNK_REAPED: "warning",
    EventName.CHUNK_REOPENED: "warning",
    EventName.LEASE_LOST: "warning",
    EventName.SOURCE_COUNTED: "info",
    EventName.SOURCE_RETRIED: "warning",
    EventName.SOURCE_HELD: "warning",
    EventName.SOURCE_CHANGED: "warning",
    EventName.STATE_RETRIED: "warning",
    EventName.STATE_RESEALED: "warning",
    EventName.DESTINATION_RETRIED: "warning",
    EventName.QUALITY_JUDGED: "info",
    EventName.QUALITY_FAILED: "error",
    EventName.RUN_PROVEN: "info",
    EventName.SHAPE_DRIFTED: "warning",
    EventName.MANIFEST_WRITTEN: "info",
    EventName.RUN_COMPLETED: "info",
    EventName.MARK_MOVED: "info",
    EventName.MARK_KEPT: "warning",
    EventName.MARK_ADOPTED: "warning",
    EventName.MARK_ACCEPTED: "warning",
    EventName.CAMPAIGN_ACCEPTED: "warning",
    EventName.RUN_FAILED: "error",
    EventName.RUN_ACCEPTED: "warning",
    EventName.STAGED_SWEPT: "info",
}
"""How loud each event is. ``page.read`` happens several times a second per worker."""

EventDict = MutableMapping[str, Any]


def event_fields(event: Event, at_s: float) -> dict[str, Any]:
    """One event in the shape of the versioned event log; absent ids are null, never missing."""
    return {
        "event_version": EVENT_VERSION,
        "at": rfc3339(at_s),
        "event": event.name.value,
        "campaign_id": event.campaign_id,
        "run_id": event.run_id,
        "export_name": event.export_name,
        "chunk_index": event.chunk_index,
        "worker_id": event.worker_id,
        "message": event.message,
        "data": dict(event.data),
    }


def event_to_json(event: Event, at_s: float, redactor: Redactor = redact) -> str:
    """One line of the event log (docs/reference/events.md), without its newline.

    ``at_s`` is epoch seconds. Values JSON cannot carry become their text.
    """
    return _json(redact_plain(event_fields(event, at_s), redactor))


def event_log_emit(
    write_line: Callable[[str], object], clock: Clock, redactor: Redactor = redact
) -> Emit:
    """An Emit that writes every event as one JSON line, with its newline, in one call."""

    def emit(event: Event) -> None:
        write_line(event_to_json(event, clock.now_s(), redactor) + "\n")

    return emit


def log_emit() -> Emit:
    """An Emit that logs each event at its level; ``configure_logging`` decides how it looks."""
    logger = structlog.get_logger(LOGGER_NAME)

    def emit(event: Event) -> None:
        fields = event_fields(event, 0.0)
        name = fields.pop("event")
        del fields["at"]  # the logger's own stamp, taken at the same moment
        getattr(logger, EVENT_LEVELS[event.name])(name, **fields)

    return emit


def configure_logging(
    *, level: str, json_lines: bool, stream: TextIO, redactor: Redactor = redact
) -> None:
    """Send every log line of this process to ``stream``, redacted. May be called again.

    ``level`` is one of LEVELS and holds for our own lines; libraries are heard from warning
    on, or from debug when ``level`` is ``debug``. Raises ValueError on another level.
    """
    if level not in LEVELS:
        raise ValueError(f"log level {level!r} is none of {', '.join(LEVELS)}")
    number = logging.getLevelNamesMapping()[level.upper()]
    stamped: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    handler = _QuietHandler(stream)
    handler.setFormatter(_RedactingFormatter(stamped, json_lines=json_lines, redactor=redactor))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    logging.getLogger(LOGGER_NAME).setLevel(number)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[*stamped, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


class _QuietHandler(logging.StreamHandler[TextIO]):
    """A handler whose own failures stay silent: the stock report shows unredacted arguments."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._is_stderr = stream is sys.stderr

    def emit(self, record: logging.LogRecord) -> None:
        """Write to whatever stands for stderr now: live progress puts a proxy there."""
        if self._is_stderr:
            self.stream = sys.stderr
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """A closed or full stream must neither stop the work nor print a secret."""


class _RedactingFormatter(structlog.stdlib.ProcessorFormatter):
    """Fields are redacted before rendering, text lines once more after it."""

    def __init__(self, stamped: list[Any], *, json_lines: bool, redactor: Redactor) -> None:
        def redact_fields(_logger: Any, _method: str, fields: EventDict) -> EventDict:
            redacted: EventDict = redact_plain(dict(fields), redactor)
            return redacted

        super().__init__(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *stamped],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                redact_fields,
                _render_json if json_lines else _render_text,
            ],
        )
        self._finish: Redactor = str if json_lines else redactor

    def format(self, record: logging.LogRecord) -> str:
        """The finished line, always one."""
        return self._finish(super().format(record))


def _render_json(_logger: Any, _method: str, fields: EventDict) -> str:
    """Event lines are the event log's plus ``level``; others have ``message`` and no version."""
    ordered = dict(fields)
    if "event_version" not in ordered:
        ordered["message"] = ordered.pop("event", "")
    head = ("event_version", "at", "level", "event", "message")
    first = {key: ordered.pop(key) for key in head if key in ordered}
    return _json({**first, **ordered})


def _render_text(_logger: Any, _method: str, fields: EventDict) -> str:
    """``at level event message key=value …`` on one line, whatever its texts hold: a line below,
    an exception's too, could be written by whoever wrote the text, and be taken for a record."""
    rest = {k: v for k, v in fields.items() if k != "event_version"}
    head = [str(rest.pop("at", "")), f"{rest.pop('level', ''):<7}", str(rest.pop("event", ""))]
    trailer = [f"{k}={_quoted(str(rest.pop(k)))}" for k in ("stack", "exception") if rest.get(k)]
    message = str(rest.pop("message", ""))
    data = rest.pop("data", {})
    pairs = {**rest, **(data if isinstance(data, dict) else {"data": data})}
    told = [message] if message else []
    told += [f"{_value(k)}={_value(v)}" for k, v in pairs.items() if v is not None]
    line = one_line(" ".join([*head, *told]), str, chars_max=_LINE_CHARS_MAX)
    return " ".join([line, *trailer])


def _value(value: object) -> str:
    text = value if isinstance(value, str) else _json(value)
    return text if text and not any(c.isspace() for c in text) else json.dumps(text)


def _quoted(text: str) -> str:
    """All of it up to what anybody reads; its end says more than its beginning."""
    kept = text if len(text) <= SAID_CHARS_MAX else "…" + text[-SAID_CHARS_MAX:]
    return printable(json.dumps(kept, ensure_ascii=False))


def _json(plain: object) -> str:
    """Without a character that some reader of lines takes for the end of one, or a terminal for
    a command."""
    return printable_json(json.dumps(plain, ensure_ascii=False, separators=(",", ":"), default=str))
