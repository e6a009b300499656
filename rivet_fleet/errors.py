"""Every error a user can meet: one tree, a retry class and an exit code for each type.

::

    RivetFleetError                 1
    ├── UsageError                  1   the command line itself is wrong
    ├── ConfigError                 1   the configuration is wrong; nothing was started
    ├── SourceError                 1
    │   ├── SourceUnavailable       2   cannot reach it, or it went away; a new connection may work
    │   ├── SourceBusy              2   it asks for patience: deadlock, resources
    │   │   └── RelationLocked      2   somebody holds a lock on the one relation that is asked for
    │   ├── SourceRefused           1   wrong credentials, no privilege, missing table, bad SQL
    │   ├── StatementTimeout        1   a statement ran into its limit; only a smaller page is tried
    │   ├── UnsupportedType         1   columns that cannot be carried exactly
    │   ├── ValueTooLarge           1   one value is larger than the worker may hold
    │   └── MalformedData           3   bytes from the server do not follow its own format
    ├── DestinationError            1
    │   ├── DestinationUnavailable  2   may work later
    │   ├── DestinationRefused      1   not writable, wrong path, no privilege
    │   └── DestinationFull         2   no space left
    ├── StateError                  1
    │   ├── StateUnavailable        2   cannot reach the state database, or it is busy for too long
    │   └── StateRefused            1   schema newer or older than the program, wrong use
    ├── DataIntegrityError          3   what is stored is not what was written
    │   └── StateTampered           3   the state holds something else than what was sealed
    ├── SchemaDrift                 4   the source's shape is not the planned one
    ├── CampaignIncomplete          5   finished, but some chunks failed for good
    ├── StopRequested               6   stopped gracefully; resumable
    ├── WorkerUnfit                 9   this process cannot do the campaign's work; others may
    └── LeaseLost                   2   another worker owns the chunk now; never shown as a failure

Exit codes 0 to 4 keep the meanings they have in Rivet. Imports nothing of the package.
"""

from __future__ import annotations

from enum import Enum, IntEnum


class ExitCode(IntEnum):
    """What the process tells its caller. Documented in docs/reference/exit-codes.md."""

    OK = 0
    GENERIC = 1
    RETRYABLE = 2
    DATA_INTEGRITY = 3
    SCHEMA_DRIFT = 4
    INCOMPLETE = 5
    STOPPED = 6
    RECYCLE = 7
    """A worker above its memory ceiling asks its supervisor for a fresh process."""
    HUNG = 8
    """A worker ended itself because its chunk made no progress."""
    UNFIT = 9
    """A process cannot do the work of the campaign: its own defect, no chunk's."""
    HALTED = 10
    """A governor stopped the campaign: nobody but an operator goes on, so nothing that starts
    processes again should."""


class RetryClass(Enum):
    """What a retry may hope for."""

    PERMANENT = "permanent"
    TRANSIENT = "transient"
    RECONNECT = "reconnect"


class Kind(Enum):
    """Whose business a stop is: what a scheduler routes by."""

    USAGE = "usage"
    CONFIGURATION = "configuration"
    SOURCE = "source"
    DESTINATION = "destination"
    STATE = "state"
    INTEGRITY = "integrity"
    DRIFT = "drift"
    INCOMPLETE = "incomplete"
    STOPPED = "stopped"
    HOST = "host"
    """This process or machine lacks something; others may not."""
    INTERNAL = "internal"


class RivetFleetError(Exception):
    """What happened, to what, and what to do next.

    ``message`` says what happened and to what; ``hint`` what to do next; ``code`` is a
    stable machine-readable name (``contracts/codes.py``). ``extra_delay_s`` is added to the
    backoff. ``unmasked`` is the message with a row's values, where ``message`` leaves them out.
    """

    exit_code: ExitCode = ExitCode.GENERIC
    retry: RetryClass = RetryClass.PERMANENT
    kind: Kind = Kind.INTERNAL
    code_default: str = "RIVET_UNEXPECTED"
    """The code of errors that were raised without one."""
    received_bytes: int = 0
    """Received in vain of a source's answers that this came of: rows of pages left out, and 0
    unless they were far larger than answers are."""

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        code: str | None = None,
        retry: RetryClass | None = None,
        extra_delay_s: float = 0.0,
        unmasked: str | None = None,
    ) -> None:
        super().__init__(message)
        self.unmasked = unmasked
        self.message = message
        self.hint = hint
        self.code = code or self.code_default
        self.extra_delay_s = extra_delay_s
        if retry is not None:
            self.retry = retry

    @property
    def error_class(self) -> str:
        """The name stored in the state database and shown by ``status``."""
        return type(self).__name__


class UsageError(RivetFleetError):
    """The command line itself is wrong."""

    kind = Kind.USAGE
    code_default = "RIVET_USAGE"


class ConfigError(RivetFleetError):
    """The configuration is wrong; nothing was started."""

    kind = Kind.CONFIGURATION
    code_default = "RIVET_CONFIG_INVALID"


class SourceError(RivetFleetError):
    """The source database could not be read."""

    kind = Kind.SOURCE
    code_default = "RIVET_SOURCE_FAILED"
    connected: bool = True
    """False when no connection could be made: nothing was asked of the source, so whatever was
    about to be asked is not to blame."""


class SourceUnavailable(SourceError):
    """The source cannot be reached or went away."""

    exit_code = ExitCode.RETRYABLE
    retry = RetryClass.RECONNECT
    code_default = "RIVET_SOURCE_UNREACHABLE"


class SourceBusy(SourceError):
    """The source is there but asks for patience."""

    exit_code = ExitCode.RETRYABLE
    retry = RetryClass.TRANSIENT
    code_default = "RIVET_SOURCE_BUSY"


class RelationLocked(SourceBusy):
    """Somebody holds a lock on what is to be read: that relation asks for patience, not the
    source."""

    code_default = "RIVET_RELATION_LOCKED"


class SourceRefused(SourceError):
    """The source said no: credentials, privilege, missing object, bad SQL."""

    code_default = "RIVET_SOURCE_REFUSED"


class StatementTimeout(SourceError):
    """A statement ran into its limit, or was cancelled. Repeating it as it was would only hurt
    the source again; a smaller page may do."""

    code_default = "RIVET_SOURCE_STATEMENT_TIMEOUT"


class UnsupportedType(SourceError):
    """Columns that cannot be carried exactly; every one of them is listed."""

    code_default = "RIVET_TYPE_UNSUPPORTED"


class ValueTooLarge(SourceError):
    """One value is larger than the worker may hold."""

    code_default = "RIVET_VALUE_TOO_LARGE"


class MalformedData(SourceError):
    """Bytes from the server do not follow its own format."""

    exit_code = ExitCode.DATA_INTEGRITY
    kind = Kind.INTEGRITY
    code_default = "RIVET_SOURCE_MALFORMED"


class DestinationError(RivetFleetError):
    """The destination could not be written or read."""

    kind = Kind.DESTINATION
    code_default = "RIVET_DESTINATION_FAILED"
    spool: bool = False
    """True for the spool: a folder of this host, and no destination of anybody else."""


class DestinationUnavailable(DestinationError):
    """The destination may work later."""

    exit_code = ExitCode.RETRYABLE
    retry = RetryClass.TRANSIENT
    code_default = "RIVET_DESTINATION_UNAVAILABLE"


class DestinationRefused(DestinationError):
    """The destination said no: path, privilege."""

    code_default = "RIVET_DESTINATION_REFUSED"


class DestinationFull(DestinationError):
    """No space left at the destination (or in the spool directory)."""

    exit_code = ExitCode.RETRYABLE
    retry = RetryClass.TRANSIENT
    code_default = "RIVET_NO_SPACE"
    needed_bytes: int = 0
    """Of the chunk's files, where that is known."""
    passing: bool = True
    """False for a file that is too large for where it should be: room would not help."""


class StateError(RivetFleetError):
    """The state database could not do what was asked."""

    kind = Kind.STATE
    code_default = "RIVET_STATE_FAILED"


class StateUnavailable(StateError):
    """The state database cannot be reached, or is busy for longer than we wait."""

    exit_code = ExitCode.RETRYABLE
    retry = RetryClass.RECONNECT
    code_default = "RIVET_STATE_UNREACHABLE"


class StateRefused(StateError):
    """The state database must not be used this way (schema version, sharing, wrong verb)."""

    code_default = "RIVET_STATE_REFUSED"


class DataIntegrityError(RivetFleetError):
    """What is stored is not what was written."""

    exit_code = ExitCode.DATA_INTEGRITY
    kind = Kind.INTEGRITY
    code_default = "RIVET_DATA_INTEGRITY"


class StateTampered(DataIntegrityError):
    """The state database holds something else than what was sealed: nobody may act by it."""

    code_default = "RIVET_STATE_TAMPERED"


class SchemaDrift(RivetFleetError):
    """The source's shape is not the planned one."""

    exit_code = ExitCode.SCHEMA_DRIFT
    kind = Kind.DRIFT
    code_default = "RIVET_SCHEMA_DRIFT"


class CampaignIncomplete(RivetFleetError):
    """The campaign is over, but some chunks failed for good."""

    exit_code = ExitCode.INCOMPLETE
    kind = Kind.INCOMPLETE
    code_default = "RIVET_CAMPAIGN_INCOMPLETE"


class StopRequested(RivetFleetError):
    """Stopped gracefully before the end; resumable."""

    exit_code = ExitCode.STOPPED
    kind = Kind.STOPPED
    code_default = "RIVET_STOPPED"


class WorkerUnfit(RivetFleetError):
    """This process cannot do the campaign's work: its own configuration, credentials, folders or
    version. Nothing is wrong with any chunk: none has failed, and no attempt is spent."""

    exit_code = ExitCode.UNFIT
    kind = Kind.HOST
    code_default = "RIVET_WORKER_UNFIT"


class LeaseLost(RivetFleetError):
    """Another worker owns the chunk now (F1). Not a failure of the chunk."""

    exit_code = ExitCode.RETRYABLE
    retry = RetryClass.TRANSIENT
    kind = Kind.STATE
    code_default = "RIVET_LEASE_LOST"
