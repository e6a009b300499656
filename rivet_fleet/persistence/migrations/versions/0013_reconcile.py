"""What comparing a chunk's files with their source came to (ADR 0030)."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Nothing has been compared yet."""
    op.add_column("chunk_task", sa.Column("result_json", sa.Text(), nullable=True))
