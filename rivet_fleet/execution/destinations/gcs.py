"""A bucket of Google Cloud Storage.

It knows no upload that is committed later: bytes are staged as an object of their own below
``.staging/`` of the prefix, and a rewrite inside the store shows them under their name, which is
asked for with ``ifGenerationMatch=0``. What an object is, is told by the MD5 that the store itself
computes; composed objects have none, so nothing is composed.
Credentials, sessions and retries are gcsfs's; the requests are made over its ``call``.

Tokens: ``{"nonce": …, "generation": …}``. The address of a resumable upload is none: whoever has it
may write.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import importlib
import json
import logging
import secrets
import time
import warnings
from collections.abc import Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote, urlsplit

from rivet_fleet.contracts.destination import (
    BUCKET_SETTINGS,
    DestinationConnection,
    DestinationKind,
    DestinationSetting,
    SettingProblem,
    Settings,
    bucket_problems,
    not_together,
    store_prefix,
    unsafe_prefix,
)
from rivet_fleet.contracts.manifest import PartDigest
from rivet_fleet.errors import DestinationError
from rivet_fleet.execution import storeclient
from rivet_fleet.execution.destination import Destination
from rivet_fleet.execution.objects import (
    STAGING,
    Gone,
    Head,
    ObjectDestination,
    StagedObject,
    Taken,
    Tokens,
)
from rivet_fleet.execution.storeclient import Said, import_store, shared_client, store_error

_HOST = "https://storage.googleapis.com"


def _prefix(settings: Settings, _folder: Path) -> str:
    own = urlsplit(settings.get("endpoint", _HOST)).hostname == urlsplit(_HOST).hostname
    return store_prefix("gs", settings, at="" if own else None)


def _problems(settings: Settings) -> Iterator[SettingProblem]:
    yield from bucket_problems(settings)
    yield from not_together(settings, "allow_anonymous", ("credentials_file",))


KIND = DestinationKind(
    name="gcs",
    below="prefix",
    settings={
        **BUCKET_SETTINGS,
        "credentials_file": DestinationSetting(
            meaning="A file with a service account or a workload identity, found by each worker. "
            "With none of these: application default credentials."
        ),
    },
    unsafe=unsafe_prefix,
    prefix=_prefix,
    problems=_problems,
    library="gcsfs",
    memory_mb=90,
    redirects=("STORAGE_EMULATOR_HOST",),
)
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_GET, _LIST = "storage.objects.get", "storage.objects.list"
_CREATE, _DELETE = "storage.objects.create", "storage.objects.delete"
_HINTS = {
    "NotFound": "make the bucket, or correct bucket and endpoint: none is ever made",
    # gcsfs tells alike that a token was refused and that none was given.
    "Unauthenticated": "the credentials are refused, have expired, or this host's clock is wrong",
    "DefaultCredentialsError": "no application default credentials are here: write "
    "credentials_file, or give this process an identity",
}
_ABSENT, _TAKEN, _EMPTY = "404", "412", "416"
_SWEPT = (_ABSENT, "410")  # of an upload that was begun
_BOUNDARY = "rivet-fleet-7c1d"
_READ_BYTES = 4 * 1024 * 1024
_TRIES_MAX = 5
_CONNECT_TIMEOUT_S = 10
_READ_TIMEOUT_S = 60
_REQUIRED = ("name", "size", "generation", "timeCreated")
_FIELDS = ",".join((*_REQUIRED, "md5Hash"))


def open_destination(connection: DestinationConnection, *, create: bool = True) -> Destination:
    """The prefix of a bucket. Connects to nothing yet; a bucket is never made. Raises ConfigError
    where gcsfs is not installed."""
    bucket, below = storeclient.bucket_of(connection)
    store = GcsStore(import_store("gcsfs", KIND.name), bucket, below, connection)
    return ObjectDestination(store, kind=KIND.name, uri=connection.prefix, below=below)


def _made(gcsfs: ModuleType, connection: DestinationConnection) -> Any:
    options = connection.options
    # It writes tracebacks with the addresses of uploads.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL + 1)
    timeout = importlib.import_module("aiohttp").ClientTimeout(
        sock_connect=_CONNECT_TIMEOUT_S, sock_read=_READ_TIMEOUT_S
    )
    # Not the kind that asks of each bucket what it is, by another protocol.
    return gcsfs.core.GCSFileSystem(
        access="read_write",
        token="anon" if "allow_anonymous" in options else _credentials(options),
        endpoint_url=options.get("endpoint", _HOST).rstrip("/"),
        requests_timeout=timeout,
        skip_instance_cache=True,
        use_listings_cache=False,
    )


def _credentials(options: Settings) -> Any:
    """Read here: of a path that is not there gcsfs would make a token, and send it."""
    auth = importlib.import_module("google.auth")
    if "credentials_file" not in options:
        return auth.default(scopes=[_SCOPE])[0]
    with warnings.catch_warnings():
        # Of files that somebody else sent; this one is named by the configuration.
        warnings.simplefilter("ignore", DeprecationWarning)
        return auth.load_credentials_from_file(options["credentials_file"], scopes=[_SCOPE])[0]


class _Upload:
    """One object on its way into the staging folder."""

    def __init__(self, store: GcsStore, key: str, digest: PartDigest) -> None:
        self._store = store
        self._digest = digest
        self._session: str | None = None
        self._sent = 0
        nonce = secrets.token_hex(8)
        self._name = store.staged_name(key, nonce)
        self.tokens: Tokens = {"nonce": nonce}

    def send(self, piece: bytes, md5: bytes, *, last: bool) -> None:
        """Whole where it is one piece; else what the resumable upload has not got yet."""
        store, about = self._store, _about(self._name, self._digest.md5_base64)
        found: Mapping[str, Any] | None = None
        # Said: an answer was lost, and the store has it; or the upload was swept, and it has not.
        with contextlib.suppress(Said):
            if self._session is None and last:
                found = store.create(about, piece)
            else:
                if self._session is None:
                    self._session = store.resumable(about)
                found = self._send_rest(self._session, piece)
        self._sent += len(piece)
        if last:
            found = found or store.found(self._name)
            if found is None or not _is_whole(found, self._digest):
                raise store.failed(_CREATE, "not stored whole")
            self.tokens = {**self.tokens, "generation": found["generation"]}

    def _send_rest(self, session: str, piece: bytes) -> Mapping[str, Any] | None:
        at, end, total = self._sent, self._sent + len(piece), self._digest.size_bytes
        for _ in range(_TRIES_MAX):
            span = {"Content-Range": f"bytes {at}-{end - 1}/{total}"}
            rest = piece[at - self._sent :]
            words = {"headers": span, "data": rest}
            answer = self._store.ask(_CREATE, (_TAKEN, *_SWEPT), "PUT", session, **words)
            if answer[1]:
                return self._store.parsed(_CREATE, answer)
            # Without the header, nothing of the upload has been kept.
            kept = answer[0].get("Range")
            at = self._sent if kept is None else int(kept.rpartition("-")[2]) + 1
            if at >= end != total:
                return None
        raise self._store.failed(_CREATE, "the upload does not go on")


class GcsStore:
    """One bucket, see ``objects.ObjectStore``. ``below``: where its staging folder is."""

    def __init__(
        self, gcsfs: ModuleType, bucket: str, below: str, connection: DestinationConnection
    ) -> None:
        self._bucket = bucket
        self._below = f"{below}/"
        self._uri = connection.prefix
        self._connection = connection
        self._make = partial(_made, gcsfs)
        self._failures = _failures()
        endpoint = connection.options.get("endpoint", _HOST).rstrip("/")
        self._upload_url = f"{endpoint}/upload/storage/v1/b/{quote(bucket, safe='')}/o"
        self._answered_s = float("-inf")
        """When the bucket was last seen, by the monotonic clock."""

    def begin(self, key: str, digest: PartDigest) -> _Upload:
        """Nothing is asked: what is staged has a name of its own."""
        return _Upload(self, key, digest)

    def commit(self, tokens: Tokens, key: str, digest: PartDigest) -> bool:
        """``objects.rewrite`` of this generation alone, until it is done."""
        generation = tokens.get("generation")
        if generation is None:
            raise Gone
        names = (self._bucket, self.staged_name(key, tokens["nonce"]), self._bucket, key)
        words = {"sourceGeneration": generation, "ifSourceGenerationMatch": generation}
        while True:
            try:
                answer = self._told(
                    _CREATE,
                    (_ABSENT, _TAKEN),
                    "POST",
                    "b/{}/o/{}/rewriteTo/b/{}/o/{}",
                    *names,
                    ifGenerationMatch="0",
                    **words,
                )
            except Said as said:
                raise (Gone if said.code == _ABSENT else Taken) from None
            # A rewrite is a copy: what was staged is still there, and the caller drops it behind a
            # look.
            if answer.get("done"):
                return False
            if "rewriteToken" not in answer:
                raise self.failed(_CREATE, "neither done nor to be gone on with")
            words["rewriteToken"] = answer["rewriteToken"]

    def staged(self, tokens: Tokens, key: str, digest: PartDigest) -> bool:
        """``objects.get`` of the generation."""
        found = self._staged(tokens, key)
        return found is not None and _is_whole(found, digest)

    def discard(self, tokens: Tokens, key: str) -> None:
        """``objects.delete`` of the generation, until it is not found: in a versioned bucket one
        that is merely not the newest could still be shown."""
        for _ in range(_TRIES_MAX):
            found = self._staged(tokens, key)
            if found is None:
                return
            with contextlib.suppress(Said):
                self._delete(found["name"], generation=found["generation"])
        raise self.failed(_DELETE, "the staged object is still there")

    def drop(self, tokens: Tokens, key: str) -> None:
        """The staged object: what was shown is another one."""
        self._delete(self.staged_name(key, tokens["nonce"]), **_generation(tokens))

    def head(self, key: str) -> Head | None:
        """``objects.get``."""
        found = self.found(key)
        return None if found is None else _head(found)

    def list(self, prefix: str) -> Iterator[Head]:
        """``objects.list``, page by page."""
        for found, _ in self._listed(prefix):
            yield _head(found)

    def list_staged(self, prefix: str) -> Iterator[StagedObject]:
        """What lies below the staging folder."""
        folder = f"{self._below}{STAGING}/"
        for found, now_s in self._listed(folder):
            path, _, nonce = found["name"].removeprefix(folder).rpartition(".")
            if path.startswith(prefix.removeprefix(self._below)) or prefix == self._below:
                yield StagedObject(
                    key=self._below + path,
                    tokens={"nonce": nonce, "generation": found["generation"]},
                    size_bytes=int(found["size"]),
                    age_s=now_s - datetime.fromisoformat(found["timeCreated"]).timestamp(),
                )

    def get(self, key: str) -> Iterator[bytes]:
        """Media of the object by ranges: all of the generation that the first one had."""
        at, end = 0, 1
        same: dict[str, str] = {}
        while at < end:
            span = {"Range": f"bytes={at}-{at + _READ_BYTES - 1}"}
            expected = (_ABSENT, _EMPTY)
            try:
                told = self._object(_GET, expected, "GET", key, alt="media", headers=span, **same)
            except Said as said:
                if said.code == _EMPTY:
                    return  # an empty object has no byte to begin with
                if same:
                    raise self.failed(_GET, "replaced while it was read") from None
                self._see_bucket(key)
                raise Gone from None
            headers, block = told
            end = storeclient.end_of_range(headers.get("Content-Range"), at, len(block))
            yield block
            at += len(block)
            same = {"generation": headers["X-Goog-Generation"]}
            if at < end and len(block) != _READ_BYTES:
                raise self.failed(_GET, "a short answer")

    def put(self, key: str, body: bytes, *, new: bool) -> None:
        """``objects.insert``."""
        md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        try:
            self.create(_about(key, md5), body, new=new)
        except Said:
            raise Taken from None

    def delete(self, key: str) -> None:
        """``objects.delete``."""
        self._delete(key)

    def close(self) -> None:
        """Its connections are other prefixes', too; they end with the process."""

    def staged_name(self, key: str, nonce: str) -> str:
        """Where a part is until it is shown."""
        return f"{self._below}{STAGING}/{key.removeprefix(self._below)}.{nonce}"

    def create(self, about: str, body: bytes, *, new: bool = True) -> dict[str, Any]:
        """All of an object in one request; the store compares its MD5. ``new``: raises Said where
        something has the name."""
        head = f"--{_BOUNDARY}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{about}\r\n"
        head += f"--{_BOUNDARY}\r\nContent-Type: application/octet-stream\r\n\r\n"
        words = {"uploadType": "multipart", **({"ifGenerationMatch": "0"} if new else {})}
        return self._told(
            _CREATE,
            (_TAKEN,) if new else (),
            "POST",
            self._upload_url,
            headers={"Content-Type": f"multipart/related; boundary={_BOUNDARY}"},
            data=b"".join((head.encode(), body, f"\r\n--{_BOUNDARY}--".encode())),
            **words,
        )

    def resumable(self, about: str) -> str:
        """The address of a new upload, with which anybody may write: never kept, never told."""
        headers, _ = self.ask(
            _CREATE,
            (),
            "POST",
            self._upload_url,
            headers={"Content-Type": "application/json; charset=UTF-8"},
            data=about.encode(),
            uploadType="resumable",
            ifGenerationMatch="0",
        )
        session = str(headers.get("Location", ""))
        # Rows would go wherever an answer says, and the address lets anybody write.
        if urlsplit(session)[:2] != urlsplit(self._upload_url)[:2]:  # in clear is elsewhere, too
            raise self.failed(_CREATE, "an upload elsewhere")
        return session

    def found(self, key: str, **words: str) -> dict[str, Any] | None:
        """What the store says of an object."""
        try:
            told = self._object(_GET, (_ABSENT,), "GET", key, fields=_FIELDS, **words)
        except Said:
            self._see_bucket(key)
            return None
        return self._known(_GET, self.parsed(_GET, told))

    def failed(self, verb: str, code: str) -> DestinationError:
        """An answer that does not say what it should."""
        return store_error(self._uri, verb, status=None, code=code)

    def ask(
        self,
        verb: str,
        expected: tuple[str, ...],
        method: str,
        path: str,
        *names: str,
        **words: Any,
    ) -> tuple[Mapping[str, str], bytes]:
        """One request, repeated by gcsfs while it may help: headers and body. Raises Said for the
        numbers of HTTP that are ``expected``."""
        try:
            client = shared_client(self._connection, self._make)
            answer: tuple[Mapping[str, str], bytes] = client.call(method, path, *names, **words)
        except self._failures as error:
            raise self._meaning(verb, error, expected) from error
        self._answered_s = time.monotonic()
        return answer

    def _object(
        self, verb: str, expected: tuple[str, ...], method: str, key: str, **words: Any
    ) -> tuple[Mapping[str, str], bytes]:
        return self.ask(verb, expected, method, "b/{}/o/{}", self._bucket, key, **words)

    def _told(self, verb: str, *request: Any, **words: Any) -> dict[str, Any]:
        return self.parsed(verb, self.ask(verb, *request, **words))

    def parsed(self, verb: str, answer: tuple[Mapping[str, str], bytes]) -> dict[str, Any]:
        """What the store says in JSON."""
        try:
            told = json.loads(answer[1])
        except ValueError:
            told = None
        if not isinstance(told, dict) or "error" in told:
            raise self.failed(verb, "an answer that is none")
        return told

    def _known(self, verb: str, found: dict[str, Any]) -> dict[str, Any]:
        if not all(isinstance(found.get(name), str) for name in _REQUIRED):
            raise self.failed(verb, "an object without a size, a name or a generation")
        return found

    def _staged(self, tokens: Tokens, key: str) -> dict[str, Any] | None:
        return self.found(self.staged_name(key, tokens["nonce"]), **_generation(tokens))

    def _delete(self, name: str, **words: str) -> None:
        with contextlib.suppress(Said):
            self._object(_DELETE, (_ABSENT,), "DELETE", name, **words)

    def _listed(self, prefix: str) -> Iterator[tuple[dict[str, Any], float]]:
        """Objects, and the time by the store's own clock."""
        more: Mapping[str, str] = {}
        fields = f"nextPageToken,items({_FIELDS})"
        while True:
            words = {"prefix": prefix, "fields": fields, **more}
            answer = self.ask(_LIST, (), "GET", "b/{}/o", self._bucket, **words)
            now_s = parsedate_to_datetime(answer[0]["Date"]).timestamp()
            page = self.parsed(_LIST, answer)
            for found in page.get("items", ()):
                yield self._known(_LIST, found), now_s
            if "nextPageToken" not in page:
                return
            more = storeclient.gone_on(more, {"pageToken": page["nextPageToken"]})

    def _see_bucket(self, key: str) -> None:
        """An absent object and an absent bucket are answered alike: nothing may be taken for lost
        because somebody renamed a bucket."""
        if time.monotonic() - self._answered_s > storeclient.TRUSTED_S:
            words = {"prefix": key, "maxResults": "1", "fields": "kind"}
            self.ask(_LIST, (), "GET", "b/{}/o", self._bucket, **words)

    def _meaning(
        self, verb: str, error: BaseException, expected: tuple[str, ...]
    ) -> DestinationError | Said:
        """Ours for the error that gcsfs raised, which has different ones for HTTP's numbers."""
        name = type(error).__name__
        status = getattr(error, "code", None) or _STATUS.get(name)
        refused = isinstance(error, self._failures[:1]) and name != "TransportError"
        if (name == "OSError" and str(error).startswith("Forbidden")) or (not status and refused):
            status = 403
        if str(status) in expected:
            return Said(str(status))
        status = int(status) if status else None
        code = {404: "NotFound", 401: "Unauthenticated"}.get(status or 0, name)
        return store_error(self._uri, verb, status=status, code=code, hint=_HINTS.get(code))


_STATUS = {
    "FileNotFoundError": 404,
    "FileExistsError": 412,
    "ValueError": 400,
    "JSONDecodeError": 403,
    "NonRetryableError": 403,
    "MalformedError": 403,
}


def _failures() -> tuple[type[BaseException], ...]:
    """What gcsfs, and what it stands on, raise."""
    from aiohttp import ClientError

    auth = importlib.import_module("google.auth.exceptions").GoogleAuthError
    retry = importlib.import_module("gcsfs.retry")
    web = importlib.import_module("requests").RequestException
    own = (retry.HttpError, retry.NonRetryableError, retry.ChecksumError)
    return (auth, *own, web, ClientError, OSError, ValueError, RuntimeError, asyncio.TimeoutError)


def _about(name: str, md5_base64: str) -> str:
    return json.dumps({"name": name, "md5Hash": md5_base64})


def _generation(tokens: Tokens) -> dict[str, str]:
    return {"generation": tokens["generation"]} if "generation" in tokens else {}


def _is_whole(found: Mapping[str, Any], digest: PartDigest) -> bool:
    return int(found["size"]) == digest.size_bytes and found.get("md5Hash") == digest.md5_base64


def _head(found: Mapping[str, Any]) -> Head:
    return Head(key=found["name"], size_bytes=int(found["size"]), md5_base64=found.get("md5Hash"))
