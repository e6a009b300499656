"""What ``doctor`` says about monitors: every signal is read once, as the governor will read it."""

from __future__ import annotations

from collections.abc import Iterator

from rivet_fleet.contracts.doctor import DoctorCode, DoctorFinding, Gravity
from rivet_fleet.contracts.protection import MonitorPlan
from rivet_fleet.coordination.governor import ask_signal
from rivet_fleet.coordination.secrets import questions
from rivet_fleet.coordination.wiring import ProcessOptions, signals_opener
from rivet_fleet.errors import RivetFleetError
from rivet_fleet.execution.signals import SourceSignals
from rivet_fleet.planning.loaded import LoadedConfig
from rivet_fleet.planning.protection import budgets_of


def examine_signals(loaded: LoadedConfig, options: ProcessOptions) -> Iterator[DoctorFinding]:
    """One finding per signal of every monitored source group."""
    try:
        budgets = budgets_of(loaded)
    except RivetFleetError:
        return  # the source's own finding says it
    for budget in budgets:
        if budget.monitor is not None:
            yield from _monitor(loaded, options, budget.group_name, budget.monitor)


def _monitor(
    loaded: LoadedConfig, options: ProcessOptions, group: str, monitor: MonitorPlan
) -> Iterator[DoctorFinding]:
    opened: list[SourceSignals] = []
    question = questions(loaded)

    def connection() -> SourceSignals:
        if not opened:
            open_signals = signals_opener(loaded, options)
            opened.append(open_signals(monitor.source or "", monitor.source_identity or ""))
        return opened[0]

    try:
        for signal in monitor.signals:
            subject = f"signal {signal.name} of {group}"
            try:
                value = ask_signal(signal, question(group, signal), connection)
            except RivetFleetError as error:
                yield DoctorFinding(
                    code=DoctorCode.SOURCE_SIGNAL_UNREADABLE,
                    gravity=Gravity.ERROR if monitor.fail_closed else Gravity.WARNING,
                    subject=subject,
                    what=error.message,
                    why="nothing would run"
                    if monitor.fail_closed
                    else "the source is not protected by it",
                    hint=error.hint,
                    detail_code=error.code,
                )
                continue
            yield DoctorFinding(
                code=DoctorCode.SOURCE_SIGNAL_READABLE,
                gravity=Gravity.OK,
                subject=subject,
                what=f"{value:g} now",
            )
    finally:
        for one in opened:
            one.close()
