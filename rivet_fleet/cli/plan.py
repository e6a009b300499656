"""plan and apply: decide today, review, execute exactly that."""

from __future__ import annotations

from pathlib import Path

import click

from rivet_fleet.cli import nursery
from rivet_fleet.cli.invocation import (
    config_option,
    fleet_of,
    known_redactor,
    param_option,
    process_options,
    start,
    state_option,
    wanted_campaign,
)
from rivet_fleet.cli.options import details_option, exports_option, json_option
from rivet_fleet.cli.say import say
from rivet_fleet.cli.work import Going, coordinate, prepare_workers, workers_option
from rivet_fleet.contracts.artifact import artifact_text, config_path_said, read_artifact
from rivet_fleet.contracts.codec import dumps
from rivet_fleet.contracts.identity import new_campaign_id
from rivet_fleet.contracts.seals import Sealer
from rivet_fleet.coordination import wiring
from rivet_fleet.coordination.artifact import plan_ahead, write_plan
from rivet_fleet.coordination.sealed import Already, apply_plan, config_of
from rivet_fleet.errors import UsageError
from rivet_fleet.observability.planreport import render_plan
from rivet_fleet.planning.config.connections import seal_key


@click.command()
@config_option
@param_option
@state_option
@exports_option
@click.option("--campaign-id", default=None, help="The id the applied plan will have.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Write the sealed plan to this file.",
)
@json_option
def plan(
    config: Path,
    params: tuple[str, ...],
    state_url: str | None,
    exports: tuple[str, ...],
    campaign_id: str | None,
    output: Path | None,
    as_json: bool,
) -> int:
    """Decide everything a run would do, show it, and seal it for `apply`.

    Reads the sources' metadata and the state database; changes nothing in either.
    """
    invocation = start(config, params, state_url)
    sealer = Sealer(key=seal_key(invocation.loaded))
    now_s = wiring.local_clock().now_s()
    artifact = plan_ahead(
        invocation.loaded,
        process_options(invocation, "plan"),
        names=exports,
        campaign_id=wanted_campaign(invocation, campaign_id)
        or new_campaign_id(now_s, invocation.namespace),
        now_s=now_s,
    )
    text = artifact_text(artifact, sealer)
    if output is not None:
        write_plan(output, text)
    shown = text.rstrip("\n") if as_json else render_plan(artifact, known_redactor())
    say(shown, as_json=as_json)
    if output is not None:
        say(f"sealed in {output}: `rivet-fleet apply {output}` executes it", err=True)
    return 0


@click.command()
@click.argument("plan_file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "-c",
    "--config",
    "config",
    type=click.Path(path_type=Path),
    default=None,
    help="The configuration the plan was made from; needed where it names a key (state.key_env); "
    "default: where it was, else beside the plan.",
)
@param_option
@state_option
@workers_option
@click.option(
    "--force", is_flag=True, help="Apply a plan of a day or more, or one whose cursor has moved."
)
@click.option("--submit-only", is_flag=True, help="Store it for workers elsewhere, and return.")
@details_option
@json_option
def apply(
    plan_file: Path,
    config: Path | None,
    params: tuple[str, ...],
    state_url: str | None,
    workers: int | None,
    force: bool,
    submit_only: bool,
    details: bool,
    as_json: bool,
) -> int:
    """Execute exactly the ranges of a sealed plan, and say how it ended.

    Safe to kill and to start again: the same plan is one campaign, and one that was applied already
    says so and ends with 0. What was changed after the
    seal, or belongs to another configuration or source, is refused whatever is forced.
    """
    text = _text(plan_file)
    if config is None:
        config, moved = config_of(config_path_said(text), plan_file)
        # The file says which configuration decides the state and the secrets: nobody else did.
        say(f"warning: {moved}" if moved else f"configuration: {config}", err=True)
    invocation = start(config, params, state_url, shows_progress=not submit_only)
    prepare_workers(invocation)
    artifact = read_artifact(text, Sealer(key=seal_key(invocation.loaded)))
    name = "submit" if submit_only else "coordinator"
    with fleet_of(invocation, name, begins=True) as fleet:
        applied = apply_plan(fleet, invocation.loaded, artifact, force=force)
        submitted = applied.submitted
        for warning in applied.warnings:
            say(f"warning: {warning}", err=True)
        if applied.already is not None:
            _dismiss_nursery()
            said = dumps(applied.already) if as_json else _already_text(applied.already)
            say(said, as_json=as_json)
            return 0
        if not submitted.created:
            say(f"campaign {submitted.campaign_id} is stored already", err=True)
        if submit_only:
            _dismiss_nursery()
            said = f"campaign {submitted.campaign_id} submitted"
            say(dumps(submitted) if as_json else said, as_json=as_json)
            return 0
        going = Going(
            workers=workers, resumed=not submitted.created, as_json=as_json, details=details
        )
        return coordinate(invocation, fleet, submitted.campaign_id, going)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a plan: it is not text") from None
    except OSError as failure:
        raise UsageError(
            f"the plan {path} cannot be read: {failure.strerror}",
            hint="`rivet-fleet plan -c fleet.yaml -o plan.json` writes one",
        ) from None


def _already_text(already: Already) -> str:
    how = f"is being worked on by {already.by}" if already.by else f"is {already.status.value}"
    lines = [f"already applied: campaign {already.campaign_id} {how}; nothing was stored"]
    lines += [
        f"  {run.export_name}  {run.run_id}  {run.status.value.replace('_', ' ')}  "
        f"{run.rows} rows  {run.bytes} bytes  {run.chunks_completed}/{run.chunks_expected} chunks"
        for run in already.runs
    ]
    return "\n".join(lines)


def _dismiss_nursery() -> None:
    waiting = nursery.take()
    if waiting is not None:
        waiting.dismiss()
