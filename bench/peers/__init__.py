"""The peers, each a script of its own that runs in the peers' environment."""
