"""The campaign view: exports against each other (inventory §5.3, §5.4). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rivet_fleet.contracts.priority import (
    CampaignAdvice,
    ConcurrencyHint,
    CostClass,
    GroupWarning,
    PriorityReason,
    ReasonKind,
    Recommendation,
    Wave,
)

HEAVY_MIN = 2
MEMBERS_MANY = 3
AT_ONCE = {CostClass.LOW: 10, CostClass.MEDIUM: 3, CostClass.HIGH: 2, CostClass.VERY_HIGH: 2}
PACK_RSS_MB_MAX = 4096
RSS_MB_UNKNOWN = 150


def campaign_view(
    found: Sequence[Recommendation], *, rss_mb: int = RSS_MB_UNKNOWN
) -> CampaignAdvice:
    """Ordered exports, waves, warnings about shared sources, and how much at once.

    ``rss_mb``: what one export's reader may hold. The order of ``found`` does not matter.
    """
    warnings, isolated = _groups(found)
    ordered = sorted(
        (_isolated(one) if one.export_name in isolated else one for one in found),
        key=lambda one: (-one.priority_score, one.export_name),
    )
    waves = tuple(
        _wave(number, [one for one in ordered if one.recommended_wave == number], rss_mb)
        for number in sorted({one.recommended_wave for one in ordered})
    )
    return CampaignAdvice(
        ordered_exports=tuple(ordered),
        waves=waves,
        source_group_warnings=tuple(warnings),
        concurrency_hints=(
            *(_wave_hint(wave) for wave in waves if len(wave.packs) > 1),
            *_group_hints(ordered, isolated),
        ),
    )


def _groups(found: Sequence[Recommendation]) -> tuple[list[GroupWarning], set[str]]:
    """Warnings by group, and the exports that should have their source to themselves."""
    warnings = []
    isolated: set[str] = set()
    for group in sorted({one.source_group for one in found if one.source_group}):
        members = sorted(one.export_name for one in found if one.source_group == group)
        heavy = sorted(
            one.export_name for one in found if one.source_group == group and one.cost_class.heavy
        )
        if len(heavy) >= HEAVY_MIN:
            isolated.update(heavy)
            said = (
                f"{len(heavy)} heavy exports share source group {group}: "
                f"{', '.join(heavy)}; let one finish before the next begins"
            )
            warnings.append(GroupWarning(source_group=group, exports=tuple(heavy), message=said))
        elif len(members) >= MEMBERS_MANY:
            said = f"{len(members)} exports share source group {group}: together they are a load"
            warnings.append(GroupWarning(source_group=group, exports=tuple(members), message=said))
    return warnings, isolated


def _isolated(one: Recommendation) -> Recommendation:
    reason = PriorityReason(
        kind=ReasonKind.SHARED_SOURCE_HEAVY_CONFLICT,
        message=f"another heavy export reads source group {one.source_group}, too",
    )
    return replace(one, isolate_on_source=True, parallel_safe=False, reasons=(*one.reasons, reason))


def _wave(number: int, members: Sequence[Recommendation], rss_mb: int) -> Wave:
    return Wave(
        wave=number,
        exports=tuple(one.export_name for one in members),
        packs=tuple(pack(members, rss_mb=rss_mb)),
    )


def pack(members: Sequence[Recommendation], *, rss_mb: int) -> list[tuple[str, ...]]:
    """Longest first; neighbours share a pack while every member bears the company and the
    memory suffices."""
    queue = sorted(members, key=lambda one: (-one.predicted.work_s, one.export_name))
    packs: list[list[Recommendation]] = []
    for one in queue:
        grown = [*packs[-1], one] if packs else [one]
        at_once = min(AT_ONCE[each.cost_class] for each in grown)
        if packs and len(grown) <= at_once and len(grown) * rss_mb <= PACK_RSS_MB_MAX:
            packs[-1] = grown
        else:
            packs.append([one])
    return [tuple(one.export_name for one in each) for each in packs]


def _wave_hint(wave: Wave) -> ConcurrencyHint:
    most = max(len(each) for each in wave.packs)
    said = f"wave {wave.wave}: at most {most} export{'' if most == 1 else 's'} at once"
    return ConcurrencyHint(exports_at_once=most, message=said, wave=wave.wave)


def _group_hints(ordered: Sequence[Recommendation], isolated: set[str]) -> list[ConcurrencyHint]:
    groups = {one.source_group for one in ordered if one.export_name in isolated}
    return [
        ConcurrencyHint(
            exports_at_once=1,
            message=f"source group {group}: one heavy export at a time",
            source_group=group,
        )
        for group in sorted(name for name in groups if name)
    ]
