"""One sample of a group's signals: each place is asked in a thread of its own.

What an answer or a connection takes is that thread's time alone. Neither the governor's lease, nor
the flag file and the hours, nor another place's signals wait for it (ADR 0013).
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rivet_fleet.contracts.clock import Clock, backoff_s
from rivet_fleet.contracts.protection import MonitorPlan, Reading, SignalPlan
from rivet_fleet.coordination.secrets import private
from rivet_fleet.errors import RivetFleetError
from rivet_fleet.execution.signals import ANSWER_MAX_S, SourceSignals, read_http
from rivet_fleet.persistence.store import Store

RECONNECT_BASE_S = 1.0
RECONNECT_MAX_S = 15.0
"""How long a source that lost its governor's connection waits for the next, at most."""
FLAG_MAX_S = 1.0
"""A folder that takes longer to say whether a file is there does not say so."""
FLAG_WAIT_S = 0.1
"""How long a look at a flag file may hold up the thread that looks after every group."""
_SAID_MAX = 500

OpenSignals = Callable[[str, str], SourceSignals]
"""(source name, planned identity) → its monitoring connection. ConfigError when they differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GovernorLinks:
    """How a governor reaches the state and the sources."""

    open_store: Callable[[], Store]
    open_signals: OpenSignals
    counters: Callable[[MonitorPlan], frozenset[str]]
    """Names of the monitor's signals that only grow."""
    redact: Callable[[str], str]
    question: Callable[[str, SignalPlan], str]
    """(group, signal) → what it asks in full. ConfigError where this process does not know."""


def ask_signal(signal: SignalPlan, question: str, connection: Callable[[], SourceSignals]) -> float:
    """Read one signal. ``question``: its ``ask`` in full. ``connection`` is called where the source
    is asked. Raises SourceError, ConfigError."""
    if signal.kind == "http":
        return read_http(question, signal.pointer)
    source = connection()
    with private(question, signal.ask):
        return source.query(question) if signal.kind == "sql" else source.read(question)


Answer = float | str
"""A number, or why there is none."""


@dataclass(slots=True)
class _Place:
    """One endpoint, or the source with all of its signals: asked one after the other."""

    signals: tuple[SignalPlan, ...]
    order: list[SignalPlan] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    """Of the newest asking, by signal."""
    thread: threading.Thread | None = None
    late: bool = False
    """It still answers what a former sample asked."""

    @property
    def busy(self) -> bool:
        return self.thread is not None and self.thread.is_alive()


class Sampler:
    """Samples one group's signals. Called by its governor's thread alone."""

    def __init__(
        self,
        group_name: str,
        monitor: MonitorPlan,
        links: GovernorLinks,
        *,
        clock: Clock,
        pay: Callable[[], float],
        wake: Callable[[], None],
    ) -> None:
        """``pay`` reserves one more connection to the source and says in how many seconds it may
        be made (StateError); ``wake`` is called when a place has answered."""
        self._group_name = group_name
        self._monitor = monitor
        self._links = links
        self._clock = clock
        self._pay = pay
        self._wake = wake
        asked = tuple(one for one in monitor.signals if one.kind != "http")
        self._source = _Place(asked) if asked else None
        self._places = [_Place((one,)) for one in monitor.signals if one.kind == "http"]
        if self._source is not None:
            self._places.append(self._source)
        self._counters: dict[str, float] = {}
        self._link: SourceSignals | None = None
        self._reached = False
        """The signal that is asked got as far as the connection."""
        self._lost = ""
        """Why the source's connection ended; empty while it has one, or never had."""
        self._losses = 0
        self._next_at_s: float | None = None
        self._closing = False

    def begin(self) -> None:
        """Ask every place that does not answer a former sample still. Raises StateError where a
        connection cannot be paid for; call it again then."""
        # Looked at once: a place that answers from here on has not lost its connection for free.
        for place in self._places:
            place.late = place.busy
        held = self._held_s()
        for place in self._places:
            if place.late:
                continue
            # One that takes all the time there is must not keep the others from theirs for ever.
            failed = {name for name, said in place.answers.items() if isinstance(said, str)}
            place.order = sorted(place.signals, key=lambda signal: signal.name in failed)
            place.answers = {}
            if place is self._source and held > 0:
                said = f"{self._lost}; the next connection is in {held:.0f} s"
                place.answers = {signal.name: said for signal in place.signals}
                continue
            work = self._ask_source if place is self._source else self._ask_endpoint
            place.thread = threading.Thread(
                target=self._answer, args=(work, place), name="signals", daemon=True
            )
            place.thread.start()

    @property
    def done(self) -> bool:
        """True when every place that was asked has answered."""
        return not any(place.busy and not place.late for place in self._places)

    def readings(self) -> list[Reading]:
        """What was answered, in the monitor's order; who has not answered yet is unreadable."""
        found: dict[str, Answer] = {}
        for place in self._places:
            silent = dict.fromkeys((s.name for s in place.signals), _no_answer())
            found |= silent if place.late else silent | dict(place.answers)
        counters: frozenset[str] = frozenset()
        try:
            counters = self._links.counters(self._monitor)
        except RivetFleetError as error:
            # Which of them only grow is not known; the others say what they say.
            asked = (signal.name for signal in self._monitor.signals if signal.kind == "engine")
            found |= dict.fromkeys(asked, self._said(error))
        return [self._reading(s.name, found[s.name], counters) for s in self._monitor.signals]

    def close(self) -> None:
        """Close the source's connection: now, or when its thread has what it waits for."""
        self._closing = True
        place = self._source
        if place is not None and place.thread is not None:
            place.thread.join(timeout=0.2)
        if place is None or not place.busy:
            self._disconnect()

    # ---------------------------------------------------------------- the governor's thread

    def _held_s(self) -> float:
        """Seconds until the source may be connected to again; paid for when that is first asked."""
        if not self._lost or (self._source is not None and self._source.late):
            return 0.0
        now_s = self._clock.monotonic_s()
        if self._next_at_s is None:
            own_s = backoff_s(attempt=self._losses, base_s=RECONNECT_BASE_S)
            self._next_at_s = now_s + max(self._pay(), min(own_s, RECONNECT_MAX_S))
        return max(0.0, self._next_at_s - now_s)

    def _reading(self, name: str, answer: Answer, counters: frozenset[str]) -> Reading:
        if isinstance(answer, str):
            return Reading(name=name, error=answer)
        if name in counters:
            before = self._counters.get(name)
            self._counters[name] = answer
            # One that fell began anew, with its server: there is no growth to tell.
            if before is None or answer < before:
                return Reading(name=name, waiting=True)
            answer -= before
        if not math.isfinite(answer):
            return Reading(name=name, error="the answer is no finite number")
        return Reading(name=name, value=answer)

    # ---------------------------------------------------------------- the places' threads

    def _answer(self, work: Callable[[_Place], None], place: _Place) -> None:
        try:
            work(place)
        finally:
            if self._closing and place is self._source:
                self._disconnect()
            self._wake()

    def _ask_endpoint(self, place: _Place) -> None:
        for signal in place.order:
            place.answers[signal.name] = self._ask(signal)

    def _ask_source(self, place: _Place) -> None:
        """One connection a sample at most: after it is lost nothing more is asked."""
        lost = ""
        self._next_at_s = None
        for signal in place.order:
            if self._link is not None and not self._link.usable and not lost:
                lost = "the connection ended"
            self._reached = False
            place.answers[signal.name] = answer = lost or self._ask(signal)
            usable = self._link is not None and self._link.usable
            if isinstance(answer, str) and self._reached and not usable:
                lost = answer
        self._losses = self._losses + 1 if lost else 0
        if lost:
            self._disconnect()
        self._lost = lost

    def _ask(self, signal: SignalPlan) -> Answer:
        try:
            question = self._links.question(self._group_name, signal)
            return ask_signal(signal, question, self._connection)
        except RivetFleetError as error:
            return self._said(error)
        except Exception as defect:
            # Whatever an answer makes of a reader it is unreadable, and no more than that. What a
            # library says of a value holds the value.
            return f"the answer cannot be read ({type(defect).__name__})"

    def _said(self, error: RivetFleetError) -> str:
        said = f"{error.message} ({error.hint})" if error.hint else error.message
        return self._links.redact(said)[:_SAID_MAX] or "it cannot be read"

    def _connection(self) -> SourceSignals:
        self._reached = True
        if self._link is None:
            monitor = self._monitor
            self._link = self._links.open_signals(
                monitor.source or "", monitor.source_identity or ""
            )
        return self._link

    def _disconnect(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


def _no_answer() -> str:
    return f"no answer within {ANSWER_MAX_S:g} s"


class FlagFile:
    """Whether a file is there. Not knowing is as if it were: it was named to stop something."""

    def __init__(self, path: str, *, look: Callable[[str], object] = os.stat) -> None:
        self._path = path
        self._look = look
        self._thread: threading.Thread | None = None
        self._asked_at_s = 0.0
        self._silent = f"the flag file {path} cannot be looked for: its folder does not answer"
        self._why: str | None = self._silent

    def closes(self) -> str | None:
        """Why nothing may run, or None: as it was last seen, where a folder that is asked now
        takes longer than ``FLAG_WAIT_S``, up to ``FLAG_MAX_S``."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._see, name="flag file", daemon=True)
            self._asked_at_s = time.monotonic()
            self._thread.start()
            self._thread.join(FLAG_WAIT_S)
        late = self._thread.is_alive() and time.monotonic() - self._asked_at_s >= FLAG_MAX_S
        return self._silent if late else self._why

    def _see(self) -> None:
        try:
            self._look(self._path)
        except FileNotFoundError:
            self._why = None
        except (OSError, ValueError) as error:
            what = getattr(error, "strerror", None) or type(error).__name__
            self._why = f"the flag file {self._path} cannot be looked for: {what}"
        else:
            self._why = f"the flag file {self._path} is there"
