"""The seam to a destination: store bytes durably but invisibly, then make them visible.

Paths are relative to the dataset's prefix, with ``/`` between segments.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from rivet_fleet.contracts.manifest import PartDigest, Receipt


class Presence(Enum):
    """Where a committed part was found."""

    VISIBLE = "visible"
    """Under its name: ``look`` knows it by its size and by what the destination itself tells of
    the bytes, ``publish`` and ``prove`` by its fingerprint."""
    STAGED = "staged"
    """Stored, not visible yet: ``publish`` will work."""
    MISSING = "missing"
    """Neither: proven lost."""
    FOREIGN = "foreign"
    """Something else is under its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """One visible object."""

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedInfo:
    """Staged bytes found by a listing. ``age_s`` by the destination's own clock."""

    receipt: Receipt
    path: str
    """The name it would be published under."""
    size_bytes: int
    age_s: float


class Destination(Protocol):
    """One dataset prefix at one destination. Used from one thread, and while that stages from a
    second one, which publishes what is staged."""

    @property
    def uri(self) -> str:
        """``file://…``: where the prefix is, without secrets."""
        ...

    @property
    def exclusive(self) -> bool:
        """Whether it is known to give a free name to one of those who ask at one moment; else it
        is looked whether the name is free. Ours alone hold run, chunk and fence, so that only a
        stranger could come in between."""
        ...

    def check(self) -> None:
        """Prove that it can be written: raises DestinationRefused, DestinationFull, …"""
        ...

    def free_bytes(self) -> int | None:
        """How much more it can hold, None where there is no limit to ask for. Raises as
        ``check`` does."""
        ...

    def stage(self, local: Path, path: str, digest: PartDigest) -> Receipt:
        """Store the finished local file so that it survives a power cut and nobody sees it.

        The receipt lets any process publish it. ``local`` may be consumed (moved).
        Raises DestinationFull, DestinationUnavailable, DestinationRefused.
        """
        ...

    def look(self, receipt: Receipt, path: str, digest: PartDigest) -> Presence:
        """Where the part is now, told without reading it: cheap for a part of any size. Never
        guesses: raises DestinationUnavailable instead."""
        ...

    def prove(self, path: str, digest: PartDigest) -> Presence:
        """As ``look``, of a visible part and by its bytes, all of which are read.

        VISIBLE: they are the digest's. FOREIGN: others. MISSING: nothing has the name. Raises
        DestinationUnavailable and DestinationRefused, never guesses.
        """
        ...

    def publish(self, receipt: Receipt, path: str, digest: PartDigest) -> Presence:
        """Make it visible, idempotently; anybody may, any number of times.

        VISIBLE: it is there now, with its fingerprint, durably (also when it was already).
        MISSING or FOREIGN: it could not be done, and looking at the objects proved why.
        """
        ...

    def discard(self, receipt: Receipt, path: str) -> None:
        """Make it impossible that this receipt is ever published again. Idempotent.

        ``path``: the name that it was staged for. When this returns it is proven, durably; raises
        DestinationUnavailable where it could not be, and DestinationRefused for a receipt of
        another path, whose bytes stay.
        """
        ...

    def remove(self, path: str) -> None:
        """Remove one visible object, durably. Idempotent. Nothing removes more than one: no verb
        of this seam takes a folder away."""
        ...

    def put_atomic(self, path: str, body: bytes, *, durable: bool = True) -> None:
        """Create or replace a small object so that readers see the old or the new bytes,
        never anything between, durably. Not ``durable``: a power cut may take the new ones back,
        where that is cheaper."""
        ...

    def put_new(self, path: str, body: bytes) -> bool:
        """Create a small object as ``put_atomic`` does, unless something has its name: False
        then, and that stays as it is. Of two who do it at one moment one is told False; where a
        store ignores conditions, of two who do it one after the other."""
        ...

    def read(self, path: str, bytes_max: int) -> bytes | None:
        """A small object's bytes, None when absent. DataIntegrityError above the cap."""
        ...

    def local_copy(self, path: str) -> AbstractContextManager[Path]:
        """A local path of the object's bytes, for checks that need all of them. It lives as long
        as the block: afterwards no byte of it is left on this host.

        However often it is opened, the bytes are those of one object: nobody can put another
        under it. The path's name says nothing. DataIntegrityError when it is not there.
        """
        ...

    def list_visible(self, folder: str = "") -> Iterator[ObjectInfo]:
        """Every visible object below ``folder``, staging excluded."""
        ...

    def list_staged(self) -> Iterator[StagedInfo]:
        """Everything that was staged below this prefix, with receipts equal to those ``stage``
        gave: a receipt holds nothing that this cannot tell."""
        ...

    def rehearsal(self) -> AbstractContextManager[Destination]:
        """The same place for who only looks whether it can be written: what is missing of it is
        made under a name of its own and gone behind the block. A folder that a run makes meanwhile
        is never one that is removed here. Raises DestinationError."""
        ...

    def close(self) -> None:
        """Give handles back. Never raises."""
        ...
