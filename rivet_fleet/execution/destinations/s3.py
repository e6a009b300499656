"""A bucket of Amazon S3, or of a service that speaks its protocol.

A part is a multipart upload under its final key: invisible until it is completed, which is asked
for with ``If-None-Match: *``. A single piece of any size is a legal upload, so that there is one
way for files of all sizes. Credentials, endpoint, sessions and retries are s3fs's; what commits is
asked of the service itself (``call_s3``).
Tokens: ``{"upload_id": …}``. ETags are none of them, because a listing does not give them back.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import importlib
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from rivet_fleet.contracts.destination import (
    BUCKET_SETTINGS,
    DestinationConnection,
    DestinationKind,
    DestinationSetting,
    SettingProblem,
    Settings,
    bucket_problems,
    not_together,
    only_together,
    store_prefix,
    unsafe_prefix,
)
from rivet_fleet.contracts.manifest import PartDigest
from rivet_fleet.errors import DestinationError
from rivet_fleet.execution import storeclient
from rivet_fleet.execution.destination import Destination
from rivet_fleet.execution.durable import PROBE
from rivet_fleet.execution.objects import (
    FINGERPRINT,
    Gone,
    Head,
    ObjectDestination,
    StagedObject,
    Taken,
    Tokens,
)
from rivet_fleet.execution.storeclient import Said, import_store, shared_client, store_error

_OWN = ".amazonaws.com"
_KEYS = ("access_key_env", "secret_key_env")


def _is_own(endpoint: str) -> bool:
    return (urlsplit(endpoint).hostname or "").endswith(_OWN)


def _prefix(settings: Settings, _folder: Path) -> str:
    own = _is_own(settings.get("endpoint", ""))
    return store_prefix("s3", settings, at="" if own else None)


def _problems(settings: Settings) -> Iterator[SettingProblem]:
    yield from bucket_problems(settings)
    yield from only_together(settings, _KEYS)
    ways = (*_KEYS[:1], "session_token_env", "aws_profile")
    yield from not_together(settings, "allow_anonymous", ways)
    yield from not_together(settings, "aws_profile", _KEYS[:1])
    if "session_token_env" in settings and _KEYS[0] not in settings:
        yield SettingProblem(
            setting="session_token_env", reason="goes with access_key_env and secret_key_env"
        )
    if "sse_kms_key_id" in settings and not settings.get("sse", "").startswith("aws:kms"):
        yield SettingProblem(
            setting="sse_kms_key_id", reason="goes with sse", suggestion="add sse: aws:kms"
        )


KIND = DestinationKind(
    name="s3",
    below="prefix",
    settings={
        **BUCKET_SETTINGS,
        "region": DestinationSetting(meaning="Where the bucket is."),
        "access_key_env": DestinationSetting(meaning="Names the variable of the access key's id."),
        "secret_key_env": DestinationSetting(meaning="Names the variable of the secret key."),
        "session_token_env": DestinationSetting(meaning="Names the variable of a session token."),
        "aws_profile": DestinationSetting(
            meaning="A profile of the AWS configuration files. With none of these: the chain of "
            "the AWS libraries (environment, files, workload identity, instance role)."
        ),
        "sse": DestinationSetting(meaning="Encryption at rest: AES256, aws:kms, aws:kms:dsse."),
        "sse_kms_key_id": DestinationSetting(meaning="The key of sse: aws:kms."),
        "storage_class": DestinationSetting(meaning="Such as STANDARD_IA; of parts alone."),
    },
    unsafe=unsafe_prefix,
    prefix=_prefix,
    problems=_problems,
    library="s3fs",
    memory_mb=50,
    redirects=("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
)
_PERMISSIONS = {
    "create_multipart_upload": "s3:PutObject",
    "upload_part": "s3:PutObject",
    "complete_multipart_upload": "s3:PutObject",
    "put_object": "s3:PutObject",
    "list_parts": "s3:ListMultipartUploadParts",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "head_object": "s3:GetObject",
    "get_object": "s3:GetObject",
    "list_objects_v2": "s3:ListBucket",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
    "delete_object": "s3:DeleteObject",
}
_HINTS = {
    "NoSuchBucket": "make the bucket, or correct bucket, region or endpoint: none is ever made",
    "RequestTimeTooSkewed": "the clock of this host is wrong by more than the service allows",
    "ExpiredToken": "the credentials have expired: renew them where they come from",
    "SignatureDoesNotMatch": "the secret key is not that of the access key",
    "InvalidAccessKeyId": "the service does not know the access key",
}
_CREDENTIALS = re.compile("Credential|Token|Profile|SSO")
"""In the names of botocore's errors before anything is asked of the service."""
_REGION = re.compile(r"[a-z0-9-]{2,40}")
_SWEPT = "NoSuchUpload"
"""Of a piece: somebody aborted the upload meanwhile. The next attempt begins another."""
_DENIED = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired")
"""Answered with 400, and of the same kind as 403."""
_BUSY = ("SlowDown", "InternalError", "RequestTimeout", "OperationAborted")
"""Whatever number they come with: a 200 may hold one."""
_READ_BYTES = 4 * 1024 * 1024
_UNASKED_BYTES_MAX = 1024 * 1024
"""Larger ones are sent in blocks, and never stand in memory a second time."""
_ABORTS_MAX = 5
_CONFLICTS_MAX = 5
_NO_KEY = ("404", "NoSuchKey")
_NO_UPLOAD = ("NoSuchUpload",)
_NOT_WHOLE = ("NoSuchUpload", "InvalidPart", "InvalidPartOrder", "EntityTooSmall")
_FAILED_CONDITION = ("412", "PreconditionFailed")
_NO_CONDITIONS = ("501", "NotImplemented")
_CONFLICT = "ConditionalRequestConflict"
_CONNECT_TIMEOUT_S = 10
_READ_TIMEOUT_S = 30  # ten times in a row, while nobody else may have the chunk

Piece = tuple[int, str, int]
"""Number, ETag, bytes."""


def open_destination(connection: DestinationConnection, *, create: bool = True) -> Destination:
    """The prefix of a bucket. Connects to nothing yet; a bucket is never made. Raises ConfigError
    where s3fs is not installed."""
    bucket, below = storeclient.bucket_of(connection)
    s3fs = import_store("s3fs", KIND.name)
    store = S3Store(s3fs, bucket, connection)
    return ObjectDestination(store, kind=KIND.name, uri=connection.prefix, below=below)


def _made(s3fs: ModuleType, connection: DestinationConnection) -> Any:
    options, secret = connection.options, connection.secrets
    endpoint = options.get("endpoint")
    # Without a region a service of one's own is asked by the name that most of them have.
    region = options.get("region") or ("us-east-1" if endpoint else None)
    style = "path" if endpoint and not _is_own(endpoint) else "auto"
    return s3fs.S3FileSystem(
        anon="allow_anonymous" in options,
        key=secret.get("access_key_env"),
        secret=secret.get("secret_key_env"),
        token=secret.get("session_token_env"),
        endpoint_url=endpoint,
        client_kwargs={"region_name": region} if region else {},
        config_kwargs={
            # s3fs repeats around it: about ten tries in five seconds.
            "retries": {"max_attempts": 1},
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "read_timeout": _READ_TIMEOUT_S,
            "s3": {"addressing_style": style},
            "ignore_configured_endpoint_urls": True,
            # Every piece has its MD5. Old services would store a trailer as data.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        },
        skip_instance_cache=True,
        use_listings_cache=False,
        **({"profile": options["aws_profile"]} if "aws_profile" in options else {}),
    )


def _words(connection: DestinationConnection, **words: str) -> dict[str, str]:
    """The service's word → what the option of that name says."""
    options = connection.options
    return {word: options[name] for name, word in words.items() if name in options}


class _Upload:
    """One multipart upload on its way."""

    def __init__(self, store: S3Store, key: str, upload_id: str) -> None:
        self._store = store
        self._key = key
        self._pieces: list[Piece] = []
        self.tokens: Tokens = {"upload_id": upload_id}

    def send(self, piece: bytes, md5: bytes, *, last: bool) -> None:
        """One ``UploadPart`` with its ``Content-MD5``."""
        number = len(self._pieces) + 1
        # Of ``bytes`` the library makes a file, and for a file it asks the service first whether it
        # may send (``Expect: 100-continue``): a round trip that is worth it for a large one alone.
        body = bytearray(piece) if len(piece) <= _UNASKED_BYTES_MAX else piece
        words = {"UploadId": self.tokens["upload_id"], "PartNumber": number, "Body": body}
        told = base64.b64encode(md5).decode()
        answer = self._store.ask("upload_part", Key=self._key, ContentMD5=told, **words)
        self._pieces.append((number, answer["ETag"], len(piece)))
        if last:
            self._store.sent[self.tokens["upload_id"]] = self._pieces


class S3Store:
    """One bucket, see ``objects.ObjectStore``."""

    def __init__(self, s3fs: ModuleType, bucket: str, connection: DestinationConnection) -> None:
        self._bucket = bucket
        self._uri = connection.prefix
        self._fs = shared_client(connection, partial(_made, s3fs))
        self._sync: Callable[..., Any] = importlib.import_module("fsspec.asyn").sync
        self._failures = _failures()
        self._own_service = "endpoint" not in connection.options
        self._sse = _words(connection, sse="ServerSideEncryption", sse_kms_key_id="SSEKMSKeyId")
        self._storage = _words(connection, storage_class="StorageClass")
        self._condition = {"IfNoneMatch": "*"}
        self.sent: dict[str, Sequence[Piece]] = {}
        """Pieces of own uploads that are not committed yet, so that they need not be asked for."""
        self._answered_s = float("-inf")
        """When the bucket was last seen, by the monotonic clock."""

    def begin(self, key: str, digest: PartDigest) -> _Upload:
        """``CreateMultipartUpload`` with the fingerprint as metadata of the object to be."""
        answer = self.ask(
            "create_multipart_upload",
            Key=key,
            Metadata={FINGERPRINT: digest.fingerprint},
            **self._sse,
            **self._storage,
        )
        return _Upload(self, key, answer["UploadId"])

    def commit(self, tokens: Tokens, key: str, digest: PartDigest) -> bool:
        """``CompleteMultipartUpload`` of the pieces that the service has."""
        upload_id = tokens["upload_id"]
        # Taken away and not kept: where the answer is lost, the next try asks what the service has.
        pieces = self.sent.pop(upload_id, None) or self._pieces(upload_id, key)
        if pieces is None or sum(size for _, _, size in pieces) != digest.size_bytes:
            raise Gone
        parts = [{"PartNumber": number, "ETag": etag} for number, etag, _ in pieces]
        self._create(
            "complete_multipart_upload", key, UploadId=upload_id, MultipartUpload={"Parts": parts}
        )
        return True

    def staged(self, tokens: Tokens, key: str, digest: PartDigest) -> bool:
        """``ListParts``."""
        pieces = self._pieces(tokens["upload_id"], key)
        return pieces is not None and sum(size for _, _, size in pieces) == digest.size_bytes

    def discard(self, tokens: Tokens, key: str) -> None:
        """``AbortMultipartUpload`` until ``ListParts`` does not know it: pieces that are on their
        way may outlive one abort."""
        upload_id = tokens["upload_id"]
        self.sent.pop(upload_id, None)
        for _ in range(_ABORTS_MAX):
            self._abort(upload_id, key)
            if self._pieces(upload_id, key) is None:
                return
        raise store_error(
            self._uri, "s3:AbortMultipartUpload", status=None, code="the upload is still there"
        )

    def drop(self, tokens: Tokens, key: str) -> None:
        """One abort."""
        self.sent.pop(tokens["upload_id"], None)
        self._abort(tokens["upload_id"], key)

    def head(self, key: str) -> Head | None:
        """``HeadObject``."""
        try:
            found = self.ask("head_object", _NO_KEY, Key=key)
        except Said:
            if time.monotonic() - self._answered_s > storeclient.TRUSTED_S:
                # The answer has no code: of an absent bucket it is the same.
                self.ask("list_objects_v2", Prefix=key, MaxKeys=1)
            return None
        # Names of metadata travel as headers, whose case services and proxies change.
        told = {name.lower(): text for name, text in found.get("Metadata", {}).items()}
        return Head(key=key, size_bytes=found["ContentLength"], fingerprint=told.get(FINGERPRINT))

    def list(self, prefix: str) -> Iterator[Head]:
        """``ListObjectsV2``, page by page."""
        more: Mapping[str, str] = {}
        while True:
            page = self.ask("list_objects_v2", Prefix=prefix, **more)
            for one in page.get("Contents", ()):
                yield Head(key=one["Key"], size_bytes=one["Size"])
            if not page.get("IsTruncated"):
                return
            more = storeclient.gone_on(more, {"ContinuationToken": page["NextContinuationToken"]})

    def list_staged(self, prefix: str) -> Iterator[StagedObject]:
        """``ListMultipartUploads`` and the sizes of each one's pieces."""
        found = list(self._uploads(prefix))
        # Of services that list uploads by whole keys alone an empty list says nothing.
        if not self._own_service and not found and not self._lists_by_prefix(prefix):
            found = [one for one in self._uploads("") if one[0].startswith(prefix)]
        for key, upload_id, age_s in found:
            pieces = self._pieces(upload_id, key)
            if pieces is not None:  # else committed, or discarded, behind the listing
                yield StagedObject(
                    key=key,
                    tokens={"upload_id": upload_id},
                    size_bytes=sum(size for _, _, size in pieces),
                    age_s=age_s,
                )

    def get(self, key: str) -> Iterator[bytes]:
        """``GetObject`` by ranges: all of the ETag that the first one had."""
        at, end = 0, 1
        same: dict[str, str] = {}
        expected = (*_NO_KEY, *_FAILED_CONDITION, "416", "InvalidRange")
        while at < end:
            span = f"bytes={at}-{at + _READ_BYTES - 1}"
            try:
                answer = self.ask("get_object", expected, Key=key, Range=span, **same)
            except Said as said:
                if said.code in _NO_KEY:
                    raise Gone from None
                if said.code in _FAILED_CONDITION:
                    raise self._interrupted("replaced while it was read") from None
                return  # an empty object has no byte to begin with
            if answer["ContentLength"] > _READ_BYTES:
                # All of it, whatever was asked for: it need not fit into memory.
                raise self._interrupted("more than was asked for")
            block = self._body(answer)
            if len(block) != answer["ContentLength"]:
                raise self._interrupted("a short answer")
            end = storeclient.end_of_range(answer.get("ContentRange"), at, len(block))
            yield block
            at += len(block)
            same = {"IfMatch": answer["ETag"]}

    def put(self, key: str, body: bytes, *, new: bool) -> None:
        """``PutObject``."""
        md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        words = {"Body": body, "ContentMD5": md5, **self._sse}
        if new:
            self._create("put_object", key, **words)
        else:
            self.ask("put_object", Key=key, **words)

    def delete(self, key: str) -> None:
        """``DeleteObject``."""
        self.ask("delete_object", Key=key)

    def close(self) -> None:
        """Its connections are other prefixes', too; they end with the process."""

    def ask(self, method: str, expected: tuple[str, ...] = (), /, **words: Any) -> dict[str, Any]:
        """One request about the bucket, repeated by s3fs while it may help. Raises Said for codes
        (or, where there is none, HTTP's numbers) that are ``expected``."""
        with self._border(method, expected):
            answer: dict[str, Any] = self._fs.call_s3(method, Bucket=self._bucket, **words)
        self._answered_s = time.monotonic()
        return answer

    def _body(self, answer: Mapping[str, Any]) -> bytes:
        with self._border("get_object"):
            body: bytes = self._sync(self._fs.loop, answer["Body"].read)
        return body

    @contextlib.contextmanager
    def _border(self, method: str, expected: tuple[str, ...] = ()) -> Iterator[None]:
        try:
            yield
        except self._failures as error:
            raise self._meaning(method, error, expected) from error

    def _interrupted(self, why: str) -> DestinationError:
        return store_error(self._uri, "s3:GetObject", status=None, code=why)

    def _create(self, method: str, key: str, **words: Any) -> None:
        """A request that shall find nothing under ``key``. Raises Taken and Gone."""
        expected = (*_NOT_WHOLE, *_FAILED_CONDITION, *_NO_CONDITIONS, _CONFLICT)
        for _ in range(_CONFLICTS_MAX):
            try:
                self.ask(method, expected, Key=key, **self._condition, **words)
                return
            except Said as said:
                if said.code in _NOT_WHOLE:
                    raise Gone from None
                if said.code in _FAILED_CONDITION:
                    raise Taken from None
                if said.code in _NO_CONDITIONS:
                    # What does not even take the condition leaves the look alone.
                    self._condition = {}
                    if self.head(key) is not None:
                        raise Taken from None
                # Else two such requests met at this moment: one of them has the name soon.
        raise store_error(self._uri, _PERMISSIONS[method], status=409, code=_CONFLICT)

    def _abort(self, upload_id: str, key: str) -> None:
        with contextlib.suppress(Said):
            self.ask("abort_multipart_upload", _NO_UPLOAD, Key=key, UploadId=upload_id)

    def _pieces(self, upload_id: str, key: str) -> Sequence[Piece] | None:
        """What the service has of an upload; None when it does not know it."""
        found: list[Piece] = []
        more: Mapping[str, int] = {}
        while True:
            try:
                page = self.ask("list_parts", _NO_UPLOAD, Key=key, UploadId=upload_id, **more)
            except Said:
                return None
            found += [(p["PartNumber"], p["ETag"], p["Size"]) for p in page.get("Parts", ())]
            if not page.get("IsTruncated"):
                return found
            more = storeclient.gone_on(more, {"PartNumberMarker": page["NextPartNumberMarker"]})

    def _uploads(self, prefix: str) -> Iterator[tuple[str, str, float]]:
        """Key, upload and age in seconds by the service's own clock."""
        more: Mapping[str, str] = {}
        while True:
            page = self.ask("list_multipart_uploads", Prefix=prefix, **more)
            now = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
            for one in page.get("Uploads", ()):
                begun: datetime = one["Initiated"]
                yield one["Key"], one["UploadId"], (now - begun).total_seconds()
            if not page.get("IsTruncated"):
                return
            names = ("KeyMarker", "UploadIdMarker")
            more = storeclient.gone_on(more, {name: page[f"Next{name}"] for name in names})

    def _lists_by_prefix(self, prefix: str) -> bool:
        """False where uploads are listed for a whole key or for none at all: seen by beginning
        one."""
        key = f"{prefix}{PROBE}.{secrets.token_hex(8)}"
        upload_id = self.ask("create_multipart_upload", Key=key)["UploadId"]
        try:
            return any(found == key for found, *_ in self._uploads(prefix))
        finally:
            self._abort(upload_id, key)

    def _meaning(
        self, method: str, error: BaseException, expected: tuple[str, ...]
    ) -> DestinationError | Said:
        """Ours for the error that s3fs raised: by the service's own code, which stands in the
        cause; s3fs gives different services' answers one errno."""
        response = _response(error)
        if response is None:
            name = type(error.__cause__ or error).__name__
            status = 403 if _CREDENTIALS.search(name) else None
            return store_error(self._uri, _PERMISSIONS[method], status=status, code=name)
        about = response.get("ResponseMetadata", {})
        code = str(response.get("Error", {}).get("Code", ""))
        if code in expected:
            return Said(code)
        hint, status = _HINTS.get(code), about.get("HTTPStatusCode")
        region = about.get("HTTPHeaders", {}).get("x-amz-bucket-region", "")
        if status in (301, 307, 400) and _REGION.fullmatch(region):
            hint = f"the bucket is in {region}: write region: {region}"
        status = 403 if code in _DENIED else 503 if code in (*_BUSY, _SWEPT) else status
        return store_error(self._uri, _PERMISSIONS[method], status=status, code=code, hint=hint)


def _failures() -> tuple[type[BaseException], ...]:
    """What s3fs, and what it stands on, raise."""
    from aiohttp import ClientError as HttpError
    from botocore.exceptions import BotoCoreError, ClientError

    return (OSError, ClientError, BotoCoreError, HttpError, asyncio.TimeoutError)


def _response(error: BaseException) -> dict[str, Any] | None:
    for one in (error, error.__cause__, error.__context__):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            return response
    return None
