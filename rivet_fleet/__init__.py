"""rivet-fleet: extract tables from production databases with a fleet of workers, exactly once."""

__version__ = "0.1.0"
