"""The decoder to read with: the compiled one where it was built, else the reference."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Protocol

from rivet_fleet.execution.engines import decoding
from rivet_fleet.execution.packing import warn_of_slow_decoder
from rivet_fleet.execution.sources.mysql.reference import ReferenceDecoder

if TYPE_CHECKING:
    from rivet_fleet.execution.sources.mysql.packetrows import CompiledDecoder
    from rivet_fleet.execution.sources.mysql.wire import ServerError


class BatchDecoder(decoding.BatchDecoder, Protocol):
    """A stream of row packets in (headers included), and how it ended."""

    @property
    def ended(self) -> bool:
        """True when the packet that ends the result was seen; nothing of it may follow."""
        ...

    @property
    def parted(self) -> bool:
        """True when the server took its leave behind the whole result (``wire.is_farewell``)."""
        ...

    def expect_more(self) -> None:
        """Behind the end other answers follow: ``rest`` gives what came of them."""
        ...

    def rest(self) -> bytes:
        """What came behind the end. Not twice."""
        ...

    @property
    def error(self) -> ServerError | None:
        """What the server ended the result with instead of its regular end."""
        ...


@cache
def compiled_decoder() -> type[CompiledDecoder] | None:
    """The compiled decoder's class, or None, with one warning, where it was not built."""
    try:
        from rivet_fleet.execution.sources.mysql import packetrows
    except ModuleNotFoundError:
        warn_of_slow_decoder("MySQL and MariaDB")
        return None
    return packetrows.CompiledDecoder


DECODERS: decoding.Decoders[BatchDecoder] = decoding.Decoders(
    reference=ReferenceDecoder, compiled=lambda: compiled_decoder()
)
