"""The libpq that psycopg itself uses, called directly: one Python call per row would cost more
than decoding the row.

psycopg hands out the address of its connection (``PGconn.pgconn_ptr``), which is only good for
the very library it came from. That library is found through psycopg's own extension module: the
dynamic linker looks a symbol up in a module and in what the module is linked with (dlsym(3)).
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from psycopg import pq
from psycopg.pq.abc import PGconn

_MODULES = {"binary": "psycopg_binary.pq", "c": "psycopg_c.pq"}
"""psycopg's implementations that are linked with libpq. A pure Python one is read row by row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LibpqFunctions:
    """Functions of one loaded libpq."""

    for_rows: tuple[int, int, int]
    """The addresses of PQgetCopyData, PQconsumeInput and PQfreemem."""
    gss_encrypted: Callable[[int], int]
    """PQgssEncInUse of a connection's address."""


@cache
def libpq_functions() -> LibpqFunctions | None:
    """psycopg's libpq, or None where it cannot be reached."""
    name = _MODULES.get(pq.__impl__)
    if name is None:
        return None
    try:
        library = ctypes.CDLL(importlib.import_module(name).__file__)
        for_rows = (library.PQgetCopyData, library.PQconsumeInput, library.PQfreemem)
        gss_encrypted = library.PQgssEncInUse
    except (ImportError, OSError, AttributeError):
        return None
    gss_encrypted.argtypes = [ctypes.c_void_p]
    get, consume, release = map(_address, for_rows)
    return LibpqFunctions(for_rows=(get, consume, release), gss_encrypted=gss_encrypted)


def _address(function: object) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0  # type: ignore[arg-type]


def encrypted(pgconn: PGconn) -> bool:
    """True unless the socket is known to carry the protocol's own bytes."""
    functions = libpq_functions()
    if functions is None or pgconn.ssl_in_use:
        return True
    return bool(functions.gss_encrypted(pgconn.pgconn_ptr))  # type: ignore[attr-defined]
