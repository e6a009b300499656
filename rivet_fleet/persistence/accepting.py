"""An operator takes responsibility for a run that its gates refused (ADR 0012, S6)."""

from __future__ import annotations

from rivet_fleet.contracts.codec import dumps, loads
from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.keys import RunId
from rivet_fleet.contracts.quality import Acceptance, RunFindings
from rivet_fleet.contracts.state import Accepted
from rivet_fleet.contracts.task import CampaignStatus, RunStatus
from rivet_fleet.errors import StateRefused
from rivet_fleet.persistence.database import Database, Record, Transaction
from rivet_fleet.persistence.finalizing import ALL_COMPLETED
from rivet_fleet.persistence.journal import note
from rivet_fleet.persistence.ledger import LOCK_CAMPAIGN, LOCK_RUN, REVIVE_CAMPAIGN
from rivet_fleet.persistence.seals import WORDS, check_words, seal_word

WRONG_STATE = "RIVET_ACCEPT_WRONG_STATE"
_WORDS = ", ".join(f"r.{name}" for name in WORDS.split(", "))

_RUN = f"""
SELECT r.campaign_id, r.run_id, r.export_name, r.status, r.findings_json, r.seal, {_WORDS},
  (SELECT max(o.run_id) FROM chunk_run o
   WHERE o.namespace = r.namespace AND o.campaign_name = r.campaign_name
     AND o.export_name = r.export_name
     AND o.run_id <> r.run_id AND o.created_at_s >= r.created_at_s
     AND o.status IN ('completed', 'in_progress')) AS later
FROM chunk_run r WHERE r.run_id = :run_id
"""
_PARENT = "SELECT campaign_id FROM chunk_run WHERE run_id = :run_id"
_ACCEPT = f"""
UPDATE chunk_run SET status = 'in_progress', finished_at_s = NULL, error = NULL,
  acceptance_json = :acceptance_json, acceptance_seal = :acceptance_seal,
  finalize_fence = finalize_fence + 1,
  finalize_lease_expires_at_s = NULL
WHERE run_id = :run_id AND status = 'failed' AND acceptance_json IS NULL AND {ALL_COMPLETED}
"""


class Accepting:
    """One transition: failed by its gates → in progress, to be finished and nothing else."""

    _db: Database

    def accept_run(self, run_id: RunId, *, by: str, reason: str) -> Accepted:
        """See ``Store.accept_run``. The first of two wins, the second is told who it was."""

        def work(tx: Transaction) -> Accepted:
            campaign_id = tx.scalar(_PARENT, run_id=run_id)
            campaign = tx.scalar(LOCK_CAMPAIGN, campaign_id=campaign_id)
            tx.first(LOCK_RUN, run_id=run_id)
            run = tx.first(_RUN, run_id=run_id)
            if run is None:
                raise StateRefused(f"there is no run {run_id}")
            check_words(tx.sealer, run)
            if run.acceptance_json is not None:
                return Accepted(acceptance=loads(Acceptance, run.acceptance_json), created=False)
            findings = _findings(run)
            refuse_acceptance(
                RunStatus(run.status), CampaignStatus(campaign), findings, run.later, run_id
            )
            acceptance = Acceptance(
                by=by, reason=reason, at_s=float(tx.scalar("SELECT NOW_S")), gates=findings.refused
            )
            word = dumps(acceptance)
            seal = seal_word(tx.sealer, "acceptance", run_id, word)
            if tx.run(_ACCEPT, run_id=run_id, acceptance_json=word, acceptance_seal=seal) == 0:
                raise wrong_state(f"run {run_id} has chunks that are not delivered")
            tx.run(REVIVE_CAMPAIGN, campaign_id=run.campaign_id)
            note(tx, acceptance_event(run.campaign_id, run_id, run.export_name, acceptance))
            return Accepted(acceptance=acceptance, created=True)

        return self._db.write(work)


def refuse_acceptance(
    status: RunStatus,
    campaign: CampaignStatus,
    findings: RunFindings,
    later: str | None,
    run_id: RunId,
) -> None:
    """Raise StateRefused unless only gates stand between the run and its delivery."""
    if campaign is CampaignStatus.CANCELLED:
        raise wrong_state(f"the campaign of run {run_id} was cancelled")
    if status is not RunStatus.FAILED or not findings.refused:
        raise wrong_state(
            f"run {run_id} is {status.value.replace('_', ' ')}, and no quality gate refused it"
        )
    if later is not None:
        raise wrong_state(
            f"run {later} of the same export is newer: an older delivery must not replace it"
        )


def wrong_state(message: str) -> StateRefused:
    """The refusal; nothing was changed."""
    return StateRefused(
        message,
        hint="`rivet-fleet status` shows every run; only the newest run of an export that its "
        "quality gates refused can be accepted",
        code=WRONG_STATE,
    )


def acceptance_event(
    campaign_id: str, run_id: str, export_name: str, acceptance: Acceptance
) -> Event:
    """Who, why, and which verdicts: into the journal in the same transaction."""
    return Event(
        name=EventName.RUN_ACCEPTED,
        campaign_id=campaign_id,
        run_id=run_id,
        export_name=export_name,
        message=acceptance.sentence,
        data={
            "by": acceptance.by,
            "reason": acceptance.reason,
            "gates": [gate.sentence for gate in acceptance.gates],
        },
    )


def _findings(run: Record) -> RunFindings:
    return RunFindings() if run.findings_json is None else loads(RunFindings, run.findings_json)
