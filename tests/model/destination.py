"""A destination in this process's memory: the same contract over dictionaries.

Destinations opened with one prefix share their objects, as two processes share a folder.
"""

from __future__ import annotations

import contextlib
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rivet_fleet.contracts.destination import without_secrets
from rivet_fleet.contracts.killpoints import KillPoint, reach
from rivet_fleet.contracts.manifest import PartDigest, Receipt
from rivet_fleet.contracts.plan import DestinationPlan
from rivet_fleet.errors import DataIntegrityError, DestinationRefused
from rivet_fleet.execution import registry
from rivet_fleet.execution.destination import Destination, ObjectInfo, Presence, StagedInfo
from rivet_fleet.execution.durable import checked_path
from rivet_fleet.execution.parts import fingerprint_bytes

DESTINATION_NAME = "memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Staged:
    path: str
    body: bytes
    at_s: float


@dataclass(slots=True)
class _Objects:
    visible: dict[str, bytes] = field(default_factory=dict)
    staged: dict[str, _Staged] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


_shared: dict[str, _Objects] = {}


def open_destination(plan: DestinationPlan, *, create: bool = True) -> Destination:
    """The objects kept under ``plan.prefix``, which live as long as the process; a plan of another
    kind is the registry's."""
    if plan.kind != DESTINATION_NAME:
        return registry.open_destination(without_secrets(plan), create=create)
    if not create and plan.prefix not in _shared:
        return _MemoryDestination(plan.prefix, _Objects())
    return _MemoryDestination(plan.prefix, _shared.setdefault(plan.prefix, _Objects()))


class _MemoryDestination:
    """Destination over two dictionaries and a lock."""

    def __init__(self, prefix: str, objects: _Objects) -> None:
        self._prefix = prefix
        self._objects = objects

    @property
    def uri(self) -> str:
        """``memory://<prefix>``."""
        return f"memory://{self._prefix}"

    @property
    def exclusive(self) -> bool:
        """By a lock."""
        return True

    def check(self) -> None:
        """Memory can always be written."""

    def free_bytes(self) -> int | None:
        """Nobody knows."""
        return None

    def stage(self, local: Path, path: str, digest: PartDigest) -> Receipt:
        """Copy the file's bytes aside."""
        body = local.read_bytes()
        if len(body) != digest.size_bytes:
            raise DataIntegrityError(f"{local.name} changed between its digest and its staging")
        key = secrets.token_hex(8)
        staged = _Staged(path=checked_path(path), body=body, at_s=time.monotonic())
        with self._objects.lock:
            self._objects.staged[key] = staged
        reach(KillPoint.STAGE_WRITTEN)
        return {"kind": DESTINATION_NAME, "staged": key}

    def look(self, receipt: Receipt, path: str, digest: PartDigest) -> Presence:
        """Both places under one lock, by the sizes."""
        with self._objects.lock:
            return self._look(_key(receipt), checked_path(path), digest, _fits)

    def prove(self, path: str, digest: PartDigest) -> Presence:
        """By the fingerprint."""
        body = self._objects.visible.get(checked_path(path))
        if body is None:
            return Presence.MISSING
        return Presence.VISIBLE if _is(body, digest) else Presence.FOREIGN

    def publish(self, receipt: Receipt, path: str, digest: PartDigest) -> Presence:
        """Show the staged bytes under their name, unless something has it."""
        key = _key(receipt)
        with self._objects.lock:
            found = self._look(key, checked_path(path), digest, _is)
            if found is Presence.STAGED:
                self._objects.visible[path] = self._objects.staged[key].body
        if found is Presence.STAGED:
            reach(KillPoint.PART_RENAMED)
            found = Presence.VISIBLE
        if found is Presence.VISIBLE:
            self.discard(receipt, path)
        return found

    def discard(self, receipt: Receipt, path: str) -> None:
        """Forget the staged bytes."""
        key = _key(receipt)
        with self._objects.lock:
            staged = self._objects.staged.get(key)
            if staged is not None and staged.path != checked_path(path):
                raise DestinationRefused(f"the receipt is not one of {path}")
            self._objects.staged.pop(key, None)

    def remove(self, path: str) -> None:
        """Forget a visible object."""
        with self._objects.lock:
            self._objects.visible.pop(checked_path(path), None)

    def put_atomic(self, path: str, body: bytes, *, durable: bool = True) -> None:
        """Create or replace."""
        with self._objects.lock:
            self._objects.visible[checked_path(path)] = bytes(body)

    def put_new(self, path: str, body: bytes) -> bool:
        """Create, unless something has the name."""
        with self._objects.lock:
            if checked_path(path) in self._objects.visible:
                return False
            self._objects.visible[checked_path(path)] = bytes(body)
            return True

    def read(self, path: str, bytes_max: int) -> bytes | None:
        """The bytes, None when absent. DataIntegrityError above the cap."""
        body = self._objects.visible.get(checked_path(path))
        if body is not None and len(body) > bytes_max:
            raise DataIntegrityError(f"{path} is larger than {bytes_max} bytes")
        return body

    @contextlib.contextmanager
    def local_copy(self, path: str) -> Iterator[Path]:
        """A temporary copy, removed behind the block."""
        body = self._objects.visible.get(checked_path(path))
        if body is None:
            raise DataIntegrityError(f"{path} is not there")
        with tempfile.TemporaryDirectory(prefix="memory-destination-") as folder:
            copy = Path(folder) / path.rpartition("/")[2]
            copy.write_bytes(body)
            yield copy

    def list_visible(self, folder: str = "") -> Iterator[ObjectInfo]:
        """Objects below ``folder`` in name order."""
        below = f"{checked_path(folder)}/" if folder else ""
        for path, body in sorted(self._objects.visible.items()):
            if path.startswith(below):
                yield ObjectInfo(path=path, size_bytes=len(body))

    def list_staged(self) -> Iterator[StagedInfo]:
        """Everything staged, with its age."""
        now_s = time.monotonic()
        for key, staged in sorted(self._objects.staged.items()):
            yield StagedInfo(
                receipt={"kind": DESTINATION_NAME, "staged": key},
                path=staged.path,
                size_bytes=len(staged.body),
                age_s=now_s - staged.at_s,
            )

    def rehearsal(self) -> contextlib.AbstractContextManager[Destination]:
        """There are no folders."""
        return contextlib.nullcontext(self)

    def close(self) -> None:
        """Nothing is held open."""

    def _look(
        self, key: str, path: str, digest: PartDigest, own: Callable[[bytes, PartDigest], bool]
    ) -> Presence:
        if path in self._objects.visible:
            known = own(self._objects.visible[path], digest)
            return Presence.VISIBLE if known else Presence.FOREIGN
        staged = self._objects.staged.get(key)
        if staged is not None and own(staged.body, digest):
            return Presence.STAGED
        return Presence.MISSING


def _key(receipt: Receipt) -> str:
    key = receipt.get("staged")
    if receipt.get("kind") != DESTINATION_NAME or not isinstance(key, str):
        raise DestinationRefused("the receipt was not written by a memory destination")
    return key


def _fits(body: bytes, digest: PartDigest) -> bool:
    return len(body) == digest.size_bytes


def _is(body: bytes, digest: PartDigest) -> bool:
    return len(body) == digest.size_bytes and fingerprint_bytes(body) == digest.fingerprint
