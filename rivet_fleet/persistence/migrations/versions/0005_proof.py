"""What the source said of a run's rows as a whole, kept before its manifest is written."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add one column; former runs were not asked about."""
    op.add_column("chunk_run", sa.Column("proof_json", sa.Text(), nullable=True))
