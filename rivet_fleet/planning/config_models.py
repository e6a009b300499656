"""The configuration's shape: every key there is, its type, its default and its bounds.

Field names, defaults and bounds of a Rivet YAML are kept (inventory §2); ``sources``,
``campaign``, ``source_groups``, ``state`` and ``spool_dir`` are the fleet's own.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from rivet_fleet.planning.sizes import MIB, parse_size

CHUNKS_MAX = 50_000
"""More chunks than this cost more bookkeeping than they spread work."""
CHUNK_SIZE_DEFAULT = 100_000


def _not_a_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _one_or_more_columns(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(","))
    return value


def _size(value: Any) -> Any:
    if isinstance(value, str):
        return parse_size(value)
    return _not_a_flag(value)


Count = Annotated[int, BeforeValidator(_not_a_flag)]
Number = Annotated[float, BeforeValidator(_not_a_flag)]
Columns = Annotated[
    tuple[str, ...],
    BeforeValidator(_one_or_more_columns, json_schema_input_type=str | list[str]),
]
Bytes = Annotated[int, BeforeValidator(_size, json_schema_input_type=int | str)]


class Block(BaseModel):
    """Unknown keys are refused, values are never echoed, nothing changes after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False
    )


class TlsConfig(Block):
    """How the connection to a source is protected."""

    mode: Literal["disable", "require", "verify-ca", "verify-full"] | None = Field(
        default=None, description="verify-full when the block is present; disable opts out."
    )
    ca_file: str | None = None
    accept_invalid_certs: bool = False
    accept_invalid_hostnames: bool = False


class TuningConfig(Block):
    """How gently a source is read. Unset fields come from the profile."""

    profile: Literal["fast", "balanced", "safe"] | None = None
    target_statement_ms: Annotated[Count, Field(ge=10, le=600_000)] | None = Field(
        default=None, description="How long one statement should take."
    )
    batch_size: Annotated[Count, Field(ge=1)] | None = None
    batch_size_memory_mb: Annotated[Count, Field(ge=1)] | None = None
    throttle_ms: Annotated[Number, Field(ge=0)] | None = None
    statement_timeout_s: Annotated[Number, Field(ge=0)] | None = None
    max_retries: Annotated[Count, Field(ge=0, le=1000)] | None = None
    retry_backoff_ms: Annotated[Number, Field(ge=0)] | None = None
    lock_timeout_s: Annotated[Number, Field(ge=0)] | None = None
    memory_threshold_mb: Annotated[Count, Field(ge=0)] | None = None
    max_batch_memory_mb: Annotated[Count, Field(ge=1)] | None = None
    on_batch_memory_exceeded: Literal["warn", "fail", "auto_shrink"] | None = None
    max_value_mb: Annotated[Count, Field(ge=0)] | None = None
    adaptive: bool | None = None
    min_parallel: Annotated[Count, Field(ge=1)] | None = None


class SourceConfig(Block):
    """One database. Exactly one of url, url_env, url_file, or host, user and database."""

    type: str
    url: SecretStr | None = Field(default=None, repr=False)
    url_env: str | None = None
    url_file: str | None = None
    host: str | None = None
    port: Annotated[Count, Field(ge=1, le=65535)] | None = None
    user: str | None = None
    database: str | None = None
    password: SecretStr | None = Field(default=None, repr=False)
    password_env: str | None = None
    environment: Literal["local", "replica", "production"] | None = None
    tuning: TuningConfig = TuningConfig()
    tls: TlsConfig | None = None


class DestinationConfig(Block):
    """Where an export's files go."""

    type: str
    path: str | None = Field(
        default=None,
        description="Folder; relative to this file. {date}, {export} and {table} are replaced.",
    )


class ParquetConfig(Block):
    """Row groups, within what the worker's memory ceiling allows."""

    row_group_strategy: Literal["auto", "fixed_rows", "fixed_memory"] = "auto"
    row_group_rows: Annotated[Count, Field(ge=1_000)] | None = None
    target_row_group_mb: Annotated[Count, Field(ge=1)] = 128
    max_row_group_mb: Annotated[Count, Field(ge=1)] | None = None


class ExportConfig(Block):
    """One table or query, and where it goes."""

    name: str
    source: str | None = Field(default=None, description="One of sources; needed with several.")
    table: str | None = None
    query: str | None = None
    query_file: str | None = None
    mode: Literal["full", "chunked"] = "full"
    format: str
    compression: Literal["zstd", "snappy", "gzip", "lz4", "none"] | None = None
    compression_level: Count | None = None
    compression_profile: Literal["none", "fast", "balanced", "compact"] | None = None
    skip_empty: bool = False
    max_file_size: Annotated[Bytes, Field(ge=1)] | None = None
    destination: DestinationConfig
    verify: Literal["size", "content"] = "size"
    chunk_column: str | None = None
    chunk_by_key: Columns | None = None
    chunk_count: Annotated[Count, Field(ge=1, le=CHUNKS_MAX)] | None = None
    chunk_size: Annotated[Count, Field(ge=1)] | None = Field(
        default=None, description=f"Rows per chunk; {CHUNK_SIZE_DEFAULT} when nothing is set."
    )
    chunk_size_memory_mb: Annotated[Count, Field(ge=1, le=1024 * MIB)] | None = None
    chunk_checkpoint: bool = False
    chunk_max_attempts: Annotated[Count, Field(ge=1, le=1000)] | None = None
    parallel: Annotated[Count, Field(ge=1)] | None = None
    wave: Annotated[Count, Field(ge=1)] | None = None
    parallel_safe: bool | None = None
    tuning: TuningConfig = TuningConfig()
    source_group: str | None = None
    reconcile_required: bool | None = None
    columns: dict[str, str] = Field(
        default_factory=dict, description="Column (or table.column) to the type it is read as."
    )
    target: str | None = None
    on_schema_drift: Literal["warn", "continue", "fail"] = "warn"
    shape_drift_warn_factor: Annotated[Number, Field(ge=0)] | None = None
    parquet: ParquetConfig | None = None


class CampaignConfig(Block):
    """How the fleet works on one submission."""

    name: str | None = Field(default=None, description="The file's name when absent.")
    workers: Annotated[Count, Field(ge=1, le=1024)] = 2
    lease_ttl_s: Annotated[Number, Field(ge=1, le=86_400)] = 30.0
    max_chunk_attempts: Annotated[Count, Field(ge=1, le=1000)] | None = None
    drain_grace_s: Annotated[Number, Field(ge=0, le=86_400)] = 25.0
    worker_memory_mb: Annotated[Count, Field(ge=64, le=MIB)] = 512
    hang_timeout_s: Annotated[Number, Field(ge=1, le=604_800)] = 600.0


class SourceGroupConfig(Block):
    """A budget that several exports share across the whole fleet."""

    max_running_chunks: Annotated[Count, Field(ge=1, le=100_000)]


class StateConfig(Block):
    """Where the fleet remembers. At most one of the two."""

    url: SecretStr | None = Field(default=None, repr=False)
    url_env: str | None = None


class FleetConfig(Block):
    """The whole file."""

    source: SourceConfig | None = Field(default=None, description="The source named default.")
    sources: dict[str, SourceConfig] = Field(default_factory=dict)
    exports: tuple[ExportConfig, ...]
    campaign: CampaignConfig = CampaignConfig()
    source_groups: dict[str, SourceGroupConfig] = Field(default_factory=dict)
    state: StateConfig = StateConfig()
    spool_dir: str | None = None
    parallel_exports: bool = False
    parallel_export_processes: bool = False
