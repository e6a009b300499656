"""Reading the state for ``metrics`` and ``journal``: nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.state import CampaignView, JournalEntry, JournalFilter
from rivet_fleet.coordination.coordinator import COORDINATOR
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.coordination.following import Follower
from rivet_fleet.observability.harm import CountedRun, counted_runs
from rivet_fleet.observability.history import EndedRun, ended_run
from rivet_fleet.observability.metrics import CampaignMetrics, campaign_metrics


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


def read_metrics(
    fleet: Fleet, view: CampaignView, *, export_name: str | None, last: int
) -> MetricsReport:
    """The numbers of one moment, with the ``last`` ended runs of each export."""
    store = fleet.store
    runs = [r for r in store.runs(view.campaign_id) if export_name in (None, r.export_name)]
    names = {run.run_id: run.export_name for run in runs}
    workers = store.workers(alive_within_s=fleet.settings.lease_ttl_s)
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
        harm=counted_runs(store.harm(view.campaign_id), names),
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
