"""Profiles and overrides to a TuningPlan (inventory §2.4). Pure."""

from __future__ import annotations

from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.planning.config_models import SourceConfig, TuningConfig
from rivet_fleet.planning.memory import MemoryBudget
from rivet_fleet.planning.sizes import MIB

PROFILES: dict[str, dict[str, float]] = {
    "fast": {
        "batch_size_memory_mb": 64,
        "throttle_ms": 0,
        "statement_timeout_s": 0,
        "max_retries": 1,
        "retry_backoff_ms": 1_000,
        "lock_timeout_s": 0,
    },
    "balanced": {
        "batch_size_memory_mb": 32,
        "throttle_ms": 50,
        "statement_timeout_s": 300,
        "max_retries": 3,
        "retry_backoff_ms": 2_000,
        "lock_timeout_s": 30,
    },
    "safe": {
        "batch_size": 2_000,
        "throttle_ms": 500,
        "statement_timeout_s": 120,
        "max_retries": 10,
        "retry_backoff_ms": 5_000,
        "lock_timeout_s": 10,
    },
}
MAX_VALUE_MB = 256
TARGET_STATEMENT_MS = 150


def profile_of(source: SourceConfig, export: TuningConfig) -> str:
    """An explicit profile wins, the export's first; else ``local`` is fast, others balanced."""
    explicit = export.profile or source.tuning.profile
    if explicit is not None:
        return explicit
    return "fast" if source.environment == "local" else "balanced"


def tuning_plan(source: SourceConfig, export: TuningConfig, budget: MemoryBudget) -> TuningPlan:
    """Field by field: the export's own setting, the source's, the profile's.

    The memory ceiling bounds bytes; a row limit exists only where rows were asked for.
    """
    profile = PROFILES[profile_of(source, export)]

    def pick(name: str) -> float | None:
        for block in (export, source.tuning):
            value = getattr(block, name)
            if value is not None:
                return float(value)
        return profile.get(name)

    def number(name: str) -> float:
        return pick(name) or 0.0

    rows, memory_mb = _batch(source.tuning, export, profile)
    bytes_max = budget.page_bytes
    for limit_mb in (memory_mb, pick("max_batch_memory_mb")):
        if limit_mb is not None:
            bytes_max = min(bytes_max, int(limit_mb) * MIB)
    value_mb = pick("max_value_mb")
    value_bytes = int(MAX_VALUE_MB if value_mb is None else value_mb) * MIB
    return TuningPlan(
        target_statement_ms=int(pick("target_statement_ms") or TARGET_STATEMENT_MS),
        batch_rows_max=rows,
        batch_bytes_max=bytes_max,
        statement_timeout_s=number("statement_timeout_s"),
        lock_timeout_s=number("lock_timeout_s"),
        throttle_ms=number("throttle_ms"),
        max_retries=int(number("max_retries")),
        retry_backoff_ms=number("retry_backoff_ms"),
        # Switching the limit off leaves the worker's memory ceiling, which is a promise.
        max_value_bytes=min(value_bytes or budget.value_bytes, budget.value_bytes),
    )


def _batch(
    source: TuningConfig, export: TuningConfig, profile: dict[str, float]
) -> tuple[int | None, int | None]:
    """(rows, MB) of one page, from the first block that sets either of the two."""
    for block in (export, source):
        if block.batch_size is not None or block.batch_size_memory_mb is not None:
            return block.batch_size, block.batch_size_memory_mb
    rows, memory_mb = profile.get("batch_size"), profile.get("batch_size_memory_mb")
    return (int(rows) if rows else None), (int(memory_mb) if memory_mb else None)
