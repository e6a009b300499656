"""Putting a process of the fleet together: the only place that names every layer's parts."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from rivet_fleet.contracts.clock import Clock, SystemClock
from rivet_fleet.contracts.destination import without_secrets
from rivet_fleet.contracts.doctor import HostLimits
from rivet_fleet.contracts.events import Emit, Event, EventName
from rivet_fleet.contracts.identity import NAMESPACE_DEFAULT
from rivet_fleet.contracts.keys import CampaignId, WorkerId
from rivet_fleet.contracts.manifest import MANIFEST_NAME
from rivet_fleet.contracts.plan import DestinationPlan
from rivet_fleet.contracts.protection import MonitorPlan
from rivet_fleet.contracts.seals import EVERYTHING, Allowed
from rivet_fleet.contracts.url import redact
from rivet_fleet.coordination.fitness import (
    Defect,
    refuse_source,
    refuse_state,
    tell_unfit,
    unfit,
    within_allowed,
)
from rivet_fleet.coordination.fleet import (
    Fleet,
    FleetSettings,
    Patience,
    StopFlag,
    await_campaign,
    install,
    pid_started_at_s,
    process_alive,
    stop_with_parent,
    this_process,
)
from rivet_fleet.coordination.governor import Governor
from rivet_fleet.coordination.heartbeat import Heartbeat, HeartbeatLimits
from rivet_fleet.coordination.sampler import GovernorLinks
from rivet_fleet.coordination.secrets import PrivateSource, questions, told_in_full
from rivet_fleet.coordination.worker import Worker
from rivet_fleet.errors import (
    ConfigError,
    DataIntegrityError,
    DestinationError,
    ExitCode,
    RivetFleetError,
    StateRefused,
)
from rivet_fleet.execution import registry
from rivet_fleet.execution.allocator import give_memory_back
from rivet_fleet.execution.destination import Destination
from rivet_fleet.execution.durable import (
    SpoolOwner,
    create_spool,
    filesystem_errors,
    make_root,
    spool_name,
)
from rivet_fleet.execution.parts import fingerprint_file
from rivet_fleet.execution.signals import SourceSignals
from rivet_fleet.execution.source import Source
from rivet_fleet.observability.journal import fan_out, journal_emit, log_emit
from rivet_fleet.persistence.migrate import SCHEMA_NONE, SCHEMA_OLD
from rivet_fleet.persistence.open import open_store, sqlite_path, store_exists
from rivet_fleet.persistence.rivet import is_rivets_file
from rivet_fleet.persistence.store import Store
from rivet_fleet.planning.config.connections import (
    FORMER_STATE_FILE,
    STATE_FILE,
    SourceConnection,
    beside,
    config_of_urls,
    own_names,
    seal_key,
    secrets_in_files,
    secrets_in_url,
    source_connection,
    spellings,
    state_url,
)
from rivet_fleet.planning.config.destinations import destination_connection
from rivet_fleet.planning.config.load import Installed, load_config
from rivet_fleet.planning.config.loaded import LoadedConfig
from rivet_fleet.planning.config.protection import Workers, workers_of
from rivet_fleet.verification.gc import sweep_spool
from rivet_fleet.verification.manifests import parse_manifest

_MB = 1024 * 1024
_LOOKS_EVERY_S = 1.0
GOVERNOR_PATIENCE_S = 5.0
"""How long a group is without a governor before a worker takes its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessOptions:
    """What the command line knows about this process."""

    name: str
    state_url: str | None = None
    namespace: str = NAMESPACE_DEFAULT
    worker_id: str | None = None
    host_id: str | None = None
    parent_pid: int | None = None
    allowed: Allowed = EVERYTHING
    """What it may read and write, whatever the state says."""


def load(path: Path, *, params: Mapping[str, str], environ: Mapping[str, str]) -> LoadedConfig:
    """The configuration, checked against the plug-ins that are there. Raises ConfigError."""
    return load_config(
        path,
        params=params,
        environ=environ,
        installed=Installed(
            engines=frozenset(registry.engine_names()),
            destinations=registry.destination_kinds(),
            formats=frozenset(registry.format_names()),
            engine_signals=lambda engine: frozenset(registry.signal_specs(engine)),
            default_ports=registry.default_ports(),
            place_parameters=registry.place_parameters,
        ),
    )


def load_urls(
    variables: Sequence[str],
    *,
    tls_mode: str | None,
    tls_ca_file: str | None,
    environ: Mapping[str, str],
    path: Path,
) -> LoadedConfig:
    """Sources alone, from environment variables that hold URLs. Raises ConfigError."""
    return config_of_urls(
        variables,
        tls_mode=tls_mode,
        tls_ca_file=tls_ca_file,
        environ=environ,
        engines=frozenset(registry.engine_names()),
        default_ports=registry.default_ports(),
        path=path,
    )


def redactor(
    loaded: LoadedConfig, *urls: str, hide: Callable[[str, tuple[str, ...]], str] = redact
) -> Callable[[str], str]:
    """Removes every known secret and everything that looks like one.

    ``hide``: how; ``hide_secrets`` leaves what only looks like one.
    ``urls``: what is in use although the configuration does not hold it. A secret that is part
    of a name of the configuration is hidden by its place alone: whoever reads the name there has
    read it, and a report without its names helps nobody."""
    further = [secret for url in urls for secret in secrets_in_url(url)]
    secrets = spellings([*loaded.secrets, *further, *secrets_in_files(loaded)])
    names = own_names(loaded)
    telling = tuple(one for one in secrets if not any(one in name for name in names))
    return lambda text: hide(text, telling)


def settings_of(loaded: LoadedConfig) -> FleetSettings:
    """The process's numbers from the configuration."""
    campaign = loaded.config.campaign
    default_spool = Path(tempfile.gettempdir()) / f"rivet-fleet-spool-{os.getuid()}"
    return FleetSettings(
        lease_ttl_s=campaign.lease_ttl_s,
        drain_grace_s=campaign.drain_grace_s,
        hang_timeout_s=campaign.hang_timeout_s,
        full_patience_s=campaign.full_patience_s,
        worker_memory_bytes=loaded.worker_memory_mb * _MB,
        spool_root=loaded.spool_dir or default_spool,
        row_values_shown=loaded.config.errors.row_values == "shown",
    )


def stream_place(loaded: LoadedConfig) -> Path | None:
    """Where this process keeps what it streams until that is whole; None where it streams nothing.
    Nothing is made; a name that a sweep removes when this process is gone."""
    if not loaded.streams:
        return None
    pid = os.getpid()
    owner = SpoolOwner(pid=pid, pid_started_at_s=pid_started_at_s(pid) or 0.0)
    return settings_of(loaded).spool_root / spool_name(owner, secrets.token_hex(4))


@contextlib.contextmanager
def held_stream(place: Path) -> Iterator[Callable[[], Path | None]]:
    """``stream_place`` for the length of a block, for this user alone. Gives what finds the one
    file that was delivered there, None where there was no row.

    Raises DestinationError where the place cannot be made, DataIntegrityError for several files.
    """
    make_root(place.parent)
    with filesystem_errors(place, "spool"):
        place.mkdir(mode=0o700)
    try:
        yield lambda: _only_file(place / "out")
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _only_file(folder: Path) -> Path | None:
    manifest = parse_manifest((folder / MANIFEST_NAME).read_bytes())
    if len(manifest.parts) > 1:
        raise DataIntegrityError(
            f"there are {len(manifest.parts)} files, and standard output is one",
            hint="write to a folder or a store",
        )
    for part in manifest.parts:
        path = folder / part.path
        if fingerprint_file(path) != part.digest.fingerprint:
            raise DataIntegrityError(f"{part.path} is not what its manifest says")
        return path
    return None


def open_fleet(
    loaded: LoadedConfig,
    options: ProcessOptions,
    *,
    migrate: bool,
    for_all: bool = False,
    wait_s: float = 0.0,
    create: bool = True,
) -> Fleet:
    """Store, clock, events and identity of one process.

    ``migrate``: bring the state schema to this program's version first (what begins or continues
    a campaign does, and an operator who asks for it, ``for_all`` namespaces; nobody else).
    ``wait_s``: how long the state database may be away, and, where it is not migrated, of no or of
    an older version.
    ``create``: whether a destination that is not there is made.
    Raises StateRefused, StateUnavailable.
    """
    clock = SystemClock()
    settings = settings_of(loaded)
    url = options.state_url or state_of(loaded)
    stop = StopFlag(clock, grace_s=settings.drain_grace_s)
    hide, key = redactor(loaded, url), seal_key(loaded)

    def heartbeat_store() -> Store:
        # A beat that hangs must leave time for the next one before the lease runs out.
        limit_s = max(2.0, settings.lease_ttl_s / 4)
        beside = open_store(
            url, namespace=options.namespace, seal_key=key, pool_size=1, answer_max_s=limit_s
        )
        beside.on_left_out(left_out)
        return beside

    store = open_store(url, namespace=options.namespace, seal_key=key)
    # To the log alone: the journal lies in the state that is not open yet.
    opening = Patience(clock, stop, _thread_emit(), limit_s=wait_s)
    try:
        opening.call(
            "open the state",
            lambda: (
                store.migrate(for_all=for_all) if migrate else _await_version(store, clock, wait_s)
            ),
        )
    except BaseException:
        store.close()
        raise
    emit = fan_out(log_emit(), journal_emit(store.write_journal, hide), on_error=_sink_failed)
    left_out = _each_once(emit)
    store.on_left_out(left_out)
    return Fleet(
        store=store,
        open_store=heartbeat_store,
        open_source=lambda name, identity: open_planned_source(loaded, options, name, identity),
        open_destination=lambda plan: open_planned_destination(
            loaded, options, plan, create=create
        ),
        emit=emit,
        clock=clock,
        stop=stop,
        identity=this_process(
            options.name,
            worker_id=WorkerId(options.worker_id) if options.worker_id else None,
            host=options.host_id,
        ),
        settings=settings,
        patience=Patience(clock, stop, emit, limit_s=settings.state_patience_s),
        redact=hide,
    )


_LEFT_OUT_MAX = 50
"""So many rows that were left out are told by one process."""


def _each_once(emit: Emit) -> Callable[[RivetFleetError], None]:
    told: set[str] = set()

    def tell(error: RivetFleetError) -> None:
        # Whoever writes rows must not make us keep, or tell, what they say for ever.
        if error.message not in told and len(told) < _LEFT_OUT_MAX:
            told.add(error.message)
            data = {"code": error.code}
            emit(Event(name=EventName.STATE_LEFT_OUT, message=error.message, data=data))

    return tell


def _await_version(store: Store, clock: Clock, wait_s: float) -> None:
    """Check the schema's version for as long as somebody may still bring it to this program's."""
    until_s = clock.monotonic_s() + wait_s
    told = False
    while True:
        try:
            return store.check_version()
        except StateRefused as refused:
            if refused.code not in (SCHEMA_NONE, SCHEMA_OLD) or clock.monotonic_s() >= until_s:
                raise
            if not told:
                _tell_waiting(refused.message)
                told = True
        time.sleep(_LOOKS_EVERY_S)


def _tell_waiting(why: str) -> None:
    said = f"open the state: {why}; waiting for what submits or migrates"
    data = {"attempt": 1, "error": why}
    _thread_emit()(Event(name=EventName.STATE_RETRIED, message=said, data=data))


def open_planned_destination(
    loaded: LoadedConfig, options: ProcessOptions, plan: DestinationPlan, *, create: bool
) -> Destination:
    """The planned destination, by this process's own configuration (and secrets).

    Raises WorkerUnfit when this process may not touch it, ConfigError when its own configuration
    does not deliver there, or a variable is missing.
    """
    held = within_allowed(options.allowed, plan)
    return registry.open_destination(destination_connection(loaded, held), create=create)


def state_of(loaded: LoadedConfig) -> str:
    """``state_url``, where an earlier version's file of ours is still found under its former name:
    Rivet's own state has the same. Raises ConfigError."""
    url, own = state_url(loaded), beside(loaded, STATE_FILE)
    former = beside(loaded, FORMER_STATE_FILE)
    if url != f"sqlite:///{own}" or own.exists() or not former.is_file():
        return url
    return url if is_rivets_file(former) else f"sqlite:///{former}"


def open_place(place: DestinationPlan, allowed: Allowed) -> Destination:
    """A place that nobody configured, by what this process's environment lets it in with. Raises
    WorkerUnfit when this process may not touch it."""
    return registry.open_destination(without_secrets(within_allowed(allowed, place)), create=False)


def open_existing_fleet(
    loaded: LoadedConfig,
    options: ProcessOptions,
    *,
    migrate: bool,
    wait_s: float = 0.0,
    create: bool = True,
) -> Fleet:
    """As ``open_fleet`` where a state is; looking for one never makes one.

    ``migrate``: an older schema is brought to this program's version. Raises StateRefused
    ``RIVET_STATE_ABSENT`` where there is none, which creates no file, no folder and no table.
    """
    url = options.state_url or state_of(loaded)
    if not store_exists(url):
        raise _no_state(str(sqlite_path(url)))
    try:
        return open_fleet(loaded, options, migrate=False, wait_s=wait_s, create=create)
    except StateRefused as refused:
        if refused.code == SCHEMA_NONE:
            raise _no_state(redactor(loaded, url)(url)) from None
        if not (migrate and refused.code == SCHEMA_OLD):
            raise
    return open_fleet(loaded, options, migrate=True, create=create)


def open_workers_fleet(loaded: LoadedConfig, options: ProcessOptions, *, wait_s: float) -> Fleet:
    """As ``open_existing_fleet``, for a worker: it migrates nothing, whoever else may use the
    state, and makes no folder of a missing mount (ADR 0023).

    ``wait_s``: how long the state may be away, or on its way to this program's version. Raises
    WorkerUnfit, StateRefused, StateUnavailable.
    """
    clock = SystemClock()
    until_s = clock.monotonic_s() + wait_s
    try:
        url = options.state_url or state_of(loaded)
        if wait_s > 0 and not store_exists(url):
            _tell_waiting("there is no state yet")
            while not store_exists(url) and clock.monotonic_s() < until_s:
                time.sleep(_LOOKS_EVERY_S)
        left_s = max(0.0, until_s - clock.monotonic_s())
        return open_existing_fleet(loaded, options, migrate=False, wait_s=left_s, create=False)
    except StateRefused as error:
        raise refuse_state(error) or error from None
    except ConfigError as error:
        raise unfit(Defect.CONFIGURATION, error) from None


def _no_state(where: str) -> StateRefused:
    return StateRefused(
        f"no campaign here (looked at {where})",
        hint="`rivet-fleet run` or `rivet-fleet submit` starts one; check -c, --state-url and "
        "RIVET_FLEET_STATE_URL if you expected one",
        code="RIVET_STATE_ABSENT",
    )


def open_planned_source(
    loaded: LoadedConfig, options: ProcessOptions, name: str, identity: str
) -> Source:
    """The connection a plan names, from this process's own configuration (and secrets).

    Raises ConfigError when it is another database than the planned one: a worker with a
    stale configuration must not read the wrong rows.
    """
    refuse_source(options.allowed, name, identity)
    connection = _planned_connection(loaded, name, identity)
    source = registry.open_source(
        connection.engine,
        connection.url,
        tls_mode=connection.tls_mode,
        tls_ca_file=connection.tls_ca_file,
        login=connection.login,
        application_name=f"rivet-fleet {options.name}",
    )
    private = PrivateSource(source, connection.engine, loaded)
    shown = loaded.config.errors.row_values == "shown"
    return told_in_full(private) if shown else private


def _planned_connection(loaded: LoadedConfig, name: str, identity: str) -> SourceConnection:
    connection = source_connection(loaded, name)
    if connection.identity != identity:
        raise ConfigError(
            f"source {name} is {connection.identity} here, but the campaign was planned on "
            f"{identity}",
            hint="give this process the configuration (and environment) of the campaign",
            code="RIVET_CONFIG_SOURCE_MISMATCH",
        )
    return connection


def signals_opener(
    loaded: LoadedConfig, options: ProcessOptions
) -> Callable[[str, str], SourceSignals]:
    """(source name, planned identity) → a monitoring connection of its own."""

    def open_signals(name: str, identity: str) -> SourceSignals:
        refuse_source(options.allowed, name, identity)
        connection = _planned_connection(loaded, name, identity)
        return registry.open_signals(
            connection.engine,
            connection.url,
            tls_mode=connection.tls_mode,
            tls_ca_file=connection.tls_ca_file,
            login=connection.login,
            application_name=f"rivet-fleet {options.name}",
        )

    return open_signals


def open_governor(
    loaded: LoadedConfig,
    options: ProcessOptions,
    fleet: Fleet,
    campaign_id: CampaignId,
    *,
    patience_s: float = 0.0,
) -> Governor | None:
    """What governs the campaign's source groups in this process; None when it has none."""
    groups = fleet.patience.call("look at source groups", lambda: fleet.store.groups(campaign_id))
    # Workers do not wait for a monitor that may come: that would be a connection for each.
    if not groups or (patience_s > 0 and not any(group.monitored for group in groups)):
        return None

    def counters(monitor: MonitorPlan) -> frozenset[str]:
        asked = {s.name: s.ask for s in monitor.signals if s.kind == "engine"}
        if not asked or monitor.source is None:
            return frozenset()
        specs = registry.signal_specs(source_connection(loaded, monitor.source).engine)
        return frozenset(n for n, ask in asked.items() if ask in specs and specs[ask].counter)

    links = GovernorLinks(
        open_store=fleet.open_store,
        open_signals=signals_opener(loaded, options),
        counters=counters,
        redact=fleet.redact,
        # Who bounds what a process reads has not meant that it calls anybody's URL.
        question=questions(loaded, own_urls=bool(options.allowed.sources)),
    )
    return Governor(
        links,
        campaign_id,
        fleet.identity,
        clock=fleet.clock,
        emit=_thread_emit(),
        patience_s=patience_s,
    )


def run_worker(
    loaded: LoadedConfig,
    options: ProcessOptions,
    campaign: CampaignId | None,
    *,
    wait_s: float = 0.0,
    exports: Sequence[str] = (),
) -> ExitCode:
    """One worker process, from the first connection to its exit code.

    ``wait_s``: how long the campaign may still be on its way (a pod that starts before the
    submitting one has finished). ``exports``: only chunks of these.
    """
    give_memory_back()
    fleet = open_workers_fleet(loaded, options, wait_s=wait_s)
    try:
        install(fleet.stop)
        if options.parent_pid is not None:
            stop_with_parent(fleet.stop)
        try:
            view = await_campaign(fleet, loaded, campaign, wait_s=wait_s)
        except StateRefused as error:
            raise refuse_state(error) or error from None
        if view is None:
            return ExitCode.STOPPED
        fleet = for_campaign(fleet, view.campaign_id)
        heartbeat = Heartbeat(
            fleet.open_store,
            fleet.identity,
            HeartbeatLimits(
                lease_ttl_s=fleet.settings.lease_ttl_s,
                hang_timeout_s=fleet.settings.hang_timeout_s,
                parent_pid=options.parent_pid,
                orphan_grace_s=fleet.settings.drain_grace_s + 5.0,
            ),
            clock=fleet.clock,
            emit=_thread_emit(),
            on_orphaned=fleet.stop.request,
        )
        try:
            with_spool = _own_spool(fleet)
        except DestinationError as error:
            raise tell_unfit(fleet, unfit(Defect.SPOOL, error)) from None
        heartbeat.start()
        governor = open_governor(
            loaded, options, fleet, view.campaign_id, patience_s=GOVERNOR_PATIENCE_S
        )
        if governor is not None:
            governor.start()
        try:
            code = Worker(fleet, heartbeat, view.campaign_id, with_spool, exports).run()
            fleet.tell(EventName.WORKER_STOPPED, exit_code=int(code))
            return code
        finally:
            if governor is not None:
                governor.close()
            heartbeat.close()
            # Behind the heartbeat's end: one more beat would make the row that is ended here live
            # again.
            _leave(fleet, with_spool)
    finally:
        fleet.close()


def _sink_failed(_sink: Emit, error: BaseException) -> None:
    """A listener that cannot listen is named once; what happened goes on."""
    logging.getLogger("rivet_fleet").warning(
        "telling failed: %s (every later event is tried anew)", type(error).__name__
    )


def _thread_emit() -> Emit:
    """The heartbeat's thread writes to the log only: the journal's connection is not its own."""
    return fan_out(log_emit(), on_error=_sink_failed)


def _own_spool(fleet: Fleet) -> Path:
    """A folder of this process alone; those of dead processes of this host are removed."""
    root = fleet.settings.spool_root
    make_root(root)
    sweep_spool(root, process_alive)
    return create_spool(root, fleet.identity.pid, fleet.identity.pid_started_at_s)


def _leave(fleet: Fleet, spool: Path) -> None:
    """Say goodbye: an ended worker row and no spool folder."""
    for path in spool.iterdir():
        path.unlink(missing_ok=True)
    spool.rmdir()
    fleet.patience.call(
        "say goodbye",
        lambda: fleet.store.reap_worker(fleet.identity.worker_id, "worker ended"),
    )


def local_clock() -> Clock:
    """The machine's clock, for commands that only show things."""
    return SystemClock()


def for_campaign(fleet: Fleet, campaign_id: CampaignId, *, name: str | None = None) -> Fleet:
    """The same process at work on one campaign: whatever it tells belongs to that campaign.

    ``name``: another name for the process (a coordinator is named after its campaign).
    """
    tell = fleet.emit

    def emit(event: Event) -> None:
        tell(event if event.campaign_id else replace(event, campaign_id=campaign_id))

    return replace(
        fleet,
        emit=emit,
        identity=replace(fleet.identity, name=name or fleet.identity.name),
        patience=Patience(fleet.clock, fleet.stop, emit, limit_s=fleet.settings.state_patience_s),
    )


# ------------------------------------------------------------------------------------------
# What this host lets its processes have.

_CGROUP = Path("/sys/fs/cgroup")


def host_limits() -> HostLimits:
    """Open files and cores of a process, and free memory: the machine's, or the container's if
    less."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = psutil.virtual_memory().available
    most, used = _cgroup("memory.max"), _cgroup("memory.current")
    if most is not None:
        free = min(free, max(most - (used or 0), 0))
    files = soft if soft != resource.RLIM_INFINITY else 1_000_000
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return HostLimits(open_files=files, memory_bytes=free, cores=cores or 1)


def _cgroup(name: str) -> int | None:
    try:
        text = (_CGROUP / name).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def workers_here(loaded: LoadedConfig, fleet: Fleet, campaign_id: CampaignId) -> Workers:
    """How many of them work on what is left of a campaign where nobody named a number."""
    runs = fleet.patience.call("read the runs", lambda: fleet.store.runs(campaign_id))
    left = sum(run.expected_tasks - run.counts.completed for run in runs)
    return workers_of(loaded, host_limits(), chunks=left)
