"""L4: tells. Changes nothing."""
