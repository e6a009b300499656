"""L2: reads sources and writes parts. Decides nothing about the fleet."""
