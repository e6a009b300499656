"""What the governor, or a rate, does to a campaign's source groups, with the figures. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from rivet_fleet.contracts.state import GroupView
from rivet_fleet.observability.groups import rate_words
from rivet_fleet.observability.reasons import Reason, ReasonCode, Scene
from rivet_fleet.observability.units import duration_text


def protection_reasons(scene: Scene) -> list[Reason]:
    """Every group that is paused, shed or paced; nothing once the campaign is over."""
    if scene.campaign.status.over:
        return []
    return [
        Reason(code=code, sentence=said, until_s=until_s)
        for group in scene.groups
        for code, said, until_s in _protected(scene, group)
    ]


def _protected(scene: Scene, group: GroupView) -> Iterator[tuple[ReasonCode, str, float | None]]:
    name = f"Source group {group.group_name}"
    if group.paused is not None or group.unwatched(scene.now_s):
        why = group.paused or "nobody watches the source, and on_unreadable is pause"
        left_s = None if group.resumes_at_s is None else group.resumes_at_s - scene.now_s
        opens = "" if left_s is None else f"; it opens in {duration_text(left_s)}"
        yield ReasonCode.SOURCE_GROUP_PAUSED, f"{name} is paused: {why}{opens}.", left_s
        return
    most = group.slots_max
    if group.permits is not None and most is not None and group.permits < most:
        why = ", ".join(group.readings(above="calm")) or "it regains one after calm samples"
        said = (
            f"{name} may run {group.permits} of {most} chunks, pages at "
            f"{group.page_share:.0%} of their size: {why}."
        )
        yield ReasonCode.SOURCE_GROUP_SHED, said, None
    if group.running and (group.rows_per_s is not None or group.bytes_per_s is not None):
        yield ReasonCode.SOURCE_GROUP_PACED, f"{name} reads at its rate: {rate_words(group)}.", None
