"""The seam to a file format: Arrow batches in, one finished local file out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa


class PartWriter(Protocol):
    """Writes one part to a local file. Not complete, and never shown to anybody, before
    ``close`` returned (I1)."""

    @property
    def bytes_flushed(self) -> int:
        """Encoded bytes handed to the file so far, plus a fair estimate of what is buffered:
        what rotation by size compares."""
        ...

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows of the part's schema, packed where the format takes that. Raises
        DestinationFull when the spool's filesystem is full."""
        ...

    def close(self) -> None:
        """Finish the file (footer, last bytes). Raises DestinationFull."""
        ...

    def extremes(self) -> Mapping[str, tuple[str, str]]:
        """After ``close``: smallest and largest value of each column that ``extremes.Extremes``
        keeps and that has a value."""
        ...

    def checksums(self) -> Mapping[str, str]:
        """After ``close``: the checksum of each column that has one (``checksums``), of what was
        handed to ``write``, as the format's ``checksums`` finds it in the file."""
        ...

    def abort(self) -> None:
        """Give up: close the handle and remove the file. Never raises."""
        ...


class PartFormat(Protocol):
    """One file format with its options."""

    @property
    def extension(self) -> str:
        """The file name's ending, without the dot."""
        ...

    @property
    def takes_packed(self) -> bool:
        """True when ``write`` takes packed batches (ADR 0014), and is better served by them."""
        ...

    def check_schema(self, schema: pa.Schema) -> None:
        """Raise UnsupportedType listing every column this format cannot carry exactly."""
        ...

    def open(self, path: Path, schema: pa.Schema) -> PartWriter:
        """Start a part at ``path`` (which must not exist)."""
        ...

    def count_rows(self, path: Path) -> int:
        """Rows of a finished local file, by its own footer or records. Raises DataIntegrityError,
        which says of "it" what is wrong: the path may be a handle's; and MemoryError."""
        ...

    def rows(
        self, path: Path, columns: Sequence[str] | None = None
    ) -> Iterator[Mapping[str, pa.Array]]:
        """The named columns of a finished local file, all by default, some rows at a time; one
        that the file has not is left out. Raises as ``checksums`` does."""
        ...

    def as_read(self, batch: pa.RecordBatch) -> list[pa.Array]:
        """The columns of a nominal page as ``rows`` would give them back, had it been written: by
        their values where the file says what they mean, else by their text."""
        ...

    def checksums(self, path: Path) -> Mapping[str, str]:
        """The checksum of each column of a finished local file that has one, by reading all of
        its values. Raises DataIntegrityError where they cannot be read, and MemoryError where they
        take more than this process may (``allocator.memory_bounded``)."""
        ...
