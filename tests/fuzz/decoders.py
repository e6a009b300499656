"""Feed the compiled decoders damaged streams: an error of ours or valid Arrow, never a crash.

``python -m tests.fuzz.decoders --engine postgres --inputs 1000000`` runs by hand;
``scripts/fuzz-with-sanitizers`` runs it under the address and undefined-behaviour sanitizers.
A run prints its seed; an input is reproduced by its number.
"""

from __future__ import annotations

import argparse
import itertools
import random
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rivet_fleet.contracts.columns import ColumnSpec
from rivet_fleet.errors import RivetFleetError
from rivet_fleet.execution.sources.mysql.decoder import compiled_decoder as mysql_decoder
from rivet_fleet.execution.sources.postgres.copyreceive import SocketReceiver
from rivet_fleet.execution.sources.postgres.decoder import compiled_decoder as postgres_decoder
from tests.property import copy_rows, mysql_rows

Stream = tuple[tuple[ColumnSpec, ...], bytes]

_INPUTS_PER_STREAM = 50
_VALUE_BYTES_MAX = 4096
_BLOCK_BYTES = 4096


def postgres_stream(rng: random.Random) -> Stream:
    columns, makers = copy_rows.random_columns(rng)
    return columns, copy_rows.random_stream(rng, columns, makers, rng.randint(1, 8))


def mysql_stream(rng: random.Random) -> Stream:
    case = mysql_rows.random_case(rng)
    return case.columns, case.stream


def socket_stream(rng: random.Random) -> Stream:
    columns, rows = postgres_stream(rng)
    return columns, copy_answer(
        rows, [rng.randrange(len(rows) + 1) for _ in range(rng.randint(0, 4))]
    )


def copy_answer(rows: bytes, cuts: Sequence[int] = ()) -> bytes:
    """The server's messages for one COPY whose bytes are ``rows``, a message from cut to cut."""
    places = [0, *sorted(cuts), len(rows)]
    bodies = [rows[start:end] for start, end in itertools.pairwise(places)]
    return b"".join(
        (
            message(b"C", b"BEGIN\0"),
            message(b"H", b"\x01\0\0"),
            *(message(b"d", body) for body in bodies),
            *(message(b"c"), message(b"C", b"COPY 1\0"), message(b"C", b"COMMIT\0")),
            message(b"Z", b"I"),
        )
    )


def message(kind: bytes, body: bytes = b"") -> bytes:
    """One message of the PostgreSQL protocol."""
    return kind + struct.pack(">I", len(body) + 4) + body


def feed(engine: str, decoder: Any, data: bytes, cut: int) -> None:
    """Bring ``data`` into the decoder, in two pieces. Raises RivetFleetError, or OSError for a
    connection that ends too early."""
    if engine != "postgres-socket":
        decoder.feed(data[:cut])
        decoder.feed(data[cut:])
        return
    receiver = SocketReceiver(decoder)
    server, client = socket.socketpair()
    with server, client:
        server.sendall(data[:cut])
        receiver.pull(client.fileno(), len(data[:cut]))
        server.sendall(data[cut:])
        server.shutdown(socket.SHUT_WR)
        why = 0
        while why not in (2, 3):
            _, why = receiver.pull(client.fileno(), _BLOCK_BYTES)
    if why == 3 or receiver.error is not None:
        raise ConnectionError


ENGINES: dict[
    str, tuple[Callable[[random.Random], Stream], Callable[[random.Random, bytes], bytes]]
] = {
    "postgres": (postgres_stream, copy_rows.damage),
    "postgres-socket": (socket_stream, copy_rows.damage),
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
        except (RivetFleetError, ConnectionError):
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
