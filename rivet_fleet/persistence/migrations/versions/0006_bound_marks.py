"""What a high-water mark is bound to (ADR 0020)."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Marks that are there stay unbound: the next run of their export adopts them."""
    op.add_column("export_state", sa.Column("mark_binding", sa.Text(), nullable=True))
