"""The decoder to read with: the compiled one where it was built, else the reference."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from rivet_fleet.execution.engines.decoding import BatchDecoder, Decoders
from rivet_fleet.execution.packing import warn_of_slow_decoder
from rivet_fleet.execution.sources.postgres.reference import ReferenceDecoder

if TYPE_CHECKING:
    from rivet_fleet.execution.sources.postgres.copyrows import CompiledDecoder


@cache
def compiled_decoder() -> type[CompiledDecoder] | None:
    """The compiled decoder's class, or None, with one warning, where it was not built."""
    try:
        from rivet_fleet.execution.sources.postgres import copyrows
    except ModuleNotFoundError:
        warn_of_slow_decoder("PostgreSQL")
        return None
    return copyrows.CompiledDecoder


DECODERS: Decoders[BatchDecoder] = Decoders(
    reference=ReferenceDecoder, compiled=lambda: compiled_decoder()
)
