"""The demonstration: a real embedded PostgreSQL, a believable shop, and a fleet that survives."""
