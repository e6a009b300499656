"""What an export does with values, columns and types that do not fit: its own word, else the
defaults'. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from rivet_fleet.contracts.proof import Prove
from rivet_fleet.planning.config_models import ExportConfig, FleetConfig

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


def policies_of(config: FleetConfig, export: ExportConfig) -> ValuePolicies:
    """The export's own policies, each falling back to ``defaults:``."""
    return ValuePolicies(
        **{name: getattr(export, name) or getattr(config.defaults, name) for name in POLICIES}
    )
