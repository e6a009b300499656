"""A container of Azure Blob Storage (and ADLS Gen2 over its blob endpoint).

A part is staged as blocks under its final name: invisible until a block list is committed, which is
asked for with ``If-None-Match: *``. Blocks know no abort, and committing any list drops all other
blocks of the name. So what is discarded is committed and removed again.
Loop and sessions are adlfs's, the requests are made over its ``service_client``.

Tokens: ``{"upload": …}``, which every block's id begins with: when it began by the service's clock
(a listing does not tell), a random number, and the MD5 of the part (so that discarding can show a
part only as what it is).
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import math
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from rivet_fleet.contracts.destination import (
    BUCKET_SETTINGS,
    DestinationConnection,
    DestinationKind,
    DestinationSetting,
    SettingProblem,
    Settings,
    bucket_problems,
    endpoint_place,
    not_together,
    store_prefix,
    unsafe_prefix,
)
from rivet_fleet.contracts.manifest import PartDigest
from rivet_fleet.errors import DestinationError
from rivet_fleet.execution import storeclient
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
from rivet_fleet.execution.storeclient import Said, import_store, shared_client, store_error

_HOST = ".blob.core.windows.net"


def _account_url(settings: Settings) -> str:
    """Where the account is: by the service's own name; by an endpoint that is named as the account
    is; or below any other one (Azure Stack, emulators)."""
    account, given = settings.get("account_name", ""), _bare(settings).get("endpoint")
    if given is None:
        return f"https://{account}{_HOST}"
    host = urlsplit(given).hostname or ""
    return given if host.partition(".")[0] == account else f"{given}/{account}"


def _bare(settings: Settings) -> Settings:
    """With an endpoint that does not end with the account."""
    account = settings.get("account_name", "")
    if "endpoint" not in settings:
        return settings
    return {**settings, "endpoint": settings["endpoint"].rstrip("/").removesuffix(f"/{account}")}


def _prefix(settings: Settings, _folder: Path) -> str:
    url, account = _account_url(settings), settings["account_name"]
    place = endpoint_place(url)
    if place == account + _HOST:
        place = account
    elif place.partition(".")[0] != account:
        place = f"{account}.{place}"
    return store_prefix("az", settings, at=place)


def _problems(settings: Settings) -> Iterator[SettingProblem]:
    yield from bucket_problems(_bare(settings))
    yield from not_together(settings, "account_key_env", ("sas_token_env",))
    yield from not_together(settings, "allow_anonymous", ("account_key_env", "sas_token_env"))
    if not _ACCOUNT.fullmatch(settings.get("account_name", "aaa")):
        yield SettingProblem(
            setting="account_name",
            reason="must be 3 to 24 small letters and digits",
            suggestion="write the account's name alone, its host into endpoint",
        )


def _expires_s(secret: Settings) -> float | None:
    """What ``se`` of a SAS token says."""
    told = dict(parse_qsl(secret.get("sas_token_env", "").lstrip("?"))).get("se", "")
    try:
        at = datetime.fromisoformat(told)
    except ValueError:
        return None
    return at.replace(tzinfo=at.tzinfo or UTC).timestamp()


KIND = DestinationKind(
    name="azure",
    below="prefix",
    settings={
        **BUCKET_SETTINGS,
        "account_name": DestinationSetting(
            meaning="The storage account.", required="add account_name:"
        ),
        "account_key_env": DestinationSetting(meaning="Names the variable of the account's key."),
        "sas_token_env": DestinationSetting(
            meaning="Names the variable of a SAS token. With none of these: the chain of the Azure "
            "libraries (environment, workload and managed identity, az login)."
        ),
    },
    unsafe=unsafe_prefix,
    prefix=_prefix,
    problems=_problems,
    library="adlfs",
    memory_mb=50,
    expires_s=_expires_s,
    redirects=tuple(
        f"AZURE_STORAGE_{name}"
        for name in ("CONNECTION_STRING", "ACCOUNT_NAME", "ACCOUNT_KEY", "SAS_TOKEN", "ANON")
    ),
)
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_BLOBS = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/"
_READ, _WRITE, _DELETE = (f"{_BLOBS}{action}" for action in ("read", "write", "delete"))
_HINTS = {
    "ContainerNotFound": "make it, or correct bucket and account_name: none is ever made",
    "AuthenticationFailed": "the key or the SAS token is not this account's or has expired, or the "
    "clock of this host is wrong by more than 15 minutes",
    "AuthorizationPermissionMismatch": "give it Storage Blob Data Contributor, or a token rcwdl",
    "AuthorizationFailure": "the account's network rules may refuse this host",
    "KeyBasedAuthenticationNotPermitted": "the account takes no keys: use an identity",
}
_NO_BLOB = ("BlobNotFound", "404")  # a HEAD may have no code but HTTP's
_CONDITION = "ConditionNotMet"
_TAKEN = ("BlobAlreadyExists", _CONDITION)
_GONE = ("InvalidBlockList", "InvalidBlobOrBlock")
_BLOCK = re.compile(r"([0-9a-f]{48})-(\d{5})([.!])")
"""Upload, number, and ``!`` for the last one."""
_DISCARDED = "rivetfleetdiscarded"  # of what is shown to be removed: the upload that it came of
_FOLDER = "hdi_isfolder"
_EMPTY = b"\n"  # stands for a part of no bytes while it is staged: no block is empty
_EMPTY_MD5 = "d41d8cd98f00b204e9800998ecf8427e"
_DISCARDS_MAX = 5
_READ_BYTES = 4 * 1024**2
_TIMEOUTS_S = {"connection_timeout": 10, "read_timeout": 60}

Block = tuple[int, bool, int]  # number, whether it is the last one, bytes
Blocks = Sequence[Block]


def open_destination(connection: DestinationConnection, *, create: bool = True) -> Destination:
    """The prefix of a container. Connects to nothing yet; a container is never made. Raises
    ConfigError where adlfs is not installed."""
    container, below = storeclient.bucket_of(connection, "account_name")
    store = AzureStore(import_store("adlfs", KIND.name), container, connection)
    return ObjectDestination(store, kind=KIND.name, uri=connection.prefix, below=below)


class _Clock:
    """The service's, as its answers tell it."""

    ahead_s: float | None = None  # of the monotonic clock; None before the first answer

    def told(self, response: Any) -> None:
        if date := response.http_response.headers.get("Date"):
            self.ahead_s = parsedate_to_datetime(date).timestamp() - time.monotonic()

    def now_s(self) -> float:
        return time.time() if self.ahead_s is None else time.monotonic() + self.ahead_s


def _made(adlfs: ModuleType, connection: DestinationConnection) -> tuple[Any, _Clock]:
    options, clock = connection.options, _Clock()
    storage = importlib.import_module("azure.storage.blob.aio")
    if (_expires_s(connection.secrets) or math.inf) < time.time():
        raise store_error(connection.prefix, _WRITE, status=403, code="the SAS token has expired")
    service = storage.BlobServiceClient(
        _account_url(options),
        credential=_credential(options, connection.secrets),
        # To which it adds 2, 4 and 8 seconds: it tries again at once, after 2 and after 6.
        retry_policy=storage.ExponentialRetry(-1.9, 2, 3, random_jitter_range=0.1),
        raw_response_hook=clock.told,
        **_TIMEOUTS_S,
    )

    class Filesystem(adlfs.AzureBlobFileSystem):  # type: ignore[misc,name-defined]
        """adlfs's own connects by variables of the environment that nobody configured, and waits
        15 s before it tries again."""

        def do_connect(self) -> None:
            self.service_client = service

    no_caches = {"skip_instance_cache": True, "use_listings_cache": False}
    return Filesystem(account_name=options["account_name"], anon=True, **no_caches), clock


def _credential(options: Settings, secret: Settings) -> Any:
    if "account_key_env" in secret:
        name = options["account_name"]
        return {"account_name": name, "account_key": secret["account_key_env"]}
    if "sas_token_env" in secret:
        core = importlib.import_module("azure.core.credentials")
        return core.AzureSasCredential(secret["sas_token_env"].lstrip("?"))
    if "allow_anonymous" in options:
        return None
    return importlib.import_module("azure.identity.aio").DefaultAzureCredential()


class _Upload:
    """Blocks of one part on their way."""

    def __init__(self, store: AzureStore, key: str, upload: str) -> None:
        self._store = store
        self._key = key
        self._blocks: list[Block] = []
        self.tokens: Tokens = {"upload": upload}

    def send(self, piece: bytes, md5: bytes, *, last: bool) -> None:
        """One ``Put Block``, whose MD5 the library computes."""
        block = (len(self._blocks), last, len(piece))
        upload = self.tokens["upload"]
        words = {"block_id": _block_id(upload, block), "data": piece or _EMPTY}
        self._store.blob(self._key, "stage_block", _WRITE, validate_content=True, **words)
        self._blocks.append(block)
        # What has no blocks is committed behind a listing alone: nothing else could refuse it.
        if last and block[2]:
            self._store.sent[upload] = self._blocks


class AzureStore:
    """One container, see ``objects.ObjectStore``."""

    def __init__(
        self, adlfs: ModuleType, container: str, connection: DestinationConnection
    ) -> None:
        self._uri = connection.prefix
        self._fs, self._clock = shared_client(connection, partial(_made, adlfs))
        self._container = self._fs.service_client.get_container_client(container)
        self._sync: Callable[..., Any] = importlib.import_module("fsspec.asyn").sync
        self._models = importlib.import_module("azure.storage.blob")
        conditions = importlib.import_module("azure.core").MatchConditions
        # Beside the first one the library takes no ``*``.
        self._absent = {"match_condition": conditions.IfMissing}
        self._same = {"match_condition": conditions.IfNotModified}
        self._failures = _failures()
        self.sent: dict[str, Blocks] = {}  # own ones, which need not be asked for

    def begin(self, key: str, digest: PartDigest) -> _Upload:
        """Nothing is asked, but for the time where no answer has told it yet."""
        if self._clock.ahead_s is None:
            self.head(key)
        md5 = base64.b64decode(digest.md5_base64).hex()
        begun_s = int(self._clock.now_s())
        return _Upload(self, key, f"{begun_s:08x}{secrets.token_hex(4)}{md5}")

    def commit(self, tokens: Tokens, key: str, digest: PartDigest) -> bool:
        """``Put Block List``."""
        upload = tokens["upload"]
        blocks = self.sent.pop(upload, None) or self._blocks(key).get(upload, ())
        if not _is_whole(blocks) or _size(blocks) != digest.size_bytes:
            raise Gone
        self._show(key, upload, blocks, {FINGERPRINT: digest.fingerprint})
        return True

    def staged(self, tokens: Tokens, key: str, digest: PartDigest) -> bool:
        """``Get Block List``."""
        blocks = self._blocks(key).get(tokens["upload"], ())
        return _is_whole(blocks) and _size(blocks) == digest.size_bytes

    def discard(self, tokens: Tokens, key: str) -> None:
        """Show it and remove it: behind that its blocks are gone for everybody. For an instant the
        part may be seen, and a crash in it leaves what the ledger says is committed. Of an upload
        that was never finished blocks are left for a week, unless nothing else has the name."""
        upload = tokens["upload"]
        self.sent.pop(upload, None)
        for _ in range(_DISCARDS_MAX):
            self._remove_discarded(key, upload)
            staged = self._blocks(key)
            blocks = staged.get(upload, ())
            if not blocks:
                return
            if not _is_whole(blocks):
                if len(staged) == 1 and self.head(key) is None:
                    self.delete(key)
                return
            with contextlib.suppress(Taken, Gone):
                self._show(key, upload, blocks, {_DISCARDED: upload})
        hint = "something else has the name: remove that first"
        raise store_error(self._uri, _WRITE, status=None, code="blocks are left", hint=hint)

    def drop(self, tokens: Tokens, key: str) -> None:
        """Nothing is left behind a commit of the name, whosever it was."""
        self.sent.pop(tokens["upload"], None)

    def head(self, key: str) -> Head | None:
        """``Get Blob Properties``."""
        found = self._properties(key)
        return found and _head(found)

    def list(self, prefix: str) -> Iterator[Head]:
        """``List Blobs``, page by page, without the folders of a hierarchical account."""
        for found in self._listed(prefix, ["metadata"]):
            if (found.metadata or {}).get(_FOLDER) != "true":
                yield _head(found)

    def list_staged(self, prefix: str) -> Iterator[StagedObject]:
        """Names without a committed list, and the blocks of each."""
        for found in self._listed(prefix, ["uncommittedblobs"]):
            # An empty blob looks alike, and has no blocks that are not committed.
            staged = {} if found.size else self._blocks(found.name)
            for upload, blocks in staged.items():
                yield StagedObject(
                    key=found.name,
                    tokens={"upload": upload},
                    size_bytes=_size(blocks),
                    age_s=self._clock.now_s() - int(upload[:8], 16),
                )

    def get(self, key: str) -> Iterator[bytes]:
        """``Get Blob`` by ranges: all of the ETag that the first one had."""
        at, end = 0, 1
        same: dict[str, Any] = {}
        while at < end:
            block, properties = self._range(key, at, **same)
            yield block
            at += len(block)
            same = {"etag": properties.etag, **self._same}
            end = int((properties.content_range or f"/{at}").rpartition("/")[2])
            if at < end and len(block) != _READ_BYTES:
                raise store_error(self._uri, _READ, status=None, code="a short answer")

    def put(self, key: str, body: bytes, *, new: bool) -> None:
        """``Put Blob``."""
        try:
            words = {"data": body, "overwrite": not new, "validate_content": True}
            self.blob(key, "upload_blob", _WRITE, _TAKEN if new else (), **words)
        except Said:
            raise Taken from None

    def delete(self, key: str) -> None:
        """``Delete Blob``."""
        with contextlib.suppress(Said):
            self.blob(key, "delete_blob", _DELETE, _NO_BLOB)

    def close(self) -> None:
        """Its connections are other prefixes', too."""

    def blob(
        self, key: str, method: str, verb: str, expected: tuple[str, ...] = (), /, **words: Any
    ) -> Any:
        """One request about a blob, repeated by the library while it may help. Raises Said for
        codes (or, where there is none, HTTP's numbers) that are ``expected``."""
        client = self._container.get_blob_client(key)
        return self._ask(verb, expected, getattr(client, method), **words)

    def _ask(
        self, verb: str, expected: tuple[str, ...], call: Callable[..., Any], /, **words: Any
    ) -> Any:
        try:
            return self._sync(self._fs.loop, call, **words)
        except self._failures as error:
            raise self._meaning(verb, error, expected) from error

    def _show(self, key: str, upload: str, blocks: Blocks, metadata: Mapping[str, str]) -> None:
        """Commit what is whole, unless something has the name. Raises Taken and Gone."""
        ids = [_block_id(upload, block) for block in blocks if block[2]]
        settings = self._models.ContentSettings(content_md5=bytearray.fromhex(upload[16:]))
        try:
            self.blob(
                key,
                "commit_block_list",
                _WRITE,
                (*_TAKEN, *_GONE),
                block_list=[self._models.BlobBlock(block_id=one) for one in ids],
                content_settings=settings,
                metadata=dict(metadata),
                **self._absent,
            )
        except Said as said:
            raise (Gone if said.code in _GONE else Taken) from None

    def _remove_discarded(self, key: str, upload: str) -> None:
        """What was shown to be removed, also by one who died in between."""
        found = self._properties(key)
        if found is not None and (found.metadata or {}).get(_DISCARDED) == upload:
            with contextlib.suppress(Said):
                same = {"etag": found.etag, **self._same}
                self.blob(key, "delete_blob", _DELETE, (*_NO_BLOB, *_TAKEN), **same)

    def _properties(self, key: str) -> Any:
        try:
            return self.blob(key, "get_blob_properties", _READ, _NO_BLOB)
        except Said:
            return None

    def _blocks(self, key: str) -> dict[str, Blocks]:
        """Upload → its blocks that are not committed, in their order. Others' are left out."""
        try:
            words = {"block_list_type": "uncommitted"}
            _, found = self.blob(key, "get_block_list", _READ, _NO_BLOB, **words)
        except Said:
            return {}
        uploads: dict[str, Any] = defaultdict(list)
        for block in found:
            if named := _BLOCK.fullmatch(block.id):
                size = 0 if named[1].endswith(_EMPTY_MD5) else block.size
                uploads[named[1]].append((int(named[2]), named[3] == "!", size))
        return {upload: sorted(blocks) for upload, blocks in uploads.items()}

    def _listed(self, prefix: str, include: Sequence[str]) -> Iterator[Any]:
        pages = self._container.list_blobs(name_starts_with=prefix, include=include).by_page()

        async def page() -> Sequence[Any] | None:
            async for one in pages:
                return [found async for found in one]
            return None

        more: object = ""
        while (found := self._ask(_READ, (), page)) is not None:
            yield from found
            more = storeclient.gone_on(more, pages.continuation_token)

    def _range(self, key: str, at: int, **same: Any) -> tuple[bytes, Any]:
        async def read() -> tuple[bytes, Any]:
            client = self._container.get_blob_client(key)
            answer = await client.download_blob(offset=at, length=_READ_BYTES, **same)
            return await answer.readall(), answer.properties

        try:
            found: tuple[bytes, Any] = self._ask(_READ, (_CONDITION, *_NO_BLOB), read)
        except Said as said:
            if said.code in _NO_BLOB:
                raise Gone from None
            raise store_error(self._uri, _READ, status=None, code=said.code) from None
        return found

    def _meaning(
        self, verb: str, error: BaseException, expected: tuple[str, ...]
    ) -> DestinationError | Said:
        """Ours for the error that the library raised, by the service's own code."""
        status = getattr(error, "status_code", None) or 0
        status = status if status >= 400 else None  # else it is a success that is none
        told = getattr(error, "error_code", None)
        code = str(getattr(told, "value", told) or status or type(error).__name__)
        code = _CONDITION if status == 412 else code
        if code in expected:
            return Said(code)
        if status is None and isinstance(error, self._failures[0]):
            status = 403  # no answer: there are no credentials, or the key is none
        return store_error(self._uri, verb, status=status, code=code, hint=_HINTS.get(code))


def _failures() -> tuple[type[BaseException], ...]:
    """What the library, and what it stands on, raise."""
    from aiohttp import ClientError
    from azure.core.exceptions import AzureError, ClientAuthenticationError

    unread = (LookupError, ValueError, TypeError)
    return (ClientAuthenticationError, AzureError, OSError, ClientError, TimeoutError, *unread)


def _block_id(upload: str, block: Block) -> str:
    """All of one blob must be equally long."""
    number, last, _ = block
    return f"{upload}-{number:05d}{'!' if last else '.'}"


def _is_whole(blocks: Blocks) -> bool:
    return bool(blocks) and blocks[-1][1] and [b[0] for b in blocks] == [*range(len(blocks))]


def _size(blocks: Blocks) -> int:
    return sum(size for _, _, size in blocks)


def _head(found: Any) -> Head:
    md5 = found.content_settings.content_md5
    metadata = {name.lower(): text for name, text in (found.metadata or {}).items()}
    return Head(
        key=found.name,
        size_bytes=found.size,
        fingerprint=metadata.get(FINGERPRINT),
        md5_base64=None if md5 is None else base64.b64encode(md5).decode(),
    )
