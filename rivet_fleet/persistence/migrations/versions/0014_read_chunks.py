"""A running chunk says since when it is read (ADR 0035)."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Nobody delivers a chunk while the next one is read yet."""
    op.add_column("chunk_task", sa.Column("read_at_s", sa.Double(), nullable=True))
