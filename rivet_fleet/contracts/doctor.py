"""What ``doctor`` may find, by name: stable codes, documented in docs/reference/doctor.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

DOCTOR_VERSION = 1


class Gravity(Enum):
    """How much a finding matters; only an error keeps a run from succeeding."""

    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class DoctorCode(Enum):
    """What was found. Codes may be added; none is renamed."""

    CONFIG_LOADED = "RIVET_CONFIG_LOADED"
    CONFIG_INVALID = "RIVET_CONFIG_INVALID"
    CONFIG_ADVICE = "RIVET_CONFIG_ADVICE"
    CONFIG_CONNECTION_INVALID = "RIVET_CONFIG_CONNECTION_INVALID"
    SOURCE_CONNECTED = "RIVET_SOURCE_CONNECTED"
    SOURCE_UNREACHABLE = "RIVET_SOURCE_UNREACHABLE"
    SOURCE_REFUSED = "RIVET_SOURCE_REFUSED"
    SOURCE_OLD_VERSION = "RIVET_SOURCE_OLD_VERSION"
    SOURCE_ENCRYPTED = "RIVET_SOURCE_ENCRYPTED"
    SOURCE_NOT_ENCRYPTED = "RIVET_SOURCE_NOT_ENCRYPTED"
    SOURCE_POOLER = "RIVET_SOURCE_POOLER"
    SOURCE_REPLICA = "RIVET_SOURCE_REPLICA"
    SOURCE_UNCHECKED_TEXT = "RIVET_SOURCE_UNCHECKED_TEXT"
    SOURCE_POWERFUL_USER = "RIVET_SOURCE_POWERFUL_USER"
    SOURCE_CONNECTIONS = "RIVET_SOURCE_CONNECTIONS"
    SOURCE_CONNECTIONS_LOW = "RIVET_SOURCE_CONNECTIONS_LOW"
    SOURCE_CONNECTIONS_UNKNOWN = "RIVET_SOURCE_CONNECTIONS_UNKNOWN"
    SOURCE_READABLE = "RIVET_SOURCE_READABLE"
    SOURCE_EXPORT_REFUSED = "RIVET_SOURCE_EXPORT_REFUSED"
    SOURCE_EXPORT_UNKNOWN = "RIVET_SOURCE_EXPORT_UNKNOWN"
    PLAN_REFUSED = "RIVET_PLAN_REFUSED"
    SOURCE_HIDDEN_ROWS = "RIVET_SOURCE_HIDDEN_ROWS"
    SOURCE_SIGNAL_READABLE = "RIVET_SOURCE_SIGNAL_READABLE"
    SOURCE_SIGNAL_UNREADABLE = "RIVET_SOURCE_SIGNAL_UNREADABLE"
    STATE_READY = "RIVET_STATE_READY"
    STATE_ABSENT = "RIVET_STATE_ABSENT"
    STATE_OLD = "RIVET_STATE_OLD"
    STATE_NEWER = "RIVET_STATE_NEWER"
    STATE_UNREACHABLE = "RIVET_STATE_UNREACHABLE"
    STATE_REFUSED = "RIVET_STATE_REFUSED"
    STATE_NOT_WRITABLE = "RIVET_STATE_NOT_WRITABLE"
    STATE_ONE_HOST = "RIVET_STATE_ONE_HOST"
    STATE_ENCRYPTED = "RIVET_STATE_ENCRYPTED"
    STATE_NOT_ENCRYPTED = "RIVET_STATE_NOT_ENCRYPTED"
    STATE_SCHEMA_OPEN = "RIVET_STATE_SCHEMA_OPEN"
    STATE_CLOCK_SKEW = "RIVET_STATE_CLOCK_SKEW"
    STATE_NAMESPACE = "RIVET_STATE_NAMESPACE"
    STATE_NAMESPACE_MISSING = "RIVET_STATE_NAMESPACE_MISSING"
    STATE_SOURCE_SHARED = "RIVET_STATE_SOURCE_SHARED"
    STATE_OF_RIVET = "RIVET_STATE_OF_RIVET"
    DESTINATION_WRITABLE = "RIVET_DESTINATION_WRITABLE"
    DESTINATION_REFUSED = "RIVET_DESTINATION_REFUSED"
    DESTINATION_UNAVAILABLE = "RIVET_DESTINATION_UNAVAILABLE"
    DESTINATION_OVERWRITES = "RIVET_DESTINATION_OVERWRITES"
    DESTINATION_UNCONDITIONAL = "RIVET_DESTINATION_UNCONDITIONAL"
    DESTINATION_REDIRECT = "RIVET_DESTINATION_REDIRECT"
    DESTINATION_EXPIRES = "RIVET_DESTINATION_EXPIRES"
    DESTINATION_SPACE_LOW = "RIVET_DESTINATION_SPACE_LOW"
    SPOOL_WRITABLE = "RIVET_SPOOL_WRITABLE"
    SPOOL_REFUSED = "RIVET_SPOOL_REFUSED"
    SPOOL_SPACE_LOW = "RIVET_SPOOL_SPACE_LOW"
    HOST_DECODER_COMPILED = "RIVET_HOST_DECODER_COMPILED"
    HOST_DECODER_SLOW = "RIVET_HOST_DECODER_SLOW"
    HOST_OPEN_FILES = "RIVET_HOST_OPEN_FILES"
    HOST_OPEN_FILES_LOW = "RIVET_HOST_OPEN_FILES_LOW"
    HOST_MEMORY = "RIVET_HOST_MEMORY"
    HOST_MEMORY_LOW = "RIVET_HOST_MEMORY_LOW"


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorFinding:
    """One finding about one subject (``source shop``, ``export orders``, ``state`` …).

    ``what`` was found, ``why`` it matters, ``hint`` is what to do. ``detail_code`` is the code
    of the error it comes from, if any. ``retryable``: the same may be fine a little later.
    """

    code: DoctorCode
    gravity: Gravity
    subject: str
    what: str
    why: str = ""
    hint: str | None = None
    detail_code: str | None = None
    retryable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorReport:
    """Everything that was found, in the order it was looked at."""

    config_path: str
    all_ok: bool
    findings: tuple[DoctorFinding, ...]
    doctor_version: int = DOCTOR_VERSION


def report_of(config_path: str, findings: Sequence[DoctorFinding]) -> DoctorReport:
    """``all_ok`` is False when any finding is an error."""
    return DoctorReport(
        config_path=config_path,
        all_ok=all(one.gravity is not Gravity.ERROR for one in findings),
        findings=tuple(findings),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StateHealth:
    """The state database as it is, without migrating it.

    ``schema_version`` None: there is none yet. ``obstacle`` says why it cannot be written.
    ``now_s`` None where there is nothing to ask yet.
    """

    target: str
    schema_version: str | None
    known_version: str
    one_host: bool
    now_s: float | None
    obstacle: str | None = None
    encryption: str | None = None
    """What encrypts the way to a server; empty: nothing. None: a file, or it does not say."""
    read_by_others: frozenset[str] = frozenset()
    """Sources that campaigns of other namespaces read."""
    makers: tuple[tuple[str, str], ...] = ()
    """Who else may make objects where the state's names are looked up: (schema, role)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLimits:
    """What this machine allows one process, and all of them together."""

    open_files: int
    memory_bytes: int
    cores: int = 1
    """That this process may use."""
