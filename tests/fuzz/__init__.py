"""Hostile bytes for the compiled decoders."""
