"""What to do next: the exact commands, and one sentence per error class. One home for both."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

PROGRAM = "rivet-fleet"


@dataclass(frozen=True, slots=True, kw_only=True)
class NextStep:
    """A command to type and why."""

    command: str
    why: str


def command(verb: str, config_path: str, *, export_name: str | None = None) -> str:
    """``rivet-fleet verb -c path [-e export]``, quoted for a shell."""
    words = [PROGRAM, *verb.split(), "-c", config_path]
    words += ["-e", export_name] if export_name else []
    return shlex.join(words)


ADVICE: dict[str, str] = {
    "SourceUnavailable": "Check that the source database is up and reachable, then requeue.",
    "SourceBusy": "The source asked for patience: lower the source group's slots, then requeue.",
    "RelationLocked": "Another session holds a lock on the table: requeue when that has ended.",
    "SourceRefused": "Fix the credentials, the privilege or the SQL, then requeue.",
    "StatementTimeout": "Raise statement_timeout_s or make pages and chunks smaller, then requeue.",
    "UnsupportedType": "Cast the named columns under `columns:` and start a new campaign.",
    "ValueTooLarge": "Give the worker more memory, or leave the column out, then requeue.",
    "MalformedData": "The server's bytes break its own format: look at the page it names.",
    "DestinationUnavailable": "Check the destination, then requeue.",
    "DestinationRefused": "Fix the path or the privilege at the destination, then requeue.",
    "DestinationFull": "Make room at the destination or in the spool directory, then requeue.",
    "StateUnavailable": "Check the state database; running work continues by itself.",
    "StateRefused": "Bring state database and program to the same version.",
    "DataIntegrityError": "Do not use the files of this run before `validate` is clean.",
    "SchemaDrift": "The table changed since it was planned: start a new campaign.",
}
"""By the error class stored with a failed chunk. Anything else gets ADVICE_OTHERWISE."""

_PLANNED_ANEW = frozenset(("SchemaDrift", "UnsupportedType"))

ADVICE_OTHERWISE = "Look at the journal around the failure, then requeue."


def needs_new_plan(error_class: str | None) -> bool:
    """True where the plan itself no longer fits the source: another try of it fails again."""
    return error_class in _PLANNED_ANEW


def advice_for(error_class: str | None) -> str:
    """One sentence on what helps against this class of error."""
    return ADVICE.get(error_class or "", ADVICE_OTHERWISE)
