"""The product's own way from a configuration to finished parts, in this process."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.contracts.plan import ExportPlan
from rivet_fleet.coordination import wiring
from rivet_fleet.errors import SourceError
from rivet_fleet.execution.extract import SpooledPart, extract_chunk
from rivet_fleet.execution.registry import open_format
from rivet_fleet.execution.servo import Allowance
from rivet_fleet.planning.config.connections import source_connection
from rivet_fleet.planning.planner import facts_request, plan_campaign


class Impatient:
    """Nothing here is worth waiting for, and nothing is tried again."""

    def wait(self, seconds: float) -> None:
        """Go on at once."""

    def allowance(self) -> Allowance:
        return Allowance()

    def retry_in_s(self, wait_s: float, lost_bytes: int, answer_bytes: int = 0) -> float:
        return wait_s

    def retried(self, error: SourceError, attempt: int, wait_s: float) -> None:
        """A page that failed is a finding."""
        raise AssertionError(f"attempt {attempt} failed") from error


@dataclass(slots=True, kw_only=True)
class Extracted:
    """One export's plan and everything it delivered."""

    plan: ExportPlan
    parts: list[SpooledPart] = field(default_factory=list)

    @property
    def paths(self) -> list[Path]:
        return [part.path for part in self.parts]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def changed(self) -> dict[str, int]:
        """Column → values that are not what they were, as the manifest counts them."""
        counts: dict[str, int] = {}
        for part in self.parts:
            for column in part.columns:
                if column.changed:
                    counts[column.name] = counts.get(column.name, 0) + column.changed
        return counts

    @property
    def nulls(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for part in self.parts:
            for column in part.columns:
                counts[column.name] = counts.get(column.name, 0) + column.nulls
        return counts


def extract(
    folder: Path, source: dict[str, Any], url: str, exports: list[dict[str, Any]], **top: Any
) -> list[Extracted]:
    """Configuration, introspection, plan, every chunk. Raises what the product raises.

    ``source`` and ``exports`` are the configuration's blocks; ``url`` is the value of ``DB``.
    """
    config = folder / "fleet.yaml"
    for export in exports:
        export.setdefault("destination", {"type": "local", "path": f"out/{export['name']}"})
    body = {"source": {**source, "url_env": "DB"}, "exports": exports, **top}
    config.write_text(yaml.safe_dump(body, allow_unicode=True, sort_keys=False), encoding="utf-8")
    loaded = wiring.load(config, params={}, environ={"DB": url})
    (name,) = loaded.used_sources()
    connection = source_connection(loaded, name)
    options = wiring.ProcessOptions(name="roundtrip")
    opened = wiring.open_planned_source(loaded, options, name, connection.identity)
    try:
        facts = {
            export.name: opened.introspect(facts_request(loaded, export))
            for export in loaded.config.exports
        }
        plan = plan_campaign(
            loaded, facts, campaign_id=CampaignId("roundtrip"), connections={name: connection}
        )
        found = []
        for run in plan.runs:
            one = Extracted(plan=run.plan)
            for chunk in run.chunks:
                reader = opened.open_chunk(run.plan.read, chunk.chunk_range, run.plan.tuning)
                try:
                    one.parts += _chunk(folder, run.plan, chunk.chunk_index, reader)
                finally:
                    reader.close()
            found.append(one)
        return found
    finally:
        opened.close()


_numbers = itertools.count()


def _chunk(folder: Path, plan: ExportPlan, index: int, reader: Any) -> tuple[SpooledPart, ...]:
    spool = folder / "spool"
    spool.mkdir(exist_ok=True)
    number = next(_numbers)
    done = extract_chunk(
        reader=reader,
        part_format=open_format(plan.format),
        format_plan=plan.format,
        tuning=plan.tuning,
        spool_path=lambda part: spool / f"{number}-{index}-{part}.{plan.format.extension}",
        pacer=Impatient(),
        on_page=lambda progress: None,
    ).finish()
    return done.parts
