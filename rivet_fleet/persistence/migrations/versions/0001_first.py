"""The first schema: campaigns, runs, tasks, ledger, workers, journal, metrics."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_INT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "campaign",
        sa.Column("campaign_id", sa.Text(), nullable=False),
        sa.Column("campaign_name", sa.Text(), nullable=False),
        sa.Column("config_digest", sa.Text(), nullable=False),
        sa.Column("config_path", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_at_s", sa.Double(), nullable=False),
        sa.Column("finished_at_s", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("campaign_id", name=op.f("pk_campaign")),
    )
    op.create_index("ix_campaign_name", "campaign", ["campaign_name", "created_at_s"], unique=False)
    op.create_table(
        "export_metrics",
        sa.Column("metrics_id", _INT, autoincrement=True, nullable=False),
        sa.Column("campaign_name", sa.Text(), nullable=False),
        sa.Column("export_name", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("run_at_s", sa.Double(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("source_engine", sa.Text(), nullable=False),
        sa.Column("destination_kind", sa.Text(), nullable=False),
        sa.Column("duration_ms", _INT, nullable=False),
        sa.Column("total_rows", _INT, nullable=False),
        sa.Column("bytes_written", _INT, nullable=False),
        sa.Column("files_produced", _INT, nullable=False),
        sa.Column("chunks", _INT, nullable=False),
        sa.Column("retries", _INT, nullable=False),
        sa.Column("peak_rss_bytes", _INT, nullable=False),
        sa.PrimaryKeyConstraint("metrics_id", name=op.f("pk_export_metrics")),
    )
    op.create_index(
        "ix_export_metrics_export", "export_metrics", ["export_name", "metrics_id"], unique=False
    )
    op.create_index("ix_export_metrics_run", "export_metrics", ["run_id"], unique=False)
    op.create_table(
        "export_progression",
        sa.Column("campaign_name", sa.Text(), nullable=False),
        sa.Column("export_name", sa.Text(), nullable=False),
        sa.Column("last_committed_strategy", sa.Text(), nullable=True),
        sa.Column("last_committed_cursor", sa.Text(), nullable=True),
        sa.Column("last_committed_chunk_index", _INT, nullable=True),
        sa.Column("last_committed_run_id", sa.Text(), nullable=True),
        sa.Column("last_committed_at_s", sa.Double(), nullable=True),
        sa.Column("last_verified_strategy", sa.Text(), nullable=True),
        sa.Column("last_verified_cursor", sa.Text(), nullable=True),
        sa.Column("last_verified_chunk_index", _INT, nullable=True),
        sa.Column("last_verified_run_id", sa.Text(), nullable=True),
        sa.Column("last_verified_at_s", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("campaign_name", "export_name", name=op.f("pk_export_progression")),
    )
    op.create_table(
        "export_state",
        sa.Column("campaign_name", sa.Text(), nullable=False),
        sa.Column("export_name", sa.Text(), nullable=False),
        sa.Column("last_cursor_value", sa.Text(), nullable=True),
        sa.Column("last_run_id", sa.Text(), nullable=True),
        sa.Column("last_run_at_s", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("campaign_name", "export_name", name=op.f("pk_export_state")),
    )
    op.create_table(
        "fleet_meta",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_fleet_meta")),
    )
    op.create_table(
        "run_journal",
        sa.Column("journal_id", _INT, autoincrement=True, nullable=False),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.Column("event_version", _INT, nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("campaign_id", sa.Text(), nullable=True),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("export_name", sa.Text(), nullable=True),
        sa.Column("chunk_index", _INT, nullable=True),
        sa.Column("worker_id", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("data_json", sa.Text(), server_default=sa.text("'{}'"), nullable=False),
        sa.PrimaryKeyConstraint("journal_id", name=op.f("pk_run_journal")),
    )
    op.create_index(
        "ix_run_journal_campaign", "run_journal", ["campaign_id", "journal_id"], unique=False
    )
    op.create_index("ix_run_journal_run", "run_journal", ["run_id", "journal_id"], unique=False)
    op.create_table(
        "worker",
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("host_id", sa.Text(), nullable=False),
        sa.Column("pid", _INT, nullable=False),
        sa.Column("pid_started_at_s", sa.Double(), nullable=False),
        sa.Column("started_at_s", sa.Double(), nullable=False),
        sa.Column("heartbeat_at_s", sa.Double(), nullable=False),
        sa.Column("rss_bytes", _INT, server_default=sa.text("0"), nullable=False),
        sa.Column("ended_at_s", sa.Double(), nullable=True),
        sa.Column("ended_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("worker_id", name=op.f("pk_worker")),
    )
    op.create_index(
        "ix_worker_alive",
        "worker",
        ["heartbeat_at_s"],
        unique=False,
        sqlite_where=sa.text("ended_at_s IS NULL"),
        postgresql_where=sa.text("ended_at_s IS NULL"),
    )
    op.create_table(
        "chunk_run",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("campaign_id", sa.Text(), nullable=False),
        sa.Column("campaign_name", sa.Text(), nullable=False),
        sa.Column("export_name", sa.Text(), nullable=False),
        sa.Column("position", _INT, nullable=False),
        sa.Column("priority", _INT, nullable=False),
        sa.Column("source_group", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("plan_json", sa.Text(), nullable=False),
        sa.Column("plan_hash", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("expected_tasks", _INT, nullable=False),
        sa.Column("finalize_owner", sa.Text(), nullable=True),
        sa.Column("finalize_fence", _INT, server_default=sa.text("0"), nullable=False),
        sa.Column("finalize_lease_expires_at_s", sa.Double(), nullable=True),
        sa.Column("manifest_fingerprint", sa.Text(), nullable=True),
        sa.Column("created_at_s", sa.Double(), nullable=False),
        sa.Column("finished_at_s", sa.Double(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["campaign_id"],
            ["campaign.campaign_id"],
            name=op.f("fk_chunk_run_campaign_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_chunk_run")),
    )
    op.create_index("ix_chunk_run_campaign", "chunk_run", ["campaign_id", "position"], unique=False)
    op.create_index(
        "uq_chunk_run_one_in_progress",
        "chunk_run",
        ["campaign_name", "export_name"],
        unique=True,
        sqlite_where=sa.text("status = 'in_progress'"),
        postgresql_where=sa.text("status = 'in_progress'"),
    )
    op.create_table(
        "source_group",
        sa.Column("campaign_id", sa.Text(), nullable=False),
        sa.Column("group_name", sa.Text(), nullable=False),
        sa.Column("slots_max", _INT, nullable=True),
        sa.ForeignKeyConstraint(
            ["campaign_id"],
            ["campaign.campaign_id"],
            name=op.f("fk_source_group_campaign_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("campaign_id", "group_name", name=op.f("pk_source_group")),
    )
    op.create_table(
        "chunk_task",
        sa.Column("task_id", _INT, autoincrement=True, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("campaign_id", sa.Text(), nullable=False),
        sa.Column("export_name", sa.Text(), nullable=False),
        sa.Column("run_position", _INT, nullable=False),
        sa.Column("chunk_index", _INT, nullable=False),
        sa.Column("range_json", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("attempts", _INT, server_default=sa.text("0"), nullable=False),
        sa.Column("attempts_max", _INT, nullable=False),
        sa.Column("fence", _INT, server_default=sa.text("0"), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("owner_name", sa.Text(), nullable=True),
        sa.Column("owner_host", sa.Text(), nullable=True),
        sa.Column("owner_pid", _INT, nullable=True),
        sa.Column("lease_expires_at_s", sa.Double(), nullable=True),
        sa.Column("not_before_s", sa.Double(), nullable=True),
        sa.Column("priority", _INT, nullable=False),
        sa.Column("source_group", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("error_class", sa.Text(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("page", _INT, nullable=True),
        sa.Column("rows_written", _INT, nullable=True),
        sa.Column("pages_read", _INT, nullable=True),
        sa.Column("committed_at_s", sa.Double(), nullable=True),
        sa.Column("completed_at_s", sa.Double(), nullable=True),
        sa.Column("updated_at_s", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["chunk_run.run_id"], name=op.f("fk_chunk_task_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_chunk_task")),
        sa.UniqueConstraint("run_id", "chunk_index", name=op.f("uq_chunk_task_run_id_chunk_index")),
    )
    op.create_index(
        "ix_chunk_task_committed",
        "chunk_task",
        ["campaign_id", "updated_at_s"],
        unique=False,
        sqlite_where=sa.text("status = 'committed'"),
        postgresql_where=sa.text("status = 'committed'"),
    )
    op.create_index(
        "ix_chunk_task_running",
        "chunk_task",
        ["lease_expires_at_s"],
        unique=False,
        sqlite_where=sa.text("status = 'running'"),
        postgresql_where=sa.text("status = 'running'"),
    )
    op.create_index("ix_chunk_task_status", "chunk_task", ["run_id", "status"], unique=False)
    op.create_table(
        "file_log",
        sa.Column("file_id", _INT, autoincrement=True, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("export_name", sa.Text(), nullable=False),
        sa.Column("chunk_index", _INT, nullable=False),
        sa.Column("part_number", _INT, nullable=False),
        sa.Column("fence", _INT, nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("rows", _INT, nullable=False),
        sa.Column("bytes", _INT, nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("md5", sa.Text(), nullable=False),
        sa.Column("receipt_json", sa.Text(), nullable=False),
        sa.Column("columns_json", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_at_s", sa.Double(), nullable=False),
        sa.Column("published_at_s", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["run_id"], ["chunk_run.run_id"], name=op.f("fk_file_log_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("file_id", name=op.f("pk_file_log")),
    )
    op.create_index(
        "ix_file_log_run", "file_log", ["run_id", "chunk_index", "part_number"], unique=False
    )
    op.create_index(
        "uq_file_log_part",
        "file_log",
        ["run_id", "chunk_index", "part_number"],
        unique=True,
        sqlite_where=sa.text("status <> 'voided'"),
        postgresql_where=sa.text("status <> 'voided'"),
    )
    claimable = sa.text("status IN ('pending', 'failed') AND attempts < attempts_max")
    for name, extra in (
        ("ix_chunk_task_claim", []),
        ("ix_chunk_task_claim_group", ["source_group"]),
    ):
        op.create_index(
            name,
            "chunk_task",
            ["campaign_id", *extra, sa.text("priority DESC"), "run_position", "chunk_index"],
            sqlite_where=claimable,
            postgresql_where=claimable,
        )
