"""One invocation of a command: its environment and configuration, its options, an open fleet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from rivet_fleet.cli.environment import (
    NAMESPACE,
    Environment,
    config_path,
    read_environment,
)
from rivet_fleet.cli.say import is_quiet, log_level, loudness_options, say
from rivet_fleet.contracts.identity import (
    NAMESPACE_DEFAULT,
    NAMESPACE_NEEDED,
    campaign_id_within,
    check_campaign_id,
    check_namespace,
)
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.url import hide_secrets, redact
from rivet_fleet.coordination import wiring
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.errors import ConfigError, UsageError
from rivet_fleet.observability.journal import configure_logging
from rivet_fleet.planning.config.loaded import LoadedConfig

Command = TypeVar("Command", bound=Callable[..., Any])

_known: list[Callable[[str], str]] = [redact]


def known_redactor() -> Callable[[str], str]:
    """The best redactor known so far: the configuration's, once it was loaded."""
    return _known[-1]


def exact_redactor(invocation: Invocation) -> Callable[[str], str]:
    """Hides the configuration's own secrets, and nothing that only looks like one."""
    return wiring.redactor(invocation.loaded, invocation.state_url, hide=hide_secrets)


def _config_path(context: click.Context, _parameter: object, value: Path | None) -> Path | None:
    return value if context.resilient_parsing else config_path(value)


config_option = click.option(
    "-c",
    "--config",
    "config",
    default=None,
    callback=_config_path,
    type=click.Path(path_type=Path),
    help="The configuration file; default: fleet.yaml, else what RIVET_FLEET_CONFIG names.",
)
param_option = click.option(
    "-p",
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="A value for ${NAME} in the configuration.",
)
campaign_option = click.option(
    "--campaign-id", default=None, help="Which campaign; default: the active or newest one."
)
_state_url_option = click.option(
    "--state-url",
    default=None,
    envvar="RIVET_FLEET_STATE_URL",
    help="sqlite:///path or postgresql://…; default: from the configuration, else SQLite "
    "beside it.",
)
_NAMESPACE = "rivet_fleet.namespace"


def _keep_namespace(context: click.Context, _parameter: object, value: str | None) -> None:
    context.meta[_NAMESPACE] = value


_namespace_option = click.option(
    "--namespace",
    default=None,
    expose_value=False,
    callback=_keep_namespace,
    help="Whose campaigns of the state; default: from the configuration, else "
    "RIVET_FLEET_NAMESPACE, else `default` with SQLite.",
)


def state_option(command: Command) -> Command:
    """Where the fleet remembers, and whose part of it a command is about: ``start`` knows. And how
    loud it is."""
    return _state_url_option(_namespace_option(loudness_options(command)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One command's configuration and environment."""

    loaded: LoadedConfig
    environment: Environment
    params: dict[str, str]
    state_url: str
    namespace: str = NAMESPACE_DEFAULT
    namespace_missing: bool = False
    """Nobody said one although others may use the state: fine for what needs none."""
    stream: Path | None = None
    """Of a configuration for standard output: where its file, and a state of its own, are until it
    is given on."""


def start(
    config: Path,
    params: tuple[str, ...],
    state: str | None,
    *,
    quiet: bool = False,
    shows_progress: bool = False,
    needs_state: bool = True,
    needs_namespace: bool = True,
) -> Invocation:
    """Load and check everything a command needs. Raises ConfigError, UsageError.

    ``shows_progress``: what the log would warn of is shown already, and must not tear the
    live display. ``needs_state`` False: a state URL that cannot be resolved is no error here; it
    is empty then unless ``state`` gives it. ``needs_namespace`` False: the command is about the
    database as a whole.
    """
    environment = read_environment()
    values = {**environment.params, **_parse_params(params)}
    loaded = wiring.load(config, params=values, environ=environment.variables)
    _known.append(wiring.redactor(loaded, state or ""))
    _logging(default_level="error" if shows_progress else "warning")
    if not (quiet or is_quiet()):
        for warning in loaded.warnings:
            say(f"warning: {known_redactor()(warning)}", err=True)
    stream = wiring.stream_place(loaded)
    if stream is not None:
        if click.get_current_context().command.name not in _OF_STREAMS:
            raise _streamed(loaded.path.name)
        loaded = loaded.through(stream / "out")
        # A worker is told whose it is.
        state = state if environment.supervisor_pid else f"sqlite:///{stream}/state.db"
    url = state or (wiring.state_of(loaded) if needs_state else "")
    said = _namespace(loaded, environment)
    missing = said is None and (url or _state_if_known(loaded)).startswith(_SERVERS)
    if missing and needs_namespace:
        raise _namespace_needed(loaded.path.name)
    return Invocation(
        loaded=loaded,
        environment=environment,
        params=values,
        state_url=url,
        namespace=said or NAMESPACE_DEFAULT,
        namespace_missing=missing,
        stream=stream,
    )


_OF_STREAMS = ("run", "check", "doctor", "worker")
"""Commands for which a configuration for standard output is no error."""


def _streamed(name: str) -> UsageError:
    return UsageError(
        f"{name} delivers to standard output, which nobody can look at again: there is no campaign "
        "that could be asked about or gone on with",
        hint="`run` does it in one go; `check` and `doctor` look before",
        code="RIVET_STDOUT_NO_PLACE",
    )


_SERVERS = ("postgresql:", "postgres:")
"""A file is one host's, and whoever opens it has all of it."""


def _state_if_known(loaded: LoadedConfig) -> str:
    try:
        return wiring.state_of(loaded)
    except ConfigError:
        return ""  # whoever needs it says so


def _namespace(loaded: LoadedConfig, environment: Environment) -> str | None:
    """The option's, the configuration's, the environment's word; None without one. Raises
    UsageError for one that is none."""
    option = click.get_current_context().meta.get(_NAMESPACE)
    said = option or loaded.config.state.namespace or environment.variables.get(NAMESPACE)
    try:
        return check_namespace(said) if said else None
    except ValueError as problem:
        where = "--namespace" if option else NAMESPACE
        raise UsageError(f"{where} {said!r}: {problem}") from None


def _namespace_needed(name: str) -> ConfigError:
    return ConfigError(
        "a PostgreSQL state may be shared, and nothing says whose campaigns these are",
        hint=f"write `state: {{namespace: …}}` into {name} (or give --namespace, or set "
        f"{NAMESPACE}): a short name of your team; what programs without namespaces have stored "
        f"is in `{NAMESPACE_DEFAULT}`",
        code=NAMESPACE_NEEDED,
    )


def wanted_campaign(invocation: Invocation, campaign_id: str | None) -> CampaignId | None:
    """The campaign that an option names, within the invocation's namespace. Raises UsageError."""
    if not campaign_id:
        return None
    return check_campaign_id(campaign_id_within(campaign_id, invocation.namespace))


def start_from_urls(
    variables: tuple[str, ...], path: Path, *, tls_mode: str | None, tls_ca_file: str | None
) -> Invocation:
    """What a command needs when there is no configuration yet: the sources that environment
    variables name. ``path``: where the configuration would be. Raises ConfigError."""
    environment = read_environment()
    loaded = wiring.load_urls(
        variables,
        tls_mode=tls_mode,
        tls_ca_file=tls_ca_file,
        environ=environment.variables,
        path=path,
    )
    _known.append(wiring.redactor(loaded))
    _logging(default_level="warning")
    return Invocation(
        loaded=loaded, environment=environment, params={}, state_url=wiring.state_of(loaded)
    )


def _logging(default_level: str) -> None:
    context = click.get_current_context()
    options: dict[str, Any] = context.find_root().obj or {}
    configure_logging(
        level=log_level() or default_level,
        json_lines=options.get("log_json", False),
        stream=sys.stderr,
        redactor=known_redactor(),
    )


def _parse_params(params: tuple[str, ...]) -> dict[str, str]:
    values = {}
    for param in params:
        name, separator, value = param.partition("=")
        if not separator or not name:
            raise UsageError("--param needs NAME=VALUE", hint="for example: --param day=2026-01-31")
        values[name] = value
    return values


@contextmanager
def fleet_of(
    invocation: Invocation,
    name: str,
    *,
    migrate: bool = False,
    begins: bool = False,
    for_all: bool = False,
) -> Iterator[Fleet]:
    """An open fleet for the length of a command. ``begins``: it may be the first of all, and
    makes the state; every other command refuses where there is none. ``migrate``: it goes on with
    what an older program began; ``for_all``: where other namespaces are, too. Whoever only looks or
    operates changes no schema under others. Raises StateRefused."""
    options = process_options(invocation, name)
    if begins:
        fleet = wiring.open_fleet(invocation.loaded, options, migrate=True, for_all=for_all)
    else:
        fleet = wiring.open_existing_fleet(invocation.loaded, options, migrate=migrate)
    try:
        yield fleet
    finally:
        fleet.close()


def process_options(
    invocation: Invocation, name: str, *, worker_id: str | None = None, supervised: bool = False
) -> wiring.ProcessOptions:
    """How this process presents itself."""
    return wiring.ProcessOptions(
        name=name,
        state_url=invocation.state_url,
        namespace=invocation.namespace,
        worker_id=worker_id,
        host_id=invocation.environment.host_id,
        parent_pid=invocation.environment.supervisor_pid if supervised else None,
        allowed=invocation.environment.allowed,
    )
