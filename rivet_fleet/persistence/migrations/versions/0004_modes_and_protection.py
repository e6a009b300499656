"""What incremental runs remember, and what protects a source across the whole fleet."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_INT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add what is new; a campaign's budgets become those of its source groups."""
    _protection()
    op.create_table(
        "export_harm",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("before_json", sa.Text(), nullable=False),
        sa.Column("after_json", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", name="pk_export_harm"),
    )
    op.add_column("chunk_run", sa.Column("acceptance_json", sa.Text(), nullable=True))


def _protection() -> None:
    op.add_column("campaign", sa.Column("halted_reason", sa.Text(), nullable=True))
    op.create_table(
        "source_budget",
        sa.Column("group_name", sa.Text(), nullable=False),
        sa.Column("chunks_max", _INT, nullable=True),
        sa.Column("connections_max", _INT, nullable=True),
        sa.Column("rows_per_s", sa.Double(), nullable=True),
        sa.Column("bytes_per_s", sa.Double(), nullable=True),
        sa.Column("chunks_min", _INT, nullable=False, server_default=sa.text("1")),
        sa.Column("ceiling", _INT, nullable=True),
        sa.Column("monitor_json", sa.Text(), nullable=True),
        sa.Column("configured_at_s", sa.Double(), nullable=False),
        sa.Column("configured_by", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("permits", _INT, nullable=True),
        sa.Column("page_share", sa.Double(), nullable=False, server_default=sa.text("1.0")),
        sa.Column("paused_reason", sa.Text(), nullable=True),
        sa.Column("resumes_at_s", sa.Double(), nullable=True),
        sa.Column("halted_reason", sa.Text(), nullable=True),
        sa.Column("valid_until_s", sa.Double(), nullable=True),
        sa.Column("sampled_at_s", sa.Double(), nullable=True),
        sa.Column("readings_json", sa.Text(), nullable=False, server_default=sa.text("'[]'")),
        sa.Column("governor_owner", sa.Text(), nullable=True),
        sa.Column("governor_name", sa.Text(), nullable=True),
        sa.Column("governor_fence", _INT, nullable=False, server_default=sa.text("0")),
        sa.Column("governor_lease_expires_at_s", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("group_name", name="pk_source_budget"),
    )
    op.create_table(
        "source_pace",
        sa.Column("group_name", sa.Text(), nullable=False),
        sa.Column("rows_free_at_s", sa.Double(), nullable=False, server_default=sa.text("0")),
        sa.Column("bytes_free_at_s", sa.Double(), nullable=False, server_default=sa.text("0")),
        sa.PrimaryKeyConstraint("group_name", name="pk_source_pace"),
    )
    # The newest campaign's word counts, as it does from now on.
    op.execute(
        """
        INSERT INTO source_budget
            (group_name, chunks_max, ceiling, configured_at_s, configured_by)
        SELECT g.group_name, g.slots_max, g.slots_max, c.created_at_s, c.campaign_id
        FROM source_group g JOIN campaign c ON c.campaign_id = g.campaign_id
        WHERE g.slots_max IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM source_group o JOIN campaign n ON n.campaign_id = o.campaign_id
            WHERE o.group_name = g.group_name AND o.slots_max IS NOT NULL
              AND (n.created_at_s > c.created_at_s
                   OR (n.created_at_s = c.created_at_s AND n.campaign_id > c.campaign_id)))
        """
    )
    op.drop_table("source_group")
