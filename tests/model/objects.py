"""An object store in this process's memory, and a destination over it: what a store needs of the
seam that no folder needs.

A bucket has keys and no folders. Bytes are uploaded under their final key and stay invisible until
the upload is completed (a deferred commit). A bucket may know conditional writes or ignore them,
show other tools' uploads, and answer with something else than what it has done. So a success is
no proof here: ``publish`` completes and looks, ``discard`` aborts until the upload is unknown.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rivet_fleet.contracts.destination import (
    DestinationConnection,
    DestinationKind,
    DestinationSetting,
    SettingProblem,
    Settings,
    authority_of,
)
from rivet_fleet.contracts.killpoints import KillPoint, reach
from rivet_fleet.contracts.manifest import PartDigest, Receipt
from rivet_fleet.errors import DataIntegrityError, DestinationRefused, DestinationUnavailable
from rivet_fleet.execution.destination import Destination, ObjectInfo, Presence, StagedInfo
from rivet_fleet.execution.durable import checked_path
from rivet_fleet.execution.parts import fingerprint_bytes

_FINGERPRINT = "rivetfleetfingerprint"
_PART_NAME = re.compile(r"[^/]+/[^/]+-c\d{6,}-p\d{3,}-f\d+\.[a-z]+")
_ABORTS_MAX = 5


def _prefix(settings: Settings, _folder: Path) -> str:
    endpoint = f"@{settings['endpoint']}" if "endpoint" in settings else ""
    return f"objects://{settings['bucket']}{endpoint}/{settings['prefix'].strip('/')}"


def _unsafe(prefix: str) -> str | None:
    return None if prefix.strip("/") else "must not be empty"


def _problems(settings: Settings) -> Iterator[SettingProblem]:
    keys = ("access_key_env", "secret_key_env")
    if len([name for name in keys if name in settings]) == 1:
        yield SettingProblem(setting=keys[0], reason="goes with secret_key_env", suggestion="both")


KIND = DestinationKind(
    name="objects",
    below="prefix",
    settings={
        "bucket": DestinationSetting(meaning="It exists.", in_prefix=True, required="add bucket:"),
        "prefix": DestinationSetting(meaning="In it.", in_prefix=True, required="add prefix:"),
        "endpoint": DestinationSetting(meaning="host:port of another service.", in_prefix=True),
        "region": DestinationSetting(meaning="Where the bucket is."),
        "access_key_env": DestinationSetting(meaning="Names the variable of the key's name."),
        "secret_key_env": DestinationSetting(meaning="Names the variable of the key."),
    },
    unsafe=_unsafe,
    prefix=_prefix,
    problems=_problems,
)
_buckets: dict[str, Bucket] = {}


def open_destination(connection: DestinationConnection, *, create: bool = True) -> Destination:
    """A bucket, by its authority; it lives as long as the process. Needs no network, and its
    callers see that it was given its secrets: they stand in ``opened``."""
    opened.append(connection)
    bucket = _buckets.setdefault(authority_of(connection.prefix), Bucket())
    return ObjectDestination(bucket, connection.prefix.partition("://")[2].partition("/")[2])


opened: list[DestinationConnection] = []


class Gone(Exception):
    """No such upload."""


class Taken(Exception):
    """A condition said that nothing may have the key, and something has."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One visible object."""

    body: bytes
    metadata: Mapping[str, str]


@dataclass(slots=True)
class Upload:
    """Bytes that nobody sees."""

    key: str
    metadata: Mapping[str, str]
    body: bytes = b""
    at_s: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class Bucket:
    """The store's side. Each verb is one request: atomic, and alone."""

    conditional: bool = True
    """False: the store takes conditions and ignores them."""
    answer: Callable[[str], None] = lambda verb: None
    """Called behind each request that was carried out; raises where its answer is lost."""
    objects: dict[str, Stored] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def begin(self, key: str, metadata: Mapping[str, str]) -> str:
        """A new upload's id."""
        with self.lock:
            upload_id = secrets.token_hex(8)
            self.uploads[upload_id] = Upload(key, metadata)
        return upload_id

    def send(self, upload_id: str, body: bytes) -> None:
        """Add to it."""
        with self.lock:
            self._upload(upload_id).body += body

    def find(self, key: str, upload_id: str) -> Upload:
        """Raises Gone."""
        with self.lock:
            upload = self._upload(upload_id)
            if upload.key != key:
                raise Gone
            return upload

    def complete(self, key: str, upload_id: str, *, if_absent: bool) -> None:
        """Show it. Raises Gone, Taken."""
        with self.lock:
            upload = self.find(key, upload_id)
            self._refuse_taken(key, if_absent=if_absent)
            self.objects[key] = Stored(upload.body, upload.metadata)
            del self.uploads[upload_id]
        self.answer("complete")

    def abort(self, key: str, upload_id: str) -> None:
        """Forget it. Raises Gone."""
        with self.lock:
            self.find(key, upload_id)
            del self.uploads[upload_id]
        self.answer("abort")

    def put(self, key: str, body: bytes, *, if_absent: bool = False) -> None:
        """Create or replace. Raises Taken."""
        with self.lock:
            self._refuse_taken(key, if_absent=if_absent)
            self.objects[key] = Stored(bytes(body), {})
        self.answer("put")

    def delete(self, key: str) -> None:
        """Also when it is not there."""
        with self.lock:
            self.objects.pop(key, None)

    def _upload(self, upload_id: str) -> Upload:
        if upload_id not in self.uploads:
            raise Gone
        return self.uploads[upload_id]

    def _refuse_taken(self, key: str, *, if_absent: bool) -> None:
        if if_absent and self.conditional and key in self.objects:
            raise Taken


class ObjectDestination:
    """Destination over one prefix of a bucket. Two of one bucket are two processes' views."""

    def __init__(self, bucket: Bucket, prefix: str) -> None:
        self._bucket = bucket
        # With its slash: a store compares letters, and ``orders`` begins ``orders_archive``.
        self._below = prefix.strip("/") + "/"

    @property
    def uri(self) -> str:
        """``objects://bucket/<prefix>``."""
        return f"{KIND.name}://bucket/{self._below.rstrip('/')}"

    def check(self) -> None:
        """Begin and abort an upload."""
        key = self._key("probe")
        self._bucket.abort(key, self._bucket.begin(key, {}))

    def free_bytes(self) -> int | None:
        """There is no limit to ask for."""
        return None

    def stage(self, local: Path, path: str, digest: PartDigest) -> Receipt:
        """Upload everything and complete nothing."""
        body, key = local.read_bytes(), self._key(path)
        if len(body) != digest.size_bytes:
            raise DataIntegrityError(f"{local.name} changed between its digest and its staging")
        upload_id = self._bucket.begin(key, {_FINGERPRINT: digest.fingerprint})
        self._bucket.send(upload_id, body)
        reach(KillPoint.STAGE_WRITTEN)
        return {"kind": KIND.name, "upload_id": upload_id}

    def look(self, receipt: Receipt, path: str, digest: PartDigest) -> Presence:
        """The object, the upload, and the object once more: completing moves in that direction."""
        key, upload_id = self._key(path), _upload_id(receipt)
        if found := self._shown(key, digest):
            return found
        staged = self._staged(key, upload_id, digest)
        return self._shown(key, digest) or (Presence.STAGED if staged else Presence.MISSING)

    def prove(self, path: str, digest: PartDigest) -> Presence:
        """Read it."""
        stored = self._bucket.objects.get(self._key(path))
        if stored is None:
            return Presence.MISSING
        own = fingerprint_bytes(stored.body) == digest.fingerprint
        return Presence.VISIBLE if own else Presence.FOREIGN

    def publish(self, receipt: Receipt, path: str, digest: PartDigest) -> Presence:
        """Complete what was not shown before, then look, whatever the store has answered."""
        key, upload_id = self._key(path), _upload_id(receipt)
        found = self.look(receipt, path, digest)
        if found is not Presence.STAGED:
            if found is Presence.VISIBLE:
                self.discard(receipt, path)
            return found
        with contextlib.suppress(Taken, Gone, ConnectionError):
            self._bucket.complete(key, upload_id, if_absent=True)
        reach(KillPoint.PART_RENAMED)
        found = self.look(receipt, path, digest)
        if found is Presence.STAGED:
            raise DestinationUnavailable(f"{path} could not be made visible, but is staged")
        return found

    def discard(self, receipt: Receipt, path: str) -> None:
        """Abort until the store does not know it any more."""
        key, upload_id = self._key(path), _upload_id(receipt)
        other = self._bucket.uploads.get(upload_id)
        if other is not None and other.key != key:
            raise DestinationRefused(f"the receipt is not one of {path}")
        for _ in range(_ABORTS_MAX):
            try:
                self._bucket.abort(key, upload_id)
            except Gone:
                return
            except ConnectionError:
                continue
        raise DestinationUnavailable(f"{path} may still become visible")

    def remove(self, path: str) -> None:
        """Delete one key."""
        self._bucket.delete(self._key(path))

    def put_atomic(self, path: str, body: bytes) -> None:
        """One request."""
        self._bucket.put(self._key(path), body)

    def put_new(self, path: str, body: bytes) -> bool:
        """With the condition where the store knows it, and after a look in any case."""
        key = self._key(path)
        if key in self._bucket.objects:
            return False
        try:
            self._bucket.put(key, body, if_absent=True)
        except Taken:
            return False
        return True

    def read(self, path: str, bytes_max: int) -> bytes | None:
        """Of one size at most."""
        stored = self._bucket.objects.get(self._key(path))
        if stored is not None and len(stored.body) > bytes_max:
            raise DataIntegrityError(f"{path} is larger than {bytes_max} bytes")
        return stored.body if stored else None

    @contextlib.contextmanager
    def local_copy(self, path: str) -> Iterator[Path]:
        """A download, which ends with the block."""
        stored = self._bucket.objects.get(self._key(path))
        if stored is None:
            raise DataIntegrityError(f"{path} is not there")
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy"
            copy.write_bytes(stored.body)
            yield copy

    def list_visible(self, folder: str = "") -> Iterator[ObjectInfo]:
        """In the order of the keys."""
        below = f"{self._key(folder)}/" if folder else self._below
        for key, stored in sorted(self._bucket.objects.items()):
            if key.startswith(below):
                path = key.removeprefix(self._below)
                yield ObjectInfo(path=path, size_bytes=len(stored.body))

    def list_staged(self) -> Iterator[StagedInfo]:
        """Uploads below the prefix that are named as parts are: others are other tools'."""
        with self._bucket.lock:
            uploads = sorted(self._bucket.uploads.items())
        for upload_id, upload in uploads:
            path = upload.key.removeprefix(self._below)
            if upload.key.startswith(self._below) and _PART_NAME.fullmatch(path):
                yield StagedInfo(
                    receipt={"kind": KIND.name, "upload_id": upload_id},
                    path=path,
                    size_bytes=len(upload.body),
                    age_s=time.monotonic() - upload.at_s,
                )

    def withdraw(self) -> None:
        """There are no folders."""

    def close(self) -> None:
        """Nothing is held open."""

    def _key(self, path: str) -> str:
        return self._below + checked_path(path)

    def _shown(self, key: str, digest: PartDigest) -> Presence | None:
        stored = self._bucket.objects.get(key)
        if stored is None:
            return None
        own = stored.metadata.get(_FINGERPRINT) == digest.fingerprint
        fits = len(stored.body) == digest.size_bytes
        return Presence.VISIBLE if own and fits else Presence.FOREIGN

    def _staged(self, key: str, upload_id: str, digest: PartDigest) -> bool:
        try:
            return len(self._bucket.find(key, upload_id).body) == digest.size_bytes
        except Gone:
            return False


def _upload_id(receipt: Receipt) -> str:
    upload_id = receipt.get("upload_id")
    if receipt.get("kind") != KIND.name or not isinstance(upload_id, str):
        raise DestinationRefused("the receipt was not written by an object store")
    return upload_id
