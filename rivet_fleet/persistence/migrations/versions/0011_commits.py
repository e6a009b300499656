"""A chunk's commit is sealed (ADR 0024)."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Runs that are there keep their kind of seal, which promises none of a commit."""
    op.add_column("chunk_task", sa.Column("commit_seal", sa.Text(), nullable=True))
