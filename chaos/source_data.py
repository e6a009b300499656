"""What a frozen source table is, and the digest of it that the oracle compares with.

The digest of a table is one line per row: the canonical text of its key and the MD5 of the
canonical text of the whole row, both computed in SQL by the source's own server. Nothing of
rivet_fleet decodes anything here; ``chaos/oracle.py`` says the same canonical text from the
Parquet files. How each engine says it is in ``chaos/sources``.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

ORDERS = "orders"
"""Every column type, an integer key."""
DEVICES = "devices"
"""A key that is no number, spread at random."""
LINES = "lines"
"""A key of two columns, text first."""
KEYLESS = "keyless"
"""No key; every fourth row is an exact twin of another one: multisets, not sets."""
SLIM = "slim"
"""For millions of rows."""
ALL = (ORDERS, DEVICES, LINES, KEYLESS)
"""What every engine has, beside ``SLIM``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceColumn:
    """One column: its SQL definition, how it is filled from ``g`` (1, 2, 3 …), and its kind."""

    name: str
    definition: str
    filled: str
    kind: str = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTable:
    """One frozen table. ``key`` empty means that it has none. ``read`` is how the
    configuration asks for it."""

    name: str
    columns: tuple[SourceColumn, ...]
    key: tuple[str, ...]
    read: str
    constraint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """Tables that were built: where the fleet reads them, and where their digests lie."""

    url: str
    tables: Mapping[str, SourceTable]
    digests: Mapping[str, Path]


class SourceServer(Protocol):
    """A running source: what chaos does to it."""

    @property
    def pid(self) -> int | None:
        """Its first process, None when it does not run."""
        ...

    def start(self) -> None:
        """Start it again, and wait until it answers."""
        ...

    def stop(self, *, mode: str = "fast") -> None:
        """``immediate``: a crash, with recovery at the next start; ``fast``: in order."""
        ...

    def restart(self, *, mode: str = "immediate") -> None:
        """Stop and start."""
        ...


class SourceEngine(Protocol):
    """Everything in which one kind of source differs from another."""

    @property
    def name(self) -> str:
        """As ``--source`` and the configuration's ``type:`` say it."""
        ...

    def server(self) -> contextlib.AbstractContextManager[SourceServer]:
        """An empty server for the length of a ``with`` block. Raises what ``MISSING`` lists."""
        ...

    def build(
        self, server: SourceServer, folder: Path, *, rows: int, tables: Sequence[str]
    ) -> Frozen:
        """Create and fill the tables on ``server``; their digests go into ``folder``."""
        ...


def write_digest(table: SourceTable, folder: Path, hashed_rows: Iterable[bytes]) -> Path:
    """Write lines of ``"key","hash"`` and what they are of; returns the latter's path.

    ``hashed_rows``: blocks of CSV, every row one line, every value in quotes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    hashes = folder / f"{table.name}.csv"
    rows = 0
    with hashes.open("wb") as file:
        for block in hashed_rows:
            rows += block.count(b"\n")
            file.write(block)
    spec = {
        "table": table.name,
        "rows": rows,
        "key": list(table.key),
        "columns": [{"name": c.name, "kind": c.kind} for c in table.columns],
        "hashes": hashes.name,
    }
    path = folder / f"{table.name}.json"
    path.write_text(json.dumps(spec, indent=1) + "\n")
    return path
