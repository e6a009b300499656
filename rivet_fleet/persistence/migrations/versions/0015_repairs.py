"""A run has generations, and parts that a repair replaced (ADR 0032)."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

_INT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Nothing has been repaired yet."""
    for table in ("chunk_run", "chunk_task"):
        first = sa.Column("generation", _INT, nullable=False, server_default=sa.text("1"))
        op.add_column(table, first)
    op.add_column("file_log", sa.Column("replaced_in", _INT, nullable=True))
