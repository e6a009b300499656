"""Reading the state for ``metrics`` and ``journal``: nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.state import CampaignView, JournalEntry, JournalFilter
from rivet_fleet.coordination.fleet import COORDINATOR, Fleet, seen_workers
from rivet_fleet.observability.metrics import (
    CampaignMetrics,
    CountedRun,
    EndedRun,
    campaign_metrics,
    counted_runs,
    ended_run,
)
from rivet_fleet.persistence.store import Store

# ------------------------------------------------------------------------------------------
# Following the journal without missing an entry that becomes visible late.
#
# A server draws ids before it commits them: an entry may appear below one that was told already.
# Ids that were passed over are therefore asked for again, for longer than a transaction lasts.
# Most of them never come: they belong to other campaigns, to entries that are filtered away, or
# to transactions that were taken back.

LATE_MAX_S = 60.0
"""The state's own limits end a statement after 14 s, and a transaction that rests after 10 s."""
_AGAIN_S = 2.0
_PAGE = 5_000


@dataclass(frozen=True, slots=True)
class _Gap:
    """Ids that were not there when a higher one was: both ends are meant, too."""

    low: int
    high: int
    noticed_s: float


class Follower:
    """One reader's place in a campaign's journal. ``known``: ids told before, up to
    ``after_id``; what is missing between them may still come. Times are monotonic seconds."""

    def __init__(
        self,
        store: Store,
        campaign_id: CampaignId,
        only: JournalFilter | None = None,
        *,
        after_id: int = 0,
        known: Iterable[int] = (),
    ) -> None:
        self._store = store
        self._campaign_id = campaign_id
        self._only = only
        before = sorted({*known, after_id})
        self._told_id = before[0]
        self._gaps: list[_Gap] = []
        self._asked_again_s: float | None = None
        self._pending_known = before[1:]

    def look(self, now_s: float, *, last: bool = False) -> list[JournalEntry]:
        """What was not told yet, those that came late first. ``last``: no look follows."""
        if self._pending_known:
            self._pass(self._pending_known, now_s)
            self._pending_known = []
        # A look that fails has told nothing: our place changes when every answer is there.
        fresh = self._store.journal(
            campaign_id=self._campaign_id, after_id=self._told_id, only=self._only, limit=_PAGE
        )
        found = self._late(now_s, last=last)
        self._pass([entry.journal_id for entry in fresh], now_s)
        return found + fresh

    def _pass(self, ids: Iterable[int], now_s: float) -> None:
        for journal_id in ids:
            if journal_id > self._told_id + 1:
                self._gaps.append(_Gap(self._told_id + 1, journal_id - 1, now_s))
            self._told_id = journal_id

    def _late(self, now_s: float, *, last: bool) -> list[JournalEntry]:
        self._gaps = [gap for gap in self._gaps if now_s - gap.noticed_s <= LATE_MAX_S]
        asked_s = self._asked_again_s
        if not self._gaps or not (last or asked_s is None or now_s - asked_s >= _AGAIN_S):
            return []
        found: list[JournalEntry] = []
        after_id, highest = self._gaps[0].low - 1, self._gaps[-1].high
        while after_id < highest:
            page = self._store.journal(
                campaign_id=self._campaign_id, after_id=after_id, only=self._only, limit=_PAGE
            )
            found += self._missed(page)
            if len(page) < _PAGE:
                break
            after_id = page[-1].journal_id
        self._asked_again_s = now_s
        for entry in found:
            self._gaps = [part for gap in self._gaps for part in _without(gap, entry.journal_id)]
        return found

    def _missed(self, page: list[JournalEntry]) -> list[JournalEntry]:
        """Those of an ordered page that lie in a gap; both are walked once."""
        found, gaps = [], iter(self._gaps)
        gap = next(gaps, None)
        for entry in page:
            while gap is not None and gap.high < entry.journal_id:
                gap = next(gaps, None)
            if gap is None:
                break
            if entry.journal_id >= gap.low:
                found.append(entry)
        return found


def _without(gap: _Gap, journal_id: int) -> list[_Gap]:
    if not gap.low <= journal_id <= gap.high:
        return [gap]
    parts = ((gap.low, journal_id - 1), (journal_id + 1, gap.high))
    return [_Gap(low, high, gap.noticed_s) for low, high in parts if low <= high]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsReport:
    """``now`` is the campaign asked about; ``ended`` are runs of its exports, newest first,
    those of former campaigns of the same name among them."""

    metrics_version: int
    campaign_name: str
    campaign_id: str
    campaign_status: str
    now: CampaignMetrics
    ended: tuple[EndedRun, ...]
    harm: tuple[CountedRun, ...] = ()
    """The source's own counters during each run; named as the JSON names it."""


def read_metrics(
    fleet: Fleet, view: CampaignView, *, export_name: str | None, last: int
) -> MetricsReport:
    """The numbers of one moment, with the ``last`` ended runs of each export."""
    store = fleet.store
    runs = [r for r in store.runs(view.campaign_id) if export_name in (None, r.export_name)]
    names = {run.run_id: run.export_name for run in runs}
    workers = seen_workers(fleet)
    ended = [
        ended_run(row)
        for run in runs
        for row in store.metrics(
            campaign_name=view.campaign_name, export_name=run.export_name, limit=last
        )
    ]
    return MetricsReport(
        metrics_version=1,
        campaign_name=view.campaign_name,
        campaign_id=view.campaign_id,
        campaign_status=view.status.value,
        now=campaign_metrics(
            runs,
            [worker for worker in workers if not worker.name.startswith(COORDINATOR)],
            store.groups(view.campaign_id),
            store.now_s(),
        ),
        harm=counted_runs(store.counters(view.campaign_id), names),
        ended=tuple(sorted(ended, key=lambda run: -run.ended_at_s)),
    )


def newest_entries(
    fleet: Fleet, campaign_id: CampaignId, only: JournalFilter, *, last: int
) -> list[JournalEntry]:
    """The ``last`` newest entries that pass, in order of happening."""
    return fleet.store.journal(campaign_id=campaign_id, only=only, newest=True, limit=last)


def follow_entries(
    fleet: Fleet,
    campaign_id: CampaignId,
    only: JournalFilter,
    *,
    after_id: int,
    known: Iterable[int] = (),
    wait: Callable[[float], object],
) -> Iterator[Sequence[JournalEntry]]:
    """Further entries as they happen, until the campaign is over and all is told.

    ``after_id``: the last entry that is known, ``known``: ids of it and of those before it;
    ``wait(seconds)`` rests between two looks.
    """
    follower = Follower(fleet.store, campaign_id, only, after_id=after_id, known=known)
    while True:
        # Before the entries: what the end itself wrote is then among them.
        view = fleet.store.campaign(campaign_id)
        over = view is None or view.status.over
        entries = follower.look(fleet.clock.monotonic_s(), last=over)
        if entries:
            yield entries
        elif over:
            return
        else:
            wait(fleet.settings.poll_interval_s)
