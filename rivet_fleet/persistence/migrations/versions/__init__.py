"""One file a version, never edited after release."""
