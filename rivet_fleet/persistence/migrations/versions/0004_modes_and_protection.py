"""What incremental runs remember, and what protects a source across the whole fleet."""

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Nothing but the version."""
