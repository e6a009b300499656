"""Commits cover their parts, and both the submission that they are of (ADR 0024)."""

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """No table changes, and runs that are there keep their kind of seal. A program that does not
    know the new kind would take it for a broken one: it is refused by this version instead."""
