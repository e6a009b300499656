"""Every stop has a name: the one table of codes, behind errors, JSON failures and reference page.

A new code is a row here and the error that is raised with it; ``scripts/write_reference.py`` then
writes docs/reference/error-codes.md. A class of ``errors`` says what all its codes have in common:
kind, exit code, whether the same command may succeed when it is started again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rivet_fleet.errors import (
    CampaignIncomplete,
    ConfigError,
    DataIntegrityError,
    DestinationError,
    DestinationFull,
    DestinationRefused,
    DestinationUnavailable,
    ExitCode,
    Kind,
    LeaseLost,
    MalformedData,
    RelationLocked,
    RivetFleetError,
    SchemaDrift,
    SourceBusy,
    SourceError,
    SourceRefused,
    SourceUnavailable,
    StateError,
    StatementTimeout,
    StateRefused,
    StateTampered,
    StateUnavailable,
    StopRequested,
    UnsupportedType,
    UsageError,
    ValueTooLarge,
    WorkerUnfit,
)

PREFIX = "RIVET_"
"""Of our own codes. Any other is the word of a server or a library, told as it is."""
_RETRYABLE = (ExitCode.RETRYABLE, ExitCode.STOPPED, ExitCode.RECYCLE, ExitCode.HUNG)


def is_retryable(exit_code: int) -> bool:
    """Whether the same command, started again as it is, may succeed."""
    return exit_code in _RETRYABLE


@dataclass(frozen=True, slots=True)
class Code:
    """One named stop. ``says`` and ``action`` are sentences without a full stop, in Markdown."""

    name: str
    error: type[RivetFleetError]
    """The class whose kind and exit code it has."""
    says: str
    action: str
    """What an operator does next."""
    exit_code: ExitCode
    retryable: bool

    @property
    def kind(self) -> Kind:
        """Whose business it is."""
        return self.error.kind


def _codes(
    error: type[RivetFleetError],
    table: str,
    *,
    exit_code: ExitCode | None = None,
    retryable: bool | None = None,
) -> list[Code]:
    """Rows of ``name | says | action``; where lines end means nothing."""
    ends = error.exit_code if exit_code is None else exit_code
    again = is_retryable(ends) if retryable is None else retryable
    text = " ".join(table.split())
    rows = re.split(rf"(?:^| )(?={PREFIX}\w+ \| )", text)[1:]
    cells = [row.split(" | ") for row in rows]
    return [Code(name, error, says, action, ends, again) for name, says, action in cells]


_MEND = "mend what the message names; `rivet-fleet check` says whether it is right then"
_ANEW = "plan anew: `rivet-fleet run --new`, or `rivet-fleet plan`"
_AGAIN = "start it again; what is done stays done"
_LATER = "start it again later; what is done stays done"
_VALIDATE = "use none of its files; `rivet-fleet requeue --lost` and `resume` deliver them anew"
_UNKNOWN = "`rivet-fleet validate` says what is wrong with the files"
_LOOK = "make the destination readable, then validate again"
_GATE = "correct the source or the gate and `run --new`, or `rivet-fleet accept` the data"
_WORD = "if it is meant, `rivet-fleet state accept` says so; else name the right configuration"
_PLAN = "docs/reference/plans.md says when a plan may be applied; a new one is always safe"
_KEY = "give this process the state's key (`state.key_env`); `state reseal` changes it"
_OWNER = "choose a place that only this user can write to: docs/howto/state.md"
_PARAMETER = "docs/howto/parameters.md says where a parameter may stand"
_REPORT = "nothing was undone; report the steps that stand in the log, and what was asked"

_ALL = [
    *_codes(
        UsageError,
        f"""
        RIVET_USAGE | the command line is wrong | `rivet-fleet help COMMAND`
        RIVET_CONFIG_NOT_NAMED | no configuration was named, and none was found |
            `-c FILE`
        RIVET_CONFIG_NOT_OURS | a `fleet.yaml` that nobody named lies where everybody may
            write, and is somebody else's | look at it, and name it with `-c`
        RIVET_NOT_CONFIRMED | the answer was no, or nobody could be asked | `--yes`
        RIVET_OUTPUT_UNWRITABLE | standard output could not be written: a full disk, a
            closed file | the command's own work is done or not as its other output
            says; give it an output
        RIVET_STDOUT_NO_PLACE | a command asks about a delivery to standard output, of which
            nothing is kept | `run` does it in one go
        RIVET_STDOUT_SHARED | standard output is the delivery, and is a terminal or asked
            for a JSON report, too | give it a file or a pipe, without `--json`
        RIVET_RECONCILE_SETTLED_BY | `--settled-by` names no date or time of the export |
            name one of the columns that the hint lists
        RIVET_PLAN_UNREADABLE | the file is no plan, or a damaged one | {_PLAN}
        RIVET_PLAN_CONFIG_UNNAMED | the configuration that a plan alone names is somebody
            else's, or can be written by others | look at it, and name it with `-c`
        RIVET_PLAN_NEWER | a newer program made the plan | upgrade this program
        RIVET_PLAN_STALE | the plan is a day old or older | {_PLAN}
        """,
    ),
    *_codes(
        ConfigError,
        f"""
        RIVET_CONFIG_INVALID | the configuration is wrong; nothing was started | {_MEND}
        RIVET_CONFIG_NO_EXPORTS | `exports:` is missing or empty | {_MEND}
        RIVET_CONFIG_DUPLICATE_EXPORT | two exports, or an export and a partition, have
            one name | {_MEND}
        RIVET_CONFIG_ALERT_DROPPED | `notifications` asks for alerts that nobody sends, and
            `ignored_settings` does not say that this is known | say that it is known, or
            remove it
        RIVET_CONFIG_CHUNK_COUNT_INVALID | `chunk_count` is no count, or stands beside
            `chunk_dense` or `chunk_by_days` | {_MEND}
        RIVET_CONFIG_CHUNK_BY_DAYS_INVALID | `chunk_by_days` is no count, too fine, or
            over a column without days | {_MEND}
        RIVET_CONFIG_PARTITION_INVALID | `partition_by` names no date or moment, or
            would make too many partitions | {_MEND}
        RIVET_CONFIG_SOURCE_MODE_UNSUPPORTED | a mode that this program, or this engine,
            does not read | {_MEND}
        RIVET_CONFIG_CONNECTION_INVALID | a source's connection cannot be put together:
            a variable, a file or `tls:` is missing | {_MEND}
        RIVET_CONFIG_CHANGED | the configuration is not the one the campaign was planned
            from | `rivet-fleet resume` finishes it as planned, `rivet-fleet cancel`
            gives it up
        RIVET_CONFIG_SOURCE_MISMATCH | the connection is not to the database the plan
            was made for | give this process the configuration and the environment of
            the campaign
        RIVET_CONFIG_DESTINATION_MISMATCH | no export of this process's configuration
            delivers to the planned place by the planned settings; its secrets are used
            for nothing else | give this process the configuration of the campaign
        RIVET_STORE_NOT_INSTALLED | the library of a destination's type is not installed
            here: an extra of the package | install the extra that the hint names
        RIVET_CONFIG_SIGNAL_UNKNOWN | a monitor's URL or SQL holds a secret, and this
            process's configuration does not have that signal | give this process the
            configuration of the campaign
        RIVET_CONFIG_SECRET_MISPLACED | a secret parameter, or the variable of a secret,
            stands where plans, the state and messages would show it: in a path, a name, a
            source's user, host or database, or a URL before its `?`; or its value ends the
            password of the URL it stands in | {_PARAMETER}
        RIVET_QUERY_NOT_ONE_STATEMENT | a `query:` holds a second statement, or a quote,
            comment or parenthesis that is not closed in it | {_MEND}
        RIVET_QUERY_STRINGS | a `query:` holds a backslash, and
            `standard_conforming_strings` is off for its user: it would be another text
            in our session | turn the setting on for this user, or write the text
            without a backslash
        RIVET_PARAMETER_PLACE | a `${{NAME}}` stands in SQL where no value can be held
            safely: where a name must be (declare it: `params:`), inside `$…$` quotes,
            touching a quote, or where the server's settings decide what a backslash
            means | {_PARAMETER}
        RIVET_PARAMETER_VALUE | a parameter's value is not what its place or its
            declared type holds | {_PARAMETER}
        RIVET_PARAMETER_CHANGED | a secret parameter has another value in this process
            than when the campaign was planned, or the plan's query refers to one that
            the plan was not sealed with | give this process the campaign's value, or
            plan anew
        RIVET_PARAMETER_NAMED | a column of a query takes its name from the query's
            text, in which a secret stands | give the expression a name with AS
        RIVET_PARAMETER_MISSING | the campaign's SQL refers to a secret parameter that
            this process's configuration does not have | give this process the
            configuration of the campaign
        RIVET_NAMESPACE_NEEDED | a PostgreSQL state, and nothing says whose campaigns
            these are | `state.namespace`, `--namespace` or RIVET_FLEET_NAMESPACE:
            docs/howto/state.md
        RIVET_STATE_NAMESPACE_MISSING | the same, found by `doctor` | `state.namespace`,
            `--namespace` or RIVET_FLEET_NAMESPACE: docs/howto/state.md
        RIVET_PLAN_REFUSED | an export may be read, and cannot be planned as it is
            configured | {_MEND}
        RIVET_PLAN_HOLDS_SECRET | a plan for a file would hold a secret | hand the
            secret over by name: docs/reference/plans.md
        """,
    ),
    *_codes(
        SourceError,
        f"""
        RIVET_SOURCE_FAILED | the source could not be read | {_MEND}
        """,
    ),
    *_codes(
        SourceUnavailable,
        f"""
        RIVET_SOURCE_UNREACHABLE | no connection, or it went away | {_LATER}
        """,
    ),
    *_codes(
        SourceBusy,
        f"""
        RIVET_SOURCE_BUSY | the source asks for patience | {_LATER}
        RIVET_SOURCE_BEHIND | a replica has not come as far as the server that the window
            was drawn on: rows below the new mark may be missing there | {_LATER}; or let
            the source's URL name one server
        RIVET_RECONCILE_UNSETTLED | what differs between files and source may have been
            written since the run began (ADR 0030) | compare again when less is written,
            or with `--settled-by`
        """,
    ),
    *_codes(
        RelationLocked,
        """
        RIVET_RELATION_LOCKED | another session holds a lock on the one relation that is
            asked for | wait until that session has ended, then start it again
        """,
    ),
    *_codes(
        SourceRefused,
        """
        RIVET_SOURCE_REFUSED | credentials, privileges, a missing object, wrong SQL |
            give the user what the message names, or correct the configuration
        RIVET_SOURCE_ANSWER | the server answered something else than was asked: rows of
            another shape, no value where there is always one, text where a number is due,
            text that is no UTF-8 (the last ends with 3); nothing was made of it, and it is
            not asked again | look at what stands at that address, and between
        RIVET_SOURCE_EXPORT_REFUSED | this user may not read an export, or it is not
            there | give the user what the message names, or correct the configuration
        RIVET_SOURCE_SIGNAL_UNREADABLE | a governor cannot read a signal: a privilege,
            an unknown name, no number | give the user what the message names, or
            correct `monitor:`
        RIVET_MARK_ABOVE | the whole table lies below its mark, and `on_mark_above` is
            fail | find out what emptied the table; `state reset` forgets the mark
        """,
    ),
    *_codes(
        StatementTimeout,
        """
        RIVET_SOURCE_STATEMENT_TIMEOUT | a statement ran into its limit | cut the export
            by an indexed key, or raise `tuning.statement_timeout_s`
        RIVET_WHOLE_READ_TIMEOUT | a read that cannot be cut has kept its transaction open
            for too long | raise `tuning.whole_read_timeout_s`, or give the query a key
            that cuts it
        """,
    ),
    *_codes(
        UnsupportedType,
        """
        RIVET_TYPE_UNSUPPORTED | columns cannot be carried exactly | write the casts of
            the message under `columns:`, or leave the columns out
        RIVET_COLUMN_LOSSY | a type or override may lose something, and `on_lossy` is
            fail | choose another type, or `on_lossy: warn`
        RIVET_FORMAT_UNSUPPORTED_TYPE | the file format has no form for a column |
            choose another format, or cast the column
        RIVET_VALUE_NOT_REPRESENTABLE | a value that its exported type cannot hold |
            cast the column to text, or choose `on_unrepresentable`
        RIVET_DECIMAL_OVERFLOW | a number that its exported decimal cannot hold | cast
            the column to a wider decimal or to text
        """,
    ),
    *_codes(
        ValueTooLarge,
        """
        RIVET_VALUE_TOO_LARGE | a value is larger than `max_value_mb` or the memory
            ceiling | raise `tuning.max_value_mb` and `worker_memory_mb`, or leave the
            column out
        RIVET_ROW_TOO_LARGE | a row is wider than four of the largest values; its key
            and its size are named | raise `tuning.max_value_mb`, or leave wide columns
            out
        """,
    ),
    *_codes(
        MalformedData,
        """
        RIVET_SOURCE_MALFORMED | bytes from the server do not follow its own format |
            use nothing of the run; look at what stands between this host and the server
        RIVET_KEY_NO_PROGRESS | pages of a chunk key came back to where they had been:
            the source reads or compares the key otherwise than it orders it | cut the
            export by another key
        """,
    ),
    *_codes(
        DestinationError,
        f"""
        RIVET_DESTINATION_FAILED | the destination failed | {_LATER}
        """,
    ),
    *_codes(
        DestinationUnavailable,
        f"""
        RIVET_DESTINATION_UNAVAILABLE | the destination cannot be reached now | {_LATER}
        RIVET_STORE_UNAVAILABLE | an object store did not answer, was busy, or its answer
            was lost | check the service and the way to it; it is tried again by itself
        RIVET_IO_ERROR | a disk fails | look at the system's log, then start it again
        """,
    ),
    *_codes(
        DestinationFull,
        """
        RIVET_NO_SPACE | a disk or a quota is full | make room, then start it again
        RIVET_FILE_TOO_LARGE | a file is larger than its filesystem or the process's limit
            allows: room would not help | raise the limit (ulimit -f), use another
            filesystem, or make smaller files
        """,
    ),
    *_codes(
        DestinationRefused,
        f"""
        RIVET_DESTINATION_REFUSED | the destination says no: its path, its rights |
            correct `destination:`, or give this user the right to write there
        RIVET_DESTINATION_OVERWRITES | a second file of the same name replaced the
            first: files could be lost | choose another place: docs/reference/doctor.md
        RIVET_DESTINATION_SHARED | the folder holds deliveries of another namespace |
            give the export another `destination.path`
        RIVET_RUN_ID_TAKEN | something was delivered under the id of this run that this
            state knows nothing of | name another `--campaign-id`, or none, or the state
            that knows it: [incremental](../howto/incremental.md)
        RIVET_DESTINATION_LINK | a symbolic link stands inside a destination where a
            folder should be, or where a placeholder of `destination.path` puts one;
            nothing was done behind it | remove the link, or name the folder it leads to
        RIVET_STORE_DENIED | an object store refuses the credentials, or lacks the
            permission that the message names as its cloud names it | give these
            credentials that permission
        RIVET_STORE_REFUSED | an object store cannot do what was asked: no such bucket,
            another region, a call it does not know | check bucket, region and endpoint
        RIVET_STORE_UNFAITHFUL | an object store took a probe and gave back something else,
            or does not list it | use another service
        RIVET_UNSAFE_PATH | a name would leave its folder, a receipt is of another name,
            or folders lie deeper than any of ours | find out who wrote that name;
            nothing was done by it
        RIVET_NOT_WRITABLE | a folder or file cannot be written by this user | give this
            user the right to write there
        RIVET_SPOOL_NOT_OURS | the spool folder, or one on the way to it, lies where
            everybody may write, and is somebody else's | {_OWNER}
        RIVET_SPOOL_REFUSED | the spool folder cannot be written | name another:
            `spool_dir`
        """,
    ),
    *_codes(
        StateError,
        f"""
        RIVET_STATE_FAILED | the state database failed | {_LATER}
        """,
    ),
    *_codes(
        StateUnavailable,
        f"""
        RIVET_STATE_UNREACHABLE | the state database cannot be reached | {_LATER}
        RIVET_STATE_BUSY | a SQLite state is locked for longer than we wait | start it
            again; many processes are better served by a PostgreSQL state
        """,
    ),
    *_codes(
        LeaseLost,
        """
        RIVET_LEASE_LOST | another process owns the chunk or run now | nothing: it goes
            on
        """,
    ),
    *_codes(
        StateRefused,
        f"""
        RIVET_STATE_REFUSED | the state must not be used this way | do what the hint
            says
        RIVET_STATE_OF_RIVET | the state database is Rivet's own, whose tables have our
            names: docs/howto/state.md | name another place for ours
        RIVET_STATE_NONSENSE | what answers in the state's place is no PostgreSQL server, or
            something on the way changes its answers: nothing was changed by them | look at
            what stands at that address, and between
        RIVET_STATE_ABSENT | there is no state database where the command looked: no
            campaign was ever begun there, and looking made nothing | `rivet-fleet run`
            begins one; or name the right one: `--state-url`, `state:`
        RIVET_STATE_SCHEMA_NONE | the state database is empty | `rivet-fleet run` begins
            one; or name the right one: `--state-url`, `state:`
        RIVET_STATE_SCHEMA_OLD | the state database is of an older version |
            `rivet-fleet state migrate`; `run` and `submit` do it by themselves
        RIVET_STATE_SCHEMA_NEWER | the state is of a newer version | upgrade this
            program
        RIVET_STATE_NEWER | the same, found by `doctor` | upgrade this program
        RIVET_STATE_NOT_WRITABLE | the state database cannot be written | give this user
            the right to write it
        RIVET_STATE_SEVERAL_HOSTS | a SQLite state is used from several hosts | several
            hosts need a PostgreSQL state: `rivet-fleet state copy`
        RIVET_STATE_NETWORK_FILESYSTEM | a SQLite state lies on a network file system |
            put it on a local disk, or use a PostgreSQL state
        RIVET_STATE_NOT_ENCRYPTED | a remote state database whose URL says nothing about
            TLS | add `?sslmode=verify-full` to it
        RIVET_STATE_NOT_OURS | a file of a SQLite state is somebody else's, or lies in a
            folder of another user or where everybody may write | {_OWNER}
        RIVET_LOGS_NOT_OURS | the folder of the workers' logs is somebody else's |
            {_OWNER}
        RIVET_STATE_KEY_MISSING | the state is sealed with a key, and this process has
            none | {_KEY}
        RIVET_STATE_KEY_OTHER | the state is sealed with another key | {_KEY}
        RIVET_STATE_NOT_KEYED | the state is sealed without a key, and this process asks
            for one | {_KEY}
        RIVET_STATE_NOT_SHOWN | what `state reseal` would seal is not what was shown under
            the fingerprint that was said | `state reseal` shows what is there now
        RIVET_STATE_IN_USE | processes still work with a state that is to be migrated or
            copied | let them finish, or stop them
        RIVET_STATE_MOVED | `state copy` has moved this state elsewhere | point `state:`
            or RIVET_FLEET_STATE_URL there
        RIVET_STATE_NOT_EMPTY | the target of `state copy` holds something | empty it
            first
        RIVET_NAMESPACE_OTHER | an id of another namespace | `--namespace`:
            docs/howto/state.md
        RIVET_CAMPAIGN_OTHER | the campaign belongs to another configuration | {_WORD}
        RIVET_CAMPAIGN_COORDINATED | another coordinator of this host has the campaign |
            wait for it, or help: `rivet-fleet worker`, `rivet-fleet resume --join`
        RIVET_EXPORT_IN_PROGRESS | a run of this export is not finished | `rivet-fleet
            status`; then `resume` or `cancel` that campaign
        RIVET_MARK_OTHER | the stored mark belongs to another source, table, query, session,
            cursor, type, mode, destination or format: docs/reference/incremental.md | {_WORD}
        RIVET_RECONCILE_FILES_GONE | the manifest of the run that is to be compared is
            gone, or lists other files than the state; nothing was compared | {_UNKNOWN}
        RIVET_REPAIR_REPORT_OTHER | the report is of another state, export or run, is not what
            the state knows of its comparison, or is none; nothing was changed | `rivet-fleet
            reconcile` makes a new one
        RIVET_REPAIR_NOTHING | no range of what was compared differs; nothing was changed |
            none
        RIVET_REPAIR_UNDERWAY | the run is in progress, or was repaired since it was
            compared; nothing was changed | `rivet-fleet resume --campaign-id` ends what is in
            progress; then compare again
        RIVET_REPAIR_FILES_GONE | files of the run are gone; nothing was changed | `rivet-fleet
            requeue --lost` and `resume` deliver them anew
        RIVET_NOTHING_DELIVERED | no run that was asked for is complete | `rivet-fleet status`
        RIVET_ACCEPT_WRONG_STATE | the run cannot be accepted | `rivet-fleet status`
        RIVET_PLAN_CONFLICT | another plan has this id | {_PLAN}
        RIVET_PLAN_CURSOR_DRIFT | a mark has moved since the plan was made | {_PLAN}
        """,
    ),
    *_codes(
        DataIntegrityError,
        f"""
        RIVET_DATA_INTEGRITY | what is stored is not what was written | {_VALIDATE}
        RIVET_RECONCILE_MISMATCH | delivered files are not what their source holds,
            confirmed by a second look (ADR 0030) | the report names ranges and rows; a
            source that was changed since is a reason, too
        RIVET_PROOF_PAGE | a page's rows are not what the source counts between its
            bounds (ADR 0019) | use nothing of the run; `rivet-fleet status` names the
            chunk
        RIVET_PROOF_COUNT | the source counts other rows than the run delivered, and
            changes do not explain it (ADR 0019) | {_GATE}
        RIVET_QUALITY_ROW_COUNT_MIN | fewer rows than the gate asks for (ADR 0008) |
            {_GATE}
        RIVET_QUALITY_ROW_COUNT_MAX | more rows than the gate allows (ADR 0008) |
            {_GATE}
        RIVET_QUALITY_NULL_RATIO | more NULLs than the gate allows (ADR 0008) | {_GATE}
        RIVET_QUALITY_UNIQUE | columns are not unique (ADR 0008) | {_GATE}
        RIVET_PLAN_TAMPERED | the plan is not what was sealed | {_PLAN}
        RIVET_PLAN_NOT_KEYED | the plan is sealed without the key that is asked for |
            {_PLAN}
        RIVET_VERIFY_PART_MISSING | a part of the manifest is not there | {_VALIDATE}
        RIVET_VERIFY_PART_SIZE_MISMATCH | a part has another size | {_VALIDATE}
        RIVET_VERIFY_PART_CHECKSUM_MISMATCH | a part holds other bytes | {_VALIDATE}
        RIVET_VERIFY_VALUE_CHECKSUM | a part cannot be decoded | {_VALIDATE}
        RIVET_VERIFY_PART_ROW_COUNT | a part holds other rows | {_VALIDATE}
        RIVET_VERIFY_COLUMN_CHECKSUM | columns hold other values than were read |
            {_VALIDATE}
        RIVET_VERIFY_SUCCESS_MALFORMED | `_SUCCESS` is not what we write | {_VALIDATE}
        RIVET_VERIFY_SUCCESS_STALE | `_SUCCESS` belongs to another manifest |
            {_VALIDATE}
        RIVET_VERIFY_MANIFEST_INCONSISTENT | the manifest contradicts itself |
            {_VALIDATE}
        RIVET_VERIFY_MANIFEST_REQUIRED | there is no manifest | {_VALIDATE}
        RIVET_VERIFY_RUN_NOT_SUCCESSFUL | the manifest says that its run failed |
            {_VALIDATE}
        RIVET_VERIFY_CONTENT_UNMET | some parts were compared by size only | depth full
        RIVET_VERIFY_LEDGER_MISMATCH | the manifest is not what the ledger holds |
            {_VALIDATE}
        """,
    ),
    *_codes(
        DestinationRefused,
        f"""
        RIVET_RECONCILE_UNKNOWN | a range could not be compared: its files could not be
            read, or do not say what was asked (ADR 0030) | {_UNKNOWN}
        RIVET_VERIFY_MANIFEST_READ_ERROR | the manifest could not be read | {_LOOK}
        RIVET_VERIFY_SUCCESS_READ_ERROR | `_SUCCESS` could not be read | {_LOOK}
        RIVET_VERIFY_LIST_ERROR | the destination could not be listed | {_LOOK}
        RIVET_VERIFY_PART_READ_ERROR | a part could not be read | {_LOOK}
        RIVET_VERIFY_PART_TOO_LARGE | reading a part's values takes more than 1 GB of
            memory (Linux) | find out who wrote that file; it is none of ours
        """,
    ),
    *_codes(
        StateTampered,
        """
        RIVET_STATE_TAMPERED | a plan, range, part, budget, mark, proof or acceptance in
            the state is not what was sealed, or was taken away, brought back or exchanged
            (ADR 0024); nothing was read or written by it | find out who changed the state;
            restore it, or cancel and plan anew
        """,
    ),
    *_codes(
        SchemaDrift,
        f"""
        RIVET_SCHEMA_DRIFT | columns are not the planned ones, or not the last run's and
            `on_schema_drift` is fail | look at what changed, then start a new campaign
        RIVET_HEAP_REWRITTEN | what a plan's block numbers are numbers of was rewritten,
            swapped or moved, or other rights or policies count now (ADR 0004) | {_ANEW}
        RIVET_BASIS_CHANGED | what the plan rests on (order of the key, types of columns, heap,
            view, rights, database) is not what was planned (ADR 0018) | {_ANEW}
        """,
    ),
    *_codes(
        CampaignIncomplete,
        """
        RIVET_CAMPAIGN_INCOMPLETE | the campaign is over, or the last one is, and some
            chunks failed for good or some run was not delivered | `rivet-fleet status`
            says why; then `requeue` and `resume`, or `run --new`
        RIVET_EXPORT_LEFT_OUT | the campaign was planned without an export: its relation
            was locked, or a column of it cannot be read as it was asked for | mend it,
            then `plan -e NAME -o rest.json` and `apply rest.json` deliver it alone
        """,
    ),
    *_codes(
        StopRequested,
        f"""
        RIVET_STOPPED | stopped in good order, or by a signal; resumable | {_AGAIN}
        """,
    ),
    *_codes(
        StopRequested,
        """
        RIVET_CAMPAIGN_CANCELLED | the campaign was given up; what is delivered stays |
            `rivet-fleet run` begins a new one
        """,
        retryable=False,
    ),
    *_codes(
        StopRequested,
        """
        RIVET_CAMPAIGN_HALTED | a governor stopped the campaign because a signal of its
            source was too high; resumable | look at the source, then `rivet-fleet resume`:
            nothing should do that by itself
        """,
        exit_code=ExitCode.HALTED,
    ),
    *_codes(
        WorkerUnfit,
        """
        RIVET_WORKER_UNFIT | no process here can do the campaign's work; no chunk has
            failed for it | `rivet-fleet status` names what they lack; mend it, then
            `resume`
        RIVET_WORKER_CONFIGURATION | a worker's configuration or environment does not
            lead to the planned source: a missing variable, another host, port, database
            or user; or campaigns of its name are another configuration's | give this
            process the configuration and the environment of the campaign
        RIVET_WORKER_LOGIN | the source refuses this worker's credentials, certificate
            or way of connecting | give this process credentials that the source accepts
        RIVET_WORKER_OTHER_SOURCE | the same name leads this worker to another server or
            database than the planned one | lead this process to the planned source, or
            cancel and plan anew
        RIVET_WORKER_SPOOL | a worker's spool folder cannot be used, or is full | repair
            it, or name another with `spool_dir`
        RIVET_WORKER_DESTINATION | a worker may not write to the destination, or it is
            not there on this host | mount it on this host, writable for this user
        RIVET_WORKER_INSTALLATION | a part of the program cannot be imported on this
            host | repair the installation on this host
        RIVET_WORKER_NOT_ALLOWED | a plan names a source or a destination outside
            `--allow-source`, `--allow-destination` or their environment variables |
            widen them if that is meant; if not, ask who may write to the state
        RIVET_WORKER_VERSION | the state, or a plan in it, is of another version than
            this worker's program | run the version here that the campaign was planned
            with
        """,
    ),
    *_codes(
        RivetFleetError,
        f"""
        RIVET_UNEXPECTED | a defect of the program: nobody foresaw it; what a library
            said is not told, our steps to it are | {_REPORT}
        RIVET_WORKERS_NOT_STARTED | no worker could start, or each ended by an error that
            nobody foresaw | the last words of one are told; the rest is in the workers' logs
        RIVET_DEMO_FAILED | the demo's own server or its check failed | read the message
        RIVET_CHECK_FINDINGS | `check --strict`: a column is lossy or unsupported, or
            fails on a target | cast the columns of the report, or run without
            `--strict`
        """,
    ),
    *_codes(
        RivetFleetError,
        f"""
        RIVET_WORKER_ENDED | workers ended by errors nobody foresaw | {_AGAIN}
        """,
        exit_code=ExitCode.RETRYABLE,
    ),
    *_codes(
        WorkerUnfit,
        f"""
        RIVET_WORKER_RECYCLE | a worker above its memory ceiling asks to be replaced |
            {_AGAIN}
        """,
        exit_code=ExitCode.RECYCLE,
    ),
    *_codes(
        WorkerUnfit,
        f"""
        RIVET_WORKER_HUNG | a worker ended itself: its chunk made no progress | {_AGAIN}
        """,
        exit_code=ExitCode.HUNG,
    ),
]
CODES = {one.name: one for one in _ALL}
"""Every code of ours by its name, in the order of the reference page."""
_BY_EXIT = {
    ExitCode.GENERIC: "RIVET_UNEXPECTED",
    ExitCode.RETRYABLE: "RIVET_WORKER_ENDED",
    ExitCode.DATA_INTEGRITY: "RIVET_DATA_INTEGRITY",
    ExitCode.SCHEMA_DRIFT: "RIVET_SCHEMA_DRIFT",
    ExitCode.INCOMPLETE: "RIVET_CAMPAIGN_INCOMPLETE",
    ExitCode.STOPPED: "RIVET_STOPPED",
    ExitCode.RECYCLE: "RIVET_WORKER_RECYCLE",
    ExitCode.HUNG: "RIVET_WORKER_HUNG",
    ExitCode.UNFIT: "RIVET_WORKER_UNFIT",
    ExitCode.HALTED: "RIVET_CAMPAIGN_HALTED",
}


def code_of(exit_code: int) -> Code:
    """The name of an end that has no other: every exit code but 0 has one."""
    return CODES[_BY_EXIT[ExitCode(exit_code)]]


def known_code(code: str, error: type[RivetFleetError] = RivetFleetError) -> Code:
    """What is known of a code. A server's own has the row of the class it was told as."""
    return CODES.get(code) or CODES[error.code_default]


def catalogue(codes: Sequence[Code] = tuple(_ALL)) -> list[dict[str, object]]:
    """The table as plain values, for programs."""
    return [
        {
            "code": one.name,
            "kind": one.kind.value,
            "class": one.error.__name__,
            "exit_code": int(one.exit_code),
            "retryable": one.retryable,
            "says": one.says,
            "action": one.action,
        }
        for one in codes
    ]
