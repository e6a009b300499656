"""Each reason a campaign may wait for is told, with its stable code, and only when it holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rivet_fleet.contracts.plan import ClaimPlace
from rivet_fleet.contracts.state import CampaignStatus, Outage, RunStatus, RunView, TaskStatus
from rivet_fleet.observability.metrics import campaign_metrics
from rivet_fleet.observability.reasons import Reason, ReasonCode, Scene, runs_by_source
from rivet_fleet.observability.status import StatusReport, explain, render_status, status_json
from tests.unit.observability.views import (
    NOW_S,
    campaign,
    entry,
    group,
    redactor_for,
    run,
    task,
    worker,
)

HIDE = redactor_for(["hunter22"])
FAILED = {"status": TaskStatus.FAILED, "owner": None, "owner_name": None}


def _codes(report: StatusReport) -> list[ReasonCode]:
    return [reason.code for reason in report.reasons]


def _only(report: StatusReport, code: ReasonCode) -> Reason:
    assert _codes(report) == [code]
    return report.reasons[0]


def _explain(runs, tasks=(), workers=(), groups=(), status=CampaignStatus.ACTIVE, **more):  # type: ignore[no-untyped-def]
    scene = Scene(
        campaign=more.pop("of", None) or campaign(status),
        runs=runs,
        tasks=tasks,
        workers=workers,
        groups=groups,
        now_s=NOW_S,
    )
    return explain(scene, **more)


def test_everything_running() -> None:
    report = _explain([run(running=1)], [task()], [worker()])
    assert "1 running" in _only(report, ReasonCode.EVERYTHING_RUNNING).sentence


def test_no_live_worker() -> None:
    report = _explain([run(pending=2)], [], [worker(alive=False)])
    reason = _only(report, ReasonCode.NO_LIVE_WORKER)
    assert reason.next_command == "rivet-fleet resume -c fleet.yaml"
    assert "2 chunks could be claimed" in reason.sentence


def _away(**over):  # type: ignore[no-untyped-def]
    outage = Outage(since_s=NOW_S - 3600, last_s=NOW_S - 5, tries=7, message="refused.")
    args = {"status": CampaignStatus.ACTIVE, "runs": [run(pending=2, running=1)], **over}
    return _explain(args["runs"], [], [worker()], status=args["status"], outages={"shop": outage})


def test_a_source_that_is_away_is_said_first_with_what_is_still_true() -> None:
    reason = _away().reasons[0]
    assert reason.code is ReasonCode.SOURCE_AWAY
    assert reason.sentence == (
        "Source shop is away since 2027-01-15T07:00:00.000Z (1 h 00 m): 7 chunks could not "
        "connect and went back, the last 5.0 s ago: refused. Nothing is lost and no attempt is "
        "spent; it is tried again (1 chunk at this moment) until it answers. Bring the source, "
        "or the way to it, back; or give the campaign up with `cancel`."
    )
    assert reason.next_command == "rivet-fleet doctor -c fleet.yaml"


def test_nobody_waits_for_a_source_when_the_campaign_is_over() -> None:
    over = _away(status=CampaignStatus.CANCELLED)
    assert ReasonCode.SOURCE_AWAY not in [reason.code for reason in over.reasons]


@pytest.mark.parametrize(
    ("ago_s", "status", "said"),
    [
        (20.0, CampaignStatus.ACTIVE, 1),
        (50.0, CampaignStatus.ACTIVE, 0),
        (20.0, CampaignStatus.CANCELLED, 0),
    ],
)
def test_tries_that_wait_for_the_budget_are_said_while_they_wait(ago_s, status, said) -> None:
    told = [
        entry("source.held", at_s=NOW_S - ago_s, data={"source": "shop", "wait_s": wait_s})
        for wait_s in (30.0, 45.0)
    ]
    report = _explain([run(pending=2, running=1)], [], [worker()], status=status, held=told)
    found = [reason for reason in report.reasons if reason.code is ReasonCode.RETRIES_HELD]
    assert len(found) == said
    if said:
        assert found[0].until_s == pytest.approx(25.0) and "Source shop" in found[0].sentence


@pytest.mark.parametrize(
    ("ago_s", "wait_s", "status", "said"),
    [
        (20.0, 30.0, CampaignStatus.ACTIVE, 1),
        (50.0, 30.0, CampaignStatus.ACTIVE, 0),
        (20.0, 30.0, CampaignStatus.CANCELLED, 0),
        (20.0, float("inf"), CampaignStatus.ACTIVE, 0),
        (20.0, "x", CampaignStatus.ACTIVE, 0),
    ],
)
def test_who_waits_for_room_says_how_much_is_needed(ago_s, wait_s, status, said) -> None:
    message = "chunk 3 of orders waits for room: no space left: its files need 4 MB"
    told = [
        entry("destination.full", at_s=NOW_S - ago_s, data={"wait_s": wait_s}, message=message)
        for _ in range(2)
    ]
    report = _explain([run(pending=2)], [], [worker()], status=status, full=told)
    found = [reason for reason in report.reasons if reason.code is ReasonCode.DESTINATION_FULL]
    assert len(found) == said, "once for each worker"
    if said:
        assert found[0].until_s == pytest.approx(10.0)
        assert "Chunk 3 of orders waits for room" in found[0].sentence
        assert "its files need 4 MB. No attempt is spent" in found[0].sentence


def test_a_source_is_asked_about_while_one_of_its_runs_has_chunks_to_read() -> None:
    done, open_ = run("a", status=RunStatus.COMPLETED, completed=1), run("b", pending=1)
    assert runs_by_source([done, open_]) == {"shop": (done.run_id, open_.run_id)}
    assert runs_by_source([done, run("b", committed=1)]) == {}


def test_all_workers_busy() -> None:
    report = _explain([run(pending=5, running=1)], [task()], [worker()])
    assert "wait for a worker: 1 of 1 is busy" in _only(report, ReasonCode.WORKERS_BUSY).sentence


def test_idle_workers_are_about_to_claim() -> None:
    report = _explain([run(pending=5)], [], [worker(busy=False)])
    assert _codes(report) == [ReasonCode.CLAIMABLE_NOW]


def test_a_full_source_group_names_who_holds_its_slots() -> None:
    runs = [run("orders", group="shop", running=1), run("items", group="shop", pending=7)]
    report = _explain(
        runs,
        [task("orders", 3)],
        [worker(), worker("w2", busy=False)],
        [group("shop", slots_max=1, running=1)],
    )
    sentence = _only(report, ReasonCode.SOURCE_GROUP_FULL).sentence
    assert "7 chunks wait for source group shop: 1 of 1 slots" in sentence
    assert "orders chunk 3 on worker-1" in sentence


def test_a_group_with_room_or_without_limit_holds_nobody() -> None:
    for slots_max in (2, None):
        report = _explain(
            [run("items", group="shop", running=1, pending=1)],
            [task("items")],
            [worker()],
            [group("shop", slots_max=slots_max, running=1)],
        )
        assert _codes(report) == [ReasonCode.WORKERS_BUSY]


def test_the_governor_is_explained_with_its_figures() -> None:
    shed = replace(
        group("shop", slots_max=8, running=3),
        permits=3,
        page_share=0.5,
        monitored=True,
        rows_per_s=5000.0,
        readings_json='[{"name": "lock_waits", "value": 4.0, "level": "shed", "error": null}]',
    )
    runs = [run("orders", group="shop", running=3, pending=1)]
    report = _explain(runs, [task()], [worker()], [shed])
    found = {reason.code: reason for reason in report.reasons}
    said = found[ReasonCode.SOURCE_GROUP_SHED].sentence
    assert said == (
        "Source group shop may run 3 of 8 chunks, pages at 50% of their size: lock_waits 4."
    )
    assert "rows/s" in found[ReasonCode.SOURCE_GROUP_PACED].sentence
    assert "3 of 3 slots" in found[ReasonCode.SOURCE_GROUP_FULL].sentence


def test_a_pause_says_why_and_until_when() -> None:
    runs = [run("orders", group="shop", pending=1)]
    shop = group("shop", slots_max=2, running=0)
    paused = replace(shop, paused="it may run 22:00-06:00 (UTC)", resumes_at_s=NOW_S + 90)
    reason = _only(_explain(runs, [], [worker()], [paused]), ReasonCode.SOURCE_GROUP_PAUSED)
    assert reason.until_s == 90
    assert "it may run 22:00-06:00 (UTC); it opens in 1 m 30 s." in reason.sentence
    unwatched = replace(shop, valid_until_s=NOW_S - 1)
    reason = _only(_explain(runs, [], [worker()], [unwatched]), ReasonCode.SOURCE_GROUP_PAUSED)
    assert "nobody watches the source" in reason.sentence


def test_a_halted_campaign_says_why_and_how_to_go_on() -> None:
    halted = replace(campaign(), halted="queue is 101, above 100")
    runs = [run("orders", group="shop", pending=1)]
    report = _explain(runs, [], [worker(busy=False)], of=halted)
    reason = _only(report, ReasonCode.CAMPAIGN_HALTED)
    assert "queue is 101, above 100" in reason.sentence and "resume" in (reason.next_command or "")
    assert ReasonCode.CLAIMABLE_NOW not in _codes(report)


def test_a_failed_attempt_waits_before_the_next() -> None:
    waits = task(index=4, **FAILED, attempts=1, not_before_s=NOW_S + 12.0, error_class="SourceBusy")
    report = _explain([run(failed=1)], [waits], [worker(busy=False)])
    reason = _only(report, ReasonCode.WAITING_FOR_RETRY)
    assert reason.until_s == 12.0 and "SourceBusy, attempt 1 of 3" in reason.sentence
    assert "12 s more" in reason.sentence


def test_a_failed_attempt_whose_wait_is_over_can_be_claimed() -> None:
    ready = task(index=4, **FAILED, attempts=1, not_before_s=NOW_S - 1)
    report = _explain([run(failed=1)], [ready], [worker(busy=False)])
    assert _codes(report) == [ReasonCode.CLAIMABLE_NOW]


def test_failed_for_good_with_its_error_and_the_verb() -> None:
    poison = task(
        index=4,
        **FAILED,
        attempts=3,
        error_class="SourceRefused",
        last_error="no privilege on orders, hunter22",
    )
    report = _explain([run(failed=1, completed=3)], [poison], [worker(busy=False)])
    reason = _only(report, ReasonCode.FAILED_FOR_GOOD)
    assert reason.next_command == "rivet-fleet requeue -c fleet.yaml -e orders"
    assert "no privilege on orders" in reason.sentence
    assert report.failed[0].chunk_index == 4


def test_the_lease_of_a_dead_worker_runs_out() -> None:
    orphan = task(owner="w9", owner_name="worker-9", lease_expires_at_s=NOW_S + 7)
    report = _explain([run(running=1)], [orphan], [worker(busy=False)])
    reason = _only(report, ReasonCode.DEAD_WORKER_LEASE)
    assert reason.until_s == 7 and "worker-9" in reason.sentence and "7.0 s" in reason.sentence


def test_an_expired_lease_waits_for_a_reaper() -> None:
    report = _explain([run(running=1)], [task(lease_expires_at_s=NOW_S - 1)], [worker()])
    assert _codes(report) == [ReasonCode.LEASE_EXPIRED]


def test_committed_chunks_wait_to_be_published() -> None:
    report = _explain([run(committed=2, completed=1)], [], [worker()])
    assert "2 chunks" in _only(report, ReasonCode.COMMITTED_UNPUBLISHED).sentence


@pytest.mark.parametrize(
    ("fence", "code"), [(0, ReasonCode.FINALIZE_WAITING), (2, ReasonCode.FINALIZE_LEASED)]
)
def test_finalizing(fence: int, code: ReasonCode) -> None:
    report = _explain([run(completed=3, finalize_fence=fence)], [], [worker(busy=False)])
    assert _codes(report) == [code]


def test_a_ledger_that_disagrees_with_the_plan() -> None:
    report = _explain([run(completed=3, expected=4)], [], [worker(busy=False)])
    assert _codes(report) == [ReasonCode.LEDGER_MISMATCH]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (CampaignStatus.COMPLETED, ReasonCode.CAMPAIGN_COMPLETED),
        (CampaignStatus.INCOMPLETE, ReasonCode.CAMPAIGN_INCOMPLETE),
        (CampaignStatus.CANCELLED, ReasonCode.CAMPAIGN_CANCELLED),
    ],
)
def test_a_campaign_that_is_over(status: CampaignStatus, code: ReasonCode) -> None:
    assert _codes(_explain([run(pending=1)], status=status)) == [code]


def test_an_incomplete_campaign_still_tells_what_failed() -> None:
    poison = task(**FAILED, attempts=3, error_class="SourceRefused", last_error="no")
    report = _explain([run(failed=1)], [poison], status=CampaignStatus.INCOMPLETE)
    assert _codes(report) == [ReasonCode.CAMPAIGN_INCOMPLETE, ReasonCode.FAILED_FOR_GOOD]


def test_an_incomplete_campaign_whose_plan_no_longer_fits_offers_no_other_try() -> None:
    drifted = task(**FAILED, attempts=3, error_class="SchemaDrift", last_error="rewritten")
    report = _explain([run(failed=1)], [drifted], status=CampaignStatus.INCOMPLETE)
    assert _codes(report) == [ReasonCode.CAMPAIGN_INCOMPLETE, ReasonCode.FAILED_FOR_GOOD]
    for reason in report.reasons:
        assert reason.next_command == "rivet-fleet run -c fleet.yaml --new"
        assert "requeue" not in reason.sentence


def test_a_run_that_a_gate_refused_says_what_is_left_and_what_to_do() -> None:
    refused = run(completed=4, status=RunStatus.FAILED, error="not delivered, 3 rows [X]")
    report = _explain([refused], [], [worker(busy=False)])
    reason = _only(report, ReasonCode.QUALITY_REFUSED)
    assert reason.next_command == "rivet-fleet run -c fleet.yaml --new"
    assert "was not delivered, 3 rows [X]. Its files have no manifest" in reason.sentence


def _placed(
    name: str,
    *,
    order: str = "config",
    wave: int | None = None,
    score: int = 50,
    chunk_work_s: float = 5.0,
    group: str | None = None,
    **counts: int,
) -> RunView:
    view = run(name, group=group, **counts)
    place = ClaimPlace(order=order, wave=wave, score=score, chunk_work_s=chunk_work_s)
    return replace(view, plan=replace(view.plan, place=place))


def _order(report: StatusReport) -> list[tuple[ReasonCode, str | None]]:
    ordinary = (ReasonCode.WORKERS_BUSY, ReasonCode.CLAIMABLE_NOW, ReasonCode.SOURCE_GROUP_FULL)
    return [(r.code, r.export_name) for r in report.reasons if r.code not in ordinary]


def test_a_later_wave_waits_for_what_an_earlier_one_has_to_claim() -> None:
    runs = [_placed("small", wave=1, pending=3, running=1), _placed("big", wave=3, pending=9)]
    report = _explain(runs, [task("small")], [worker()])
    assert _order(report) == [(ReasonCode.EARLIER_WAVE_FIRST, "big")]
    sentence = report.reasons[-1].sentence
    assert "9 chunks of big belong to wave 3: wave 1 goes first" in sentence
    assert "small (3 chunks left to claim)" in sentence
    assert [(e.wave, e.priority_score) for e in report.exports] == [(1, 50), (3, 50)]


def test_no_wave_is_waited_for_when_it_has_nothing_left_to_claim() -> None:
    runs = [_placed("small", wave=1, running=2), _placed("big", wave=2, pending=9, running=1)]
    report = _explain(runs, [task("small"), task("big")], [worker()])
    assert _order(report) == [(ReasonCode.WAVES_OVERLAP, None)]
    assert "Wave 1 still runs 2 chunks" in report.reasons[-1].sentence
    assert "1 chunk of later waves" in report.reasons[-1].sentence


def test_a_wave_behind_a_full_group_lets_the_next_one_pass() -> None:
    runs = [
        _placed("small", wave=1, group="shop", pending=3, running=1),
        _placed("other", wave=2, pending=4),
    ]
    full = [group("shop", slots_max=1, running=1)]
    report = _explain(runs, [task("small")], [worker()], full)
    assert _order(report) == []


def test_priorities_and_durations_say_what_they_compared() -> None:
    first = {"score": 88, "chunk_work_s": 60.0, "pending": 1}
    for order, code, said in (
        ("priority", ReasonCode.HIGHER_PRIORITY_FIRST, "priority 88 against 50"),
        ("longest_first", ReasonCode.LONGER_CHUNKS_FIRST, "take 1 m 00 s"),
    ):
        runs = [_placed("a", order=order, **first), _placed("b", order=order, pending=2)]  # type: ignore[arg-type]
        report = _explain(runs, [], [worker(busy=False)])
        assert _order(report) == [(code, "b")]
        assert said in report.reasons[-1].sentence


def test_without_an_order_nothing_is_said_about_turns() -> None:
    unordered = [run("a", pending=1), run("b", pending=1)]
    assert _order(_explain(unordered, [], [worker()])) == []
    one_wave = [_placed("a", wave=1, pending=1), _placed("b", wave=1, pending=1)]
    assert _order(_explain(one_wave, [], [worker()])) == []


def test_an_unfit_worker_is_named_until_it_begins_anew() -> None:
    who = {"worker_name": "w-bad", "host_id": "h1"}
    refused = entry(
        "worker.refused",
        at_s=NOW_S - 5,
        message="no such variable hunter22",
        data={**who, "code": "RIVET_WORKER_CONFIGURATION"},
    )
    began = entry("worker.started", data=who)
    other = entry("worker.started", data={**who, "host_id": "h2"})

    def report(entries, status=CampaignStatus.ACTIVE) -> StatusReport:  # type: ignore[no-untyped-def]
        runs = [run(pending=1)]
        return _explain(runs, status=status, began=entries)

    told = report([refused, other])
    assert ReasonCode.WORKER_UNFIT in _codes(told)
    shown = render_status(told, HIDE)
    assert "w-bad on h1" in shown
    assert "RIVET_WORKER_CONFIGURATION" in shown
    assert "hunter22" not in shown
    assert ReasonCode.WORKER_UNFIT not in _codes(report([refused, began]))
    over = report([refused], CampaignStatus.COMPLETED)
    assert ReasonCode.WORKER_UNFIT not in _codes(over)


def test_every_reason_code_is_reachable_by_a_test_here() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    missing = [c.name for c in ReasonCode if f"ReasonCode.{c.name}" not in source]
    assert not missing


def _full() -> StatusReport:
    poison = task(
        index=1,
        **FAILED,
        attempts=3,
        error_class="SourceRefused",
        last_error="db://u:pw@h refused\nhunter22 \x1b[31m",
    )
    runs = [run("orders", running=1, failed=1, rows=1234), run("items", completed=2)]
    return _explain(
        runs,
        [task(), poison],
        [worker(), worker("w2", alive=False)],
        [group("shop", slots_max=2, running=1)],
    )


def test_status_json_has_a_schema_version_and_hides_secrets() -> None:
    text = status_json(_full(), HIDE)
    plain = json.loads(text)
    assert plain["schema_version"] == 1 and plain["at"] == "2027-01-15T08:00:00.000Z"
    assert {r["code"] for r in plain["reasons"]} >= {"failed_for_good", "finalize_waiting"}
    assert plain["workers"][0]["chunk"] == "orders chunk 0"
    assert "hunter22" not in text and "u:pw@" not in text


def test_render_status_shows_all_and_hides_secrets() -> None:
    text = render_status(_full(), HIDE)
    for part in (
        "Campaign nightly (c1): active",
        "orders  in_progress",
        "1 worker alive",
        "orders chunk 0",
        "not heard from for 40 s",
        "source group shop: 1 running, 2 slots",
        "[failed_for_good]",
        "rivet-fleet requeue -c fleet.yaml -e orders",
    ):
        assert part in text, part
    assert "hunter22" not in text and "u:pw@" not in text and "\x1b" not in text


def test_metrics_add_up() -> None:
    runs = [
        run("orders", running=1, pending=2, rows=5, size=50),
        run("items", completed=2, rows=7, status=RunStatus.COMPLETED, finished_at_s=NOW_S - 40),
    ]
    metrics = campaign_metrics(
        runs,
        [worker(), worker("w2", alive=False)],
        [group("shop", slots_max=2, running=1)],
        NOW_S,
    )
    assert metrics.chunks.total == 5 and metrics.rows == 12 and metrics.bytes == 50
    assert metrics.workers_alive == 1 and metrics.workers_busy == 1
    assert [e.age_s for e in metrics.exports] == [100, 60]
    assert metrics.runs_in_progress == 1 and metrics.group_running == {"shop": 1}


def test_many_partitions_are_one_line_and_those_worth_one() -> None:
    runs = [
        replace(one, plan=replace(one.plan, family="orders"))
        for one in (
            *(run(f"orders__2024-01-{day:02d}", pending=1) for day in range(1, 29)),
            run("orders__2024-01-29", running=1),
        )
    ]
    text = render_status(_explain([run("plain", pending=1), *runs], [], [worker()]))
    assert "orders (29 partitions)" in text
    assert "0/29" in text
    assert "orders__2024-01-29" in text
    assert "orders__2024-01-28  " not in text
    few = render_status(_explain(runs[:5], [], [worker()]))
    assert "orders__2024-01-05" in few
