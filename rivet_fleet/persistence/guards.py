"""The task machine of ``contracts/state.py`` as SQL: guards and effects, derived, never retyped.

A transition is one UPDATE whose WHERE clause is its guard; no row matched means that the caller
does not own the task any more (F1). The lease is never part of a guard (F2).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeVar

from rivet_fleet.contracts.codec import loads_checked
from rivet_fleet.contracts.identity import NAMESPACE_OTHER, namespace_of
from rivet_fleet.contracts.seals import tampered
from rivet_fleet.contracts.state import TRANSITIONS, TaskStatus, Verb
from rivet_fleet.errors import StateRefused

_ORDER = list(TaskStatus)


def status_in(verb: Verb) -> str:
    """``status = 'running'`` or ``status IN (…)``: where the verb may start."""
    names = [f"'{s.value}'" for s in _ORDER if s in TRANSITIONS[verb].sources]
    return f"status = {names[0]}" if len(names) == 1 else f"status IN ({', '.join(names)})"


def guard(verb: Verb) -> str:
    """The WHERE clause of one task's transition: identity, fence when named, status."""
    fence = " AND fence = :fence" if TRANSITIONS[verb].fenced else ""
    return f"task_id = :task_id{fence} AND {status_in(verb)}"


def effect(verb: Verb, *, status: str | None = None) -> str:
    """The SET clause every verb has: status, attempts and fence, as the table says.

    A fence that does not grow and attempts that do not change are left out. ``status`` is SQL
    in place of the target, for the one verb whose target depends on the budget.
    """
    rule = TRANSITIONS[verb]
    parts = [f"status = {status}" if status else f"status = '{rule.target.value}'"]
    if rule.attempts is None:
        parts.append("attempts = 0")
    elif rule.attempts:
        parts.append(f"attempts = attempts {'+' if rule.attempts > 0 else '-'} 1")
    if rule.fence:
        parts.append(f"fence = fence + {rule.fence}")
    return ", ".join(parts)


def refuse_foreign(namespace: str, *stored_ids: object) -> None:
    """Raise StateRefused for the id of a campaign or run of another namespace (N1). Says nothing
    of whether there is such a one."""
    for one in stored_ids:
        if isinstance(one, str) and namespace_of(one) != namespace:
            raise StateRefused(
                f"{one} belongs to namespace {namespace_of(one)}, and this is {namespace}",
                hint="--namespace (or state.namespace) says whose campaigns a command is about",
                code=NAMESPACE_OTHER,
            )


# ------------------------------------------------------------------------------------------
# What statements need to know of the schema. Apart from ``schema``, which imports the toolkit's
# table definitions: every process opens the state, few make or migrate it.

SCHEMA_VERSION = "0016"
"""The newest migration this program knows."""

VERSION_TABLE = "rivet_fleet_version"

CLAIMABLE = "status IN ('pending', 'failed') AND attempts < attempts_max"
"""Spelled identically in the claim and in its partial indexes, or SQLite does not use them."""

READ_BY = "CASE WHEN t.read_at_s < t.committed_at_s THEN t.read_at_s ELSE t.committed_at_s END"
"""Until when a committed chunk ``t`` kept its worker from the next one."""


# ------------------------------------------------------------------------------------------
# What no seal vouches for is at least of its type: whoever reads it need not ask again.

T = TypeVar("T")
UNLIKE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What one stumbles into over a value that is not like anything of ours."""


@contextlib.contextmanager
def typed(what: str) -> Iterator[None]:
    """A value of the state is made of a row in here. Raises StateTampered where it is not like
    anything that a program of the fleet wrote; ``what`` names it."""
    try:
        yield
    except UNLIKE:
        raise tampered(what) from None


def understood(kind: type[T], stored: str, what: str) -> T:
    """A value that is kept as JSON and has no seal. Raises StateTampered."""
    with typed(what):
        return loads_checked(kind, stored)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


TEXTS = _names("""
    acceptance_json acceptance_seal after_json before_json campaign_id campaign_name chunk_digests
    columns_json commit_seal config_digest config_path configured_by data_json destination_kind
    ended_reason error error_class error_message event export_name finalize_owner findings_json
    fingerprint format former_json governor_name governor_owner group_name halted_reason host_id
    identity_json key last_committed_cursor last_committed_run_id last_committed_strategy
    last_cursor_value last_error last_run_id last_verified_cursor last_verified_run_id
    last_verified_strategy manifest_fingerprint mark_binding mark_seal md5 message mode monitor_json
    name namespace owner owner_host owner_name path paused_reason plan_hash plan_json proof_json
    proof_seal range_json readings_json receipt_json result_json run_id seal source source_engine
    source_group source_key status strategy value worker_id
""")
"""Columns that hold text, by name: of every table that has one. A row is looked at by these."""
NUMBERS = _names("""
    at_s attempts attempts_max bytes bytes_written ceiling changed_values chunk_index chunks
    commit_fence complete duplicates duration_ms event_version expected_tasks fence file_id
    files_produced finalize_fence generation governor_fence journal_id keys
    last_committed_chunk_index last_verified_chunk_index longest_statement_ms metrics_id owner_pid
    page page_share pages_read part_number peak_rss_bytes permits pid position priority replaced_in
    retries rows rows_written rss_bytes run_position shift task_id total_rows work_ms
""")
"""Columns that hold a number, those of a budget beside them (``BUDGET_NUMBERS``)."""
MOMENTS = _names("""
    bytes_free_at_s claimed_at_s committed_at_s completed_at_s configured_at_s created_at_s
    ended_at_s finalize_lease_expires_at_s finished_at_s governor_lease_expires_at_s
    heartbeat_at_s last_committed_at_s last_run_at_s last_verified_at_s lease_expires_at_s
    not_before_s paid_until_s pid_started_at_s published_at_s read_at_s resumes_at_s rows_free_at_s
    run_at_s sampled_at_s started_at_s updated_at_s valid_until_s
""")
"""Columns that hold a moment, in seconds since 1970."""
SECONDS_MADE = _names("first_claim_at_s last_s silent_s since_s work_s")
"""What statements make of such columns and name themselves: every one they select has a name."""
