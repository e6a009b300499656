"""What protects a source: budgets, their monitor's plan, and how a group stands (ADR 0013)."""

from __future__ import annotations

from dataclasses import dataclass

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
    """What one source group may do at once, over all campaigns of a state database."""

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


def appointment(
    free_at_s: float, now_s: float, amount: float, per_s: float | None
) -> tuple[float, float]:
    """(new ``free_at_s``, seconds to wait) when ``amount`` is reserved at ``now_s`` (GCRA).

    Its slot begins where the former one ends, never in the past, so nothing is saved up; the
    amount may be used once the slot begins. No limit: nothing moves.
    """
    if per_s is None or per_s <= 0 or amount <= 0:
        return free_at_s, 0.0
    begins_at_s = max(free_at_s, now_s)
    return begins_at_s + amount / per_s, begins_at_s - now_s
