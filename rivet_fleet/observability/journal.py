"""What becomes of an event: an entry of the run journal, a line of the log, one emit for both."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TextIO, get_args

import structlog

from rivet_fleet.contracts.events import EVENT_VERSION, Emit, Event, EventName, Level
from rivet_fleet.contracts.foreign import SAID_CHARS_MAX, printable, printable_json
from rivet_fleet.contracts.state import JournalEntry
from rivet_fleet.contracts.url import redact
from rivet_fleet.errors import RivetFleetError, UsageError
from rivet_fleet.observability.units import Redactor, one_line, redact_plain, rfc3339

# ------------------------------------------------------------------------------------------
# The run journal: what is written to it by whom, and how it is read back.


def journal_emit(write: Callable[[Event], None], redactor: Redactor = redact) -> Emit:
    """An Emit that journals what the store does not journal by itself.

    ``write`` is the store's ``write_journal``; it may raise StateError, so put this into a
    ``fan_out``.
    """

    def emit(event: Event) -> None:
        if event.name.written_by_store or not event.name.journaled:
            return
        data = redact_plain(event.data, redactor)
        write(replace(event, message=redactor(event.message), data=data))

    return emit


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


_SENTENCES = {
    event.value: re.sub(r" \(.*?\)|`", "", event.when).partition(";")[0] for event in EventName
}
"""What an event says by itself, where whoever told it had nothing to add."""


def subject_of(entry: JournalEntry) -> str:
    """``orders chunk 12``, ``orders``, or nothing: what an entry is about."""
    name = entry.export_name or ""
    return f"{name} chunk {entry.chunk_index}".strip() if entry.chunk_index is not None else name


def render_journal(entries: Sequence[JournalEntry], redactor: Redactor = redact) -> str:
    """One line per entry in the order given: when, what, about what, by whom, and the rest."""
    if not entries:
        return "The journal has no entries for this selection.\n"
    subjects = [one_line(subject_of(e), redactor, 60) for e in entries]
    events = [one_line(e.event, redactor, 40) for e in entries]
    event_width = max(map(len, events))
    subject_width = max(map(len, subjects))
    lines = []
    for entry, event, subject in zip(entries, events, subjects, strict=True):
        said = entry.message or _SENTENCES.get(entry.event, "")
        details = " ".join(filter(None, (said, pairs_text(entry.data, redactor))))
        worker = f"[{entry.worker_id}] " if entry.worker_id else ""
        head = f"{rfc3339(entry.at_s)}  {event:<{event_width}}  {subject:<{subject_width}}"
        lines.append(f"{head}  {one_line(worker + details, redactor)}".rstrip())
    return "\n".join(lines) + "\n"


def pairs_text(data: Mapping[str, object], redactor: Redactor) -> str:
    """``key=value`` pairs of plain data, in their order, without nulls."""
    plain = redact_plain(data, redactor)
    return " ".join(f"{key}={_words(value)}" for key, value in plain.items() if value is not None)


def _words(value: object) -> str:
    """A value as a person writes it, whatever it is made of."""
    if isinstance(value, Mapping):
        return f"({', '.join(f'{key} {_words(one)}' for key, one in value.items())})"
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_words, value))})"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return str(value)


# ------------------------------------------------------------------------------------------
# Log lines and the versioned JSON event log: one way out, and it redacts.
#
# Everything a process says in its log, its own lines and those of libraries, leaves through one
# handler whose formatter redacts each field before rendering and each text line after it.

LOGGER_NAME = "rivet_fleet"
LEVELS: tuple[Level, ...] = get_args(Level)
_LINE_CHARS_MAX = 4000

EventDict = MutableMapping[str, Any]


def log_emit() -> Emit:
    """An Emit that logs each event at its level; ``configure_logging`` decides how it looks.

    The fields are those of the versioned event log (docs/reference/events.md): absent ids are
    null, never missing; the logger's own stamp is the moment.
    """
    logger = structlog.get_logger(LOGGER_NAME)

    def emit(event: Event) -> None:
        getattr(logger, event.name.level)(
            event.name.value,
            event_version=EVENT_VERSION,
            campaign_id=event.campaign_id,
            run_id=event.run_id,
            export_name=event.export_name,
            chunk_index=event.chunk_index,
            worker_id=event.worker_id,
            message=event.message,
            data=dict(event.data),
        )

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


# ------------------------------------------------------------------------------------------
# One emit for many listeners; a broken listener is reported once and changes nothing else.

SINK_FAILURES = (RivetFleetError, OSError, ValueError, TypeError, LookupError, AttributeError)
"""What a listener may fail with: its own border's errors, a closed or full stream, a value it
cannot render. RuntimeError is not here on purpose: an armed kill point must still kill."""

SinkError = Callable[[Emit, BaseException], None]


def log_sink_error(sink: Emit, error: BaseException) -> None:
    """Say in the log which listener broke; the log's own formatter redacts it."""
    name = getattr(sink, "__qualname__", type(sink).__name__)
    structlog.get_logger(LOGGER_NAME).warning("a listener failed", sink=name, error=str(error))


def fan_out(*sinks: Emit, on_error: SinkError = log_sink_error) -> Emit:
    """Tell every sink, in order. A sink that fails is tried again with the next event.

    ``on_error(sink, error)`` is called for the first failure of each sink and never again;
    what it raises itself is dropped.
    """
    reported: set[int] = set()
    lock = threading.Lock()

    def report(number: int, error: BaseException) -> None:
        with lock:
            if number in reported:
                return
            reported.add(number)
        with contextlib.suppress(*SINK_FAILURES):
            on_error(sinks[number], error)

    def emit(event: Event) -> None:
        for number, sink in enumerate(sinks):
            try:
                sink(event)
            except SINK_FAILURES as error:
                report(number, error)

    return emit
