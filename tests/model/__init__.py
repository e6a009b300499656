"""The store and the destination in memory: the same contracts, for tests that need neither."""
