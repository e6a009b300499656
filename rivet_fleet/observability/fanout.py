"""One emit for many listeners; a broken listener is reported once and changes nothing else."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import structlog

from rivet_fleet.contracts.events import Emit, Event
from rivet_fleet.errors import RivetFleetError
from rivet_fleet.observability.logs import LOGGER_NAME

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
