"""A repair that is given up leads back to what it began with (ADR 0032)."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"

_INT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Of a repair that goes on already nothing is known of what was before it."""
    for table in ("chunk_run", "chunk_task"):
        op.add_column(table, sa.Column("former_json", sa.Text(), nullable=True))
    op.add_column("chunk_task", sa.Column("commit_fence", _INT, nullable=True))
