"""Which plug-ins there are: found by looking into the folders, never listed by hand.

A source is a package in ``sources/`` with ``ENGINE`` (``engines.engine.Engine``); a format a module
in ``formats/`` with ``FORMAT_NAME`` and ``open_format``; a destination a module in
``destinations/`` with ``KIND`` and ``open_destination``. Nothing heavy is imported by these modules
themselves: looking for names imports them all.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from functools import cache
from types import ModuleType
from typing import Any, TypeVar, cast

from rivet_fleet.contracts.destination import DestinationConnection, DestinationKind
from rivet_fleet.contracts.parameters import Parameter, Placed
from rivet_fleet.contracts.plan import FormatPlan
from rivet_fleet.contracts.url import DatabaseUrl
from rivet_fleet.errors import ConfigError
from rivet_fleet.execution import destinations, formats, sources
from rivet_fleet.execution.destination import Destination
from rivet_fleet.execution.engines.engine import Engine
from rivet_fleet.execution.format import PartFormat
from rivet_fleet.execution.signals import SignalSpec, SourceSignals
from rivet_fleet.execution.source import Source

T = TypeVar("T")


def engine_names() -> tuple[str, ...]:
    """Every engine name a source answers to, sorted."""
    return tuple(sorted(_engines()))


def default_ports() -> dict[str, int]:
    """Engine name → the port its servers listen on when a URL names none."""
    return {name: engine.default_port for name, engine in _engines().items()}


def decoder_compiled(engine: str) -> bool:
    """True when this engine's compiled decoder is installed. Raises ConfigError when unknown."""
    return _named(_engines(), engine, "engine").decoder_compiled()


def format_names() -> tuple[str, ...]:
    """The file formats on offer, sorted."""
    return tuple(sorted(_formats()))


def destination_kinds() -> dict[str, DestinationKind]:
    """The rules of each destination kind on offer, by name, sorted."""
    return {name: module.KIND for name, module in sorted(_destinations().items())}


def open_source(engine: str, url: DatabaseUrl, **options: Any) -> Source:
    """A source of this engine; ``options`` are what its ``open_source`` takes. Opened lazily."""
    return _named(_engines(), engine, "engine").open_source(url, **options)


def open_signals(engine: str, url: DatabaseUrl, **options: Any) -> SourceSignals:
    """A monitoring connection of this engine; ``options`` as for ``open_source``."""
    return _named(_engines(), engine, "engine").open_signals(url, **options)


def signal_specs(engine: str) -> dict[str, SignalSpec]:
    """The signals this engine's servers can tell, by name."""
    return _named(_engines(), engine, "engine").signal_specs()


def place_parameters(
    engine: str,
    template: str,
    values: Mapping[str, Parameter],
    later: frozenset[str] = frozenset(),
) -> Placed:
    """See ``parameters.place_parameters``, by this engine's rules."""
    from rivet_fleet.execution import parameters

    writing = _named(_engines(), engine, "engine").writing()
    return parameters.place_parameters(template, writing, values, later)


def open_format(plan: FormatPlan) -> PartFormat:
    """The planned file format. Raises ConfigError for an unknown one or a wrong option."""
    return cast(PartFormat, _named(_formats(), plan.format, "format").open_format(plan))


def open_destination(connection: DestinationConnection, *, create: bool = True) -> Destination:
    """The resolved destination, opened lazily; with ``create`` False its prefix is never created.

    Raises ConfigError for a kind that is not installed.
    """
    module = _named(_destinations(), connection.kind, "destination")
    return cast(Destination, module.open_destination(connection, create=create))


def import_working(engines: Iterable[str], file_formats: Iterable[str]) -> None:
    """Everything that a worker imports who reads these engines and writes these formats, as far as
    it is installed: a nursery does it once for all of them."""
    destination_kinds()
    for name in engines:
        _named(_engines(), name, "engine").import_reading()
    for name in file_formats:
        module = _named(_formats(), name, "format")
        if hasattr(module, "__path__"):
            _plugins(module)


@cache
def _engines() -> dict[str, Engine]:
    engines: list[Engine] = [module.ENGINE for module in _plugins(sources)]
    return {name: engine for engine in engines for name in engine.names}


@cache
def _formats() -> dict[str, ModuleType]:
    return {module.FORMAT_NAME: module for module in _plugins(formats)}


@cache
def _destinations() -> dict[str, ModuleType]:
    return {module.KIND.name: module for module in _plugins(destinations)}


def _plugins(folder: ModuleType) -> list[ModuleType]:
    found = pkgutil.iter_modules(folder.__path__)
    return [importlib.import_module(f"{folder.__name__}.{module.name}") for module in found]


def _named(modules: Mapping[str, T], name: str, what: str) -> T:
    module = modules.get(name)
    if module is None:
        known = ", ".join(sorted(modules))
        raise ConfigError(f"unknown {what} {name!r}", hint=f"this installation has: {known}")
    return module
