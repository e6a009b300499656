"""Small campaign plans and parts for tests of the state: believable, and nothing is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rivet_fleet.contracts.identity import bare_id_of, namespace_of, within
from rivet_fleet.contracts.keys import CampaignId, ChunkRange, RangeKind, RelationName, RunId
from rivet_fleet.contracts.manifest import ColumnStats, PartDigest, StagedPart
from rivet_fleet.contracts.plan import (
    CampaignPlan,
    ChunkSpec,
    DestinationPlan,
    ExportPlan,
    FormatPlan,
    PlannedRun,
    ReadPlan,
    TuningPlan,
)
from rivet_fleet.contracts.protection import SourceBudget


def planned_run(
    *,
    run_id: str,
    export_name: str,
    chunks: int,
    attempts_max: int = 3,
    priority: int = 50,
    source_group: str | None = None,
) -> PlannedRun:
    plan = ExportPlan(
        export_name=export_name,
        run_id=RunId(run_id),
        mode="chunked",
        strategy="range",
        reason="integer key",
        read=ReadPlan(
            source="shop",
            engine="postgres",
            source_identity="postgresql://reader@db/shop",
            relation=RelationName(schema="public", name=export_name),
            query=None,
            columns=(),
        ),
        format=FormatPlan(format="parquet"),
        destination=DestinationPlan(kind="local", prefix="/data/out"),
        tuning=TuningPlan(),
        attempts_max=attempts_max,
        priority=priority,
        source_group=source_group,
    )
    return PlannedRun(plan=plan, chunks=tuple(_chunk(i, chunks) for i in range(chunks)))


def _chunk(index: int, chunks: int) -> ChunkSpec:
    lower = None if index == 0 else (str(index * 1000),)
    upper = None if index == chunks - 1 else ((str((index + 1) * 1000)),)
    return ChunkSpec(
        chunk_index=index,
        chunk_range=ChunkRange(kind=RangeKind.SPAN, columns=("id",), lower=lower, upper=upper),
    )


def campaign_plan(
    *,
    campaign_id: str = "c1",
    name: str = "shop",
    chunks: Sequence[int] = (3,),
    attempts_max: int = 3,
    priorities: Sequence[int] = (),
    groups: Sequence[str | None] = (),
    slots: Mapping[str, int] | None = None,
    digest: str = "digest",
) -> CampaignPlan:
    """One export per entry of ``chunks``: ``e0``, ``e1``, … with runs ``<campaign>-e0``, …"""
    runs = tuple(
        planned_run(
            run_id=within(f"{bare_id_of(campaign_id)}-e{i}", namespace_of(campaign_id)),
            export_name=f"e{i}",
            chunks=n,
            attempts_max=attempts_max,
            priority=priorities[i] if priorities else 50,
            source_group=groups[i] if groups else None,
        )
        for i, n in enumerate(chunks)
    )
    return CampaignPlan(
        campaign_id=CampaignId(campaign_id),
        campaign_name=name,
        config_digest=digest,
        config_path="/etc/fleet.yaml",
        runs=runs,
        budgets=tuple(
            SourceBudget(group_name=name, chunks_max=most) for name, most in (slots or {}).items()
        ),
    )


def staged_part(chunk_index: int, fence: int, *, number: int = 0, rows: int = 10) -> StagedPart:
    return StagedPart(
        part_number=number,
        path=f"run/c{chunk_index:06d}-p{number:03d}-f{fence}.parquet",
        digest=PartDigest(
            rows=rows,
            size_bytes=rows * 100,
            fingerprint=f"xxh3:{chunk_index:08x}{fence:04x}{number:04x}",
            md5_base64="1B2M2Y8AsgTpgAmY7PhCfg==",
        ),
        receipt={"staged": f".staging/{chunk_index}-{fence}-{number}", "size": rows * 100},
        columns=(
            ColumnStats(
                name="id", nulls=0, minimum="1", maximum="9", checksum="value64:0123456789abcdef"
            ),
        ),
    )
