"""The seam: the only place that sees all four layers."""
