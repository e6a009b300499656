"""The SQL of the task machine is the table of contracts/state.py, nothing else."""

from __future__ import annotations

import pytest

from rivet_fleet.contracts.state import TRANSITIONS, TaskStatus, Verb
from rivet_fleet.persistence import claims, ledger
from rivet_fleet.persistence.guards import effect, guard, status_in

_STATEMENTS = {
    Verb.CLAIM: claims.CLAIM_TWO_STATEMENTS,
    Verb.RENEW: claims.RENEW,
    Verb.COMMIT: ledger.COMMIT,
    Verb.COMPLETE: ledger.COMPLETE,
    Verb.FAIL: ledger.FAIL,
    Verb.RELEASE: ledger.RELEASE,
    Verb.REOPEN: ledger.REOPEN,
}


@pytest.mark.parametrize("verb", [v for v in Verb if v is not Verb.ENQUEUE])
def test_the_guard_names_exactly_the_sources_and_the_fence(verb: Verb) -> None:
    rule = TRANSITIONS[verb]
    named = {s for s in TaskStatus if f"'{s.value}'" in status_in(verb)}
    assert named == rule.sources
    assert ("fence = :fence" in guard(verb)) == rule.fenced


@pytest.mark.parametrize("verb", [v for v in Verb if v is not Verb.ENQUEUE])
def test_the_effect_is_the_tables(verb: Verb) -> None:
    rule = TRANSITIONS[verb]
    sql = effect(verb)
    assert f"status = '{rule.target.value}'" in sql
    assert (f"fence = fence + {rule.fence}" in sql) == (rule.fence > 0)
    expected = {None: "attempts = 0", 1: "attempts = attempts + 1", -1: "attempts = attempts - 1"}
    assert expected.get(rule.attempts, "") in sql
    assert ("attempts" in sql) == (rule.attempts != 0)


@pytest.mark.parametrize("verb", [v for v in _STATEMENTS if v is not Verb.CLAIM])
def test_every_fenced_statement_carries_its_guard(verb: Verb) -> None:
    assert guard(verb) in _STATEMENTS[verb]


def test_no_guard_looks_at_the_lease() -> None:
    for verb in (Verb.COMMIT, Verb.COMPLETE, Verb.FAIL, Verb.RELEASE, Verb.RENEW):
        assert "lease" not in guard(verb)
        assert "lease" not in _STATEMENTS[verb].split("WHERE", 1)[1]
