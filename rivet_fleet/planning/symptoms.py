"""From what was seen to findings: what it is, why it matters, what to do. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from rivet_fleet.contracts.doctor import (
    DoctorCode,
    DoctorFinding,
    Gravity,
    HostLimits,
    StateHealth,
)
from rivet_fleet.contracts.facts import NoteKind, ServerFacts, SourceNote
from rivet_fleet.errors import RetryClass, RivetFleetError
from rivet_fleet.planning.config.fields import MIB
from rivet_fleet.planning.config.protection import COORDINATOR_BYTES

CLOCK_SKEW_MAX_S = 5.0
CONNECTIONS_SPARE = 3
OPEN_FILES_LEAST = 256
SPACE_BYTES_LEAST = 1024 * MIB

_NOTES: dict[NoteKind, tuple[DoctorCode, Gravity]] = {
    NoteKind.POOLER: (DoctorCode.SOURCE_POOLER, Gravity.WARNING),
    NoteKind.REPLICA: (DoctorCode.SOURCE_REPLICA, Gravity.INFO),
    NoteKind.OLD_VERSION: (DoctorCode.SOURCE_OLD_VERSION, Gravity.WARNING),
    NoteKind.UNCHECKED_TEXT: (DoctorCode.SOURCE_UNCHECKED_TEXT, Gravity.WARNING),
    NoteKind.POWERFUL_USER: (DoctorCode.SOURCE_POWERFUL_USER, Gravity.WARNING),
    NoteKind.HIDDEN_ROWS: (DoctorCode.SOURCE_HIDDEN_ROWS, Gravity.WARNING),
}


def from_error(
    error: RivetFleetError, subject: str, permanent: DoctorCode, passing: DoctorCode, why: str
) -> DoctorFinding:
    """An error as a finding: ``passing`` where trying again later may help."""
    retryable = error.retry is not RetryClass.PERMANENT
    return DoctorFinding(
        code=passing if retryable else permanent,
        gravity=Gravity.ERROR,
        subject=subject,
        what=error.message,
        why=why,
        hint=error.hint,
        detail_code=error.code,
        retryable=retryable,
    )


def from_note(note: SourceNote, subject: str) -> DoctorFinding:
    """What an engine had to say."""
    code, gravity = _NOTES[note.kind]
    return DoctorFinding(
        code=code, gravity=gravity, subject=subject, what=note.what, why=note.why, hint=note.hint
    )


def of_server(
    server: ServerFacts, subject: str, *, loopback: bool, readers: int
) -> Iterator[DoctorFinding]:
    """Version, encryption, connections and the engine's notes. ``readers``: how many
    connections the fleet may open to it."""
    yield DoctorFinding(
        code=DoctorCode.SOURCE_CONNECTED,
        gravity=Gravity.OK,
        subject=subject,
        what=f"{server.engine} {server.version}, database {server.database}, as {server.user}",
    )
    if server.tls is not None:
        yield DoctorFinding(
            code=DoctorCode.SOURCE_ENCRYPTED,
            gravity=Gravity.OK,
            subject=subject,
            what=f"the connection is encrypted ({server.tls})",
        )
    else:
        yield DoctorFinding(
            code=DoctorCode.SOURCE_NOT_ENCRYPTED,
            gravity=Gravity.INFO if loopback else Gravity.WARNING,
            subject=subject,
            what="the connection is not encrypted",
            why="it stays on this machine"
            if loopback
            else "rows and passwords can be read on the way",
            hint=None if loopback else "tls: {mode: verify-full}",
        )
    yield _connections(server, subject, readers)
    for note in server.notes:
        yield from_note(note, subject)


def _connections(server: ServerFacts, subject: str, readers: int) -> DoctorFinding:
    most, used = server.connections_max, server.connections_used
    if most is None:
        return DoctorFinding(
            code=DoctorCode.SOURCE_CONNECTIONS_UNKNOWN,
            gravity=Gravity.WARNING if readers > 1 else Gravity.INFO,
            subject=subject,
            what=f"the server's limit of connections is not known; up to {readers} are opened",
            why="an application may be refused when they are used up",
            hint="bound them: source_groups with max_running_chunks",
        )
    free = most - (used or 0)
    seen = f"{used} of {most} are in use now" if used is not None else f"at most {most}"
    if readers < most and readers <= free:
        return DoctorFinding(
            code=DoctorCode.SOURCE_CONNECTIONS,
            gravity=Gravity.OK,
            subject=subject,
            what=f"up to {readers} connections are opened; {seen}",
        )
    wanted = max(min(most - CONNECTIONS_SPARE, free), 1)
    return DoctorFinding(
        code=DoctorCode.SOURCE_CONNECTIONS_LOW,
        gravity=Gravity.WARNING,
        subject=subject,
        what=f"up to {readers} connections are opened; {seen}",
        why="workers would be turned away, and so would the application",
        hint=f"campaign.workers: {wanted}, or source_groups with max_running_chunks: {wanted}",
    )


def of_rivets_state(cursors: Collection[str]) -> Iterator[DoctorFinding]:
    """Where Rivet has run beside the configuration; ``cursors``: exports that it has read."""
    if cursors:
        yield DoctorFinding(
            code=DoctorCode.STATE_OF_RIVET,
            gravity=Gravity.INFO,
            subject="state",
            what=f"Rivet's own state lies in this folder, with cursors of {', '.join(cursors)}",
            why="it is left alone: an incremental export without a mark here reads everything",
            hint="`rivet-fleet state import` goes on where Rivet stopped",
        )


def of_state(health: StateHealth, *, now_s: float) -> Iterator[DoctorFinding]:
    """Schema, rights and clock of the state database. ``now_s`` is this machine's clock."""
    yield _schema(health)
    if health.obstacle is not None:
        yield DoctorFinding(
            code=DoctorCode.STATE_NOT_WRITABLE,
            gravity=Gravity.ERROR,
            subject="state",
            what=health.obstacle,
            why="every claim and every commit is written there",
            hint="give the state user the rights of an owner, and no standby",
        )
    if health.one_host:
        yield DoctorFinding(
            code=DoctorCode.STATE_ONE_HOST,
            gravity=Gravity.INFO,
            subject="state",
            what="a SQLite file: workers of one host only",
            why="its locks do not hold across machines",
            hint="state: {url_env: …} with a PostgreSQL URL, for workers elsewhere",
        )
    if health.encryption:
        yield DoctorFinding(
            code=DoctorCode.STATE_ENCRYPTED,
            gravity=Gravity.OK,
            subject="state",
            what=f"the way there is encrypted ({health.encryption})",
        )
    elif health.encryption is not None:
        yield DoctorFinding(
            code=DoctorCode.STATE_NOT_ENCRYPTED,
            gravity=Gravity.INFO,
            subject="state",
            what="the way there is not encrypted",
            why="plans, marks and the state's password travel on it in clear",
            hint="nothing to do on this machine; else sslmode=verify-full in the state's URL",
        )
    for schema, role in health.makers:
        yield DoctorFinding(
            code=DoctorCode.STATE_SCHEMA_OPEN,
            gravity=Gravity.WARNING,
            subject="state",
            what=f"{role} may make objects in schema {schema}, where names of the state are sought",
            why="an operator or a function made there can run with the rights of the state's user",
            hint=f"REVOKE CREATE ON SCHEMA {schema} FROM {role}, or a database of its own",
        )
    skew_s = 0.0 if health.now_s is None else health.now_s - now_s
    if abs(skew_s) > CLOCK_SKEW_MAX_S:
        yield DoctorFinding(
            code=DoctorCode.STATE_CLOCK_SKEW,
            gravity=Gravity.WARNING,
            subject="state",
            what=f"its clock is {skew_s:+.0f} s from this machine's",
            why="leases go by the database's clock alone and hold; campaign ids, {date} and "
            "`validate`'s ages go by this machine's",
            hint="let both follow the same time server",
        )


def of_namespace(
    health: StateHealth, namespace: str | None, sources: Sequence[str]
) -> Iterator[DoctorFinding]:
    """Whose part of the state this is; None: nothing says it where others may be. ``sources``:
    where this configuration reads, as ``CampaignIdentity.sources``."""
    if namespace is None:
        yield DoctorFinding(
            code=DoctorCode.STATE_NAMESPACE_MISSING,
            gravity=Gravity.ERROR,
            subject="state",
            what="nothing says whose campaigns these are",
            why="several teams may use one server, and no command guesses",
            hint="state: {namespace: …}, --namespace or RIVET_FLEET_NAMESPACE; what programs "
            "without namespaces have stored is in `default`",
        )
        return
    yield DoctorFinding(
        code=DoctorCode.STATE_NAMESPACE,
        gravity=Gravity.OK,
        subject="state",
        what=f"namespace {namespace}",
    )
    for source in sources:
        if source in health.read_by_others:
            yield DoctorFinding(
                code=DoctorCode.STATE_SOURCE_SHARED,
                gravity=Gravity.WARNING,
                subject="state",
                what=f"another namespace reads {source}, too",
                why="a source group's budget is one namespace's: the source bears the sum",
                hint="grant each a part of what the source can give",
            )


def _schema(health: StateHealth) -> DoctorFinding:
    stored, known = health.schema_version, health.known_version
    if stored == known:
        return DoctorFinding(
            code=DoctorCode.STATE_READY,
            gravity=Gravity.OK,
            subject="state",
            what=f"{health.target}: schema version {stored}",
        )
    if stored is None:
        return DoctorFinding(
            code=DoctorCode.STATE_ABSENT,
            gravity=Gravity.INFO,
            subject="state",
            what=f"{health.target}: nothing there yet",
            why="run and submit create it; no former run can be learned from",
        )
    if stored < known:
        return DoctorFinding(
            code=DoctorCode.STATE_OLD,
            gravity=Gravity.WARNING,
            subject="state",
            what=f"{health.target}: schema version {stored}, this program needs {known}",
            why="run and submit migrate it; programs of the old version stop then",
            hint="rivet-fleet state migrate, when no older worker runs",
        )
    return DoctorFinding(
        code=DoctorCode.STATE_NEWER,
        gravity=Gravity.ERROR,
        subject="state",
        what=f"{health.target}: schema version {stored}, this program knows {known}",
        why="an older program must not write a newer schema",
        hint="upgrade rivet-fleet on this machine",
    )


def of_space(free_bytes: int | None, subject: str, code: DoctorCode) -> Iterator[DoctorFinding]:
    """Little free space at a destination or in the spool folder; nothing when unknown."""
    if free_bytes is None or free_bytes >= SPACE_BYTES_LEAST:
        return
    yield DoctorFinding(
        code=code,
        gravity=Gravity.WARNING,
        subject=subject,
        what=f"{free_bytes // MIB:,} MB are free",
        why=f"less than {SPACE_BYTES_LEAST // MIB:,} MB: a chunk that does not fit is tried again "
        "until its attempts are spent",
        hint="make room, or choose another place",
    )


def of_decoder(engine: str, *, compiled: bool) -> DoctorFinding:
    """Whether an engine's values are decoded by compiled code."""
    if compiled:
        return DoctorFinding(
            code=DoctorCode.HOST_DECODER_COMPILED,
            gravity=Gravity.OK,
            subject="host",
            what=f"the decoder for {engine} is compiled",
        )
    return DoctorFinding(
        code=DoctorCode.HOST_DECODER_SLOW,
        gravity=Gravity.WARNING,
        subject="host",
        what=f"the decoder for {engine} is not compiled",
        why="the plain one reads the same values at a tenth of the speed",
        hint="install a C compiler and Python's headers, then reinstall rivet-fleet",
    )


def of_host(limits: HostLimits, *, workers: int, worker_memory_mb: int) -> Iterator[DoctorFinding]:
    """Open files and memory, against what this host's workers may take."""
    enough = limits.open_files >= OPEN_FILES_LEAST
    yield DoctorFinding(
        code=DoctorCode.HOST_OPEN_FILES if enough else DoctorCode.HOST_OPEN_FILES_LOW,
        gravity=Gravity.OK if enough else Gravity.WARNING,
        subject="host",
        what=f"a process may open {limits.open_files:,} files",
        why="" if enough else f"less than {OPEN_FILES_LEAST}: connections and files count",
        hint=None if enough else f"ulimit -n {4 * OPEN_FILES_LEAST}",
    )
    wanted = workers * worker_memory_mb * MIB + COORDINATOR_BYTES
    fits = wanted <= limits.memory_bytes
    yield DoctorFinding(
        code=DoctorCode.HOST_MEMORY if fits else DoctorCode.HOST_MEMORY_LOW,
        gravity=Gravity.OK if fits else Gravity.WARNING,
        subject="host",
        what=f"{workers} workers of {worker_memory_mb} MB and a coordinator take up to "
        f"{wanted // MIB:,} MB; {limits.memory_bytes // MIB:,} MB are free",
        why="" if fits else "the kernel ends processes when memory is used up",
        hint=None if fits else "lower campaign.workers or campaign.worker_memory_mb",
    )
