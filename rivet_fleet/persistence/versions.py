"""What statements need to know of the schema. Apart from ``schema``, which imports the toolkit's
table definitions: every process opens the state, few make or migrate it."""

from __future__ import annotations

SCHEMA_VERSION = "0010"
"""The newest migration this program knows."""

VERSION_TABLE = "rivet_fleet_version"

CLAIMABLE = "status IN ('pending', 'failed') AND attempts < attempts_max"
"""Spelled identically in the claim and in its partial indexes, or SQLite does not use them."""
