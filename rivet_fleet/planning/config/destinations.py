"""From configuration to a destination that can be opened: by this process's own secrets alone."""

from __future__ import annotations

from pathlib import Path

from rivet_fleet.contracts.destination import (
    DestinationConnection,
    DestinationKind,
    authority_of,
    names_variable,
    without_secrets,
)
from rivet_fleet.contracts.plan import DestinationPlan
from rivet_fleet.errors import ConfigError
from rivet_fleet.planning.config.connections import unset_variable
from rivet_fleet.planning.config.loaded import LoadedConfig
from rivet_fleet.planning.config.models import ExportConfig

DESTINATION_MISMATCH = "RIVET_CONFIG_DESTINATION_MISMATCH"


def destination_connection(loaded: LoadedConfig, plan: DestinationPlan) -> DestinationConnection:
    """Resolve a planned destination. Opens nothing.

    A plan comes out of the state database, and whoever can write there could name another bucket,
    another endpoint, or a variable that holds something else. So a secret is used only for an
    authority and by the settings that this process's own configuration puts together. Raises
    ConfigError where it does not, and for a variable that is not set.
    """
    kind = loaded.destinations.get(plan.kind)
    if not plan.options and (kind is None or not kind.has_options):
        return without_secrets(plan)  # a kind that is not installed is the registry's to refuse
    export = next((one for one in loaded.config.exports if _is_own(kind, one, plan)), None)
    if export is None:
        raise ConfigError(
            f"no export of {loaded.path} delivers to {plan.kind} {authority_of(plan.prefix)} by "
            f"the settings that the campaign was planned with",
            hint="give this process the configuration (and environment) of the campaign",
            code=DESTINATION_MISMATCH,
        )
    at = (*loaded.export_key(export.name), "destination")
    secrets = {}
    for name, variable in plan.options.items():
        if not names_variable(name):
            continue
        value = loaded.environ.get(variable)
        if not value:
            raise loaded.error(unset_variable((*at, name), variable))
        secrets[name] = value
    return DestinationConnection(
        kind=plan.kind,
        prefix=plan.prefix,
        options=plan.options,
        anchor=plan.anchor,
        secrets=secrets,
    )


def _is_own(kind: DestinationKind | None, export: ExportConfig, plan: DestinationPlan) -> bool:
    if kind is None or export.destination.type != plan.kind:
        return False
    settings = export.destination.settings
    if kind.options(settings) != plan.options:
        return False
    return authority_of(kind.prefix(settings, Path())) == authority_of(plan.prefix)
