"""Source groups in words: what they may do, and what they do now. Pure."""

from __future__ import annotations

from rivet_fleet.contracts.protection import SourceBudget
from rivet_fleet.contracts.state import GroupView
from rivet_fleet.observability.units import bytes_text, scaled_text


def budget_line(budget: SourceBudget) -> str:
    """One line: the group and its limits."""
    limits = _limits(
        budget.chunks_max, budget.connections_max, budget.rows_per_s, budget.bytes_per_s
    )
    return f"{budget.group_name}: {', '.join(limits)}"


def group_words(group: GroupView) -> str:
    """How many chunks run, here and elsewhere, and what limits them."""
    limits = _limits(group.slots_max, group.connections_max, group.rows_per_s, group.bytes_per_s)
    others = group.running - group.running_here
    elsewhere = f" ({others} of other campaigns)" if others > 0 else ""
    if group.monitored:
        limits.append(f"governed by {group.governor}" if group.governor else "not governed now")
    return f"{group.running} running{elsewhere}, {', '.join([*limits, *group.readings()])}"


def rate_words(group: GroupView) -> str:
    """The group's rates, such as ``50k rows/s, 20.0 MB/s``."""
    return ", ".join(_limits(None, None, group.rows_per_s, group.bytes_per_s))


def _limits(
    chunks: int | None, connections: int | None, rows_per_s: float | None, bytes_per_s: float | None
) -> list[str]:
    said = []
    if chunks is not None:
        said.append(f"{chunks} slots")
    if connections is not None:
        said.append(f"{connections} connections")
    if rows_per_s is not None:
        said.append(f"{scaled_text(round(rows_per_s))} rows/s")
    if bytes_per_s is not None:
        said.append(f"{bytes_text(round(bytes_per_s))}/s")
    return said or ["no limit"]
