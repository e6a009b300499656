"""init: a commented configuration from live databases."""

from __future__ import annotations

from pathlib import Path

import click

from rivet_fleet.cli.invocation import (
    Invocation,
    known_redactor,
    param_option,
    process_options,
    start,
    start_from_urls,
)
from rivet_fleet.cli.options import json_option
from rivet_fleet.cli.say import say
from rivet_fleet.contracts.discovery import Discovery
from rivet_fleet.coordination.discover import discover
from rivet_fleet.errors import ConfigError, UsageError
from rivet_fleet.observability.scaffold import ScaffoldOptions, discovery_json, render_scaffold
from rivet_fleet.planning.config.connections import source_block
from rivet_fleet.planning.config.models import ExportConfig

_DEFAULT_FILE = Path("fleet.yaml")


@click.command()
@click.option(
    "--source-url-env",
    "variables",
    multiple=True,
    metavar="VARIABLE",
    help="An environment variable with a database URL; may be given several times.",
)
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    default=None,
    help="Take the sources of this configuration instead.",
)
@click.option(
    "--source", "sources", multiple=True, help="With -c: only this source; may be repeated."
)
@param_option
@click.option(
    "--include",
    multiple=True,
    metavar="GLOB",
    help="Only relations whose name or schema.name matches, views too; may be repeated.",
)
@click.option("--exclude", multiple=True, metavar="GLOB", help="Never these; wins over --include.")
@click.option(
    "--tls",
    "tls_mode",
    type=click.Choice(["disable", "require", "verify-ca", "verify-full"]),
    default=None,
    help="With --source-url-env: how connections are protected; needed for remote hosts.",
)
@click.option("--tls-ca", "tls_ca_file", default=None, help="The authority to trust.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Write the configuration to this file, which must not exist; default: print it.",
)
@click.option("--discover", "as_discovery", is_flag=True, help="Print what was found, as JSON.")
@json_option
def init(
    variables: tuple[str, ...],
    config: Path | None,
    sources: tuple[str, ...],
    params: tuple[str, ...],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    tls_mode: str | None,
    tls_ca_file: str | None,
    output: Path | None,
    as_discovery: bool,
    as_json: bool,
) -> int:
    """Scaffold a configuration from live databases: mode, cuts, cursor candidates, casts.

    Reads catalogues and statistics; writes nothing but the file of -o. Tables are taken; views,
    foreign tables and inheritance children only when --include asks for them.

    \b
    Examples:
      rivet-fleet init --source-url-env SHOP_URL -o fleet.yaml
      rivet-fleet init --source-url-env SHOP_URL --include 'sales.*' --exclude '*_tmp'
      rivet-fleet init -c fleet.yaml --discover
    """
    if bool(variables) == (config is not None):
        raise UsageError(
            "either --source-url-env or -c is needed",
            hint="for example: rivet-fleet init --source-url-env DATABASE_URL -o fleet.yaml",
        )
    if output is not None and output.exists():
        raise UsageError(f"{output} exists", hint="give another name, or remove it")
    file = output or _DEFAULT_FILE
    invocation = (
        start(config, params, None)
        if config is not None
        else start_from_urls(variables, file, tls_mode=tls_mode, tls_ca_file=tls_ca_file)
    )
    found = discover(
        invocation.loaded,
        process_options(invocation, "init"),
        sources=sources,
        include=include,
        exclude=exclude,
    )
    if as_discovery or as_json:
        say(known_redactor()(discovery_json(found)), as_json=True)
        if output is None:
            return 0
    _write(invocation, found, output, file)
    return 0


def _write(invocation: Invocation, found: Discovery, output: Path | None, file: Path) -> None:
    if not found.exports:
        left = f"; {len(found.skipped)} were left out" if found.skipped else ""
        raise ConfigError(
            f"there is no relation to export{left}",
            hint="--discover says why; --include '*' takes views, too",
        )
    old = invocation.loaded.path.absolute().parent
    blocks = {
        source.name: source_block(
            invocation.loaded.sources[source.name],
            source.name,
            old=old,
            new=file.absolute().parent,
        )
        for source in found.sources
    }
    options = ScaffoldOptions(
        blocks=blocks, meta_columns="meta_columns" in ExportConfig.model_fields, file=str(file)
    )
    # Not redacted: a source's block never holds a secret, and a password that happens to be a
    # table's name would make another table of it.
    text = render_scaffold(found, options)
    if output is None:
        say(text, nl=False)
        return
    try:
        with output.open("x", encoding="utf-8") as target:
            target.write(text)
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}") from None
    say(
        f"{output}: {len(found.exports)} export(s), {len(found.skipped)} left out; "
        f"next: rivet-fleet doctor -c {output}",
        err=True,
    )
