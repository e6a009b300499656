"""One budget of retries for a source (ADR 0013)."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Nobody has tried anything again yet."""
    default = sa.text("'default'")
    op.create_table(
        "source_retry",
        sa.Column("namespace", sa.Text(), nullable=False, server_default=default),
        sa.Column("source_key", sa.Text(), nullable=False),
        sa.Column("paid_until_s", sa.Double(), nullable=False, server_default=sa.text("0")),
        sa.PrimaryKeyConstraint("namespace", "source_key", name="pk_source_retry"),
    )
