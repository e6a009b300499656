"""What a run proves of itself against the server, and how a count is judged (ADR 0019). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rivet_fleet.contracts.keys import ChunkRange

PROOF_PAGE = "RIVET_PROOF_PAGE"
"""A page's rows are not what the server counts between the page's own bounds."""
COMPARABLE_S = 5.0
"""Two readings that disagree by no more than this on when the server began to count mean the same
moment: servers tell it in whole seconds, and rounded."""


class Prove(Enum):
    """How much is asked. Values are the configuration's words."""

    OFF = "off"
    SAMPLED = "sampled"
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeReading:
    """One look at how often rows of a relation were changed since the server began to count.

    The counters may be those of more than the relation (then they are an upper bound), and they
    may be late by ``lag_s``: changes of the transactions in ``open_transactions`` by even more.
    Counters of two readings can be compared only when ``epoch`` is the same and ``since_s`` about
    the same; an empty ``epoch`` can be compared with nothing. ``moment``: two readings with the
    same one saw the same rows, whatever the counters say; empty tells nothing.
    """

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    epoch: str = ""
    since_s: float = 0.0
    moment: str = ""
    lag_s: float = 0.0
    open_transactions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofPlan:
    """What the run of an export proves. ``counted`` are the rows of all of its chunks together;
    None when they are not counted as a whole. ``before`` is how the relation's counters stood when
    the export was planned, None when nothing tells."""

    prove: Prove
    counted: ChunkRange | None = None
    before: ChangeReading | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """At most so many rows were changed between two looks."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0

    @property
    def none(self) -> bool:
        """True when nothing was changed."""
        return not (self.inserted or self.updated or self.deleted)

    def __str__(self) -> str:
        if self.none:
            return "nothing was changed since the export was planned"
        return (
            f"since the export was planned at most {self.inserted:,} rows were inserted, "
            f"{self.updated:,} updated and {self.deleted:,} deleted"
        )


def moved(before: ChangeReading | None, after: ChangeReading | None) -> Movement | None:
    """What was changed between two looks; None when nobody can say."""
    if before is None or after is None:
        return None
    if before.moment and before.moment == after.moment:
        return Movement()
    apart_s = abs(before.since_s - after.since_s)
    if not before.epoch or before.epoch != after.epoch or apart_s > COMPARABLE_S:
        return None
    risen = (
        after.inserted - before.inserted,
        after.updated - before.updated,
        after.deleted - before.deleted,
    )
    if min(risen) < 0:
        return None  # the server has forgotten what it had counted
    return Movement(inserted=risen[0], updated=risen[1], deleted=risen[2])


def fits(*, delivered: int, counted: int, movement: Movement) -> bool:
    """True when so many rows may have been delivered of a relation that has ``counted`` now.

    A row that was not changed is delivered once and counted once. An insert may be counted and
    not delivered; a delete delivered and not counted; an update may move its row to where it is
    read a second time, or not at all.
    """
    least = counted - movement.inserted - movement.updated
    return least <= delivered <= counted + movement.deleted + movement.updated


class ProofOutcome(Enum):
    """How the whole of a run was judged. Values stand in manifests."""

    PROVEN = "proven"
    DIFFERS = "differs"
    UNPROVEN = "unproven"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProof:
    """What the server said of the rows of a whole run, once: kept with the run before anything is
    written, so that every finalizer tells the same.

    ``counted`` is None when nothing was counted. ``longest_statement_s``: how long the source was
    busy with one statement of the count at most; None when it was not asked.
    """

    prove: Prove
    outcome: ProofOutcome
    delivered: int
    counted: int | None
    sentence: str
    longest_statement_s: float | None = None


def judged(*, delivered: int, counted: int, movement: Movement | None) -> tuple[ProofOutcome, str]:
    """The outcome of a count, and one sentence for people."""
    if counted == delivered:
        return ProofOutcome.PROVEN, f"the source counts {counted:,} rows, as many as were delivered"
    numbers = f"{delivered:,} rows were delivered, and the source counts {counted:,}"
    if movement is None:
        return ProofOutcome.UNPROVEN, f"{numbers}: how many were changed meanwhile is not known"
    if fits(delivered=delivered, counted=counted, movement=movement):
        return ProofOutcome.PROVEN, f"{numbers}: {movement}"
    return ProofOutcome.DIFFERS, f"{numbers}, but {movement}"
