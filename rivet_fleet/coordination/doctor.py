"""Looking at everything a run depends on, one thing after the other: no failure hides another."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from rivet_fleet.contracts.doctor import DoctorCode, DoctorFinding, Gravity
from rivet_fleet.contracts.identity import CAMPAIGN_OTHER, date_of, new_campaign_id
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.plan import DestinationPlan
from rivet_fleet.contracts.protection import MonitorPlan
from rivet_fleet.coordination.history import Memory, recollect, rivets_file
from rivet_fleet.coordination.inquiry import (
    Inquiry,
    OnRefusal,
    open_inquiry,
    refuse_others_folder,
)
from rivet_fleet.coordination.sampler import ask_signal
from rivet_fleet.coordination.secrets import questions
from rivet_fleet.coordination.wiring import (
    ProcessOptions,
    host_limits,
    open_planned_destination,
    settings_of,
    signals_opener,
    state_of,
)
from rivet_fleet.errors import DestinationError, ExitCode, RivetFleetError, SourceError, StateError
from rivet_fleet.execution import registry
from rivet_fleet.execution.durable import creates_only, rehearsed_spool
from rivet_fleet.execution.signals import SourceSignals
from rivet_fleet.persistence.open import state_health
from rivet_fleet.planning.config.connections import present_identity
from rivet_fleet.planning.config.loaded import LoadedConfig
from rivet_fleet.planning.config.models import ExportConfig
from rivet_fleet.planning.config.protection import budgets_of, readers_at_once, workers_of
from rivet_fleet.planning.export_plan import destination_plan
from rivet_fleet.planning.symptoms import (
    from_error,
    from_note,
    of_decoder,
    of_host,
    of_namespace,
    of_rivets_state,
    of_server,
    of_space,
    of_state,
)

# ------------------------------------------------------------------------------------------
# What ``doctor`` says about monitors: every signal is read once, as the governor will read it.


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


_TOKEN_GOOD_S = 3600.0
_NO_START = "the campaign would not start"


def examine(
    loaded: LoadedConfig,
    options: ProcessOptions,
    *,
    now_s: float,
    namespace_missing: bool = False,
) -> tuple[DoctorFinding, ...]:
    """Every finding about one configuration. Writes a few bytes at each destination and in the
    spool folder and removes them; raises nothing but what is no error of ours.
    ``namespace_missing``: nobody said whose part of a shared state this is."""
    limits = host_limits()
    return (
        *_configuration(loaded),
        *_exports(loaded, options, now_s),
        *examine_signals(loaded, options),
        *examine_engines(sorted({loaded.sources[name].type for name in loaded.used_sources()})),
        *_state(loaded, options, now_s, None if namespace_missing else options.namespace),
        *_places(loaded, options, now_s),
        *of_host(
            limits,
            workers=loaded.workers_asked or workers_of(loaded, limits).count,
            worker_memory_mb=loaded.worker_memory_mb,
        ),
    )


def invalid(error: RivetFleetError, path: Path) -> DoctorFinding:
    """The finding about a configuration that cannot be loaded."""
    return DoctorFinding(
        code=DoctorCode.CONFIG_INVALID,
        gravity=Gravity.ERROR,
        subject=f"configuration {path.name}",
        what=error.message,
        why="nothing can be planned from it",
        hint=error.hint,
        detail_code=error.code,
    )


def examine_engines(engines: Sequence[str]) -> tuple[DoctorFinding, ...]:
    """Whether each engine's decoder is compiled."""
    return tuple(of_decoder(name, compiled=registry.decoder_compiled(name)) for name in engines)


def exit_code_of(findings: Sequence[DoctorFinding]) -> ExitCode:
    """0 without an error; 2 when trying again may help with all of them; else 1."""
    errors = [one for one in findings if one.gravity is Gravity.ERROR]
    if not errors:
        return ExitCode.OK
    return ExitCode.RETRYABLE if all(one.retryable for one in errors) else ExitCode.GENERIC


def _configuration(loaded: LoadedConfig) -> Iterator[DoctorFinding]:
    subject = f"configuration {loaded.path.name}"
    count = len(loaded.config.exports)
    yield DoctorFinding(
        code=DoctorCode.CONFIG_LOADED,
        gravity=Gravity.OK,
        subject=subject,
        what=f"{count} export(s), {len(loaded.used_sources())} source(s)",
    )
    for warning in loaded.warnings:
        yield DoctorFinding(
            code=DoctorCode.CONFIG_ADVICE,
            gravity=Gravity.WARNING,
            subject=subject,
            what=warning,
            why="the setting does not do what it says, or shows what should be hidden",
        )


# ---------------------------------------------------------------- sources


def _exports(
    loaded: LoadedConfig, options: ProcessOptions, now_s: float
) -> Iterator[DoctorFinding]:
    """Each source with the rights on its exports, then what a run would refuse all the same."""
    memory, trouble = recollect(loaded, options)
    with open_inquiry(loaded, options, on_refusal=OnRefusal.COLLECT, memory=memory) as inquiry:
        readable: list[ExportConfig] = []
        for name in sorted(loaded.used_sources()):
            yield from _source(inquiry, name, readable)
        campaign_id = new_campaign_id(now_s, options.namespace)
        try:
            yield from _refusals(inquiry, readable, campaign_id, now_s)
        except StateError as error:
            trouble = error
    # Any other trouble of the state is found where the state is looked at.
    if trouble is not None and trouble.code == CAMPAIGN_OTHER:
        code = DoctorCode.STATE_REFUSED
        yield from_error(trouble, "state", code, code, _NO_START)


def _refusals(
    inquiry: Inquiry, readable: Sequence[ExportConfig], campaign_id: CampaignId, now_s: float
) -> Iterator[DoctorFinding]:
    """Of exports that may be read."""
    inquiry.recall(readable)
    inquiry.look_ahead(readable)
    asked = [inquiry.ask(export) for export in readable]
    for refused in inquiry.conclude(asked, campaign_id=campaign_id, now_s=now_s).refused:
        # Destinations are looked at by writing to them.
        if not isinstance(refused.error, DestinationError):
            yield from_error(
                refused.error,
                f"export {refused.export_name}",
                DoctorCode.SOURCE_EXPORT_REFUSED
                if isinstance(refused.error, SourceError)
                else DoctorCode.PLAN_REFUSED,
                DoctorCode.SOURCE_UNREACHABLE,
                _NO_START,
            )


def _source(inquiry: Inquiry, name: str, readable: list[ExportConfig]) -> Iterator[DoctorFinding]:
    """``readable`` learns which exports may be read."""
    subject, loaded = f"source {name}", inquiry.loaded
    exports = [one for one in loaded.config.exports if loaded.source_name(one) == name]
    try:
        connection = inquiry.connection(name)
        inquiry.source(name)
    except RivetFleetError as error:
        code = DoctorCode.CONFIG_CONNECTION_INVALID
        yield from_error(error, subject, code, code, "the source cannot be reached without it")
        yield _unknown(subject, exports)
        return
    try:
        server = inquiry.server(name)
    except RivetFleetError as error:
        yield from_error(
            error,
            subject,
            DoctorCode.SOURCE_REFUSED,
            DoctorCode.SOURCE_UNREACHABLE,
            "nothing can be read",
        )
        yield _unknown(subject, exports)
        return
    yield from of_server(
        server,
        subject,
        loopback=connection.url.loopback,
        readers=_readers(loaded, exports),
    )
    yield from _privileges(inquiry, subject, exports, readable)


def _readers(loaded: LoadedConfig, exports: Sequence[ExportConfig]) -> int:
    """How many connections this campaign may hold on the source: a worker reads one chunk, and a
    budget of a group bounds the workers of its exports."""
    at_once = readers_at_once(loaded, [one.source_group for one in exports])
    expected = loaded.workers_expected
    return expected if at_once is None else min(expected, at_once)


def _unknown(subject: str, exports: Sequence[ExportConfig]) -> DoctorFinding:
    names = ", ".join(one.name for one in exports[:10])
    more = f" and {len(exports) - 10} more" if len(exports) > 10 else ""
    return DoctorFinding(
        code=DoctorCode.SOURCE_EXPORT_UNKNOWN,
        gravity=Gravity.WARNING,
        subject=subject,
        what=f"not looked at: {names}{more}",
        why="their privileges are not known",
        hint="repair the connection, then ask again",
    )


def _privileges(
    inquiry: Inquiry,
    subject: str,
    exports: Sequence[ExportConfig],
    readable: list[ExportConfig],
) -> Iterator[DoctorFinding]:
    before = len(readable)
    for export in exports:
        try:
            notes = inquiry.rights(export)
        except RivetFleetError as error:
            code = DoctorCode.SOURCE_EXPORT_REFUSED
            yield from_error(
                error,
                f"export {export.name}",
                code,
                DoctorCode.SOURCE_UNREACHABLE,
                _NO_START,
            )
            continue
        readable.append(export)
        for note in notes:
            yield from_note(note, f"export {export.name}")
    if found := len(readable) - before:
        yield DoctorFinding(
            code=DoctorCode.SOURCE_READABLE,
            gravity=Gravity.OK,
            subject=subject,
            what=f"{found} of {len(exports)} export(s) may be read, every column",
        )


# ---------------------------------------------------------------- state, destinations, host


def _state(
    loaded: LoadedConfig, options: ProcessOptions, now_s: float, namespace: str | None
) -> Iterator[DoctorFinding]:
    try:
        url = options.state_url or state_of(loaded)
        health = state_health(url, namespace=options.namespace)
        yield from of_state(health, now_s=now_s)
        yield from of_namespace(health, namespace, present_identity(loaded).sources)
        yield from of_rivets_state(sorted(Memory(rivets=rivets_file(loaded)).elsewhere()))
    except RivetFleetError as error:
        yield from_error(
            error,
            "state",
            DoctorCode.STATE_REFUSED,
            DoctorCode.STATE_UNREACHABLE,
            "the fleet remembers everything there",
        )


def _places(loaded: LoadedConfig, options: ProcessOptions, now_s: float) -> Iterator[DoctorFinding]:
    spool = settings_of(loaded).spool_root
    with contextlib.ExitStack() as looked:
        try:
            folder, free = looked.enter_context(rehearsed_spool(spool))
        except RivetFleetError as error:
            code = DoctorCode.SPOOL_REFUSED
            why = "workers write each part there first; destinations were not looked at"
            yield from_error(error, "spool", code, code, why)
            return
        yield DoctorFinding(
            code=DoctorCode.SPOOL_WRITABLE, gravity=Gravity.OK, subject="spool", what=str(spool)
        )
        yield from of_space(free, "spool", DoctorCode.SPOOL_SPACE_LOW)
        yield from _destinations(loaded, options, folder, now_s)


def _destinations(
    loaded: LoadedConfig, options: ProcessOptions, spool: Path, now_s: float
) -> Iterator[DoctorFinding]:
    date = date_of(new_campaign_id(now_s), now_s) or ""
    for export in loaded.config.exports:
        plan = destination_plan(loaded, export, date)
        try:
            yield from _of_token(loaded, export, plan, now_s)
            yield from _destination(loaded, export, plan, options, spool)
        except RivetFleetError as error:
            yield from_error(
                error,
                f"destination of {export.name}",
                DoctorCode.DESTINATION_REFUSED,
                DoctorCode.DESTINATION_UNAVAILABLE,
                "no file of the export could be delivered",
            )


def _of_token(
    loaded: LoadedConfig, export: ExportConfig, plan: DestinationPlan, now_s: float
) -> Iterator[DoctorFinding]:
    held = {name: loaded.environ.get(text, "") for name, text in plan.options.items()}
    ends_s = loaded.destinations[plan.kind].expires_s(held)
    if ends_s is not None and 0 < ends_s - now_s < _TOKEN_GOOD_S:
        yield DoctorFinding(
            code=DoctorCode.DESTINATION_EXPIRES,
            gravity=Gravity.WARNING,
            subject=f"destination of {export.name}",
            what=f"the token for {plan.prefix} ends in {(ends_s - now_s) / 60:.0f} minutes",
            why="workers that are still delivering then end as unfit; nothing is lost",
            hint="make a longer one, or give the workers an identity",
        )


def _destination(
    loaded: LoadedConfig,
    export: ExportConfig,
    plan: DestinationPlan,
    options: ProcessOptions,
    spool: Path,
) -> Iterator[DoctorFinding]:
    subject = f"destination of {export.name}"
    for name in loaded.destinations[plan.kind].redirects:
        if name in loaded.environ:
            yield DoctorFinding(
                code=DoctorCode.DESTINATION_REDIRECT,
                gravity=Gravity.WARNING,
                subject=subject,
                what=f"{name} is set, and has no say here: {plan.prefix} is where it goes",
                why="other programs of this environment go where the variable says",
                hint="to go there, write the destination's own setting (endpoint); else unset it",
            )
    with (
        contextlib.closing(
            open_planned_destination(loaded, options, plan, create=True)
        ) as destination,
        destination.rehearsal() as tried,
    ):
        tried.check()
        refuse_others_folder(destination, options.namespace, export.name)
        free = tried.free_bytes()
        only = creates_only(tried, spool)
        room = "" if free is None else f", {free // (1024 * 1024):,} MB are free"
        yield DoctorFinding(
            code=DoctorCode.DESTINATION_WRITABLE if only else DoctorCode.DESTINATION_OVERWRITES,
            gravity=Gravity.OK if only else Gravity.ERROR,
            subject=subject,
            what=f"{destination.uri}: "
            + (f"written, and nothing is overwritten{room}" if only else "a file was overwritten"),
            why="" if only else "two workers could deliver one chunk twice",
            hint=None if only else "use a filesystem that refuses to link to an existing name",
        )
        yield from of_space(free, subject, DoctorCode.DESTINATION_SPACE_LOW)
        if only and not tried.exclusive:
            yield DoctorFinding(
                code=DoctorCode.DESTINATION_UNCONDITIONAL,
                gravity=Gravity.INFO,
                subject=subject,
                what="the service ignores conditions: each name is looked at before it is written",
                why="only a stranger who writes the same name in that instant could be overwritten",
            )
