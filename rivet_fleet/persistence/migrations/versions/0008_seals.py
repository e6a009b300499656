"""What is sealed is checked (ADR 0024)."""

import sqlalchemy as sa
from alembic import op

from rivet_fleet.contracts.seals import Sealer
from rivet_fleet.persistence.reseal import reseal

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """What is there is sealed as it is, without a key: `state reseal` gives it one."""
    for table, column in (
        ("chunk_run", "seal"),
        ("chunk_run", "chunk_digests"),
        ("file_log", "seal"),
        ("source_budget", "seal"),
        ("export_state", "mark_seal"),
    ):
        op.add_column(table, sa.Column(column, sa.Text(), nullable=True))
    reseal(op.get_bind(), None, Sealer(), None)
