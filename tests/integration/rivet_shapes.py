"""Whole configurations in the shapes that Rivet's files have; all exports read ``orders``.

Their servers, and what a destination is but its path, are the test's to fill in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

RIVET_SHAPED: Sequence[Mapping[str, Any]] = (
    # Exports of one file that share a folder, as many files of the field have it.
    {"exports": [{"name": n, "table": "orders", "destination": "out"} for n in ("a", "b", "c")]},
    # One that comes into a folder that is another's own, by its word or by ours.
    {
        "exports": [
            {"name": "own", "table": "orders", "destination": "out/{export}"},
            *({"name": n, "table": "orders", "destination": "out/own"} for n in ("d", "e")),
            *({"name": n, "table": "orders", "destination": "in"} for n in ("f", "g")),
            {"name": "h", "table": "orders", "destination": "in/f"},
        ]
    },
    {
        "exports": [
            {
                "name": "dense",
                "table": "orders",
                "mode": "chunked",
                "chunk_column": "id",
                "chunk_dense": True,
            },
            {
                "name": "days",
                "table": "orders",
                "mode": "chunked",
                "chunk_column": "at",
                "chunk_by_days": 1,
            },
            {"name": "keyed", "table": "orders", "mode": "chunked", "chunk_by_key": "code"},
            {
                "name": "coalesced",
                "table": "orders",
                "mode": "incremental",
                "cursor_column": "at",
                "incremental_cursor_mode": "coalesce",
                "cursor_fallback_column": "created_at",
            },
            {
                "name": "appended",
                "table": "orders",
                "mode": "chunked",
                "chunk_by_key": "id",
                "keyset_incremental": True,
            },
            {
                "name": "parted",
                "table": "orders",
                "partition_by": "made",
                "destination": "out/parted/{partition}",
            },
            {"name": "text", "table": "orders", "format": "csv", "skip_empty": True},
        ]
    },
    {
        "exports": [
            {"name": "users", "table": "orders", "mode": "full", "destination": "out/users"},
            {
                "name": "orders",
                "query": "SELECT id, updated_at FROM orders",
                "mode": "incremental",
                "cursor_column": "updated_at",
                "destination": "out/orders",
            },
            {
                "name": "events",
                "query": "SELECT id, at FROM orders WHERE n > 0",
                "mode": "time_window",
                "time_column": "at",
                "days_window": 7,
                "destination": "out/events",
            },
            {
                "name": "payments",
                "table": "orders",
                "mode": "chunked",
                "chunk_column": "id",
                "chunk_size": 100_000,
                "destination": "out/orders",
            },
            {"name": "gone", "query": "SELECT id FROM nowhere", "destination": "out/gone"},
        ]
    },
    # Everything a file may say around its exports.
    {
        "source": {
            "environment": "production",
            "tuning": {
                "profile": "safe",
                "batch_size_memory_mb": 16,
                "memory_threshold_mb": 2048,
                "throttle_ms": 100,
            },
        },
        "parallel_exports": True,
        "parallel_export_processes": True,
        "ignored_settings": ["notifications"],
        "notifications": {
            "slack": {"webhook_url_env": "HOOK", "on": ["failure", "schema_change", "degraded"]}
        },
        "load": {"target": "bigquery", "project": "p", "dataset": "d"},
        "exports": [
            {
                "name": "tuned",
                "table": "orders",
                "mode": "chunked",
                "chunk_column": "id",
                "chunk_size": 250_000,
                "chunk_checkpoint": True,
                "chunk_max_attempts": 5,
                "parallel": 4,
                "parallel_safe": True,
                "wave": 2,
                "reconcile_required": True,
                "on_schema_drift": "fail",
                "shape_drift_warn_factor": 0,
                "verify": "content",
                "compression": "snappy",
                "max_file_size": "256MB",
                "parquet": {"row_group_strategy": "fixed_rows", "row_group_rows": 50_000},
                "tuning": {
                    "profile": "fast",
                    "batch_size": 2_000,
                    "statement_timeout_s": 60,
                    "lock_timeout_s": 5,
                    "max_retries": 5,
                    "retry_backoff_ms": 100,
                    "max_value_mb": 16,
                    "adaptive": True,
                    "min_parallel": 2,
                },
            },
            {
                "name": "judged",
                "table": "orders",
                "quality": {
                    "row_count_min": 1,
                    "row_count_max": 1_000_000,
                    "null_ratio_max": {"note": 0.5},
                    "unique_columns": ["id"],
                    "unique_max_entries": 100_000,
                },
                "meta_columns": {"exported_at": True, "row_hash": ["id", "note"]},
                "columns": {"orders.total": "decimal(18,2)", "note": "text"},
            },
            {
                "name": "unix",
                "table": "orders",
                "mode": "time_window",
                "time_column": "n",
                "time_column_type": "unix",
                "days_window": 1,
            },
            {
                "name": "sized",
                "table": "orders",
                "mode": "chunked",
                "chunk_size_memory_mb": 64,
                "compression_profile": "compact",
            },
            {
                "name": "counted",
                "query": "SELECT id, total FROM orders; -- nightly\n",
                "mode": "chunked",
                "chunk_column": "id",
                "chunk_count": 3,
                "format": "csv",
                "compression": "none",
            },
            {
                "name": "monthly",
                "table": "orders",
                "partition_by": "at",
                "partition_granularity": "month",
                "destination": "lake/{export}/{partition}",
                "compression": "gzip",
                "compression_level": 9,
            },
        ],
    },
)
WHOLE = frozenset(("a", "b", "c", "tuned", "judged", "unix", "sized", "counted", "monthly"))
"""Those that nothing is wrong with, on either engine."""
