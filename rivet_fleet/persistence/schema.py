"""The state database's tables (Rivet: State), as SQLAlchemy Core; migrations make the same.

Every ``*_s`` column is epoch seconds of the database's own clock (F3). Integers are 64 bits
wide everywhere. The names of Rivet's tables are kept. Ids of campaigns and runs carry their
namespace; what is looked up by a name has a column of it (ADR 0022).
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TextClause,
    UniqueConstraint,
    event,
    text,
)

from rivet_fleet.contracts.protection import BUDGET_NUMBERS, BudgetNumber
from rivet_fleet.persistence.guards import CLAIMABLE, SCHEMA_VERSION, VERSION_TABLE

__all__ = ["CLAIMABLE", "SCHEMA_VERSION", "VERSION_TABLE", "metadata"]

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)

# SQLite numbers rows by itself only in a column whose type is spelled INTEGER.
_Int = BigInteger().with_variant(Integer, "sqlite")


def _int(name: str, *, nullable: bool = False, default: int | None = None) -> Column[int]:
    fallback = None if default is None else text(str(default))
    return Column(name, _Int, nullable=nullable, server_default=fallback)


def _text(name: str, *, nullable: bool = False, default: str | None = None) -> Column[str]:
    fallback = None if default is None else text(f"'{default}'")
    return Column(name, Text, nullable=nullable, server_default=fallback)


def _time(name: str, *, nullable: bool = True) -> Column[float]:
    return Column(name, Double, nullable=nullable)


def _number(name: str, number: BudgetNumber) -> Column[int] | Column[float]:
    """One that says nothing where it has no default is no limit."""
    if number.kind is float:
        return _time(name)
    return _int(name, nullable=number.default is None, default=number.default)


def _partial(name: str, *columns: object, where: str, unique: bool = False) -> Index:
    index = Index(name, *columns, unique=unique)  # type: ignore[arg-type]
    _CONDITIONS.append((index, text(where)))
    return index


_CONDITIONS: list[tuple[Index, TextClause]] = []
"""Of partial indexes. A backend's word for them imports that backend: it is said when its tables
are made, so that no other one is imported."""


@event.listens_for(metadata, "before_create")
def _say_conditions(_metadata: MetaData, connection: Connection, **_: object) -> None:
    for index, condition in _CONDITIONS:
        index.dialect_options[connection.dialect.name]["where"] = condition


fleet_meta = Table(
    "fleet_meta",
    metadata,
    Column("key", Text, primary_key=True),
    _text("value"),
    _time("at_s", nullable=False),
)
"""One value per key: which host uses a SQLite state."""

campaign = Table(
    "campaign",
    metadata,
    Column("campaign_id", Text, primary_key=True),
    _text("namespace", default="default"),
    _text("campaign_name"),
    _text("config_digest"),
    _text("config_path"),
    _text("status"),
    _time("created_at_s", nullable=False),
    _time("finished_at_s"),
    _text("halted_reason", nullable=True),
    _text("identity_json", nullable=True),
    Index("ix_campaign_name", "namespace", "campaign_name", "created_at_s"),
)

source_budget = Table(
    "source_budget",
    metadata,
    Column("namespace", Text, primary_key=True, server_default=text("'default'")),
    Column("group_name", Text, primary_key=True),
    *(_number(name, number) for name, number in BUDGET_NUMBERS.items()),
    _int("ceiling", nullable=True),
    _text("monitor_json", nullable=True),
    _time("configured_at_s", nullable=False),
    _text("configured_by", default=""),
    _int("permits", nullable=True),
    Column("page_share", Double, nullable=False, server_default=text("1.0")),
    _text("paused_reason", nullable=True),
    _time("resumes_at_s"),
    _text("halted_reason", nullable=True),
    _time("valid_until_s"),
    _time("sampled_at_s"),
    _text("readings_json", default="[]"),
    _text("governor_owner", nullable=True),
    _text("governor_name", nullable=True),
    _int("governor_fence", default=0),
    _time("governor_lease_expires_at_s"),
    _text("seal", nullable=True),
)
"""A source's budget, whoever asks, and what its governor decided (ADR 0013). Only claims of
groups with a row lock one (F7). ``ceiling`` is derived: how many chunks may run unshed."""

source_pace = Table(
    "source_pace",
    metadata,
    Column("namespace", Text, primary_key=True, server_default=text("'default'")),
    Column("group_name", Text, primary_key=True),
    Column("rows_free_at_s", Double, nullable=False, server_default=text("0")),
    Column("bytes_free_at_s", Double, nullable=False, server_default=text("0")),
)
"""Until when a group's rows and bytes are spoken for; apart, so that no reader waits for a
claim."""

source_retry = Table(
    "source_retry",
    metadata,
    Column("namespace", Text, primary_key=True, server_default=text("'default'")),
    Column("source_key", Text, primary_key=True),
    Column("paid_until_s", Double, nullable=False, server_default=text("0")),
)
"""Until when the retries of a source are spoken for, over all processes (ADR 0013)."""

chunk_run = Table(
    "chunk_run",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column(
        "campaign_id",
        Text,
        ForeignKey("campaign.campaign_id", ondelete="CASCADE"),
        nullable=False,
    ),
    _text("namespace", default="default"),
    _text("campaign_name"),
    _text("export_name"),
    _int("position"),
    _int("priority"),
    _text("source_group", default=""),
    _text("plan_json"),
    _text("plan_hash"),
    _text("status"),
    _int("expected_tasks"),
    _text("finalize_owner", nullable=True),
    _int("finalize_fence", default=0),
    _time("finalize_lease_expires_at_s"),
    _text("manifest_fingerprint", nullable=True),
    _time("created_at_s", nullable=False),
    _time("finished_at_s"),
    _text("error", nullable=True),
    _text("findings_json", nullable=True),
    _text("acceptance_json", nullable=True),
    _text("proof_json", nullable=True),
    _text("seal", nullable=True),
    _text("chunk_digests", nullable=True),
    _text("proof_seal", nullable=True),
    _text("acceptance_seal", nullable=True),
    _int("generation", default=1),
    _text("former_json", nullable=True),
    Index("ix_chunk_run_campaign", "campaign_id", "position"),
    _partial(
        # Beside the look that a submission takes: of two at one moment both see none in progress.
        "uq_chunk_run_one_in_progress",
        "namespace",
        "campaign_name",
        "export_name",
        where="status = 'in_progress'",
        unique=True,
    ),
)
"""One export within a campaign, with its sealed plan and the finalizer's own fence."""

chunk_task = Table(
    "chunk_task",
    metadata,
    Column("task_id", _Int, primary_key=True, autoincrement=True),
    Column("run_id", Text, ForeignKey("chunk_run.run_id", ondelete="CASCADE"), nullable=False),
    _text("namespace", default="default"),
    _text("campaign_id"),
    _text("export_name"),
    _int("run_position"),
    _int("chunk_index"),
    _text("range_json"),
    _text("status"),
    _int("attempts", default=0),
    _int("attempts_max"),
    _int("fence", default=0),
    _text("owner", nullable=True),
    _text("owner_name", nullable=True),
    _text("owner_host", nullable=True),
    _int("owner_pid", nullable=True),
    _time("lease_expires_at_s"),
    _time("not_before_s"),
    _int("priority"),
    _text("source_group", default=""),
    _text("error_class", nullable=True),
    _text("last_error", nullable=True),
    _int("page", nullable=True),
    _int("rows_written", nullable=True),
    _int("pages_read", nullable=True),
    _int("longest_statement_ms", nullable=True),
    _time("claimed_at_s"),
    _time("read_at_s"),
    _time("committed_at_s"),
    _time("completed_at_s"),
    _text("commit_seal", nullable=True),
    _text("result_json", nullable=True),
    _int("generation", default=1),
    _text("former_json", nullable=True),
    _int("commit_fence", nullable=True),
    _time("updated_at_s", nullable=False),
    UniqueConstraint("run_id", "chunk_index"),
    Index("ix_chunk_task_status", "run_id", "status"),
    _partial(
        # In the claim's own order, so that its scan ends at the first row that nobody has locked.
        "ix_chunk_task_claim",
        "campaign_id",
        text("priority DESC"),
        "run_position",
        "chunk_index",
        where=CLAIMABLE,
    ),
    _partial(
        "ix_chunk_task_claim_group",
        "campaign_id",
        "source_group",
        text("priority DESC"),
        "run_position",
        "chunk_index",
        where=CLAIMABLE,
    ),
    _partial("ix_chunk_task_running", "lease_expires_at_s", where="status = 'running'"),
    _partial(
        "ix_chunk_task_committed", "campaign_id", "updated_at_s", where="status = 'committed'"
    ),
)
"""One key range of one run: the unit of claiming, fencing and committing."""

file_log = Table(
    "file_log",
    metadata,
    Column("file_id", _Int, primary_key=True, autoincrement=True),
    Column("run_id", Text, ForeignKey("chunk_run.run_id", ondelete="CASCADE"), nullable=False),
    _text("export_name"),
    _int("chunk_index"),
    _int("part_number"),
    _int("fence"),
    _text("path"),
    _int("rows"),
    _int("bytes"),
    _text("fingerprint"),
    _text("md5"),
    _text("receipt_json"),
    _text("columns_json"),
    _int("changed_values", default=0),
    _text("status"),
    _time("created_at_s", nullable=False),
    _time("published_at_s"),
    _text("seal", nullable=True),
    _int("replaced_in", nullable=True),
    _partial(
        # Of parts that stand: a voided one of a former attempt has the same numbers.
        "uq_file_log_part",
        "run_id",
        "chunk_index",
        "part_number",
        where="status <> 'voided'",
        unique=True,
    ),
    Index("ix_file_log_run", "run_id", "chunk_index", "part_number"),
)
"""The ledger: every part a commit accepted. Voided rows stay as evidence."""

part_unique = Table(
    "part_unique",
    metadata,
    Column("run_id", Text, ForeignKey("chunk_run.run_id", ondelete="CASCADE"), primary_key=True),
    Column("chunk_index", _Int, primary_key=True, autoincrement=False),
    Column("part_number", _Int, primary_key=True, autoincrement=False),
    Column("fence", _Int, primary_key=True, autoincrement=False),
    Column("position", _Int, primary_key=True, autoincrement=False),
    _int("keys"),
    _int("duplicates"),
    _int("complete"),
    _int("shift"),
    Column("entries", LargeBinary, nullable=False),
)
"""What a part knows about one unique key of its export's quality gates (ADR 0008)."""

worker = Table(
    "worker",
    metadata,
    Column("worker_id", Text, primary_key=True),
    _text("namespace", default="default"),
    _text("name"),
    _text("host_id"),
    _int("pid"),
    _time("pid_started_at_s", nullable=False),
    _time("started_at_s", nullable=False),
    _time("heartbeat_at_s", nullable=False),
    _int("rss_bytes", default=0),
    _time("ended_at_s"),
    _text("ended_reason", nullable=True),
    _partial("ix_worker_alive", "heartbeat_at_s", where="ended_at_s IS NULL"),
)
"""Worker processes as they last spoke."""

run_journal = Table(
    "run_journal",
    metadata,
    Column("journal_id", _Int, primary_key=True, autoincrement=True),
    _text("namespace", default="default"),
    _time("at_s", nullable=False),
    _int("event_version"),
    _text("event"),
    _text("campaign_id", nullable=True),
    _text("run_id", nullable=True),
    _text("export_name", nullable=True),
    _int("chunk_index", nullable=True),
    _text("worker_id", nullable=True),
    _text("message", default=""),
    _text("data_json", default="{}"),
    Index("ix_run_journal_campaign", "campaign_id", "journal_id"),
    Index("ix_run_journal_run", "run_id", "journal_id"),
)
"""One row per event, appended as it happens: a SIGKILL leaves evidence."""

export_metrics = Table(
    "export_metrics",
    metadata,
    Column("metrics_id", _Int, primary_key=True, autoincrement=True),
    _text("namespace", default="default"),
    _text("campaign_name"),
    _text("export_name"),
    _text("run_id"),
    _time("run_at_s", nullable=False),
    _text("status"),
    _text("error_message", nullable=True),
    _text("mode"),
    _text("strategy"),
    _text("format"),
    _text("source_engine"),
    _text("destination_kind"),
    _int("duration_ms"),
    _int("work_ms", nullable=True),
    _int("total_rows"),
    _int("bytes_written"),
    _int("files_produced"),
    _int("chunks"),
    _int("retries"),
    _int("peak_rss_bytes"),
    _int("attempts", nullable=True),
    _int("longest_statement_ms", nullable=True),
    _int("changed_values", nullable=True),
    Index("ix_export_metrics_export", "export_name", "metrics_id"),
    Index("ix_export_metrics_run", "run_id"),
)
"""One terminal row per finished or failed run."""

export_counters = Table(
    "export_harm",
    metadata,
    Column("run_id", Text, primary_key=True),
    _text("source"),
    _text("before_json"),
    _text("after_json", nullable=True),
)
"""The source's own counters before and after a run."""

export_state = Table(
    "export_state",
    metadata,
    Column("namespace", Text, primary_key=True, server_default=text("'default'")),
    Column("campaign_name", Text, primary_key=True),
    Column("export_name", Text, primary_key=True),
    _text("last_cursor_value", nullable=True),
    _text("last_run_id", nullable=True),
    _time("last_run_at_s"),
    _text("mark_binding", nullable=True),
    _text("mark_seal", nullable=True),
)
"""The incremental high-water mark, and what it is bound to (ADR 0020). It moves only in the
transaction that finishes a run."""

export_progression = Table(
    "export_progression",
    metadata,
    Column("namespace", Text, primary_key=True, server_default=text("'default'")),
    Column("campaign_name", Text, primary_key=True),
    Column("export_name", Text, primary_key=True),
    *(
        column
        for kind in ("committed", "verified")
        for column in (
            _text(f"last_{kind}_strategy", nullable=True),
            _text(f"last_{kind}_cursor", nullable=True),
            _int(f"last_{kind}_chunk_index", nullable=True),
            _text(f"last_{kind}_run_id", nullable=True),
            _time(f"last_{kind}_at_s"),
        )
    ),
)
"""Advisory boundaries (PG1 to PG8): no execution path reads them."""
