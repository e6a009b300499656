"""Feed the compiled decoders damaged streams: an error of ours or valid Arrow, never a crash.

``python -m tests.fuzz.decoders --engine postgres --inputs 1000000`` runs by hand;
``scripts/fuzz-with-sanitizers`` runs it under the address and undefined-behaviour sanitizers.
A run prints its seed; an input is reproduced by its number.
"""

from __future__ import annotations

import argparse
import ctypes
import random
import sys
from collections.abc import Callable
from typing import Any

from rivet_fleet.contracts.columns import ColumnSpec
from rivet_fleet.errors import RivetFleetError
from rivet_fleet.execution.sources.mysql.decoder import compiled_decoder as mysql_decoder
from rivet_fleet.execution.sources.postgres.copyreceive import CopyReceiver
from rivet_fleet.execution.sources.postgres.decoder import compiled_decoder as postgres_decoder
from tests.property import copy_rows, mysql_rows

Stream = tuple[tuple[ColumnSpec, ...], bytes]

_INPUTS_PER_STREAM = 50
_VALUE_BYTES_MAX = 4096
_BLOCK_BYTES = 4096
_ENDED = 2
"""``exchange.Pulled.END``."""


def postgres_stream(rng: random.Random) -> Stream:
    columns, makers = copy_rows.random_columns(rng)
    return columns, copy_rows.random_stream(rng, columns, makers, rng.randint(1, 8))


def mysql_stream(rng: random.Random) -> Stream:
    case = mysql_rows.random_case(rng)
    return case.columns, case.stream


def feed(engine: str, decoder: Any, data: bytes, cut: int) -> None:
    """Bring ``data`` into the decoder, in two pieces. Raises RivetFleetError."""
    pieces = [data[:cut], data[cut:]]
    if engine == "postgres-rows":
        receive(decoder, [piece for piece in pieces if piece])
    else:
        for piece in pieces:
            decoder.feed(piece)


_GET = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_int
)
_CONSUME = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
_FREE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def receive(decoder: Any, rows: list[bytes]) -> None:
    """Bring messages into the decoder as its receiver takes them from libpq's memory, each in a
    piece of its own, so that a sanitizer sees what is read behind its end."""
    kept = [ctypes.create_string_buffer(row, len(row)) for row in reversed(rows)]
    taken = []

    def get(_connection: object, row: Any, _asynchronous: int) -> int:
        if not kept:
            return -1
        taken.append(kept.pop())
        row[0] = ctypes.addressof(taken[-1])
        return ctypes.sizeof(taken[-1])

    functions = (_GET(get), _CONSUME(lambda _: 1), _FREE(lambda _: taken.clear()))
    addresses = (ctypes.cast(one, ctypes.c_void_p).value for one in functions)
    get_at, consume_at, free_at = (address or 0 for address in addresses)
    receiver = CopyReceiver(decoder, (get_at, consume_at, free_at))
    while receiver.pull(0, -1, _BLOCK_BYTES)[1] != _ENDED:
        pass


ENGINES: dict[
    str, tuple[Callable[[random.Random], Stream], Callable[[random.Random, bytes], bytes]]
] = {
    "postgres": (postgres_stream, copy_rows.damage),
    "postgres-rows": (postgres_stream, copy_rows.damage),
    "mysql": (mysql_stream, mysql_rows.damaged),
}


def fuzz(engine: str, inputs: int, seed: int) -> tuple[int, int]:
    """Decode ``inputs`` damaged streams; (refused, accepted). Raises whatever is not ours."""
    compiled = (mysql_decoder if engine == "mysql" else postgres_decoder)()
    assert compiled is not None, "the compiled decoder was not built"
    make, damage = ENGINES[engine]
    refused = accepted = 0
    for number in range(inputs):
        rng = random.Random(f"{seed}/{number}")
        if number % _INPUTS_PER_STREAM == 0:
            columns, whole = make(random.Random(f"{seed}/stream/{number}"))
        data = damage(rng, whole)
        cut = rng.randrange(len(data) + 1)
        decoder = compiled(
            columns,
            max_value_bytes=_VALUE_BYTES_MAX,
            coerce=number % 2 == 0,
            packed=number % 4 < 2,
        )
        try:
            feed(engine, decoder, data, cut)
            decoder.finish()
            decoder.take().validate(full=True)
            accepted += 1
        except RivetFleetError:
            refused += 1
    return refused, accepted


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=sorted(ENGINES), required=True)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    refused, accepted = fuzz(options.engine, options.inputs, options.seed)
    print(f"{options.engine}: {refused + accepted} inputs, {refused} refused, {accepted} valid")
    return 0


if __name__ == "__main__":
    sys.exit(main())
