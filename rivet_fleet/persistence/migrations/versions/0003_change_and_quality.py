"""What a run found when it was finished, and what its parts know about unique keys (ADR 0008)."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_INT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add columns, unknown or zero for former rows, and one table."""
    op.add_column("chunk_task", sa.Column("longest_statement_ms", _INT, nullable=True))
    op.add_column("chunk_run", sa.Column("findings_json", sa.Text(), nullable=True))
    op.add_column(
        "file_log",
        sa.Column("changed_values", _INT, nullable=False, server_default=sa.text("0")),
    )
    for name in ("attempts", "longest_statement_ms", "changed_values"):
        op.add_column("export_metrics", sa.Column(name, _INT, nullable=True))
    op.create_table(
        "part_unique",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("chunk_index", _INT, nullable=False),
        sa.Column("part_number", _INT, nullable=False),
        sa.Column("fence", _INT, nullable=False),
        sa.Column("position", _INT, nullable=False),
        sa.Column("keys", _INT, nullable=False),
        sa.Column("duplicates", _INT, nullable=False),
        sa.Column("complete", _INT, nullable=False),
        sa.Column("shift", _INT, nullable=False),
        sa.Column("entries", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint(
            "run_id", "chunk_index", "part_number", "fence", "position", name="pk_part_unique"
        ),
        sa.ForeignKeyConstraint(
            ["run_id"], ["chunk_run.run_id"], ondelete="CASCADE", name="fk_part_unique_run_id"
        ),
    )
