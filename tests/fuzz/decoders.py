"""Feed the compiled decoders damaged streams: an error of ours or valid Arrow, never a crash.

``python -m tests.fuzz.decoders --engine postgres --inputs 1000000`` runs by hand;
``scripts/fuzz-with-sanitizers`` runs it under the address and undefined-behaviour sanitizers.
A run prints its seed; an input is reproduced by its number.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable

from rivet_fleet.contracts.columns import ColumnSpec
from rivet_fleet.errors import RivetFleetError
from rivet_fleet.execution.sources.mysql.decoder import compiled_decoder as mysql_decoder
from rivet_fleet.execution.sources.postgres.decoder import compiled_decoder as postgres_decoder
from tests.property import copy_rows, mysql_rows

Stream = tuple[tuple[ColumnSpec, ...], bytes]

_INPUTS_PER_STREAM = 50
_VALUE_BYTES_MAX = 4096


def postgres_stream(rng: random.Random) -> Stream:
    columns, makers = copy_rows.random_columns(rng)
    return columns, copy_rows.random_stream(rng, columns, makers, rng.randint(1, 8))


def mysql_stream(rng: random.Random) -> Stream:
    case = mysql_rows.random_case(rng)
    return case.columns, case.stream


ENGINES: dict[
    str, tuple[Callable[[random.Random], Stream], Callable[[random.Random, bytes], bytes]]
] = {
    "postgres": (postgres_stream, copy_rows.damage),
    "mysql": (mysql_stream, mysql_rows.damaged),
}


def fuzz(engine: str, inputs: int, seed: int) -> tuple[int, int]:
    """Decode ``inputs`` damaged streams; (refused, accepted). Raises whatever is not ours."""
    compiled = {"postgres": postgres_decoder, "mysql": mysql_decoder}[engine]()
    assert compiled is not None, "the compiled decoder was not built"
    make, damage = ENGINES[engine]
    refused = accepted = 0
    for number in range(inputs):
        rng = random.Random(f"{seed}/{number}")
        if number % _INPUTS_PER_STREAM == 0:
            columns, whole = make(random.Random(f"{seed}/stream/{number}"))
        data = damage(rng, whole)
        cut = rng.randrange(len(data) + 1)
        decoder = compiled(columns, max_value_bytes=_VALUE_BYTES_MAX, coerce=number % 2 == 0)
        try:
            decoder.feed(data[:cut])
            decoder.feed(data[cut:])
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
