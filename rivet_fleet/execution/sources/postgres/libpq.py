"""The libpq that psycopg itself uses, called directly: one Python call per row would cost more
than decoding the row.

psycopg hands out the address of its connection (``PGconn.pgconn_ptr``), which is only good for
the very library it came from. That library is found through psycopg's own extension module: the
dynamic linker looks a symbol up in a module and in what the module is linked with (dlsym(3)).
"""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from psycopg import pq
from psycopg.pq.abc import PGconn

from rivet_fleet.execution.sources.postgres.copystream import BLOCK_BYTES, Pulled, RowPuller
from rivet_fleet.execution.sources.postgres.decoder import BatchDecoder, compiled_decoder

if TYPE_CHECKING:
    from rivet_fleet.execution.sources.postgres.copyrows import CompiledDecoder

_MODULES = {"binary": "psycopg_binary.pq", "c": "psycopg_c.pq"}
"""psycopg's implementations that are linked with libpq. A pure Python one is read row by row."""
_WHY = (Pulled.BLOCK, Pulled.WAIT, Pulled.END)


@dataclass(frozen=True, slots=True, kw_only=True)
class LibpqFunctions:
    """Addresses of three functions of one loaded libpq."""

    get_copy_data: int
    consume_input: int
    freemem: int


@cache
def libpq_functions() -> LibpqFunctions | None:
    """psycopg's libpq, or None where it cannot be reached."""
    name = _MODULES.get(pq.__impl__)
    if name is None:
        return None
    try:
        library = ctypes.CDLL(importlib.import_module(name).__file__)
        return LibpqFunctions(
            get_copy_data=_address(library.PQgetCopyData),
            consume_input=_address(library.PQconsumeInput),
            freemem=_address(library.PQfreemem),
        )
    except (ImportError, OSError, AttributeError):
        return None


def _address(function: object) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0  # type: ignore[arg-type]


def direct_puller(decoder: BatchDecoder) -> RowPuller | None:
    """A puller that lets the compiled decoder receive by itself; None when it cannot."""
    functions, compiled = libpq_functions(), compiled_decoder()
    if functions is None or compiled is None or not isinstance(decoder, compiled):
        return None
    decoder.bind_libpq(functions.get_copy_data, functions.consume_input, functions.freemem)
    return _DirectPuller(decoder)


class _DirectPuller:
    """Rows go from libpq's buffer into Arrow's; the interpreter sees blocks only."""

    def __init__(self, decoder: CompiledDecoder) -> None:
        self._decoder = decoder

    def pull(self, pgconn: PGconn) -> tuple[int, Pulled]:
        """See ``RowPuller``."""
        address = pgconn.pgconn_ptr  # type: ignore[attr-defined]
        received_bytes, why = self._decoder.pull(address, pgconn.socket, BLOCK_BYTES)
        return received_bytes, _WHY[why]

    def settle(self) -> None:
        """Nothing is held back."""
