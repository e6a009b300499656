"""A configuration that was read and found right: what the rest of planning works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from rivet_fleet.contracts.destination import DestinationKind, DestinationKinds
from rivet_fleet.contracts.parameters import Parameter
from rivet_fleet.contracts.proof import Prove
from rivet_fleet.errors import ConfigError
from rivet_fleet.planning.config.models import (
    DestinationConfig,
    ExportConfig,
    FleetConfig,
    ReconcileConfig,
    SourceConfig,
)
from rivet_fleet.planning.config.problems import ConfigKey, Places, Problem, config_error

DEFAULT_SOURCE = "default"
WORKERS_UNASKED_MAX = 4
"""Whoever asks for no number of workers gets no more readers of a database than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionRange:
    """The rows of one partition: ``column`` in ``[lower, upper)``, numbers of its scale, None an
    open end. ``value`` names it. ``nulls``: the rows without a value instead; ``everything``: all,
    because no row has a place in the calendar."""

    parent: str
    column: str
    value: str
    lower: int | None = None
    upper: int | None = None
    nulls: bool = False
    everything: bool = False
    anchors: tuple[int, ...] = field(default=(), repr=False)
    """Minimum, row quantiles and maximum of the column, shared by all of its partitions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedConfig:
    """The configuration, its place, and what identifies it. No secret in ``repr``.

    ``digest`` is ``sha256:<hex>`` over everything a plan depends on, without secrets and
    without order of keys; ``sections`` the same for each export, so that a changed
    configuration can be told by name. ``secrets`` are the values to redact everywhere.
    ``queries`` holds the SQL of every export that reads a query.
    """

    config: FleetConfig = field(repr=False)
    path: Path
    digest: str
    sections: dict[str, str] = field(repr=False)
    warnings: tuple[str, ...]
    secrets: tuple[str, ...] = field(repr=False)
    queries: dict[str, str] = field(repr=False)
    environ: Mapping[str, str] = field(repr=False)
    """Only the variables the configuration names."""
    places: Places = field(repr=False)
    default_ports: Mapping[str, int] = field(repr=False)
    destinations: DestinationKinds = field(default_factory=dict, repr=False)
    """The kinds of this installation: each knows what its prefixes are made of."""
    partitions: Mapping[str, PartitionRange] = field(default_factory=dict)
    """Exports that stand for one partition each, once the sources were asked; see ``expand``."""
    parameters: Mapping[str, Parameter] = field(default_factory=dict, repr=False)
    """Secret parameters of its SQL, by name."""
    templates: frozenset[str] = field(default_factory=frozenset, repr=False)
    """Those texts of its SQL that refer to them."""
    written: tuple[str, ...] = ()
    """The names of the file's own exports where partitions have taken the place of some."""

    @property
    def sources(self) -> dict[str, SourceConfig]:
        """Every source by name; the single one is called ``default``."""
        return all_sources(self.config)

    @property
    def campaign_name(self) -> str:
        """The campaign's name, or the file's."""
        return self.config.campaign.name or self.path.stem

    @property
    def spool_dir(self) -> Path | None:
        """Where workers keep unfinished files, absolute; None when not configured."""
        if self.config.spool_dir is None:
            return None
        return self.path.absolute().parent / self.config.spool_dir

    @property
    def store_libraries(self) -> frozenset[str]:
        """What its destinations need to be imported."""
        return frozenset(kind.library for kind in self._kinds() if kind.library)

    @property
    def worker_memory_mb(self) -> int:
        """The ceiling of one worker process: what the campaign says, and beside it what the
        largest of its destinations' libraries takes."""
        beside = max((kind.memory_mb for kind in self._kinds()), default=0)
        return self.config.campaign.worker_memory_mb + beside

    @property
    def workers_asked(self) -> int | None:
        """How many workers of a host the file asks for; None where it leaves that to the host."""
        said = self.config.campaign.workers
        return said or max((one.parallel or 0 for one in self.config.exports), default=0) or None

    @property
    def workers_expected(self) -> int:
        """The same, and at most so many where it leaves that to the host."""
        return self.workers_asked or WORKERS_UNASKED_MAX

    @property
    def streams(self) -> bool:
        """True when its one export goes to whoever reads the process's output."""
        return any(kind.through is not None for kind in self._kinds())

    def through(self, folder: Path) -> LoadedConfig:
        """The same with each stream's file delivered into ``folder``."""
        exports = []
        for export in self.config.exports:
            kind = self.destinations[export.destination.type]
            if kind.through is not None:
                block = DestinationConfig(type=kind.through, path=str(folder))
                export = export.model_copy(update={"destination": block})
            exports.append(export)
        return replace(self, config=self.config.model_copy(update={"exports": tuple(exports)}))

    def _kinds(self) -> list[DestinationKind]:
        types = {export.destination.type for export in self.config.exports}
        return [kind for name, kind in self.destinations.items() if name in types]

    def source_name(self, export: ExportConfig) -> str:
        """Which source an export reads."""
        return source_name(self.config, export)

    def used_sources(self) -> frozenset[str]:
        """Every source that some export reads."""
        return frozenset(self.source_name(export) for export in self.config.exports)

    def source_key(self, name: str) -> ConfigKey:
        """Where a source stands in the file."""
        return source_key(self.config, name)

    def written_name(self, name: str) -> str:
        """The export of the file that a partition is one of; any other is its own."""
        return self.partitions[name].parent if name in self.partitions else name

    def export_key(self, name: str) -> ConfigKey:
        """Where an export stands in the file."""
        own = self.written_name(name)
        names = self.written or tuple(export.name for export in self.config.exports)
        return ("exports", names.index(own)) if own in names else ("exports",)

    def error(self, *problems: Problem) -> ConfigError:
        """A ConfigError about this file, redacted."""
        return config_error(self.places, problems, self.secrets)


def all_sources(config: FleetConfig) -> dict[str, SourceConfig]:
    """Every source by name; the single one is called ``default``."""
    single = {DEFAULT_SOURCE: config.source} if config.source else {}
    return {**single, **config.sources}


def source_key(config: FleetConfig, name: str) -> ConfigKey:
    """Where a source stands in the file."""
    return ("sources", name) if name in config.sources else ("source",)


def source_name(config: FleetConfig, export: ExportConfig) -> str:
    """The named source, else the single one, else the only one."""
    if export.source is not None:
        return export.source
    if config.source is not None or len(config.sources) != 1:
        return DEFAULT_SOURCE
    return next(iter(config.sources))


# ------------------------------------------------------------------------------------------
# What an export does with values, columns and types that do not fit: its own word, else the
# defaults'. Pure.

POLICIES = ("on_unrepresentable", "on_unsupported", "on_lossy")


@dataclass(frozen=True, slots=True, kw_only=True)
class ValuePolicies:
    """The three policies of one export, in the configuration's own words."""

    on_unrepresentable: str
    on_unsupported: str
    on_lossy: str

    @property
    def coerce(self) -> bool:
        """A value that does not fit becomes NULL and is counted, instead of an error."""
        return self.on_unrepresentable == "coerce"

    @property
    def text_unsupported(self) -> bool:
        """A column that cannot be carried is cast to text, instead of refused."""
        return self.on_unsupported == "text"


def change_policies(config: FleetConfig, export: ExportConfig) -> tuple[str, float]:
    """(on_schema_drift, shape_drift_warn_factor): the export's own words, else the defaults'."""
    own, others = export, config.defaults
    factor = own.shape_drift_warn_factor
    return (
        own.on_schema_drift or others.on_schema_drift,
        others.shape_drift_warn_factor if factor is None else factor,
    )


def prove_of(config: FleetConfig, export: ExportConfig) -> Prove:
    """How much the export's run proves: its own word, else the campaign's."""
    return Prove(export.prove or config.campaign.prove)


def reconcile_of(export: ExportConfig) -> ReconcileConfig | None:
    """How the export's deliveries are compared with their source; None when nothing asks for it."""
    if export.reconcile is None and export.reconcile_required:
        return ReconcileConfig(depth="count")
    return export.reconcile


def policies_of(config: FleetConfig, export: ExportConfig) -> ValuePolicies:
    """The export's own policies, each falling back to ``defaults:``."""
    return ValuePolicies(
        **{name: getattr(export, name) or getattr(config.defaults, name) for name in POLICIES}
    )
