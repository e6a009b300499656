"""``source_groups`` as budgets: rules between settings, and the values the fleet keeps. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from rivet_fleet.contracts.protection import SourceBudget
from rivet_fleet.planning.config_models import SourceGroupConfig
from rivet_fleet.planning.loaded import LoadedConfig
from rivet_fleet.planning.problems import ConfigKey, Problem, dotted

MEGABYTE = 1_000_000
"""Of a rate: networks count in decimal megabytes."""


def budgets_of(loaded: LoadedConfig) -> tuple[SourceBudget, ...]:
    """The budget of every configured source group, by name."""
    return tuple(
        budget_of(name, group) for name, group in sorted(loaded.config.source_groups.items())
    )


def budget_of(name: str, group: SourceGroupConfig) -> SourceBudget:
    """One group's block as a budget."""
    return SourceBudget(
        group_name=name,
        chunks_max=group.max_running_chunks,
        connections_max=group.max_connections,
        rows_per_s=group.max_rows_per_s,
        bytes_per_s=None if group.max_mb_per_s is None else group.max_mb_per_s * MEGABYTE,
    )


def readers_of(loaded: LoadedConfig, group_name: str | None) -> int | None:
    """How many chunks of a group may run at once; None where nothing says so."""
    group = loaded.config.source_groups.get(group_name or "")
    return None if group is None else budget_of(group_name or "", group).ceiling


def check_group(name: str, group: SourceGroupConfig) -> Iterator[Problem]:
    """What is wrong with a group although each of its settings has the right type."""
    at: ConfigKey = ("source_groups", name)
    budget = budget_of(name, group)
    if budget.unlimited:
        yield _problem(at, "sets no limit", "add max_running_chunks: 4")
    if budget.ceiling == 0:
        yield _problem(
            (*at, "max_connections"),
            f"leaves none for a chunk: {budget.connections_reserved} are kept for planning, checks "
            "and the monitor",
            f"max_connections: {budget.connections_reserved + 1}",
        )


def _problem(at: ConfigKey, reason: str, suggestion: str | None = None) -> Problem:
    return Problem(at=at, what=dotted(at), reason=reason, suggestion=suggestion)
