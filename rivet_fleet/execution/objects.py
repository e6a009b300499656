"""What every object store is as a destination: one sequence over the few verbs of a bucket.

A bucket has keys and no folders. A part's bytes are uploaded piece by piece and stay invisible
until they are committed; anybody who has the receipt may commit them. An answer of a store proves
nothing: it may have been lost behind what the store did, or speak of what it did not do. So
``publish`` ends with a look, always, and ``discard`` with a proof (ADR 0025).

Receipt: ``{"kind": …, "path": …, **tokens}``, where the tokens are the store's own.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rivet_fleet.contracts.killpoints import KillPoint, reach
from rivet_fleet.contracts.manifest import PartDigest, Receipt
from rivet_fleet.errors import (
    DataIntegrityError,
    DestinationError,
    DestinationRefused,
    DestinationUnavailable,
)
from rivet_fleet.execution.destination import Destination, ObjectInfo, Presence, StagedInfo
from rivet_fleet.execution.durable import PROBE, checked_path, filesystem_errors
from rivet_fleet.execution.parts import fingerprint_blocks
from rivet_fleet.execution.storeclient import understood

STAGING = ".staging"
"""Where a store without deferred commits keeps what nobody is to see yet, below the prefix. It can
be listed: our own listings leave it out."""
FINGERPRINT = "rivetfleetfingerprint"
"""The name of the metadata that holds a part's fingerprint. Letters alone: one store demands an
identifier, and some proxies drop what has an underscore."""
_MEBIBYTE = 1024 * 1024
_PIECE_BYTES_MIN = 5 * _MEBIBYTE
_PIECES_MAX = 10_000
_PROBED = re.compile(rf"{re.escape(STAGING)}/{PROBE}\.[0-9a-f]+/probe")
_LEFT = {"left": "visible"}
"""The tokens of a probe whose process was killed before it deleted it."""
_ANY_AGE_S = 1e9
_OURS = re.compile(
    rf"[^/]+/[^/]+-c\d{{6,}}-p\d{{3,}}-f\d+\.[a-z0-9.]+"
    rf"|(?:{re.escape(STAGING)}/)?{PROBE}\.[0-9a-f]+(?:/probe)?"
)
"""Names that can have been staged by us: others below our prefix are other tools' uploads."""

Tokens = Mapping[str, str]
"""What a store needs beside the key to commit or discard one upload, from any process. Not secret,
and nothing that a listing cannot give back: a sweep compares whole receipts."""


class Taken(Exception):
    """Something has the key, and the store was asked not to replace it."""


class Gone(Exception):
    """What was asked for is not there: the object, or the staged bytes, or not all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """One visible object. What a store does not tell is None, and in a listing that may be all."""

    key: str
    size_bytes: int
    fingerprint: str | None = None
    """The metadata ``FINGERPRINT``."""
    md5_base64: str | None = None
    """Of the bytes, as the store itself knows them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedObject:
    """One upload that is not committed. ``age_s`` by the store's own clock."""

    key: str
    tokens: Tokens
    size_bytes: int
    age_s: float


class ObjectUpload(Protocol):
    """One part on its way, in one process. Its bytes stay invisible."""

    @property
    def tokens(self) -> Tokens:
        """Known from the beginning; good for ``commit`` once the last piece is sent."""
        ...

    def send(self, piece: bytes, md5: bytes, *, last: bool) -> None:
        """The next piece and its MD5 (16 bytes), which the store is to check.

        Pieces of one part are equally large, a whole number of MiB (at least 5), but for the last
        one. A part of no bytes has one empty piece.
        """
        ...


class ObjectStore(Protocol):
    """One bucket. Keys are whole keys. Used from one thread, or from two of which one begins and
    sends and the other commits, looks and drops; nothing is opened before the first verb.

    Every verb raises DestinationUnavailable where it may work later and DestinationRefused where it
    will not, made by ``storeclient.store_error`` and naming the permission that is missing as its
    cloud names it; ``Taken`` and ``Gone`` only where it says so. What it stumbles into over an
    answer, ``storeclient.understood`` makes an error of; nothing else leaves it.
    """

    def begin(self, key: str, digest: PartDigest) -> ObjectUpload:
        """A new upload of this part. Two of one key do not meet; where a store cannot keep them
        apart, committing or discarding one makes the other one Gone, and never another's bytes."""
        ...

    def commit(self, tokens: Tokens, key: str, digest: PartDigest) -> bool:
        """Show what was staged under ``key``, unless something has it: by the store's own
        condition, which some take and ignore (``check`` finds out). The answer may be lost, or
        wrong: the caller looks.

        True: nothing of it is left staged. Raises Taken, and Gone where not all ``size_bytes`` of
        it are there.
        """
        ...

    def staged(self, tokens: Tokens, key: str, digest: PartDigest) -> bool:
        """True when all ``size_bytes`` of it are staged, and ``commit`` can show them."""
        ...

    def discard(self, tokens: Tokens, key: str) -> None:
        """Make it impossible that these tokens are ever committed; proven when it returns.
        Idempotent. It may remove what is visible under ``key``, if that came of these tokens."""
        ...

    def drop(self, tokens: Tokens, key: str) -> None:
        """Give back what is still staged of a part that is visible under ``key``, which stays. A
        courtesy: what cannot be had is left to a sweep."""
        ...

    def head(self, key: str) -> Head | None:
        """The object's size and identity, None when nothing has the key. Never from a cache."""
        ...

    def list(self, prefix: str) -> Iterator[Head]:
        """Every visible object whose key begins with ``prefix`` (which ends with a slash), in the
        order of the keys."""
        ...

    def list_staged(self, prefix: str) -> Iterator[StagedObject]:
        """Every upload below ``prefix`` that is not committed, whoever began it, with the tokens
        that ``begin`` gave."""
        ...

    def get(self, key: str) -> Iterator[bytes]:
        """The bytes of one object in blocks of a few MiB at most. Raises Gone; and
        DestinationUnavailable when another object takes the key meanwhile."""
        ...

    def put(self, key: str, body: bytes, *, new: bool) -> None:
        """Create or replace a small object, atomically. ``new``: by the store's own condition;
        raises Taken where something has the key."""
        ...

    def delete(self, key: str) -> None:
        """Remove one object. Idempotent."""
        ...

    def close(self) -> None:
        """Give connections back. Never raises."""
        ...


class ObjectDestination:
    """Destination over one prefix of a bucket."""

    def __init__(self, store: ObjectStore, *, kind: str, uri: str, below: str) -> None:
        """``below``: the keys' common beginning, without slashes around it."""
        if not below.strip("/"):
            raise DestinationRefused(
                f"{uri} names a whole bucket",
                hint="give the destination a prefix: what is below it is one dataset",
                code="RIVET_UNSAFE_PATH",
            )
        self._store = understood(store, uri)
        self._kind = kind
        self._uri = uri
        # With its slash: a store compares letters, and ``orders`` begins ``orders_archive``.
        self._below = checked_path(below.strip("/")) + "/"
        self._exclusive = False

    @property
    def uri(self) -> str:
        """As the plan's prefix."""
        return self._uri

    @property
    def exclusive(self) -> bool:
        """False until ``check`` has seen the store honour a condition. Till then, and where it
        ignores them, it is looked whether a name is free before anything is written to it."""
        return self._exclusive

    def check(self) -> None:
        """All that a part needs, on a name of its own: two uploads, of which the first is committed
        and the second must find the name taken; read, list, discard, list again, delete. Who dies
        in between leaves a few bytes where no reader of data looks, for a sweep; one that runs at
        this moment may take them, which is why a probe that is gone is made once more."""
        if self._probe() is None and self._probe() is None:
            raise self._unfaithful("keep it")

    def _probe(self) -> bool | None:
        """Whether names are given once; None when the probe was gone. Raises DestinationError."""
        folder = f"{self._below}{STAGING}/{PROBE}.{secrets.token_hex(8)}/"
        key, bodies = f"{folder}probe", (b"probe 0\n", b"probe 1\n")
        first, second = [self._probed(key, body) for body in bodies]
        # For the right to do so alone: what is missing for a sweep is told before the first row.
        next(iter(self._store.list_staged(self._below)), None)
        try:
            left = True
            # Taken: by itself, the answer was lost and the library asked again.
            with contextlib.suppress(Taken):
                left = not self._store.commit(first, key, _probe_digest(bodies[0]))
            if left:
                self._store.drop(first, key)
            try:
                exclusive = False
                self._store.commit(second, key, _probe_digest(bodies[1]))
            except (Taken, Gone):
                # Gone: of two uploads of one name some stores keep the one that is committed.
                exclusive = True
            listed = [head.key for head in self._store.list(folder)]
            kept = b"".join(self._store.get(key))
        except Gone:
            return None
        finally:
            self._store.discard(second, key)
            self._store.delete(key)
        # Where conditions are ignored the second one stands there now: found out, and no fault.
        if kept != bodies[0] and (exclusive or kept != bodies[1]):
            raise self._unfaithful("give it back whole")
        if listed != [key]:
            raise self._unfaithful("list it")
        self._exclusive = exclusive
        return exclusive

    def _unfaithful(self, does_not: str) -> DestinationRefused:
        return DestinationRefused(
            f"{self._uri} took a probe and does not {does_not}",
            hint="this service keeps objects otherwise than its protocol says: use another",
            code="RIVET_STORE_UNFAITHFUL",
        )

    def _probed(self, key: str, body: bytes) -> Tokens:
        upload = self._store.begin(key, _probe_digest(body))
        upload.send(body, hashlib.md5(body, usedforsecurity=False).digest(), last=True)
        return upload.tokens

    def free_bytes(self) -> int | None:
        """A bucket has no limit to ask for."""
        return None

    def stage(self, local: Path, path: str, digest: PartDigest) -> Receipt:
        """Upload everything, commit nothing. The store checks the MD5 of each piece."""
        key = self._key(path)
        if local.stat().st_size != digest.size_bytes:
            raise _changed(local)
        upload = self._store.begin(key, digest)
        sent = 0
        with filesystem_errors(local, "spool"), local.open("rb", buffering=0) as file:
            while True:
                piece = file.read(_piece_bytes(digest.size_bytes))
                sent += len(piece)
                # Of what is sent now, not of what was digested then: the store checks the way,
                # ``_fits`` the file.
                md5 = hashlib.md5(piece, usedforsecurity=False).digest()
                last = sent >= digest.size_bytes
                if (not piece and sent < digest.size_bytes) or not _fits(piece, md5, sent, digest):
                    # Nobody has its receipt yet, so nobody else would give it back before a sweep.
                    self._store.discard(upload.tokens, key)
                    raise _changed(local)
                upload.send(piece, md5, last=last)
                if last:
                    break
        reach(KillPoint.STAGE_WRITTEN)
        return {"kind": self._kind, "path": path, **upload.tokens}

    def look(self, receipt: Receipt, path: str, digest: PartDigest) -> Presence:
        """The object, the upload, and the object once more: committing moves in that direction."""
        key, tokens = self._key(path), self._tokens(receipt, path)
        if found := self._shown(key, digest):
            return found
        if self._store.staged(tokens, key, digest):
            return Presence.STAGED
        return self._shown(key, digest) or Presence.MISSING

    def prove(self, path: str, digest: PartDigest) -> Presence:
        """By the fingerprint of all its bytes; nothing is kept of them."""
        key = self._key(path)
        head = self._store.head(key)
        if head is None:
            return Presence.MISSING
        try:
            own = head.size_bytes == digest.size_bytes and (
                fingerprint_blocks(self._store.get(key)) == digest.fingerprint
            )
        except Gone:
            return Presence.MISSING
        return Presence.VISIBLE if own else Presence.FOREIGN

    def publish(self, receipt: Receipt, path: str, digest: PartDigest) -> Presence:
        """Commit and look, whatever the store has answered; where it may ignore conditions, look
        before that, too."""
        key, tokens = self._key(path), self._tokens(receipt, path)
        left = True
        if self._exclusive or self._shown(key, digest) is None:
            # None of these answers is believed, nor that there was none: the look decides (ADR
            # 0027).
            with contextlib.suppress(Taken, Gone, DestinationUnavailable):
                left = not self._store.commit(tokens, key, digest)
                reach(KillPoint.PART_RENAMED)
        found = self.look(receipt, path, digest)
        if found is Presence.STAGED:
            raise DestinationUnavailable(
                f"{self._uri}/{path} could not be made visible, but is staged",
                hint="it is tried again from its receipt: nothing is read anew",
                code="RIVET_STORE_UNAVAILABLE",
            )
        if found is Presence.VISIBLE and left:
            # The part is delivered whatever comes of this: what stays staged is left to a sweep.
            with contextlib.suppress(DestinationError):
                self._store.drop(tokens, key)
        return found

    def discard(self, receipt: Receipt, path: str) -> None:
        """Until the store itself says that it is gone."""
        tokens, key = self._tokens(receipt, path), self._below + checked_path(path)
        if tokens == _LEFT and _PROBED.fullmatch(path):
            self._store.delete(key)
        else:
            self._store.discard(tokens, key)

    def remove(self, path: str) -> None:
        """One key."""
        self._store.delete(self._key(path))

    def put_atomic(self, path: str, body: bytes, *, durable: bool = True) -> None:
        """One request."""
        self._store.put(self._key(path), body, new=False)

    def put_new(self, path: str, body: bytes) -> bool:
        """One request with its condition; where the store may ignore that, behind a look."""
        key = self._key(path)
        if not self._exclusive and self._store.head(key) is not None:
            return False
        try:
            self._store.put(key, body, new=True)
        except Taken:
            return False
        return True

    def read(self, path: str, bytes_max: int) -> bytes | None:
        """The bytes, None when absent. One byte too many raises DataIntegrityError."""
        body = b""
        try:
            for block in self._store.get(self._key(path)):
                body += block
                if len(body) > bytes_max:
                    raise DataIntegrityError(f"{path} is larger than {bytes_max} bytes")
        except Gone:
            return None
        return body

    @contextlib.contextmanager
    def local_copy(self, path: str) -> Iterator[Path]:
        """A download into a file without a name: who is killed here leaves nothing to sweep."""
        key = self._key(path)
        with contextlib.ExitStack() as held:
            with filesystem_errors(Path(tempfile.gettempdir()), "spool"):
                file = held.enter_context(tempfile.TemporaryFile(buffering=0))
                try:
                    for block in self._store.get(key):
                        file.write(block)
                except Gone:
                    raise DataIntegrityError(f"{path} is not there") from None
            yield Path(f"/proc/self/fd/{file.fileno()}")

    def list_visible(self, folder: str = "") -> Iterator[ObjectInfo]:
        """In the order of the keys. What names a folder by a slash at its end is no object."""
        below = f"{self._key(folder)}/" if folder else self._below
        for head in self._store.list(below):
            path = head.key.removeprefix(self._below)
            if not path.startswith(f"{STAGING}/") and not path.endswith("/"):
                yield ObjectInfo(path=path, size_bytes=head.size_bytes)

    def list_staged(self) -> Iterator[StagedInfo]:
        """What is named as parts are, other uploads below the prefix being other tools'; and what
        probes have left, of whatever age: one that is alive makes another."""
        for staged in self._store.list_staged(self._below):
            path = staged.key.removeprefix(self._below)
            if staged.key.startswith(self._below) and _OURS.fullmatch(path):
                yield StagedInfo(
                    receipt={"kind": self._kind, "path": path, **staged.tokens},
                    path=path,
                    size_bytes=staged.size_bytes,
                    age_s=max(0.0, staged.age_s),
                )
        for head in self._store.list(f"{self._below}{STAGING}/"):
            path = head.key.removeprefix(self._below)
            if _PROBED.fullmatch(path):
                yield StagedInfo(
                    receipt={"kind": self._kind, "path": path, **_LEFT},
                    path=path,
                    size_bytes=head.size_bytes,
                    age_s=_ANY_AGE_S,
                )

    def rehearsal(self) -> contextlib.AbstractContextManager[Destination]:
        """There are no folders."""
        return contextlib.nullcontext(self)

    def close(self) -> None:
        """Give the store's connections back."""
        self._store.close()

    def _key(self, path: str) -> str:
        if checked_path(path).split("/", 1)[0] == STAGING:
            raise DestinationRefused(f"{path!r} names the staging folder", code="RIVET_UNSAFE_PATH")
        return self._below + path

    def _tokens(self, receipt: Receipt, path: str) -> Tokens:
        """The store's own part of a receipt, which must be of this kind and this path."""
        tokens = {name: value for name, value in receipt.items() if isinstance(value, str)}
        if receipt.get("kind") != self._kind or tokens.keys() != receipt.keys():
            raise DestinationRefused(
                f"the receipt was not written by a destination of type {self._kind}",
                code="RIVET_UNSAFE_PATH",
            )
        if tokens.get("path") != path:
            raise DestinationRefused(
                f"the receipt is not one of {self._uri}/{path}: nothing was done by it",
                hint="the state database was edited; restore it or reopen the chunk",
                code="RIVET_UNSAFE_PATH",
            )
        return {name: value for name, value in tokens.items() if name not in ("kind", "path")}

    def _shown(self, key: str, digest: PartDigest) -> Presence | None:
        head = self._store.head(key)
        if head is None:
            return None
        # Not by an ETag: of encrypted objects it is no checksum.
        own = (
            head.md5_base64 == digest.md5_base64
            if head.fingerprint is None
            else head.fingerprint == digest.fingerprint
        )
        return (
            Presence.VISIBLE if own and head.size_bytes == digest.size_bytes else Presence.FOREIGN
        )


def _piece_bytes(size_bytes: int) -> int:
    """How large the pieces of a part are: few enough for any store, in whole MiB."""
    needed = -(-size_bytes // _PIECES_MAX)
    return max(_PIECE_BYTES_MIN, -(-needed // _MEBIBYTE) * _MEBIBYTE)


def _fits(piece: bytes, md5: bytes, sent: int, digest: PartDigest) -> bool:
    """False when the file grew, or when the one piece it is has other bytes than were digested."""
    if sent > digest.size_bytes:
        return False
    whole = len(piece) == digest.size_bytes
    return not whole or base64.b64encode(md5).decode() == digest.md5_base64


def _changed(local: Path) -> DataIntegrityError:
    return DataIntegrityError(f"{local.name} changed between its digest and its staging")


def _probe_digest(body: bytes) -> PartDigest:
    return PartDigest(
        rows=0,
        size_bytes=len(body),
        fingerprint=fingerprint_blocks([body]),
        md5_base64=base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode(),
    )
