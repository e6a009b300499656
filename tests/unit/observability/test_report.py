"""The closing report and the run's report files say what is where, why, and what to do next."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rivet_fleet import errors
from rivet_fleet.contracts.codec import to_plain
from rivet_fleet.contracts.state import CampaignStatus, RunStatus, TaskStatus
from rivet_fleet.observability.reasons import ADVICE, ADVICE_OTHERWISE, advice_for, command
from rivet_fleet.observability.report import (
    FAILED_SHOWN_MAX,
    Report,
    export_outcome,
    next_steps,
    render_report,
    report_json,
    summarise,
    summarise_run,
    summary_json,
    summary_markdown,
)
from tests.unit.observability.views import NOW_S, campaign, redactor_for, run, task

HIDE = redactor_for(["hunter22"])


def _failed(count: int = 1, **over: object) -> list[object]:
    values = {
        "status": TaskStatus.FAILED,
        "attempts": 3,
        "error_class": "SourceRefused",
        "last_error": "password=letmein was refused, also hunter22\nline two",
    }
    return [task("orders", i, **{**values, **over}) for i in range(count)]


def _report(status: CampaignStatus, *, path: str = "fleet.yaml", failed: int = 1) -> Report:
    good = run(
        "items",
        completed=4,
        rows=1000,
        size=2_000_000,
        status=RunStatus.COMPLETED,
        finished_at_s=NOW_S - 50,
    )
    bad = run("orders", completed=2, failed=failed, rows=10, error="1 chunk failed: hunter22")
    return summarise(
        campaign(status, path=path),
        [good, bad],
        _failed(failed),  # type: ignore[arg-type]
        {"chunk.reaped": 2, "worker.died": 1, "source.retried": 3, "chunk.claimed": 99},
        destinations={"items-run": "file:///data/items/"},
        state="db://u:hunter22@h/state",
        files={"items-run": 4, "orders-run": 2},
    )


def test_numbers_and_places() -> None:
    report = _report(CampaignStatus.INCOMPLETE)
    items, orders = report.exports
    assert items.folder == "file:///data/items/items-run"
    assert items.manifest == "file:///data/items/manifest-items-run.json"
    assert items.duration_s == 50 and items.rows_per_s == 20
    assert orders.folder == "/data/out/orders-run" and orders.manifest is None
    assert (report.rows, report.files, report.duration_s) == (1010, 6, 100)
    assert (report.happened["rescues"], report.happened["source_retries"]) == (2, 3)
    assert "On the way: 2 chunks rescued, 1 worker died, 3 source retries." in render_report(report)


def test_an_incomplete_campaign_says_why_and_which_commands_help() -> None:
    text = render_report(_report(CampaignStatus.INCOMPLETE), HIDE)
    for part in (
        "incomplete",
        "SourceRefused: ",
        ADVICE["SourceRefused"],
        "rivet-fleet requeue -c fleet.yaml -e orders",
        "rivet-fleet resume -c fleet.yaml",
        "rivet-fleet status -c fleet.yaml",
        "2 chunks rescued",
        "file:///data/items/items-run/",
        "manifest-items-run.json",
        "4 files",
        "  files     file:///data/items/items-run/\n",
        "20 rows/s",
    ):
        assert part in text, part
    assert "-e items" not in text


@pytest.mark.parametrize(
    ("status", "expected", "unexpected"),
    [
        (CampaignStatus.COMPLETED, ["validate"], ["requeue", "resume"]),
        (CampaignStatus.ACTIVE, ["status", "resume"], ["requeue", "validate"]),
        (CampaignStatus.CANCELLED, ["gc", "run"], ["resume"]),
    ],
)
def test_next_steps_follow_the_verdict(
    status: CampaignStatus, expected: list[str], unexpected: list[str]
) -> None:
    verbs = [step.command.split()[1] for step in _report(status).next_steps]
    assert verbs == expected and not set(verbs) & set(unexpected)


@pytest.mark.parametrize("error_class", ["SchemaDrift", "UnsupportedType"])
def test_a_plan_that_no_longer_fits_is_made_anew_and_not_tried_again(error_class: str) -> None:
    unfit = _failed(error_class=error_class)
    over = campaign(CampaignStatus.INCOMPLETE, path="fleet.yaml")
    steps = next_steps(over, [run("orders", failed=1)], unfit)  # type: ignore[arg-type]
    assert [step.command.partition(" -c")[0] for step in steps] == [
        "rivet-fleet status",
        "rivet-fleet run",
    ]
    assert steps[-1].command.endswith("--new")
    # What failed for another reason beside it is still worth another try.
    runs = [run("orders", failed=1), run("items", failed=1)]
    steps = next_steps(over, runs, unfit)  # type: ignore[arg-type]
    verbs = [step.command.split()[1] for step in steps]
    assert verbs == ["status", "requeue", "resume", "run"] and "-e items" in steps[1].command


def test_commands_are_quoted_for_a_shell() -> None:
    assert command("state show", "my fleet.yaml") == "rivet-fleet state show -c 'my fleet.yaml'"


def test_nothing_rendered_holds_a_secret() -> None:
    report = _report(CampaignStatus.INCOMPLETE)
    for text in (render_report(report, HIDE), report_json(report, HIDE)):
        assert "hunter22" not in text and "letmein" not in text and "***" in text


def test_the_report_is_json_able_with_a_version() -> None:
    report = _report(CampaignStatus.INCOMPLETE)
    assert json.loads(json.dumps(to_plain(report)))["report_version"] == 1
    assert json.loads(report_json(report))["exports"][0]["files"] == 4


def test_a_long_list_of_failures_is_cut_and_says_so() -> None:
    text = render_report(_report(CampaignStatus.INCOMPLETE, failed=FAILED_SHOWN_MAX + 5))
    assert "and 5 more" in text and text.count("SourceRefused: ") == FAILED_SHOWN_MAX


def test_advice_names_only_errors_that_exist() -> None:
    for name in ADVICE:
        assert issubclass(getattr(errors, name), errors.RivetFleetError)
    assert advice_for("KillPointReached") == advice_for(None) == ADVICE_OTHERWISE


def test_run_summary_bodies() -> None:
    bad = run("orders", completed=2, failed=1, rows=10, error="hunter22 | pipe")
    summary = summarise_run(
        campaign(),
        bad,
        _failed(),  # type: ignore[arg-type]
        uri=None,
        files=2,
    )
    body = summary_json(summary, HIDE)
    assert json.loads(body)["resume_command"] == "rivet-fleet resume -c fleet.yaml"
    assert json.loads(body)["outcome"]["files"] == 2 and body.endswith("\n")
    text = summary_markdown(summary, HIDE)
    assert text.startswith("# orders\n") and "Failed for good: 1 chunk" in text
    assert "\\*\\*\\* \\| pipe" in text
    for shown in (body, text):
        assert "hunter22" not in shown and "letmein" not in shown


def test_no_name_of_a_source_is_markdown_of_its_own() -> None:
    """A column may be called anything; the file is opened in a browser, too."""
    hostile = "<img src=x onerror=a()> [safe](http://evil) ![i](x) `c` | *b* _i_ ~s~ snake_case"
    done = replace(run("items", completed=1, status=RunStatus.COMPLETED), error=hostile)
    summary = summarise_run(campaign(), done, [], uri="file:///x", files=None)
    summary = replace(summary, plan_warnings=(hostile,), changed={hostile: 3})
    text = summary_markdown(summary)
    shown = (
        "&lt;img src=x onerror=a()&gt; \\[safe\\](http://evil) !\\[i\\](x) \\`c\\` \\| \\*b\\* "
        "\\_i\\_ \\~s\\~ snake_case"
    )
    assert text.count(shown) == 3 and "<" not in text


def test_a_completed_run_is_not_resumable() -> None:
    done = run("items", completed=1, status=RunStatus.COMPLETED, finished_at_s=NOW_S)
    summary = summarise_run(campaign(), done, [], uri="file:///x", files=None)
    assert summary.resume_command is None
    assert "file:///x/manifest-items-run.json" in summary_markdown(summary)


def test_a_long_report_has_a_line_for_each_export_and_says_more_of_what_is_wrong() -> None:
    report = _report(CampaignStatus.INCOMPLETE)
    items, orders = report.exports
    many = replace(
        report, exports=(*(replace(items, export_name=f"t{i}") for i in range(6)), orders)
    )
    short, whole = render_report(many, HIDE, details=False), render_report(many, HIDE)
    assert [f"t{i}: completed" in short for i in range(6)] == [True] * 6
    assert "manifest" not in short and whole.count("manifest") >= 6
    assert "orders: " in short and "1 chunk failed" in short and "--details" in short
    few = replace(report, exports=(items, orders))
    assert render_report(few, HIDE, details=False) == render_report(few, HIDE)


def test_the_time_of_a_run_counts_from_its_first_claim() -> None:
    waited = replace(
        run("items", completed=4, rows=1000, status=RunStatus.COMPLETED, finished_at_s=NOW_S - 50),
        first_claim_at_s=NOW_S - 60,
    )
    outcome = export_outcome(waited, None, None)
    assert outcome.duration_s == 10 and outcome.rows_per_s == 100
