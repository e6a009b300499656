"""What protects a source: budgets, hours, the governor's law, and how a group stands (ADR 0013)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from datetime import date, datetime, time, timedelta
from enum import IntEnum
from zoneinfo import ZoneInfo

from rivet_fleet.contracts.events import EventName


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalPlan:
    """One number to watch. ``kind``: ``engine`` (a signal the engine's folder knows by
    ``ask``), ``sql`` (``ask`` is a query) or ``http`` (``ask`` is a URL; ``pointer`` a JSON
    pointer into its answer, None for a plain number). None is no threshold.

    ``private``: ``ask`` is not the whole question: a URL without what follows ``?``, or a query
    that refers to secret parameters. Who asks has the rest in its own configuration."""

    name: str
    kind: str
    ask: str
    pointer: str | None = None
    private: bool = False
    shed_above: float | None = None
    pause_above: float | None = None
    abort_above: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HoursPlan:
    """When the group may run: ``HH:MM-HH:MM`` windows, days of the week on which they begin."""

    windows: tuple[str, ...]
    days: tuple[str, ...] = ()
    """Empty: every day."""
    time_zone: str = "UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorPlan:
    """What the governor of a group watches. ``source`` and ``source_identity`` name the
    connection it asks; None when no signal needs one."""

    source: str | None = None
    source_identity: str | None = None
    interval_s: float = 1.5
    calm_samples: int = 3
    on_unreadable: str = "hold"
    hold_paused_s: float = 60.0
    signals: tuple[SignalPlan, ...] = ()
    flag_file: str | None = None
    hours: HoursPlan | None = None

    @property
    def fail_closed(self) -> bool:
        """True when not knowing means waiting."""
        return self.on_unreadable == "pause"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceBudget:
    """What one source group may do at once, over all campaigns of a state database.

    Each number is a column of its name in ``source_budget``; ``BUDGET_NUMBERS`` has them all."""

    group_name: str
    chunks_max: int | None = None
    connections_max: int | None = None
    rows_per_s: float | None = None
    bytes_per_s: float | None = None
    chunks_min: int = 1
    monitor: MonitorPlan | None = None

    @property
    def connections_reserved(self) -> int:
        """Seats that no chunk may take: planning and checks, and a monitor that asks."""
        return 2 if self.monitor is not None and self.monitor.source is not None else 1

    @property
    def ceiling(self) -> int | None:
        """How many chunks may run when nothing sheds them; None is no limit."""
        limits = [] if self.chunks_max is None else [self.chunks_max]
        if self.connections_max is not None:
            limits.append(max(0, self.connections_max - self.connections_reserved))
        return min(limits) if limits else None

    @property
    def limits_claims(self) -> bool:
        """True when a claim has to look at the group's row."""
        return self.ceiling is not None or self.monitor is not None

    @property
    def paced(self) -> bool:
        """True when rows or bytes per second are limited."""
        return self.rows_per_s is not None or self.bytes_per_s is not None

    @property
    def unlimited(self) -> bool:
        """True when it says nothing at all."""
        return not (self.limits_claims or self.paced)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetNumber:
    """One number of a budget. ``default``: what it is where nothing is said, None for no limit."""

    kind: type[int] | type[float]
    default: int | None


BUDGET_NUMBERS: Mapping[str, BudgetNumber] = {
    one.name: BudgetNumber(kind=float if "float" in str(one.type) else int, default=one.default)
    for one in fields(SourceBudget)
    if one.default is not MISSING and one.name != "monitor"
}
"""By name, in the order in which they are told. The schema, every statement, the seals and what is
told of a change are made of this: a number that is added above needs a migration and no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a group stands for one running chunk, as its worker sees it at a page boundary.

    ``budget`` None: the group has none. ``ahead``: running chunks of the group that were claimed
    earlier. ``paused_for_s``: how long the pause is known to last, None when unknown.
    """

    budget: SourceBudget | None = None
    ahead: int = 0
    permits: int | None = None
    page_share: float = 1.0
    paused: str | None = None
    paused_for_s: float | None = None
    halted: str | None = None

    @property
    def reason_to_rest(self) -> str | None:
        """Why this chunk should not read its next page now, or None."""
        if self.paused is not None:
            return self.paused
        ceiling = None if self.budget is None else self.budget.ceiling
        allowed = [most for most in (ceiling, self.permits) if most is not None]
        if allowed and self.ahead >= min(allowed):
            return f"{self.ahead} chunks of the group run already, {min(allowed)} may"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class GovernorLease:
    """The right to govern one group, and what its former governor left behind."""

    budget: SourceBudget
    fence: int
    worker_id: str
    permits: int | None
    page_share: float
    paused: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GovernorWord:
    """What a governor writes after a sample. ``valid_for_s`` None: it holds until the next.
    ``halt``: why every campaign that uses the group is stopped. ``told``: events."""

    permits: int
    page_share: float
    paused: str | None = None
    resumes_in_s: float | None = None
    valid_for_s: float | None = None
    readings_json: str = "[]"
    halt: str | None = None
    told: tuple[tuple[EventName, str, dict[str, object]], ...] = ()


# ------------------------------------------------------------------------------------------
# Hours of the day in which a source group may run. The clock is an argument.

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)")
_DAYS_AHEAD = 8


def parse_window(text: str) -> tuple[int, int]:
    """``HH:MM-HH:MM`` as minutes of the day; an end that is not later is on the next day.
    Raises ValueError."""
    found = _WINDOW.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no window such as 22:00-06:00")
    hours = [int(part) for part in found.groups()]
    begin, end = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
    if end > 24 * 60:
        raise ValueError(f"{text!r} ends after midnight: write 00:00 or later of the next day")
    return begin, end if end > begin else end + 24 * 60


def opens_in_s(hours: HoursPlan, now_s: float) -> float:
    """Seconds until the group may run: 0 inside a window. ``now_s`` is epoch seconds."""
    zone = ZoneInfo(hours.time_zone)
    today = datetime.fromtimestamp(now_s, zone).date()
    soonest = float("inf")
    for ahead in range(-1, _DAYS_AHEAD):
        day = today + timedelta(days=ahead)
        if hours.days and DAYS[day.weekday()] not in hours.days:
            continue
        for window in hours.windows:
            begin, end = parse_window(window)
            begins_s, ends_s = _at(day, begin, zone), _at(day, end, zone)
            if begins_s <= now_s < ends_s:
                return 0.0
            if begins_s > now_s:
                soonest = min(soonest, begins_s - now_s)
    return soonest


def _at(day: date, minutes: int, zone: ZoneInfo) -> float:
    """Wall-clock minutes of a day as epoch seconds: a change of the clocks moves the window."""
    days, minute = divmod(minutes, 24 * 60)
    wall = datetime.combine(day + timedelta(days=days), time(minute // 60, minute % 60), zone)
    return wall.timestamp()


# ------------------------------------------------------------------------------------------
# The governor's law: from what was read to what may run (ADR 0013).
#
# Sheds one permit at the first bad sample and half of them at the next ones, regains one after
# ``calm_samples`` calm ones. A signal is calm below four fifths of its threshold: in between
# nothing moves, so that nothing swings.

CALM_SHARE = 0.8
PAGE_SHARE_MIN = 0.1
UNREADABLE_MAX = 3
"""So many samples in a row without an answer are told, and judged as the policy says."""
CRITICAL_SAMPLES = 2


class Level(IntEnum):
    """How bad one sample is; the worst signal counts."""

    CALM = 0
    HOLD = 1
    SHED = 2
    PAUSE = 3
    CRITICAL = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One signal as it was read: a value, or why there is none. ``waiting`` is True for the first
    look at a counter, which has nothing to compare with."""

    name: str
    value: float | None = None
    error: str | None = None
    waiting: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A reason to pause that is no pressure: a flag file, the hour. ``opens_in_s`` if known."""

    reason: str
    opens_in_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Governed:
    """What is allowed now, and what the next decision must remember."""

    permits: int
    page_share: float = 1.0
    paused: str | None = None
    gated: bool = False
    """True when the pause is a gate's: it ends with the gate."""
    opens_in_s: float | None = None
    calm: int = 0
    sheds: int = 0
    critical: int = 0
    unreadable: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Something the governor did, for the journal."""

    name: EventName
    message: str
    data: dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is allowed from now on. ``halt`` is why campaigns are stopped."""

    now: Governed
    acts: tuple[Act, ...] = ()
    halt: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cause:
    level: Level
    signal: str = ""
    value: float | None = None
    threshold: float | None = None

    @property
    def words(self) -> str:
        if self.value is None:
            return f"{self.signal} cannot be read"
        return f"{self.signal} is {self.value:g}, above {self.threshold:g}"

    @property
    def data(self) -> dict[str, object]:
        return {"signal": self.signal, "value": self.value, "threshold": self.threshold}


def start(
    budget: SourceBudget, permits: int | None, page_share: float, paused: str | None
) -> Governed:
    """What a new leader finds: it goes on from there."""
    most = budget.ceiling or 1
    return Governed(
        permits=most if permits is None else min(permits, most),
        page_share=page_share,
        paused=paused,
    )


def decide(
    budget: SourceBudget, before: Governed, readings: Sequence[Reading], gate: Gate | None
) -> Decision:
    """One step. ``readings`` holds every signal of the budget's monitor."""
    monitor = budget.monitor or MonitorPlan()
    before = replace(before, permits=min(before.permits, budget.ceiling or before.permits))
    unreadable = _counted(before.unreadable, readings)
    acts = tuple(_told(before.unreadable, unreadable, readings))
    cause = _worst(monitor, readings, unreadable, paused=before.paused is not None)
    now = replace(before, unreadable=unreadable)
    now = replace(now, critical=now.critical + 1 if cause.level is Level.CRITICAL else 0)
    if now.critical >= CRITICAL_SAMPLES:
        now, more = _pause(replace(now, critical=0), budget, cause.words, cause.data)
        halted = Act(name=EventName.GOVERNOR_ABORTED, message=cause.words, data=cause.data)
        return Decision(now=now, acts=(*acts, *more, halted), halt=cause.words)
    if cause.level >= Level.PAUSE:
        now, more = _pause(now, budget, cause.words, cause.data)
    elif gate is not None:
        now, more = _gated(now, gate)
    elif now.paused is not None:
        now, more = _resume(now, monitor, cause)
    elif cause.level is Level.SHED:
        now, more = _shed(now, budget, cause)
    elif cause.level is Level.CALM:
        now, more = _regain(now, budget, monitor)
    else:
        now, more = replace(now, calm=0, sheds=0), ()
    return Decision(now=now, acts=(*acts, *more))


def close(before: Governed, gate: Gate) -> Decision:
    """What a closed gate comes to before, or without, a sample; only a sample opens again."""
    if before.paused is not None and not before.gated:
        return Decision(now=before)
    now, acts = _gated(before, gate)
    return Decision(now=now, acts=acts)


def judge(signal: SignalPlan, value: float, *, paused: bool) -> tuple[Level, float | None]:
    """How bad a value is, and the threshold that says so. A pause ends below four fifths of
    what began it."""
    pause_above = signal.pause_above
    if signal.abort_above is not None and value > signal.abort_above:
        return Level.CRITICAL, signal.abort_above
    if pause_above is not None and value > pause_above * (CALM_SHARE if paused else 1.0):
        return Level.PAUSE, pause_above
    if signal.shed_above is not None and value > signal.shed_above:
        return Level.SHED, signal.shed_above
    thresholds = (signal.shed_above, signal.pause_above, signal.abort_above)
    lowest = min((t for t in thresholds if t is not None), default=None)
    if lowest is not None and value > lowest * CALM_SHARE:
        return Level.HOLD, lowest
    return Level.CALM, None


def _counted(before: dict[str, int], readings: Sequence[Reading]) -> dict[str, int]:
    return {r.name: before.get(r.name, 0) + 1 for r in readings if r.error is not None}


def _told(before: dict[str, int], now: dict[str, int], readings: Sequence[Reading]) -> list[Act]:
    """A signal that was lost, or is back, is told once."""
    acts = []
    for reading in readings:
        lost = now.get(reading.name, 0) == UNREADABLE_MAX
        back = reading.error is None and before.get(reading.name, 0) >= UNREADABLE_MAX
        if lost or back:
            acts.append(
                Act(
                    name=EventName.SIGNAL_LOST if lost else EventName.SIGNAL_FOUND,
                    message=f"{reading.name}: {reading.error}" if lost else reading.name,
                    data={"signal": reading.name},
                )
            )
    return acts


def _worst(
    monitor: MonitorPlan, readings: Sequence[Reading], unreadable: dict[str, int], *, paused: bool
) -> _Cause:
    plans = {signal.name: signal for signal in monitor.signals}
    worst = _Cause(level=Level.CALM)
    for reading in readings:
        threshold = None
        if reading.error is not None:
            level = _unread(monitor, unreadable[reading.name])
        elif reading.value is None:
            level = Level.HOLD
        else:
            level, threshold = judge(plans[reading.name], reading.value, paused=paused)
        if level > worst.level:
            value = None if reading.error is not None else reading.value
            worst = _Cause(level=level, signal=reading.name, value=value, threshold=threshold)
    return worst


def _unread(monitor: MonitorPlan, times: int) -> Level:
    if times < UNREADABLE_MAX or monitor.on_unreadable == "hold":
        return Level.HOLD
    return Level.PAUSE if monitor.fail_closed else Level.CALM


def _pause(
    now: Governed, budget: SourceBudget, why: str, data: dict[str, object]
) -> tuple[Governed, tuple[Act, ...]]:
    """Nothing runs; afterwards it begins with the fewest."""
    floor = _floor(budget)
    after = replace(now, paused=why, gated=False, opens_in_s=None, calm=0, sheds=0)
    after = replace(after, permits=floor, page_share=PAGE_SHARE_MIN)
    if now.paused is not None and not now.gated:
        return after, ()
    data = {**data, "from": now.permits, "to": 0}
    return after, (Act(name=EventName.GOVERNOR_PAUSED, message=why, data=data),)


def _gated(now: Governed, gate: Gate) -> tuple[Governed, tuple[Act, ...]]:
    after = replace(
        now, paused=gate.reason, gated=True, opens_in_s=gate.opens_in_s, calm=0, sheds=0
    )
    if now.paused == gate.reason:
        return after, ()
    data: dict[str, object] = {"from": now.permits, "to": 0, "opens_in_s": gate.opens_in_s}
    return after, (Act(name=EventName.GOVERNOR_PAUSED, message=gate.reason, data=data),)


def _resume(now: Governed, monitor: MonitorPlan, cause: _Cause) -> tuple[Governed, tuple[Act, ...]]:
    calm = now.calm + 1
    if not now.gated and calm < monitor.calm_samples:
        return replace(now, calm=calm), ()
    message = f"{now.permits} may run again; it was paused because {now.paused}"
    after = replace(now, paused=None, gated=False, opens_in_s=None, calm=0)
    data: dict[str, object] = {"from": 0, "to": now.permits}
    return after, (Act(name=EventName.GOVERNOR_RESUMED, message=message, data=data),)


def _shed(now: Governed, budget: SourceBudget, cause: _Cause) -> tuple[Governed, tuple[Act, ...]]:
    wanted = now.permits - 1 if now.sheds == 0 else now.permits // 2
    permits = min(now.permits, max(_floor(budget), wanted))
    share = max(PAGE_SHARE_MIN, now.page_share / 2)
    after = replace(now, permits=permits, page_share=share, calm=0, sheds=now.sheds + 1)
    if (permits, share) == (now.permits, now.page_share):
        return after, ()
    data = {**cause.data, "from": now.permits, "to": permits, "page_share": share}
    message = f"{cause.words}: {now.permits} -> {permits} chunks, pages x{share:g}"
    return after, (Act(name=EventName.GOVERNOR_SHED, message=message, data=data),)


def _regain(
    now: Governed, budget: SourceBudget, monitor: MonitorPlan
) -> tuple[Governed, tuple[Act, ...]]:
    calm = now.calm + 1
    most = budget.ceiling or now.permits
    if calm < monitor.calm_samples or (now.permits >= most and now.page_share >= 1.0):
        return replace(now, calm=min(calm, monitor.calm_samples), sheds=0), ()
    permits = min(most, now.permits + 1)
    share = min(1.0, now.page_share * 1.5)
    after = replace(now, permits=permits, page_share=share, calm=0, sheds=0)
    data: dict[str, object] = {"from": now.permits, "to": permits, "page_share": share}
    message = f"calm: {now.permits} -> {permits} chunks, pages x{share:g}"
    return after, (Act(name=EventName.GOVERNOR_REGAINED, message=message, data=data),)


def _floor(budget: SourceBudget) -> int:
    most = budget.ceiling
    return budget.chunks_min if most is None else min(budget.chunks_min, most)
