import pyarrow as pa

from rivet_fleet.contracts.columns import ColumnSpec
from rivet_fleet.execution.sources.mysql.wire import ServerError

class CompiledDecoder:
    schema: pa.Schema
    changed: dict[str, int]
    asked: int

    def __init__(
        self,
        columns: tuple[ColumnSpec, ...],
        *,
        max_value_bytes: int,
        coerce: bool = ...,
        packed: bool = ...,
    ) -> None: ...
    def expect_like(self, like: CompiledDecoder) -> None: ...
    @property
    def rows_ready(self) -> int: ...
    @property
    def ended(self) -> bool: ...
    @property
    def parted(self) -> bool: ...
    @property
    def error(self) -> ServerError | None: ...
    def feed(self, block: bytes | memoryview) -> None: ...
    def finish(self) -> None: ...
    def take(self, rows_max: int | None = ...) -> pa.RecordBatch: ...
