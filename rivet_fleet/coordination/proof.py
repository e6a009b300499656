"""The whole of a run, counted at the source before anybody is told of success (ADR 0019).

One count through the name that the plan gives, by the same user, bracketed by the relation's own
change counters: exact where nothing moved. Who finishes a run asks once and keeps the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.killpoints import KillPoint, reach
from rivet_fleet.contracts.manifest import LedgerPart
from rivet_fleet.contracts.plan import ReadPlan
from rivet_fleet.contracts.proof import (
    ChangeReading,
    ProofOutcome,
    ProofPlan,
    Prove,
    RunProof,
    judged,
    moved,
)
from rivet_fleet.contracts.state import FinalizeLease, RunView
from rivet_fleet.contracts.window import CursorPlan, describe_changes, differences, stored_binding
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.errors import (
    ConfigError,
    SchemaDrift,
    SourceError,
    StatementTimeout,
    StopRequested,
)
from rivet_fleet.execution.source import Source

SHARE = 0.01
"""Of a run's time, its sampled count may take as much again."""
LEAST_S = 0.1
"""A count that is expected to take no longer is always made."""
_COUNTED_PER_S = 5_000_000
"""Rows that a server is expected to count in a second."""
_GRACE_S = 0.25
_LONGEST_S = 300.0
"""The limit of a count where statements have none, or a longer one."""
_LOOK_EVERY_S = 0.5
_Judged = tuple[ProofOutcome, str]


@dataclass(frozen=True, slots=True)
class _Ask:
    """One run's question."""

    fleet: Fleet
    run: RunView
    plan: ProofPlan
    lease: FinalizeLease
    delivered: int

    @property
    def read(self) -> ReadPlan:
        return self.run.plan.read

    def hold(self, seconds: float) -> None:
        """Keep the right to finish the run while the source is busy."""
        ttl_s = self.fleet.settings.lease_ttl_s
        self.fleet.patience.call(
            "keep the run's end",
            lambda: self.fleet.store.confirm_finalize(self.lease, ttl_s + seconds),
        )


def prove_run(
    fleet: Fleet, run: RunView, lease: FinalizeLease, parts: Sequence[LedgerPart]
) -> RunProof | None:
    """What the source says of the whole run; kept before it is told. None asks nothing.

    Raises LeaseLost when another finishes the run, StopRequested.
    """
    plan = run.plan.proof
    delivered = sum(part.digest.rows for part in parts)
    # A proof of another number of rows is one that a reopening took back, put there again.
    if plan is None or (run.proof is not None and run.proof.delivered == delivered):
        return run.proof
    ask = _Ask(fleet, run, plan, lease, delivered)
    elsewhere = _mark_of_another(run.plan.cursor)
    if elsewhere is not None:
        outcome, sentence, counted, busy_s = ProofOutcome.DIFFERS, elsewhere, None, None
    else:
        outcome, sentence, counted, busy_s = _asked(ask)
    proof = RunProof(
        prove=plan.prove,
        outcome=outcome,
        delivered=ask.delivered,
        counted=counted,
        sentence=sentence,
        longest_statement_s=busy_s,
    )
    told = fleet.mention(
        Event(
            name=EventName.RUN_PROVEN,
            campaign_id=run.campaign_id,
            run_id=run.run_id,
            export_name=run.export_name,
            worker_id=fleet.identity.worker_id,
            message=fleet.redact(sentence),
            data={
                "outcome": outcome.value,
                "delivered": ask.delivered,
                "counted": counted,
                "longest_statement_s": busy_s,
            },
        )
    )
    ttl_s = fleet.settings.lease_ttl_s
    fleet.patience.call(
        "keep the proof", lambda: fleet.store.note_proof(lease, proof, ttl_s, told=[told])
    )
    reach(KillPoint.PROOF_NOTED)
    return proof


def _mark_of_another(cursor: CursorPlan | None) -> str | None:
    """Why no count of the window could prove anything: it begins at a mark that was taken of
    something else. Both sides are sealed in the plan (ADR 0020)."""
    if cursor is None or cursor.mark_before is None:
        return None
    changes = differences(stored_binding(cursor.binding_before), cursor.binding)
    if not changes:
        return None
    return f"the rows were read from a mark of something else on: {describe_changes(changes)}"


def _asked(ask: _Ask) -> tuple[ProofOutcome, str, int | None, float | None]:
    """The outcome, its sentence, what was counted, and how long one statement took at most."""
    timeout_s = _limit_s(ask)
    if isinstance(timeout_s, str):
        return ProofOutcome.UNPROVEN, timeout_s, None, None
    # A lease that runs out meanwhile lets the next finalizer ask the source the same again.
    if timeout_s > ask.fleet.settings.lease_ttl_s / 3:
        ask.hold(timeout_s)
    name = ask.read.source
    source: Source | None = None
    counted: int | None = None
    try:
        source = ask.fleet.source(name, ask.read.source_identity)
        assert ask.plan.counted is not None, "there is a limit only for what is counted"
        counted = source.count_rows(ask.read, ask.plan.counted, timeout_s)
        outcome, sentence = _judged(ask, source, counted)
    except StatementTimeout:
        outcome, counted = ProofOutcome.UNPROVEN, None
        sentence = f"counting took longer than {timeout_s:.3g} s"
    except (SourceError, ConfigError, SchemaDrift) as error:
        ask.fleet.drop_source(name)
        outcome, counted = ProofOutcome.UNPROVEN, None
        code = f" [{error.code}]" if error.code else ""
        sentence = f"the source could not be asked{code}: {ask.fleet.redact(error.message)}"
    finally:
        busy_s = None if source is None else source.longest_statement_s
    return outcome, sentence, counted, busy_s


def _limit_s(ask: _Ask) -> float | str:
    """The count's limit, or why there is none: a sampled one must be worth its cost."""
    if ask.plan.counted is None:
        return "a query is counted only with prove: all"
    if ask.plan.prove is Prove.ALL:
        configured_s = ask.run.plan.tuning.statement_timeout_s
        return min(configured_s or _LONGEST_S, _LONGEST_S)
    ended_at_s = ask.fleet.patience.call(
        "read when the run ended", lambda: ask.fleet.store.run_finished_at_s(ask.run.run_id)
    )
    worth_s = max(LEAST_S, SHARE * (ended_at_s - ask.run.created_at_s))
    if ask.delivered / _COUNTED_PER_S > worth_s:
        return f"counting {ask.delivered:,} rows would take too long"
    return max(_GRACE_S, 2.0 * worth_s)


def _judged(ask: _Ask, source: Source, counted: int) -> _Judged:
    """Counters behind the count, so that they hold every change it could have seen. What differs
    is looked at again until no change can be missing in them."""
    before = ask.plan.before
    first = after = _changes(ask, source)
    waited_s = -_LOOK_EVERY_S
    while True:
        movement = moved(before, after)
        found = judged(delivered=ask.delivered, counted=counted, movement=movement)
        if found[0] is not ProofOutcome.DIFFERS or not (before and first and after):
            return found
        if after.moment and after.moment == before.moment:
            return found  # nobody has written: nothing can be missing
        # So long backends may keep what they changed to themselves (ADR 0019).
        if waited_s >= first.lag_s:
            break
        if waited_s < 0 and first.lag_s:
            ask.hold(first.lag_s + 1.0)
        waited_s += _LOOK_EVERY_S
        if waited_s > 0 and ask.fleet.stop.wait(_LOOK_EVERY_S):
            raise StopRequested("stopped while a run was proven")
        after = _changes(ask, source)
    if set(first.open_transactions) & set(after.open_transactions):
        said = "a transaction has been open all the while: what its session changed is not told"
        return ProofOutcome.UNPROVEN, f"{found[1]}; {said}"
    return found


def _changes(ask: _Ask, source: Source) -> ChangeReading | None:
    """As they are now; not asked where nothing is known of before."""
    if ask.read.relation is None or ask.plan.before is None:
        return None
    return source.read_changes(ask.read.relation)
