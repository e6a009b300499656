"""L1: decides. Opens nothing, writes nothing."""
