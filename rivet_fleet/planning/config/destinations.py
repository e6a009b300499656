"""From configuration to a destination that can be opened: what its placeholders stand for, which
exports would share one, and whose secrets it is opened with."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from rivet_fleet.contracts.destination import (
    DestinationConnection,
    DestinationKind,
    DestinationKinds,
    authority_of,
    names_variable,
    without_secrets,
)
from rivet_fleet.contracts.plan import DestinationPlan
from rivet_fleet.errors import ConfigError, UsageError
from rivet_fleet.planning.config.connections import unset_variable
from rivet_fleet.planning.config.loaded import LoadedConfig
from rivet_fleet.planning.config.models import ExportConfig, FleetConfig
from rivet_fleet.planning.config.problems import ConfigKey
from rivet_fleet.planning.request import relation_of

FOLDER_BYTES_MAX = 200
"""A file system takes 255 bytes; parts and marks beside the folder need some."""
_EXPORT, _PARTITION = "{export}", "{partition}"
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


# ------------------------------------------------------------------------------------------
# What the placeholders of a path stand for, and which exports would share a folder. Pure.


def in_words(export: ExportConfig, text: str, date: str) -> str:
    """``text`` with its placeholders replaced; ``{partition}`` is its partitions' own to replace.
    ``date`` is what stands for the day."""
    relation = relation_of(export)
    table = folder_of(relation.name) if relation is not None else ""
    for name, word in {"date": date, "export": export.name, "table": table}.items():
        text = text.replace("{" + name + "}", word)
    return text


def folder_of(name: str) -> str:
    """A name as one folder's: plain words are themselves, any other byte is ``%XX``, so that two
    names never share a folder, on no file system and in no store."""
    folder = quote(name, safe="$")
    if folder.startswith("."):
        folder = "%2E" + folder[1:]
    if len(folder) > FOLDER_BYTES_MAX:
        folder = f"{folder[: FOLDER_BYTES_MAX - 17]}-{sha256(name.encode()).hexdigest()[:16]}"
    return folder


def apart(
    config: FleetConfig, kinds: DestinationKinds, folder: Path
) -> tuple[FleetConfig, list[tuple[ConfigKey, str]]]:
    """The same configuration, in which exports that share a place have a folder of their own in it,
    and what is to be said of each such place. ``folder``: of the file.

    A place that one of them names by ``{export}`` is that one's: whoever comes there besides is
    refused when it is planned. What only one export names stays as it is, and its digest too.
    """
    sharing: dict[tuple[str, str], list[int]] = {}
    for index, export in enumerate(config.exports):
        kind, (below, text) = kinds[export.destination.type], export.destination.below
        settings = {**export.destination.settings, below: in_words(export, text, "{date}")}
        sharing.setdefault((kind.name, kind.prefix(settings, folder)), []).append(index)
    exports, said = list(config.exports), list[tuple[ConfigKey, str]]()
    for indexes in sharing.values():
        shared = [exports[index] for index in indexes]
        if len(shared) < 2 or any(_EXPORT in one.destination.below[1] for one in shared):
            continue
        for index in indexes:
            exports[index] = _in_own_folder(exports[index])
        below, text = shared[0].destination.below
        names = ", ".join(one.name for one in shared)
        own = exports[indexes[0]].destination.below[1]
        said.append(
            (
                ("exports", indexes[0], "destination", below),
                f"exports {names} share {text}: each has a folder of its own "
                f"there, as if {own} were written",
            )
        )
    return config.model_copy(update={"exports": tuple(exports)}), said


def _in_own_folder(export: ExportConfig) -> ExportConfig:
    placed = export.destination.placed(_with_export(export.destination.below[1]))
    return export.model_copy(update={"destination": placed})


def _with_export(text: str) -> str:
    """Behind what is shared, and before the partitions, which are parts of one export."""
    steps = text.rstrip("/").split("/")
    at = next((n for n, step in enumerate(steps) if _PARTITION in step), len(steps))
    return "/".join((*steps[:at], _EXPORT, *steps[at:]))


# A place by its name alone.


def place_named(text: str, kinds: DestinationKinds) -> DestinationPlan:
    """A folder, or a ``file://`` or a store's URI, as a destination that nobody configured. Raises
    UsageError for a scheme that no destination of this installation has."""
    scheme, separator, _ = text.partition("://")
    if not separator:
        return DestinationPlan(kind="local", prefix=str(Path(text).absolute()))
    if scheme == "file":
        return DestinationPlan(kind="local", prefix=unquote(urlsplit(text).path))
    kind = _KIND_OF_SCHEME.get(scheme, scheme)
    if kind not in kinds:
        raise UsageError(
            f"no destination of this installation has the scheme {scheme}://",
            hint=f"a folder, file:///…, or a URI of one of: {', '.join(kinds)}",
        )
    return DestinationPlan(kind=kind, prefix=text.rstrip("/"))


def own_place(loaded: LoadedConfig, text: str) -> DestinationPlan:
    """The place by the settings of whichever export of this configuration delivers there, by none
    else."""
    place = place_named(text, loaded.destinations)
    kind = loaded.destinations[place.kind]
    for export in loaded.config.exports:
        settings = export.destination.settings
        if export.destination.type == place.kind:
            own = kind.prefix(settings, Path())
            if authority_of(own) == authority_of(place.prefix):
                return replace(place, options=kind.options(settings))
    return place


_KIND_OF_SCHEME = {"gs": "gcs", "az": "azure", "abfs": "azure"}
"""Of stores whose URIs do not bear the kind's name."""
