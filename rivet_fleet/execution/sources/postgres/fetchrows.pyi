from psycopg.pq.abc import PGresult

from rivet_fleet.execution.sources.postgres.copyrows import CompiledDecoder

class CompiledTaker:
    def __init__(self, decoder: CompiledDecoder, functions: tuple[int, ...]) -> None: ...
    def __call__(self, result: PGresult) -> int: ...
