"""The configuration's shape: every key there is, its type, its default and its bounds.

Field names, defaults and bounds of a Rivet YAML are kept (Rivet: Settings); ``sources``,
``campaign``, ``source_groups``, ``state`` and ``spool_dir`` are the fleet's own.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, PrivateAttr, SecretStr

from rivet_fleet.contracts.destination import names_variable
from rivet_fleet.planning.config.fields import (
    MIB,
    Block,
    Bytes,
    Columns,
    Count,
    Number,
    SettingText,
)
from rivet_fleet.planning.config.quality import QualityConfig as QualityConfig
from rivet_fleet.planning.config.sources import SourceConfig as SourceConfig
from rivet_fleet.planning.config.sources import TlsConfig as TlsConfig
from rivet_fleet.planning.config.sources import TuningConfig as TuningConfig

# ------------------------------------------------------------------------------------------
# ``source_groups``: what a source allows the fleet, and what is watched (ADR 0013).


class SignalConfig(Block):
    """One number that is watched. Without sql and http the name is one of the engine's own."""

    sql: str | None = Field(
        default=None, description="One SELECT on the monitor's source with one number as answer."
    )
    http: str | None = Field(
        default=None, description="A URL without a password; a number, or JSON with pointer."
    )
    pointer: str | None = Field(
        default=None, description="Where the number is in the JSON answer, such as /db/load."
    )
    shed_above: Number | None = Field(
        default=None, description="One chunk less runs, and pages get smaller."
    )
    pause_above: Number | None = Field(default=None, description="Nothing runs until it is calm.")
    abort_above: Number | None = Field(
        default=None,
        description="Twice in a row: the campaign is stopped, resumable, with exit code 10.",
    )


class HoursConfig(Block):
    """When the group may run."""

    windows: Columns = Field(description="HH:MM-HH:MM; one that ends earlier ends the next day.")
    days: Columns = Field(
        default=(), description="mon, tue, …: days on which a window begins; every day when empty."
    )
    time_zone: str = Field(default="UTC", description="Such as Europe/Berlin.")


class MonitorConfig(Block):
    """What the governor of a group watches, and what it does about it."""

    source: str | None = Field(
        default=None, description="Which of sources is asked; needed with several."
    )
    interval_s: Annotated[Number, Field(ge=0.2, le=3600)] = Field(
        default=1.5, description="How often a sample is taken."
    )
    calm_samples: Annotated[Count, Field(ge=1, le=1000)] = Field(
        default=3, description="Calm samples in a row before one chunk more runs."
    )
    on_unreadable: Literal["hold", "continue", "pause"] = Field(
        default="hold",
        description="A signal that could not be read three times: hold keeps what is, continue "
        "leaves the signal out, pause stops the group (also when nobody watches).",
    )
    hold_paused_s: Annotated[Number, Field(ge=0, le=86_400)] = Field(
        default=60.0,
        description="How long a paused chunk waits for its next page before it is given back.",
    )
    signals: dict[str, SignalConfig] = Field(
        default_factory=dict, description="Numbers by name; see signal."
    )
    flag_file: str | None = Field(
        default=None,
        description="The group pauses while this file exists: on storage that every host sees.",
    )
    hours: HoursConfig | None = Field(
        default=None, description="When the group may run; see hours."
    )


class SourceGroupConfig(Block):
    """A budget that several exports share: across hosts, and across campaigns."""

    max_running_chunks: Annotated[Count, Field(ge=1, le=100_000)] | None = Field(
        default=None, description="Chunks of the group that run at once, over all hosts."
    )
    max_connections: Annotated[Count, Field(ge=2, le=100_000)] | None = Field(
        default=None,
        description="Connections to the source at once: one per running chunk, one for planning "
        "and checks, one for a monitor that asks the source.",
    )
    max_rows_per_s: Annotated[Number, Field(gt=0)] | None = Field(
        default=None, description="Rows read per second, over all hosts."
    )
    max_mb_per_s: Annotated[Number, Field(gt=0)] | None = Field(
        default=None, description="Megabytes received per second, over all hosts."
    )
    min_running_chunks: Annotated[Count, Field(ge=1, le=100_000)] = Field(
        default=1, description="The governor sheds down to this many; only a pause goes below."
    )
    monitor: MonitorConfig | None = Field(
        default=None, description="Signals that shed, pause or abort; see monitor."
    )


# ------------------------------------------------------------------------------------------
# The configuration's shape: where an export's files go, and what else is in them.


class DestinationConfig(Block):
    """Where an export's files go."""

    # The other settings are the kind's own, and looked through before the block is made.
    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": False})
    __pydantic_extra__: dict[str, SettingText] = Field(init=False)

    type: str = Field(description="local: a folder on a local or shared file system.")
    path: str | None = Field(
        default=None,
        description="Folder; relative to this file. {date}, {export}, {table} and {partition} are "
        "replaced. Exports that share one have a folder each in it, by {export}.",
    )

    _written: str | None = PrivateAttr(default=None)

    @property
    def settings(self) -> dict[str, str]:
        """What the block says beside its type, as texts."""
        path = {} if self.path is None else {"path": self.path}
        return {**path, **self.__pydantic_extra__}

    @property
    def variables(self) -> dict[str, str]:
        """Setting → the environment variable that it names."""
        return {name: text for name, text in self.settings.items() if names_variable(name)}

    @property
    def below(self) -> tuple[str, str]:
        """The setting whose placeholders are replaced, and its text: ``path`` of a folder,
        ``prefix`` of a store."""
        name = "prefix" if "prefix" in self.settings else "path"
        return name, self.settings.get(name, "")

    @property
    def written_out(self) -> str:
        """Of ``below`` the folders down to the first placeholder or variable, as their author wrote
        them."""
        text = self._written or self.below[1]
        at = text.find("{")
        return text if at < 0 else text[: text.rfind("/", 0, at) + 1]

    def keep_written(self, text: str) -> None:
        """``below`` had variables in it, of which ``text`` keeps the first."""
        self._written = text

    def placed(self, text: str) -> DestinationConfig:
        """The same destination with ``text`` for ``below``."""
        one = self.model_copy(update={self.below[0]: text})
        one._written = self._written or self.below[1]
        return one


class ParquetConfig(Block):
    """Row groups, within what the worker's memory ceiling allows, and the layout of values."""

    row_group_strategy: Literal["auto", "fixed_rows", "fixed_memory"] = Field(
        default="auto", description="How a row group is measured."
    )
    row_group_rows: Annotated[Count, Field(ge=1_000)] | None = Field(
        default=None, description="Rows of a group with fixed_rows."
    )
    target_row_group_mb: Annotated[Count, Field(ge=1)] = Field(
        default=128,
        description="Megabytes of a group as it is held before it is encoded; never more than "
        "the memory ceiling allows.",
    )
    max_row_group_mb: Annotated[Count, Field(ge=1)] | None = Field(
        default=None, description="Upper limit for target_row_group_mb."
    )
    encodings: Literal["auto", "classic"] = Field(
        default="classic",
        description="classic: a dictionary or plain values, which every reader knows. auto: also "
        "differences (DELTA_BINARY_PACKED) where they are smaller.",
    )


class MetaColumnsConfig(Block):
    """Columns that are appended to every row."""

    exported_at: bool = Field(
        default=False, description="_rivet_exported_at: when the run was planned, UTC."
    )
    row_hash: bool | Columns = Field(
        default=False, description="_rivet_row_hash over all columns, or over those listed."
    )

    @property
    def hashed(self) -> tuple[str, ...] | None:
        """The listed columns; empty for all of them; None when nothing is hashed."""
        if isinstance(self.row_hash, bool):
            return () if self.row_hash else None
        return self.row_hash


CHUNKS_MAX = 50_000
"""More chunks than this cost more bookkeeping than they spread work."""
CHUNK_SIZE_DEFAULT = 100_000
DAYS_MAX = 3_660_000
"""Ten thousand years: longer windows are one chunk."""


class ReconcileConfig(Block):
    """What is delivered is compared with its source when the run is over."""

    depth: Literal["count", "aggregate", "hash"] = Field(
        default="hash",
        description="count: rows of each range; aggregate: and NULLs, extremes and sums of its "
        "columns; hash: every row and column.",
    )
    settled_by: str | None = Field(
        default=None,
        description="A date or time that rises when a row is written: only rows from before the "
        "run count.",
    )
    on_mismatch: Literal["fail", "warn", "repair"] = Field(
        default="fail",
        description="fail: the command ends with 3; warn: it tells, and goes on; repair: ranges "
        "that differ are read again, once, and compared again.",
    )


class ExportConfig(Block):
    """One table or query, and where it goes."""

    name: str = Field(description="Unique in the file; part of file names and run ids.")
    source: str | None = Field(default=None, description="One of sources; needed with several.")
    table: str | None = Field(
        default=None,
        description="table or schema.table, as SQL quotes them. One of table, query, query_file.",
    )
    query: str | None = Field(
        default=None, description="One SELECT; read with mode full, or chunked by chunk_column."
    )
    query_file: str | None = Field(
        default=None, description="A file with one SELECT, below the folder of this file."
    )
    mode: Literal["full", "chunked", "incremental", "time_window"] = Field(
        default="full",
        description="full: one chunk. chunked: many, cut as set below or automatically. "
        "incremental: what is new since the last run. time_window: the last days_window days.",
    )
    format: str = Field(description="parquet or csv.")
    compression: Literal["zstd", "snappy", "gzip", "lz4", "none"] | None = Field(
        default=None, description="zstd when absent."
    )
    compression_level: Count | None = Field(default=None, description="The codec's own level.")
    compression_profile: Literal["none", "fast", "balanced", "compact"] | None = Field(
        default=None, description="A word instead of codec and level."
    )
    skip_empty: bool = Field(default=False, description="Write no file for a run without rows.")
    max_file_size: Annotated[Bytes, Field(ge=1)] | None = Field(
        default=None,
        description="Start another file beyond this size: bytes, or text such as 256MB.",
    )
    destination: DestinationConfig = Field(
        description="Where the files go; see destination. Each export needs its own folder."
    )
    verify: Literal["size", "content"] = Field(
        default="size", description="content: read every file once more before _SUCCESS."
    )
    prove: Literal["off", "sampled", "all"] | None = Field(
        default=None, description="Over campaign.prove."
    )
    chunk_column: str | None = Field(
        default=None,
        description="Cut by ranges of this column; NULLs get a chunk of their own.",
    )
    chunk_by_key: Columns | None = Field(
        default=None, description="Cut by this unique key: one column or a list."
    )
    chunk_count: Annotated[Count, Field(ge=1, le=CHUNKS_MAX)] | None = Field(
        default=None, description="Exactly this many chunks."
    )
    chunk_size: Annotated[Count, Field(ge=1)] | None = Field(
        default=None, description=f"Rows per chunk; {CHUNK_SIZE_DEFAULT} when nothing is set."
    )
    chunk_size_memory_mb: Annotated[Count, Field(ge=1, le=1024 * MIB)] | None = Field(
        default=None, description="Cut so that a chunk holds about this much."
    )
    chunk_by_days: Annotated[Count, Field(ge=1, le=DAYS_MAX)] | None = Field(
        default=None, description="Cut chunk_column, a date or a moment, every so many days (UTC)."
    )
    chunk_dense: bool = Field(
        default=False,
        description="Walk the key's index when planning, so that chunks hold exactly chunk_size "
        "rows however uneven the key is.",
    )
    cursor_column: str | None = Field(
        default=None, description="incremental: the column that rises with every change."
    )
    cursor_fallback_column: str | None = Field(
        default=None, description="coalesce: counts where cursor_column is NULL."
    )
    incremental_cursor_mode: Literal["single_column", "coalesce"] = Field(
        default="single_column", description="coalesce: with cursor_fallback_column."
    )
    cursor_overlap_s: Annotated[Number, Field(gt=0, le=31_622_400)] | None = Field(
        default=None,
        description="Read again what lies so far below the mark, for transactions that commit "
        "late: such rows may be delivered by two runs, never twice by one.",
    )
    on_mark_above: Literal["warn", "fail"] = Field(
        default="warn",
        description="The greatest cursor lies below the mark, as after a reload: fail refuses the "
        "run instead of delivering nothing with a warning.",
    )
    cursor_is_monotonic: bool = Field(
        default=False,
        description="incremental, keyset_incremental: takes text, uuid or bytes for a cursor: each "
        "new value is greater than all before it (ULID, UUID version 7).",
    )
    keyset_incremental: bool = Field(
        default=False,
        description="With chunk_by_key of an append-only table: only keys above the last run's.",
    )
    time_column: str | None = Field(
        default=None, description="time_window: a date, a moment, or seconds since 1970."
    )
    time_column_type: Literal["timestamp", "unix"] = Field(
        default="timestamp", description="unix: time_column holds seconds since 1970."
    )
    days_window: Annotated[Count, Field(ge=1, le=DAYS_MAX)] | None = Field(
        default=None, description="time_window: so many days, counted from the planning (UTC)."
    )
    chunk_checkpoint: bool = Field(
        default=False, description="Accepted: every chunk is a checkpoint here."
    )
    chunk_max_attempts: Annotated[Count, Field(ge=1, le=1000)] | None = Field(
        default=None, description="Before a chunk is given up; else campaign.max_chunk_attempts."
    )
    parallel: Annotated[Count, Field(ge=1)] | None = Field(
        default=None,
        description="Where campaign.workers is absent, the largest of all exports is how many "
        "workers run and resume start on this host.",
    )
    wave: Annotated[Count, Field(ge=1)] | None = Field(
        default=None, description="With campaign.waves; the recommended wave when absent."
    )
    parallel_safe: bool | None = Field(
        default=None, description="Accepted and ignored: source_groups decide."
    )
    tuning: TuningConfig = Field(
        default=TuningConfig(), description="Over the source's tuning; see tuning."
    )
    source_group: str | None = Field(
        default=None, description="The budget this export shares; one of source_groups."
    )
    reconcile: ReconcileConfig | None = Field(
        default=None, description="How `run` compares what it delivered; see reconcile."
    )
    reconcile_required: bool | None = Field(
        default=None, description="The same as `reconcile: {depth: count}` where that is not said."
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="Column (or table.column) to the type it is read as."
    )
    on_unrepresentable: Literal["fail", "coerce"] | None = Field(
        default=None, description="Over defaults.on_unrepresentable."
    )
    on_unsupported: Literal["fail", "text"] | None = Field(
        default=None, description="Over defaults.on_unsupported."
    )
    on_lossy: Literal["fail", "warn", "allow"] | None = Field(
        default=None, description="Over defaults.on_lossy."
    )
    target: Literal["duckdb", "bigquery", "snowflake", "clickhouse"] | None = Field(
        default=None, description="What check --type-report speaks for; --target wins."
    )
    quality: QualityConfig | None = Field(
        default=None, description="Gates before the delivery; see quality."
    )
    on_schema_drift: Literal["warn", "continue", "fail"] | None = Field(
        default=None, description="Over defaults.on_schema_drift."
    )
    shape_drift_warn_factor: Annotated[Number, Field(ge=0)] | None = Field(
        default=None, description="Over defaults.shape_drift_warn_factor."
    )
    parquet: ParquetConfig | None = Field(default=None, description="Row groups; see parquet.")
    partition_by: str | None = Field(
        default=None,
        description="A date or a moment: each period is a dataset of its own; needs {partition} "
        "in destination.path.",
    )
    partition_granularity: Literal["day", "month", "year"] | None = Field(
        default=None, description="The period; day when absent."
    )
    meta_columns: MetaColumnsConfig = Field(
        default=MetaColumnsConfig(), description="Columns that are appended; see meta columns."
    )


class DefaultsConfig(Block):
    """What every export does unless it says otherwise."""

    on_unrepresentable: Literal["fail", "coerce"] = Field(
        default="fail",
        description="A value its exported type cannot hold (infinity, NaN, zero dates): fail "
        "stops the chunk; coerce makes it NULL (invalid text: U+FFFD) and counts it.",
    )
    on_unsupported: Literal["fail", "text"] = Field(
        default="fail",
        description="A column whose type has no exact form: fail lists it before the first row; "
        "text casts it on the server.",
    )
    on_lossy: Literal["fail", "warn", "allow"] = Field(
        default="warn", description="A type or override that may lose digits, time or meaning."
    )
    on_schema_drift: Literal["warn", "continue", "fail"] = Field(
        default="warn",
        description="Columns that differ from the last completed run's: fail refuses to start, "
        "continue only records. Within a campaign a changed shape always fails.",
    )
    shape_drift_warn_factor: Annotated[Number, Field(ge=0)] = Field(
        default=2.0,
        description="Say so when rows, bytes or bytes per row are this many times more or less "
        "than usual; 0 switches it off.",
    )


class CampaignConfig(Block):
    """How the fleet works on one submission."""

    name: str | None = Field(default=None, description="The file's name when absent.")
    workers: Annotated[Count, Field(ge=1, le=1024)] | None = Field(
        default=None,
        description="Worker processes that run and resume start on this host; when absent the "
        "largest `parallel` of the exports, else one for each core, as far as its memory, the "
        "budgets and the chunks go, and four at most.",
    )
    order: Literal["config", "priority", "longest_first"] = Field(
        default="longest_first",
        description="Whose chunks go first: longest_first: by the time one chunk is expected to "
        "take, so that no long one is begun last; priority: by the score `plan` shows; config: as "
        "in this file.",
    )
    waves: bool = Field(
        default=False, description="Earlier waves go first; no worker waits for one to end."
    )
    lease_ttl_s: Annotated[Number, Field(ge=1, le=86_400)] = Field(
        default=30.0,
        description="How long a host may be silent before its chunks go to others. A worker "
        "that its coordinator has not heard of for four leases, and at least 60 s, is ended.",
    )
    max_chunk_attempts: Annotated[Count, Field(ge=1, le=1000)] | None = Field(
        default=None, description="Before a chunk is given up; tuning.max_retries + 1 when absent."
    )
    drain_grace_s: Annotated[Number, Field(ge=0, le=86_400)] = Field(
        default=25.0, description="How long a running chunk may still take after SIGTERM."
    )
    worker_memory_mb: Annotated[Count, Field(ge=128, le=MIB)] = Field(
        default=150,
        description="Memory ceiling of one worker process: pages, row groups and the largest "
        "value follow from it. Of a store the worker holds its library beside that (50 MB "
        "of s3 and azure, 90 of gcs).",
    )
    prove: Literal["off", "sampled", "all"] = Field(
        default="sampled",
        description="How much a run asks the source about its own completeness: some pages and a "
        "count that costs little, every page and the whole count, or nothing.",
    )
    hang_timeout_s: Annotated[Number, Field(ge=1, le=604_800)] = Field(
        default=600.0,
        description="A chunk without any progress for this long costs its worker; "
        "one that is only tried again, an attempt.",
    )
    full_patience_s: Annotated[Number, Field(ge=0, le=2_592_000)] = Field(
        default=3600.0,
        description="How long a worker waits for room where a destination or its spool is full, "
        "before a chunk spends an attempt for it.",
    )


class StateConfig(Block):
    """Where the fleet remembers, whose part, and what seals it. At most one of the two URLs."""

    url: SecretStr | None = Field(
        default=None,
        repr=False,
        description="A file (sqlite:///path) or a server; use url_env for one with a password.",
    )
    url_env: str | None = Field(
        default=None, description="The environment variable that holds the URL."
    )
    key_env: str | None = Field(
        default=None,
        description="The environment variable with the key (at least 16 bytes) that plans, ranges, "
        "parts, budgets and marks in the state are sealed with; without it seals are digests.",
    )
    namespace: str | None = Field(
        default=None,
        description="Whose campaigns, marks and budgets these are; needed with a server, default "
        "with a file. Lower-case letters, digits, '.', '_', '-'.",
    )


class ParameterConfig(Block):
    """What ${NAME} is to SQL, where neither its place nor its look says so."""

    type: Literal["text", "number", "identifier"] | None = Field(
        default=None,
        description="identifier: a name, or schema.name, as table: takes it. text, number: what "
        "it is where it stands without quotes.",
    )
    env: str | None = Field(
        default=None, description="The environment variable that holds it; NAME when absent."
    )
    secret: bool | None = Field(
        default=None,
        description="Its value is in no plan, state, log or report. true when absent and NAME "
        "or its variable says so: password, secret, token, credential, api_key, …",
    )


class ErrorsConfig(Block):
    """What errors tell."""

    row_values: Literal["hidden", "shown"] = Field(
        default="hidden",
        description="Values of rows in messages of servers and decoders, which reach the state, "
        "the journal and logs. Keys are shown: a plan's ranges hold them anyway.",
    )


class FleetConfig(Block):
    """The whole file."""

    source: SourceConfig | None = Field(default=None, description="The source named default.")
    sources: dict[str, SourceConfig] = Field(
        default_factory=dict, description="Several sources by name; see source."
    )
    exports: tuple[ExportConfig, ...] = Field(
        description="What is extracted, in this order; see export."
    )
    campaign: CampaignConfig = Field(
        default=CampaignConfig(), description="How the fleet works; see campaign."
    )
    defaults: DefaultsConfig = Field(
        default=DefaultsConfig(), description="For every export; see defaults."
    )
    source_groups: dict[str, SourceGroupConfig] = Field(
        default_factory=dict, description="Budgets by name; see source group."
    )
    params: dict[str, ParameterConfig] = Field(
        default_factory=dict, description="What ${NAME} is in SQL, by name; see parameter."
    )
    errors: ErrorsConfig = Field(
        default=ErrorsConfig(), description="What errors tell; see errors."
    )
    state: StateConfig = Field(
        default=StateConfig(),
        description="Where the fleet remembers; RIVET_FLEET_STATE_URL, or .rivet_fleet_state.db "
        "beside this file.",
    )
    spool_dir: str | None = Field(
        default=None,
        description="For unfinished files; the system's temporary folder when absent.",
    )
    ignored_settings: tuple[Literal["notifications"], ...] = Field(
        default=(),
        description="Settings of a Rivet file that would raise an alert here if anybody acted on "
        "them. Nobody does: without a word here such a file is refused.",
    )
    parallel_exports: bool = Field(
        default=False, description="Accepted and ignored: the fleet's workers share all chunks."
    )
    parallel_export_processes: bool = Field(
        default=False, description="Accepted and ignored: the fleet's workers share all chunks."
    )
