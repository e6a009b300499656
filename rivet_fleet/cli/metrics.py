"""metrics, journal: numbers and events, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from rivet_fleet.cli.invocation import (
    campaign_option,
    config_option,
    fleet_of,
    known_redactor,
    param_option,
    start,
    state_option,
    wanted_campaign,
)
from rivet_fleet.cli.options import json_option
from rivet_fleet.cli.say import reader_gone, say
from rivet_fleet.contracts.codec import dumps, to_plain
from rivet_fleet.contracts.events import EventName
from rivet_fleet.contracts.foreign import flat
from rivet_fleet.contracts.identity import CAMPAIGN_OTHER
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.state import JournalEntry, JournalFilter
from rivet_fleet.coordination.fleet import Fleet, find_campaign
from rivet_fleet.coordination.journal import follow_entries, newest_entries, read_metrics
from rivet_fleet.errors import StateRefused, UsageError
from rivet_fleet.observability.journal import render_journal, since_s
from rivet_fleet.observability.metrics import (
    counter_lines,
    history_lines,
    metrics_lines,
    prometheus_text,
)
from rivet_fleet.observability.units import redact_plain

export_option = click.option(
    "-e", "--export", "export_name", default=None, help="Only this export."
)

_LOOKED_AT = 1000
"""So many of the newest entries are known to a follower: one that is missing between them is
told when it comes."""


@click.command()
@config_option
@param_option
@campaign_option
@state_option
@export_option
@click.option(
    "-l",
    "--last",
    type=click.IntRange(min=1, max=10_000),
    default=10,
    show_default=True,
    help="Ended runs of each export.",
)
@click.option("--prometheus", is_flag=True, help="Prometheus text format, for a collector.")
@json_option
def metrics(
    config: Path,
    params: tuple[str, ...],
    campaign_id: str | None,
    state_url: str | None,
    export_name: str | None,
    last: int,
    prometheus: bool,
    as_json: bool,
) -> int:
    """Rows, bytes, durations, retries: of the campaign now, and of the runs before it."""
    if prometheus and as_json:
        raise UsageError("--json and --prometheus exclude each other")
    invocation = start(config, params, state_url, quiet=True)
    with fleet_of(invocation, "metrics") as fleet:
        name = invocation.loaded.campaign_name
        try:
            view = find_campaign(fleet, invocation.loaded, wanted_campaign(invocation, campaign_id))
        except StateRefused as refused:
            # A collector that is there before the first campaign sees no series, not a failure.
            if prometheus and campaign_id is None and refused.code != CAMPAIGN_OTHER:
                return 0
            raise
        report = read_metrics(fleet, view, export_name=export_name, last=last)
        if export_name is not None and not report.now.exports:
            raise StateRefused(f"campaign {view.campaign_id} has no export {export_name}")
    hide = known_redactor()
    if as_json:
        say(dumps(redact_plain(to_plain(report), hide)), as_json=True)
    elif prometheus:
        say(prometheus_text(invocation.namespace, name, report.now, report.ended), nl=False)
    else:
        head = flat(f"Campaign {name} ({report.campaign_id}): {report.campaign_status}")
        counted = counter_lines(report.harm, hide)
        ended = history_lines(report.ended, hide)
        say("\n".join([head, *metrics_lines(report.now, hide), *counted, "", *ended]))
    return 0


@click.command()
@config_option
@param_option
@campaign_option
@state_option
@export_option
@click.option(
    "--event",
    "events",
    multiple=True,
    metavar="NAME",
    help="Only this event, such as chunk.failed; may be repeated.",
)
@click.option("--worker", default=None, help="Only what this worker did: its name or id.")
@click.option(
    "--since",
    default=None,
    metavar="WHEN",
    help="Only what is not older: 90s, 10m, 2h, 1d, or a moment such as 2026-01-31T08:00:00Z.",
)
@click.option(
    "-l",
    "--last",
    type=click.IntRange(min=0),
    default=50,
    show_default=True,
    help="Only so many of the newest.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on until the campaign is over.")
@click.option("--json-lines", is_flag=True, help="One JSON object for each entry.")
@json_option
def journal(
    config: Path,
    params: tuple[str, ...],
    campaign_id: str | None,
    state_url: str | None,
    export_name: str | None,
    events: tuple[str, ...],
    worker: str | None,
    since: str | None,
    last: int,
    follow: bool,
    json_lines: bool,
    as_json: bool,
) -> int:
    """What happened, in order."""
    if as_json and (follow or json_lines):
        raise UsageError("--json is one document", hint="use --json-lines with --follow")
    _refuse_unknown(events)
    invocation = start(config, params, state_url, quiet=True)
    with fleet_of(invocation, "journal") as fleet:
        view = find_campaign(fleet, invocation.loaded, wanted_campaign(invocation, campaign_id))
        only = JournalFilter(
            export_name=export_name,
            events=events,
            worker=worker,
            since_s=None if since is None else since_s(since, fleet.store.now_s()),
        )
        # Before the entries that pass: one that happens meanwhile is then told, not missed.
        newest = newest_entries(fleet, view.campaign_id, JournalFilter(), last=1)
        looked_at = max(last, _LOOKED_AT) if follow else last
        known = newest_entries(fleet, view.campaign_id, only, last=looked_at)
        entries = known[max(len(known) - last, 0) :]
        if as_json:
            say(dumps(redact_plain(to_plain(entries), known_redactor())), as_json=True)
        elif not follow:
            _tell(entries, json_lines=json_lines)
        else:
            told = [entry.journal_id for entry in (*known, *newest)]
            _follow(fleet, view.campaign_id, only, told, first=entries, json_lines=json_lines)
    return 0


def _follow(
    fleet: Fleet,
    campaign_id: CampaignId,
    only: JournalFilter,
    told: Sequence[int],
    *,
    first: Sequence[JournalEntry],
    json_lines: bool,
) -> None:
    """An interrupt is how following usually ends: from the first word on it is no failure."""
    try:
        if first:
            _tell(first, json_lines=json_lines)
        for entries in follow_entries(
            *(fleet, campaign_id, only),
            after_id=max(told, default=0),
            known=told,
            wait=fleet.stop.wait,
        ):
            _tell(entries, json_lines=json_lines)
            if reader_gone():
                return
    except KeyboardInterrupt:
        return


def _tell(entries: Sequence[JournalEntry], *, json_lines: bool) -> None:
    hide = known_redactor()
    if json_lines:
        for entry in entries:
            say(dumps(redact_plain(to_plain(entry), hide)), as_json=True)
    else:
        say(render_journal(entries, hide), nl=False)


def _refuse_unknown(events: Sequence[str]) -> None:
    import difflib

    known = [event.value for event in EventName]
    for name in events:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "docs/reference/events.md lists them"
            raise UsageError(f"there is no event {name!r}", hint=hint)
