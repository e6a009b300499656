"""An object store in this process's memory, under the destination that all stores share.

A bucket may know conditional writes or ignore them, show other tools' uploads, and answer with
something else than what it has done. So a success is no proof here.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
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
from rivet_fleet.contracts.manifest import PartDigest
from rivet_fleet.errors import DestinationUnavailable
from rivet_fleet.execution.destination import Destination
from rivet_fleet.execution.objects import (
    FINGERPRINT,
    Gone,
    Head,
    ObjectDestination,
    StagedObject,
    Taken,
    Tokens,
)
from rivet_fleet.execution.storeclient import store_error

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
    redirects=("OBJECTS_ENDPOINT",),
)
_buckets: dict[str, Bucket] = {}


def open_destination(connection: DestinationConnection, *, create: bool = True) -> Destination:
    """A bucket, by its authority; it lives as long as the process. Needs no network, and its
    callers see that it was given its secrets: they stand in ``opened``."""
    opened.append(connection)
    bucket = _buckets.setdefault(authority_of(connection.prefix), Bucket())
    return destination_of(bucket, connection.prefix)


def destination_of(bucket: Bucket, uri: str) -> ObjectDestination:
    """Two of one bucket are two processes' views."""
    below = uri.partition("://")[2].partition("/")[2]
    return ObjectDestination(MemoryStore(bucket), kind=KIND.name, uri=uri, below=below)


opened: list[DestinationConnection] = []


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
    on_their_way: list[tuple[str, Stored]] | None = None
    """A list: commits are taken into it, without an answer. What is aborted meanwhile is proven
    gone, and they are carried out all the same, when the test says so."""
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
            if self.on_their_way is not None:
                self.on_their_way.append((key, Stored(upload.body, upload.metadata)))
                raise ConnectionError
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


class _Sending:
    """One part on its way into a bucket."""

    def __init__(self, bucket: Bucket, upload_id: str) -> None:
        self._bucket = bucket
        self._upload_id = upload_id

    @property
    def tokens(self) -> Tokens:
        """Its upload."""
        return {"upload_id": self._upload_id}

    def send(self, piece: bytes, md5: bytes, *, last: bool) -> None:
        """Add to it."""
        assert md5 == hashlib.md5(piece, usedforsecurity=False).digest()
        self._bucket.send(self._upload_id, piece)


class MemoryStore:
    """A bucket as the generic destination sees it."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def begin(self, key: str, digest: PartDigest) -> _Sending:
        """Empty."""
        return _Sending(self._bucket, self._bucket.begin(key, {FINGERPRINT: digest.fingerprint}))

    def commit(self, tokens: Tokens, key: str, digest: PartDigest) -> bool:
        """As one request."""
        if not self.staged(tokens, key, digest):
            raise Gone
        with _answered():
            self._bucket.complete(key, tokens["upload_id"], if_absent=True)
        return True

    def staged(self, tokens: Tokens, key: str, digest: PartDigest) -> bool:
        """By its size."""
        try:
            upload = self._bucket.find(key, tokens["upload_id"])
        except Gone:
            return False
        return len(upload.body) == digest.size_bytes

    def discard(self, tokens: Tokens, key: str) -> None:
        """Abort until the store does not know it any more."""
        for _ in range(_ABORTS_MAX):
            try:
                with _answered():
                    self._bucket.abort(key, tokens["upload_id"])
            except Gone:
                return
            except DestinationUnavailable:
                continue
        raise DestinationUnavailable(f"{key} may still become visible")

    def drop(self, tokens: Tokens, key: str) -> None:
        """The same: what is visible is another thing."""
        self.discard(tokens, key)

    def head(self, key: str) -> Head | None:
        """With what its writer said of it."""
        stored = self._bucket.objects.get(key)
        return _head(key, stored) if stored else None

    def list(self, prefix: str) -> Iterator[Head]:
        """As it is now."""
        for key, stored in sorted(self._bucket.objects.items()):
            if key.startswith(prefix):
                yield _head(key, stored)

    def list_staged(self, prefix: str) -> Iterator[StagedObject]:
        """Everybody's."""
        with self._bucket.lock:
            uploads = sorted(self._bucket.uploads.items())
        for upload_id, upload in uploads:
            if upload.key.startswith(prefix):
                yield StagedObject(
                    key=upload.key,
                    tokens={"upload_id": upload_id},
                    size_bytes=len(upload.body),
                    age_s=time.monotonic() - upload.at_s,
                )

    def get(self, key: str) -> Iterator[bytes]:
        """In two blocks."""
        stored = self._bucket.objects.get(key)
        if stored is None:
            raise Gone
        middle = len(stored.body) // 2
        yield from (stored.body[:middle], stored.body[middle:])

    def put(self, key: str, body: bytes, *, new: bool) -> None:
        """As one request."""
        with _answered():
            self._bucket.put(key, body, if_absent=new)

    def delete(self, key: str) -> None:
        """As one request."""
        self._bucket.delete(key)

    def close(self) -> None:
        """Nothing is held open."""


@contextlib.contextmanager
def _answered() -> Iterator[None]:
    try:
        yield
    except ConnectionError:
        raise store_error("objects://", "this", status=None, code="ConnectionError") from None


def _head(key: str, stored: Stored) -> Head:
    fingerprint = stored.metadata.get(FINGERPRINT)
    return Head(key=key, size_bytes=len(stored.body), fingerprint=fingerprint)
