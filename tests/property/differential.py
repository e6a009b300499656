"""Two decoders of one format over the same bytes: do they agree on everything?"""

from __future__ import annotations

import os
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from rivet_fleet.errors import RivetFleetError
from tests.packed import unpacked

Outcome = tuple[pa.RecordBatch | None, dict[str, int], str | None]

STREAMS = int(os.environ.get("RIVET_FLEET_TEST_STREAMS", "4000"))
"""How many streams a run decodes twice; each is tried whole and damaged."""


class Decoder(Protocol):
    """What all decoders have in common."""

    @property
    def schema(self) -> pa.Schema: ...
    @property
    def changed(self) -> dict[str, int]: ...
    def feed(self, block: bytes) -> None: ...
    def finish(self) -> None: ...
    def take(self, rows_max: int | None = None) -> pa.RecordBatch: ...


def outcome(decoder: Decoder, data: bytes, cuts: list[int]) -> Outcome:
    """All rows, unpacked, the counts of changed values, and the error, if any."""
    batches = []
    try:
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            decoder.feed(data[start:end])
            if len(cuts) > 3:
                batches.append(decoder.take(3))
        decoder.finish()
        batches.append(decoder.take())
    except RivetFleetError as error:
        return None, {}, f"{type(error).__name__} {error.code}: {error} | {error.hint}"
    for batch in batches:
        batch.validate(full=True)
    whole = pa.concat_batches(unpacked(batch, decoder.schema) for batch in batches)
    whole.validate(full=True)
    return whole, dict(decoder.changed), None


def same(a: pa.Array, b: pa.Array) -> bool:
    """Equal to the bit: a NaN equals itself, and only itself."""
    if pa.types.is_floating(a.type):
        bits = pa.int32() if a.type.bit_width == 32 else pa.int64()
        a, b = a.view(bits), b.view(bits)
    if pa.types.is_list(a.type):
        if not pc.list_value_length(a).equals(pc.list_value_length(b)):
            return False
        return same(a.flatten(), b.flatten())
    return bool(a.equals(b))


def agree(got: Outcome, expected: Outcome) -> bool:
    """The same rows and counts, or an error of both."""
    if expected[2] is not None or got[2] is not None:
        # Which of several bad cells is met first may differ: rows here, columns there.
        return got[2] is not None and expected[2] is not None
    assert got[0] is not None and expected[0] is not None
    if not got[0].schema.equals(expected[0].schema, check_metadata=True) or got[1] != expected[1]:
        return False
    return all(map(same, got[0].columns, expected[0].columns))
