"""A run has generations, and parts that a repair replaced (ADR 0032)."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Nothing has been repaired yet."""
    for table in ("chunk_run", "chunk_task"):
        op.add_column(
            table, sa.Column("generation", sa.BigInteger(), nullable=False, server_default="1")
        )
    op.add_column("file_log", sa.Column("replaced_in", sa.BigInteger(), nullable=True))
