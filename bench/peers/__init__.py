"""The peers, each a script of its own that runs in the peers' environment.

Every script takes engine, table and output folder, then its own options; the server's URL is in
``BENCH_URL``. It writes zstd Parquet, level 3 where the peer lets one choose;
any error ends it.
"""
