"""One folder per engine: dialect (tables), source (behaviour), decoder (bytes)."""
