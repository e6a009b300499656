"""When a chunk was claimed, and how long workers worked on a run: waiting is no work."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_INT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add two columns; former rows stay unknown."""
    op.add_column("chunk_task", sa.Column("claimed_at_s", sa.Double(), nullable=True))
    op.add_column("export_metrics", sa.Column("work_ms", _INT, nullable=True))
