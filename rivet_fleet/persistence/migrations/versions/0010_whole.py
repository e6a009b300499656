"""A budget that says nothing is a sealed row, and proofs are sealed (ADR 0024)."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Runs that are there keep their seals, which promise neither: a migration has no key, and
    namespaces may have several. `persistence.seals.is_whole` tells them apart."""
    op.add_column("chunk_run", sa.Column("proof_seal", sa.Text(), nullable=True))
