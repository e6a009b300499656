"""``source_groups`` as budgets: rules between settings, and the values the fleet keeps. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from rivet_fleet.contracts.doctor import HostLimits
from rivet_fleet.contracts.protection import (
    DAYS,
    HoursPlan,
    MonitorPlan,
    SignalPlan,
    SourceBudget,
    parse_window,
)
from rivet_fleet.contracts.url import MASK
from rivet_fleet.errors import ConfigError
from rivet_fleet.planning.config.connections import source_connection
from rivet_fleet.planning.config.fields import MIB
from rivet_fleet.planning.config.loaded import WORKERS_UNASKED_MAX, LoadedConfig, all_sources
from rivet_fleet.planning.config.models import (
    FleetConfig,
    HoursConfig,
    MonitorConfig,
    SignalConfig,
    SourceGroupConfig,
)
from rivet_fleet.planning.config.problems import ConfigKey, Problem, did_you_mean, dotted, listed

EngineSignals = Callable[[str], frozenset[str]]
"""Engine name → the names of the signals its servers can tell."""

COORDINATOR_BYTES = 150 * MIB
"""What the process that starts workers takes beside them."""
MEGABYTE = 1_000_000
"""Of a rate: networks count in decimal megabytes."""


def budgets_of(loaded: LoadedConfig) -> tuple[SourceBudget, ...]:
    """The budget of every configured source group, by name. Raises ConfigError when a monitor's
    source has no connection."""
    budgets = []
    for name, group in sorted(loaded.config.source_groups.items()):
        budget = budget_of(name, group, loaded.templates)
        if budget.monitor is not None:
            budget = replace(budget, monitor=_resolved(loaded, group, budget.monitor))
        budgets.append(budget)
    return tuple(budgets)


def _resolved(loaded: LoadedConfig, group: SourceGroupConfig, monitor: MonitorPlan) -> MonitorPlan:
    flag = monitor.flag_file
    path = None if flag is None else str(loaded.path.absolute().parent / flag)
    if monitor.source is None:
        return replace(monitor, flag_file=path)
    source = monitored_source(loaded.config, group.monitor)
    identity = source_connection(loaded, source).identity
    return replace(monitor, flag_file=path, source=source, source_identity=identity)


def monitored_source(config: FleetConfig, monitor: MonitorConfig | None) -> str:
    """Which source a monitor asks: the named one, else the only one."""
    known = list(all_sources(config))
    if monitor is not None and monitor.source is not None:
        return monitor.source
    return known[0] if len(known) == 1 else ""


def budget_of(name: str, group: SourceGroupConfig, templates: Collection[str] = ()) -> SourceBudget:
    """One group's block as a budget; whose source is asked is not resolved yet. ``templates``: SQL
    that refers to secrets."""
    return SourceBudget(
        group_name=name,
        chunks_max=group.max_running_chunks,
        connections_max=group.max_connections,
        rows_per_s=group.max_rows_per_s,
        bytes_per_s=None if group.max_mb_per_s is None else group.max_mb_per_s * MEGABYTE,
        chunks_min=group.min_running_chunks,
        monitor=None if group.monitor is None else _monitor(group.monitor, templates),
    )


def public_address(url: str | None) -> str | None:
    """A signal's URL as it may be kept and shown: what follows ``?`` may be a key."""
    if url is None or "?" not in url:
        return url
    return f"{url.partition('?')[0]}?{MASK}"


def whole_question(loaded: LoadedConfig, group_name: str, signal: SignalPlan) -> str:
    """What a private signal asks, as this configuration has it: a URL, or a query that refers to
    secrets. Raises ConfigError when it has no such signal, or asks somebody else."""
    group = loaded.config.source_groups.get(group_name)
    monitor = None if group is None else group.monitor
    own = None if monitor is None else monitor.signals.get(signal.name)
    asked = None if own is None else own.sql or own.http
    if asked is None or (own is not None and (own.sql or public_address(own.http))) != signal.ask:
        raise ConfigError(
            f"the signal {signal.name} of {group_name} asks {signal.ask}, and this process's "
            "configuration does not hold the rest of it",
            hint="give this process the configuration (and environment) of the campaign",
            code="RIVET_CONFIG_SIGNAL_UNKNOWN",
        )
    return asked


def _monitor(monitor: MonitorConfig, templates: Collection[str]) -> MonitorPlan:
    hours = monitor.hours
    signals = tuple(
        SignalPlan(
            name=name,
            kind="sql" if signal.sql else "http" if signal.http else "engine",
            ask=signal.sql or public_address(signal.http) or name,
            private=public_address(signal.http) != signal.http or signal.sql in templates,
            pointer=signal.pointer,
            shed_above=signal.shed_above,
            pause_above=signal.pause_above,
            abort_above=signal.abort_above,
        )
        for name, signal in monitor.signals.items()
    )
    return MonitorPlan(
        source="" if any(signal.kind != "http" for signal in signals) else None,
        interval_s=monitor.interval_s,
        calm_samples=monitor.calm_samples,
        on_unreadable=monitor.on_unreadable,
        hold_paused_s=monitor.hold_paused_s,
        signals=signals,
        flag_file=monitor.flag_file,
        hours=None
        if hours is None
        else HoursPlan(windows=hours.windows, days=hours.days, time_zone=hours.time_zone),
    )


def readers_of(loaded: LoadedConfig, group_name: str | None) -> int | None:
    """How many chunks of a group may run at once; None where nothing says so."""
    group = loaded.config.source_groups.get(group_name or "")
    return None if group is None else budget_of(group_name or "", group).ceiling


def readers_at_once(loaded: LoadedConfig, groups: Collection[str | None]) -> int | None:
    """How many chunks of exports in these groups may run at once; None where some may without a
    limit."""
    allowed = [readers_of(loaded, name) for name in set(groups)]
    bounds = [most for most in allowed if most is not None]
    return sum(bounds) if bounds and len(bounds) == len(allowed) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How many processes work on this host, and the line that says why."""

    count: int
    why: str

    @property
    def sentence(self) -> str:
        """For people."""
        return f"{self.count} worker{'' if self.count == 1 else 's'}: {self.why}"


def workers_of(loaded: LoadedConfig, limits: HostLimits, chunks: int | None = None) -> Workers:
    """Where nobody named a number: what the file's exports ask for, else what this host and the
    budgets allow. ``chunks``: how many are left, where that is known."""
    if loaded.workers_asked is not None:
        return Workers(count=loaded.workers_asked, why="the largest `parallel` of the exports")
    cores, free = limits.cores, limits.memory_bytes
    fit = (free - COORDINATOR_BYTES) // (loaded.worker_memory_mb * MIB)
    bounds = [
        (cores, f"this process may use {cores} core{'' if cores == 1 else 's'}"),
        (fit, f"{free // MIB:,} MB are free, {loaded.worker_memory_mb} for each"),
        (WORKERS_UNASKED_MAX, "more when -w or campaign.workers asks for them"),
    ]
    if chunks is not None:
        bounds.append((chunks, f"{chunks} chunk{'' if chunks == 1 else 's'} to do"))
    at_once = readers_at_once(loaded, [one.source_group for one in loaded.config.exports])
    if at_once is not None:
        bounds.append((at_once, f"the budgets let {at_once} of them read at once"))
    count, why = min(bounds, key=lambda bound: bound[0])
    return Workers(count=max(count, 1), why=why)


def check_group(
    config: FleetConfig, name: str, group: SourceGroupConfig, engine_signals: EngineSignals | None
) -> Iterator[Problem]:
    """What is wrong with a group although each of its settings has the right type.

    ``engine_signals``: None when a source's engine is not there: its signals are unknown."""
    at: ConfigKey = ("source_groups", name)
    budget = budget_of(name, group)
    if budget.unlimited:
        yield _problem(at, "sets no limit", "add max_running_chunks: 4")
    if budget.ceiling == 0:
        yield _problem(
            (*at, "max_connections"),
            f"leaves none for a chunk: {budget.connections_reserved} are kept for planning, checks "
            "and the monitor",
            f"max_connections: {budget.connections_reserved + 1}",
        )
    if group.monitor is not None:
        yield from _check_monitor(config, group, group.monitor, at)
        if engine_signals is not None:
            where = (*at, "monitor", "signals")
            yield from _check_names(config, group.monitor, where, engine_signals)


def _check_monitor(
    config: FleetConfig, group: SourceGroupConfig, monitor: MonitorConfig, at: ConfigKey
) -> Iterator[Problem]:
    here = (*at, "monitor")
    if not (monitor.signals or monitor.flag_file or monitor.hours):
        yield _problem(here, "watches nothing", "add signals:, flag_file: or hours:")
    asks = any(signal.http is None for signal in monitor.signals.values())
    source, known = monitored_source(config, monitor), all_sources(config)
    if asks and source not in known:
        reason = "no such source" if source else "is needed with several sources"
        yield _problem((*here, "source"), f"{reason}; known: {listed(known)}")
    ceiling = budget_of("", group).ceiling
    for name, signal in monitor.signals.items():
        yield from _check_signal(signal, (*here, "signals", name), sheds=ceiling is not None)
    if ceiling is not None and group.min_running_chunks > ceiling > 0:
        yield _problem((*at, "min_running_chunks"), f"is more than may run: {ceiling}")
    if monitor.hours is not None:
        yield from _check_hours(monitor.hours, (*here, "hours"))


def _check_names(
    config: FleetConfig, monitor: MonitorConfig, at: ConfigKey, engine_signals: EngineSignals
) -> Iterator[Problem]:
    """A signal with neither sql nor http is one that the monitored engine can tell."""
    own = [name for name, signal in monitor.signals.items() if not (signal.sql or signal.http)]
    source = all_sources(config).get(monitored_source(config, monitor))
    if not own or source is None:
        return
    known = engine_signals(source.type)
    for name in own:
        if name not in known:
            yield _problem(
                (*at, name),
                f"{source.type} has no such signal; known: {listed(known)}",
                did_you_mean(name, known) or "give it sql: or http:",
            )


def _check_signal(signal: SignalConfig, at: ConfigKey, *, sheds: bool) -> Iterator[Problem]:
    if signal.sql is not None and signal.http is not None:
        yield _problem(at, "sql and http exclude each other")
    if signal.pointer is not None and (signal.http is None or signal.pointer[:1] not in ("", "/")):
        yield _problem((*at, "pointer"), "belongs to http, and begins with /")
    if signal.http is not None:
        url = urlsplit(signal.http)
        if url.scheme not in ("http", "https") or not url.hostname:
            yield _problem((*at, "http"), "must be an http:// or https:// URL")
        if url.username or url.password:
            yield _problem((*at, "http"), "must hold no password: the state database keeps it")
    thresholds = [
        value
        for value in (signal.shed_above, signal.pause_above, signal.abort_above)
        if value is not None
    ]
    if not thresholds:
        yield _problem(at, "has no threshold", "add shed_above, pause_above or abort_above")
    if thresholds != sorted(thresholds):
        yield _problem(at, "must rise from shed_above over pause_above to abort_above")
    if signal.shed_above is not None and not sheds:
        yield _problem(
            (*at, "shed_above"), "needs max_running_chunks or max_connections to shed from"
        )


def _check_hours(hours: HoursConfig, at: ConfigKey) -> Iterator[Problem]:
    if not hours.windows:
        yield _problem((*at, "windows"), "is empty: the group would never run")
    for window in hours.windows:
        try:
            parse_window(window)
        except ValueError as wrong:
            yield _problem((*at, "windows"), str(wrong))
    for day in hours.days:
        if day not in DAYS:
            yield _problem((*at, "days"), f"no such day; known: {', '.join(DAYS)}")
    try:
        ZoneInfo(hours.time_zone)
    except (ValueError, OSError, KeyError):
        yield _problem((*at, "time_zone"), "is no time zone of this machine, such as Europe/Berlin")


def _problem(at: ConfigKey, reason: str, suggestion: str | None = None) -> Problem:
    return Problem(at=at, what=dotted(at), reason=reason, suggestion=suggestion)
