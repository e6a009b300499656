"""What identifies a configuration: everything a plan depends on, nothing that is secret. Pure.

Runtime settings that change no plan (workers, leases, budgets, state, spool) are left out, so
that a campaign may be continued with more workers or another budget.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rivet_fleet.contracts.codec import canonical_json, to_plain
from rivet_fleet.contracts.proof import Prove
from rivet_fleet.planning.config.connections import public_url
from rivet_fleet.planning.config.loaded import (
    POLICIES,
    all_sources,
    change_policies,
    policies_of,
    prove_of,
    source_name,
)
from rivet_fleet.planning.config.models import ExportConfig, FleetConfig, SourceConfig

_UNSEALED = {
    *("source", "query", "query_file", "on_mark_above", "cursor_is_monotonic", "prove"),
    *POLICIES,
}
"""What an export says apart from its plan, or in another form."""


def digests(
    config: FleetConfig,
    *,
    path: Path,
    queries: Mapping[str, str],
    default_ports: Mapping[str, int],
) -> tuple[str, dict[str, str]]:
    """The whole digest and one per export, ``sha256:<hex>`` each."""
    shared = {
        "worker_memory_mb": config.campaign.worker_memory_mb,
        "max_chunk_attempts": config.campaign.max_chunk_attempts,
    }
    sources = {name: _source(source, default_ports) for name, source in all_sources(config).items()}
    sections = {}
    for export in config.exports:
        name = source_name(config, export)
        body = {
            "export": _export(export, path, queries.get(export.name)),
            "source_name": name,
            "source": sources.get(name),
            "campaign": shared,
            "policies": to_plain(policies_of(config, export)),
            "change": change_policies(config, export),
        }
        if prove_of(config, export) is not Prove.SAMPLED:
            body["prove"] = prove_of(config, export).value
        sections[export.name] = _sha256(body)
    whole: dict[str, Any] = {
        "name": config.campaign.name or path.stem,
        "order": [export.name for export in config.exports],
        "sections": sections,
    }
    default = type(config.campaign).model_fields["order"].default
    if config.campaign.order != default or config.campaign.waves:
        whole["handed_out"] = [config.campaign.order, config.campaign.waves]
    return _sha256(whole), sections


def changed_exports(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    """Exports that are new, gone or different between two ``sections``, sorted."""
    names = set(before) | set(after)
    return tuple(sorted(name for name in names if before.get(name) != after.get(name)))


def _source(source: SourceConfig, ports: Mapping[str, int]) -> dict[str, Any]:
    kept = source.model_dump(mode="json", exclude={"url", "password", "password_env"})
    if source.url is not None:
        kept["url"] = public_url(source.url.get_secret_value(), ports, source.type)
    return kept


def _export(export: ExportConfig, path: Path, query: str | None) -> dict[str, Any]:
    kept = export.model_dump(mode="json", exclude=_UNSEALED)
    kept["query"] = query
    if export.destination.path is not None:
        kept["destination"]["path"] = str(path.absolute().parent / export.destination.path)
    return kept


def _sha256(plain: Any) -> str:
    return "sha256:" + hashlib.sha256(canonical_json(plain)).hexdigest()
