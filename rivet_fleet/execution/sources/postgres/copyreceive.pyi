from rivet_fleet.execution.sources.postgres.copyrows import CompiledDecoder

class SocketReceiver:
    error: bytes | None
    status: bytes
    farewell: bytes | None
    copies: int

    def __init__(self, decoder: CompiledDecoder) -> None: ...
    def pull(self, fd: int, bytes_max: int) -> tuple[int, int]: ...

class LibpqReceiver:
    def __init__(self, decoder: CompiledDecoder, functions: tuple[int, int, int]) -> None: ...
    def pull(self, conn: int, fd: int, bytes_max: int) -> tuple[int, int]: ...
