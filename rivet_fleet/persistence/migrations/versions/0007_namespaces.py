"""Several teams on one state, and what a campaign belongs to (ADR 0022)."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_INT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Everything that is there belongs to the namespace ``default``."""
    named = ("campaign", "chunk_run", "chunk_task", "worker", "run_journal", "export_metrics")
    for table in named:
        op.add_column(table, _namespace())
    op.add_column("campaign", sa.Column("identity_json", sa.Text(), nullable=True))
    op.drop_index("ix_campaign_name", "campaign")
    op.create_index("ix_campaign_name", "campaign", ["namespace", "campaign_name", "created_at_s"])
    op.drop_index("uq_chunk_run_one_in_progress", "chunk_run")
    open_ends = sa.text("status = 'in_progress'")
    op.create_index(
        "uq_chunk_run_one_in_progress",
        "chunk_run",
        ["namespace", "campaign_name", "export_name"],
        unique=True,
        sqlite_where=open_ends,
        postgresql_where=open_ends,
    )
    _rebuild("export_state", _state(), "campaign_name", "export_name")
    _rebuild("export_progression", _progression(), "campaign_name", "export_name")
    _rebuild("source_budget", _budget(), "group_name")
    _rebuild("source_pace", _pace(), "group_name")


def _namespace() -> sa.Column[Any]:
    default = sa.text("'default'")
    return sa.Column("namespace", sa.Text(), nullable=False, server_default=default)


def _rebuild(table: str, columns: list[sa.Column[Any]], *key: str) -> None:
    """Another primary key is another table to SQLite. These are small."""
    op.execute(f"CREATE TABLE former_rows AS SELECT * FROM {table}")
    op.drop_table(table)
    keys = [sa.Column(name, sa.Text(), nullable=False) for name in key]
    constraint = sa.PrimaryKeyConstraint("namespace", *key, name=f"pk_{table}")
    names = ", ".join([*key, *(column.name for column in columns)])
    op.create_table(table, _namespace(), *keys, *columns, constraint)
    op.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM former_rows")
    op.drop_table("former_rows")


def _state() -> list[sa.Column[Any]]:
    return [
        _text("last_cursor_value"),
        _text("last_run_id"),
        sa.Column("last_run_at_s", sa.Double(), nullable=True),
        _text("mark_binding"),
    ]


def _progression() -> list[sa.Column[Any]]:
    return [
        column
        for kind in ("committed", "verified")
        for column in (
            _text(f"last_{kind}_strategy"),
            _text(f"last_{kind}_cursor"),
            sa.Column(f"last_{kind}_chunk_index", _INT, nullable=True),
            _text(f"last_{kind}_run_id"),
            sa.Column(f"last_{kind}_at_s", sa.Double(), nullable=True),
        )
    ]


def _text(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=True)


def _budget() -> list[sa.Column[Any]]:
    return [
        sa.Column("chunks_max", _INT, nullable=True),
        sa.Column("connections_max", _INT, nullable=True),
        sa.Column("rows_per_s", sa.Double(), nullable=True),
        sa.Column("bytes_per_s", sa.Double(), nullable=True),
        sa.Column("chunks_min", _INT, nullable=False, server_default=sa.text("1")),
        sa.Column("ceiling", _INT, nullable=True),
        _text("monitor_json"),
        sa.Column("configured_at_s", sa.Double(), nullable=False),
        sa.Column("configured_by", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("permits", _INT, nullable=True),
        sa.Column("page_share", sa.Double(), nullable=False, server_default=sa.text("1.0")),
        _text("paused_reason"),
        sa.Column("resumes_at_s", sa.Double(), nullable=True),
        _text("halted_reason"),
        sa.Column("valid_until_s", sa.Double(), nullable=True),
        sa.Column("sampled_at_s", sa.Double(), nullable=True),
        sa.Column("readings_json", sa.Text(), nullable=False, server_default=sa.text("'[]'")),
        _text("governor_owner"),
        _text("governor_name"),
        sa.Column("governor_fence", _INT, nullable=False, server_default=sa.text("0")),
        sa.Column("governor_lease_expires_at_s", sa.Double(), nullable=True),
    ]


def _pace() -> list[sa.Column[Any]]:
    return [
        sa.Column("rows_free_at_s", sa.Double(), nullable=False, server_default=sa.text("0")),
        sa.Column("bytes_free_at_s", sa.Double(), nullable=False, server_default=sa.text("0")),
    ]
