"""One guard removed at a time, so that a test can prove it notices (point 9 d).

``RIVET_FLEET_TEST_MUTANT=name`` makes ``tests.stores`` apply a mutant before it opens a store.
Each names the conformance tests that must go red; ``HARMLESS`` ones say why none does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rivet_fleet.contracts.state import Verb
from rivet_fleet.persistence import budgets, claims, commits, finalizers, ledger, marks
from rivet_fleet.persistence.guards import status_in


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    apply: Callable[[], None]
    red: tuple[str, ...]
    """Names of tests in ``suite``."""
    suite: str = "test_store.py"
    """In tests/conformance."""
    after_migrate: str = ""
    """SQL run on the migrated database."""


def _cut(module: Any, name: str, old: str, new: str = "") -> Callable[[], None]:
    def apply() -> None:
        sql = getattr(module, name)
        assert old in sql, f"{name} has no {old!r}: the mutant would change nothing"
        setattr(module, name, sql.replace(old, new))

    return apply


def _unfenced(module: Any, name: str) -> Callable[[], None]:
    return _cut(module, name, " AND fence = :fence")


def _without_status(module: Any, name: str, verb: Verb) -> Callable[[], None]:
    return _cut(module, name, f" AND {status_in(verb)}")


def _claim_keeps_fence() -> None:
    for name in ("CLAIM_ONE_STATEMENT", "CLAIM_TWO_STATEMENTS"):
        _cut(claims, name, "fence = fence + 1, ")()


def _reap_by_client_clock() -> None:
    original = claims.Claims.reap_expired

    def reap_expired(self: Any, *args: Any, **kwargs: Any) -> Any:
        claims.EXPIRED = f"t.lease_expires_at_s < {time.time()!r}"
        return original(self, *args, **kwargs)

    claims.Claims.reap_expired = reap_expired  # type: ignore[method-assign]


def _finalize_without_count() -> None:
    finalizers.ALL_COMPLETED = "1 = 1"


def _nothing() -> None:
    pass


def _claim_without_budget() -> None:
    claims.has_room = lambda _tx, _group_name: True  # type: ignore[assignment]


def _budget_is_looked_for_once() -> None:
    _cut(claims, "PICK_ANY", f"AND {claims.UNBUDGETED}")()


def _a_halt_is_not_kept() -> None:
    for name in ("PICK_IN_GROUP", "_PEEK"):
        _cut(claims, name, " AND c.halted_reason IS NULL")()


def _governed_by_anybody() -> None:
    _cut(
        budgets,
        "LEASE",
        "AND coalesce(governor_lease_expires_at_s, configured_at_s) <= NOW_S - :patience_s",
    )()
    _cut(
        budgets,
        "GOVERNABLE",
        "AND coalesce(b.governor_lease_expires_at_s, b.configured_at_s) <= NOW_S - :patience_s",
    )()


MUTANTS: dict[str, Mutant] = {
    "whole_ledger_unfenced": Mutant(
        apply=_cut(commits, "_LEASED", " AND finalize_fence = :finalize_fence"),
        red=("test_a_ledger_is_read_whole_by_who_ends_the_run_and_by_nobody_after_a_reopening",),
    ),
    "accept_keeps_fence": Mutant(
        apply=_cut(finalizers, "_ACCEPT", "finalize_fence = finalize_fence + 1,"),
        red=("test_an_accepted_run_is_finished_and_nothing_else",),
    ),
    "acceptance_outlives_other_verdicts": Mutant(
        apply=_cut(finalizers, "_FAIL", " acceptance_json = NULL,"),
        red=("test_other_verdicts_end_an_acceptance",),
    ),
    "commit_unfenced": Mutant(
        apply=_unfenced(ledger, "COMMIT"), red=("test_a_stale_fence_cannot_commit",)
    ),
    "commit_without_status": Mutant(
        apply=_without_status(ledger, "COMMIT", Verb.COMMIT),
        red=("test_a_released_chunk_cannot_be_committed",),
    ),
    "renew_unfenced": Mutant(
        apply=_unfenced(claims, "RENEW"), red=("test_a_stale_fence_cannot_renew",)
    ),
    "fail_unfenced": Mutant(
        apply=_unfenced(ledger, "FAIL"), red=("test_a_stale_fence_cannot_fail",)
    ),
    "fail_without_status": Mutant(
        apply=_without_status(ledger, "FAIL", Verb.FAIL),
        red=("test_a_committed_chunk_cannot_be_failed",),
    ),
    "release_unfenced": Mutant(
        apply=_unfenced(ledger, "RELEASE"), red=("test_a_stale_fence_cannot_release",)
    ),
    "release_without_status": Mutant(
        apply=_without_status(ledger, "RELEASE", Verb.RELEASE),
        red=("test_a_committed_chunk_cannot_be_released",),
    ),
    "complete_unfenced": Mutant(
        apply=_unfenced(ledger, "COMPLETE"), red=("test_a_stale_fence_cannot_complete",)
    ),
    "complete_without_status": Mutant(
        apply=_without_status(ledger, "COMPLETE", Verb.COMPLETE),
        red=("test_a_running_chunk_cannot_be_completed",),
    ),
    "reopen_unfenced": Mutant(
        apply=_unfenced(ledger, "REOPEN"), red=("test_a_stale_fence_cannot_reopen",)
    ),
    "claim_keeps_fence": Mutant(
        apply=_claim_keeps_fence, red=("test_every_claim_grows_the_fence",)
    ),
    "reap_keeps_fence": Mutant(
        apply=_cut(claims, "REAP_SET", ", fence = fence + 1"),
        red=("test_reaping_makes_the_old_fence_worthless",),
    ),
    "commit_without_unique_index": Mutant(
        apply=_nothing,
        after_migrate="DROP INDEX uq_file_log_part",
        red=("test_one_part_number_twice_commits_nothing",),
    ),
    "reap_by_client_clock": Mutant(
        apply=_reap_by_client_clock,
        red=("test_only_the_databases_clock_expires_a_lease",),
    ),
    "finalize_without_count": Mutant(
        apply=_finalize_without_count,
        red=("test_a_run_with_open_chunks_cannot_be_finished",),
    ),
}
_BUDGETS, _GOVERNING = "test_store_budgets.py", "test_store_governing.py"
MUTANTS |= {
    "claim_without_budget": Mutant(
        apply=_claim_without_budget,
        red=("test_a_budget_is_the_sources_whoever_asks",),
        suite=_BUDGETS,
    ),
    "budget_is_looked_for_once": Mutant(
        apply=_budget_is_looked_for_once,
        red=("test_a_budget_that_appears_while_a_campaign_runs_is_kept_by_the_next_claim",),
        suite=_BUDGETS,
    ),
    "a_rate_saves_up": Mutant(
        apply=_cut(
            budgets,
            "RESERVE",
            "(CASE WHEN rows_free_at_s > NOW_S THEN rows_free_at_s ELSE NOW_S END)",
            "rows_free_at_s",
        ),
        red=("test_nothing_is_saved_up_while_nobody_reads",),
        suite=_BUDGETS,
    ),
    "govern_unfenced": Mutant(
        apply=_cut(budgets, "GOVERN", " AND governor_fence = :fence"),
        red=("test_a_former_governor_changes_nothing",),
        suite=_GOVERNING,
    ),
    "hold_governor_unfenced": Mutant(
        apply=_cut(budgets, "HOLD", " AND governor_fence = :fence"),
        red=("test_a_lease_is_held_without_a_word",),
        suite=_GOVERNING,
    ),
    "governed_by_anybody": Mutant(
        apply=_governed_by_anybody,
        red=("test_one_governs_whichever_campaign_it_works_on",),
        suite=_GOVERNING,
    ),
    "a_halt_is_not_kept": Mutant(
        apply=_a_halt_is_not_kept,
        red=("test_a_halt_stops_every_campaign_of_the_group_until_an_operator_goes_on",),
        suite=_GOVERNING,
    ),
}
_MARKS = "test_store_marks.py"
MUTANTS |= {
    "mark_moves_under_any_binding": Mutant(
        apply=_cut(marks, "MOVE", " AND coalesce(mark_binding, '') = :binding_before"),
        red=("test_a_forced_plan_of_another_binding_leaves_mark_and_binding",),
        suite=_MARKS,
    ),
    "mark_moves_from_anywhere": Mutant(
        apply=_cut(marks, "MOVE", "AND coalesce(last_cursor_value, '') = :before AND", "AND"),
        red=("test_a_forced_plan_never_moves_the_mark_back",),
        suite=_MARKS,
    ),
}

HARMLESS: dict[str, tuple[Mutant, str]] = {
    "renew_without_status": (
        Mutant(apply=_without_status(claims, "RENEW", Verb.RENEW), red=()),
        "the lease is read only where the status is running, and a claim overwrites it",
    ),
}


def apply_mutant(name: str) -> None:
    """Remove the guard, once per process."""
    if name and name not in _applied:
        _applied.add(name)
        _named(name).apply()


def prepare_mutant(name: str, backend: Any) -> None:
    """What a mutant changes in the migrated database."""
    if name and _named(name).after_migrate:
        backend.execute(_named(name).after_migrate)


def _named(name: str) -> Mutant:
    return MUTANTS[name] if name in MUTANTS else HARMLESS[name][0]


_applied: set[str] = set()
