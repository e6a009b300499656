"""Real servers for tests, chaos and benchmarks."""
