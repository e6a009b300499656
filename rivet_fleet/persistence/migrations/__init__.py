"""The ladder of the state schema; ``migrate.py`` climbs it."""
