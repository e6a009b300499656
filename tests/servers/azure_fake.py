"""A storage account of Azure on a loopback port, as its REST reference says: Shared Key and SAS,
block lists and their conditions, the listing of names without a committed list.

Azurite is a program of Node with hundreds of packages; it is asked instead where
``RIVET_FLEET_TEST_AZURE_URL`` names one. Where both differ from the reference, the worse is played:
a deleted name's blocks may still be committed (Azurite), and nothing tells when a name without a
committed list was begun (the reference).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import itertools
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate, parsedate_to_datetime
from importlib import import_module
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from rivet_fleet.contracts.destination import DestinationConnection
from tests.servers.web import Answer, Asked, serving

_PAGE = 3
"""Names of one page of a listing: few, so that pages are turned."""
_SKEW_MAX_S = 15 * 60


class _Refused(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.answer = Answer(
            status,
            f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>x</Message></Error>".encode(),
            {"x-ms-error-code": code, "Content-Type": "application/xml"},
        )


@dataclass(slots=True)
class Blob:
    """One name. ``body`` None: nothing is committed."""

    body: bytes | None = None
    etag: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    blocks: dict[str, bytes] = field(default_factory=dict)
    """Not committed, by their ids as they were sent."""
    hidden: bool = False
    """Deleted before anything was committed."""


@dataclass(slots=True)
class AzureAccount:
    """The account's side."""

    kind: ClassVar[str] = "azure"
    name: str = "lake"
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    sas_signature: str = field(default_factory=lambda: secrets.token_hex(16))
    ahead_s: float = 0.0
    """Its clock, of this machine's."""
    port: int = 0
    containers: dict[str, dict[str, Blob]] = field(default_factory=dict)
    restart: Callable[[], None] = lambda: None
    """Kill the server and start it again; what it has, it keeps."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _etags: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def variables(self) -> dict[str, str]:
        """Its key as a configuration's ``LAKE_KEY``."""
        return {"LAKE_KEY": base64.b64encode(self.key).decode()}

    @property
    def sas_token(self) -> str:
        """As a portal shows it."""
        return f"?sv=2025-05-05&sp=rcwdl&se=2999-01-01T00%3A00%3A00Z&sig={self.sas_signature}"

    @property
    def settings(self) -> dict[str, str]:
        """A configuration's words beside bucket and prefix."""
        return {
            "endpoint": f"http://127.0.0.1:{self.port}",
            "account_name": self.name,
            "account_key_env": "LAKE_KEY",
        }

    def connection(self, bucket: str, prefix: str) -> DestinationConnection:
        """A destination of it, resolved."""
        return DestinationConnection(
            kind="azure",
            prefix=f"az://{bucket}@{self.name}.127.0.0.1:{self.port}/{prefix}",
            options=self.settings,
            secrets={"account_key_env": self.variables["LAKE_KEY"]},
        )

    def make_bucket(self, name: str) -> str:
        """A new empty container; its name."""
        self.containers[name] = {}
        return name

    def remove_bucket(self, name: str) -> None:
        """As an account's owner may, whatever is in it."""
        with self._lock:
            del self.containers[name]

    def staged(self, bucket: str, below: str = "") -> list[str]:
        """Names with blocks that are not committed."""
        with self._lock:
            found = self.containers[bucket].items()
            return [name for name, blob in found if blob.blocks and name.startswith(below)]

    def sweep(self, bucket: str, below: str = "") -> None:
        """As the service does with blocks of a week."""
        with self._lock:
            for name, blob in list(self.containers[bucket].items()):
                if name.startswith(below):
                    blob.blocks.clear()
                    if blob.body is None:
                        del self.containers[bucket][name]

    def reader(self) -> Any:
        """Somebody else's client."""
        fs = import_module("pyarrow.fs")
        place = f"127.0.0.1:{self.port}"
        return fs.AzureFileSystem(
            account_name=self.name,
            account_key=self.variables["LAKE_KEY"],
            blob_storage_authority=place,
            dfs_storage_authority=place,
            blob_storage_scheme="http",
            dfs_storage_scheme="http",
        )

    def bodies(self, bucket: str) -> dict[str, bytes]:
        """What can be seen."""
        with self._lock:
            found = self.containers[bucket].items()
            return {name: blob.body for name, blob in found if blob.body is not None}

    def lose(self, bucket: str, name: str) -> None:
        """As somebody who deletes by hand."""
        with self._lock:
            del self.containers[bucket][name]

    def answer(self, asked: Asked) -> Answer:
        """To one request; each is carried out alone."""
        try:
            with self._lock:
                return self._answer(asked)
        except _Refused as refused:
            if asked.method == "HEAD":
                code = {"x-ms-error-code": str(refused)}
                return Answer(refused.answer.status, headers=code)
            return refused.answer

    def _answer(self, asked: Asked) -> Answer:
        comp = asked.query.get("comp", "")
        _, _, place = asked.path.removeprefix("/").partition("/")
        container, _, name = place.partition("/")
        if not (self._now(asked) and self._may(asked)):
            raise _Refused(403, "AuthenticationFailed")
        blobs = self.containers.get(unquote(container))
        if blobs is None:
            raise _Refused(404, "ContainerNotFound")
        if "action" in asked.query:
            raise _Refused(400, "HierarchicalNamespaceNotEnabled")
        if not name:
            return self._list(blobs, asked.query)
        name = unquote(name)
        blob = blobs.get(name, Blob())
        answer = self._of_blob(blob, asked, comp)
        if blob.body is None and not blob.blocks:
            blobs.pop(name, None)
        else:
            blobs[name] = blob
        return answer

    def _of_blob(self, blob: Blob, asked: Asked, comp: str) -> Answer:
        if asked.method == "PUT" and comp == "block":
            return self._put_block(blob, asked)
        if asked.method == "PUT":
            return self._put(blob, asked, comp)
        if asked.method == "GET" and comp == "blocklist":
            if blob.body is None and (not blob.blocks or blob.hidden):
                raise _Refused(404, "BlobNotFound")
            return _block_list(blob)
        if asked.method == "DELETE" and blob.body is None and blob.blocks and not blob.hidden:
            blob.hidden = True
            return Answer(202)
        if blob.body is None:
            raise _Refused(404, "BlobNotFound")
        if asked.headers.get("if-match", blob.etag) != blob.etag:
            raise _Refused(412, "ConditionNotMet")
        if asked.method == "DELETE":
            blob.body = None
            return Answer(202)
        return _read(blob, asked.headers)

    def _put_block(self, blob: Blob, asked: Asked) -> Answer:
        block_id = asked.query["blockid"]
        if not asked.body:
            raise _Refused(400, "InvalidHeaderValue")
        if any(len(other) != len(block_id) for other in blob.blocks):
            raise _Refused(400, "InvalidBlobOrBlock")
        _refuse_other_bytes(asked)
        blob.blocks[block_id] = asked.body
        blob.hidden = False
        return Answer(201)

    def _put(self, blob: Blob, asked: Asked, comp: str) -> Answer:
        """A block list, or all bytes at once: both drop every block."""
        if asked.headers.get("if-none-match") == "*" and blob.body is not None:
            raise _Refused(409, "BlobAlreadyExists")
        _refuse_other_bytes(asked)
        body = asked.body
        if comp == "blocklist":
            ids = [found.text or "" for found in ElementTree.fromstring(asked.body)]
            if any(one not in blob.blocks for one in ids):
                raise _Refused(400, "InvalidBlockList")
            body = b"".join(blob.blocks[one] for one in ids)
        blob.body, blob.etag = body, f'"0x{next(self._etags):X}"'
        blob.blocks.clear()
        kept = {n: text for n, text in asked.headers.items() if n.startswith("x-ms-meta-")}
        md5 = asked.headers.get("x-ms-blob-content-md5") or (not comp and _md5(body))
        blob.headers = {**kept, **({"Content-MD5": md5} if md5 else {})}
        return Answer(201, headers={"ETag": blob.etag, "Last-Modified": formatdate(usegmt=True)})

    def _list(self, blobs: Mapping[str, Blob], query: Mapping[str, str]) -> Answer:
        include = query.get("include", "").split(",")
        names = sorted(
            name
            for name, blob in blobs.items()
            if name.startswith(query.get("prefix", ""))
            and name >= query.get("marker", "")
            and (blob.body is not None or ("uncommittedblobs" in include and not blob.hidden))
        )
        shown = "".join(_listed(name, blobs[name], "metadata" in include) for name in names[:_PAGE])
        marker = escape(names[_PAGE]) if len(names) > _PAGE else ""
        body = (
            f"<?xml version='1.0' encoding='utf-8'?><EnumerationResults>"
            f"<Prefix>{escape(query.get('prefix', ''))}</Prefix><Blobs>{shown}</Blobs>"
            f"<NextMarker>{marker}</NextMarker></EnumerationResults>"
        )
        return Answer(200, body.encode(), {"Content-Type": "application/xml"})

    def _now(self, asked: Asked) -> bool:
        """Who signs a request signs when it was."""
        if "x-ms-date" not in asked.headers or "sig" in asked.query:
            return True
        at_s = parsedate_to_datetime(asked.headers["x-ms-date"]).timestamp()
        return abs(time.time() + self.ahead_s - at_s) < _SKEW_MAX_S

    def _may(self, asked: Asked) -> bool:
        if "sig" in asked.query:
            return asked.query["sig"] == self.sas_signature
        signed = base64.b64encode(
            hmac.new(self.key, self._to_sign(asked).encode(), hashlib.sha256).digest()
        )
        return asked.headers.get("authorization") == f"SharedKey {self.name}:{signed.decode()}"

    def _to_sign(self, asked: Asked) -> str:
        """As "Authorize with Shared Key" says, since 2015-02-21."""
        heads = asked.headers
        length = heads.get("content-length", "")
        plain = (
            *("content-encoding", "content-language", "", "content-md5", "content-type", ""),
            *("if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range"),
        )
        told = [heads.get(name, "") for name in plain]
        told[2] = "" if length == "0" else length
        own = "".join(
            f"{name}:{text}\n" for name, text in sorted(heads.items()) if name.startswith("x-ms-")
        )
        words = "".join(f"\n{name}:{text}" for name, text in sorted(asked.query.items()))
        place = f"/{self.name}{asked.path}"
        return asked.method + "\n" + "\n".join(told) + "\n" + own + place + words


def _md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def _refuse_other_bytes(asked: Asked) -> None:
    if asked.headers.get("content-md5", _md5(asked.body)) != _md5(asked.body):
        raise _Refused(400, "Md5Mismatch")


def _block_list(blob: Blob) -> Answer:
    shown = "".join(
        f"<Block><Name>{name}</Name><Size>{len(body)}</Size></Block>"
        for name, body in ({} if blob.hidden else blob.blocks).items()
    )
    body = (
        "<?xml version='1.0' encoding='utf-8'?><BlockList><CommittedBlocks/>"
        f"<UncommittedBlocks>{shown}</UncommittedBlocks></BlockList>"
    )
    return Answer(200, body.encode(), {"Content-Type": "application/xml"})


def _read(blob: Blob, headers: Mapping[str, str]) -> Answer:
    body = blob.body or b""
    told = {
        **blob.headers,
        "ETag": blob.etag,
        "Last-Modified": formatdate(usegmt=True),
        "x-ms-blob-type": "BlockBlob",
        "x-ms-creation-time": formatdate(usegmt=True),
        "x-ms-server-encrypted": "true",
        "Content-Type": "application/octet-stream",
        "Content-Length": str(len(body)),
    }
    span = re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("x-ms-range", headers.get("range", "")))
    if span is None:
        return Answer(200, body, told)
    if int(span[1]) >= len(body):
        raise _Refused(416, "InvalidRange")
    first, last = int(span[1]), min(int(span[2]), len(body) - 1)
    part = body[first : last + 1]
    told["Content-Length"] = str(len(part))
    told["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
    return Answer(206, part, told)


def _listed(name: str, blob: Blob, metadata: bool) -> str:
    properties = (
        f"<Content-Length>{len(blob.body or b'')}</Content-Length><BlobType>BlockBlob</BlobType>"
    )
    if blob.body is not None:
        md5 = blob.headers.get("Content-MD5", "")
        properties += f"<Etag>{escape(blob.etag)}</Etag><Content-MD5>{md5}</Content-MD5>"
        properties += f"<Last-Modified>{formatdate(usegmt=True)}</Last-Modified>"
    told = "".join(
        f"<{head.removeprefix('x-ms-meta-')}>{escape(text)}</{head.removeprefix('x-ms-meta-')}>"
        for head, text in blob.headers.items()
        if metadata and head.startswith("x-ms-meta-")
    )
    return (
        f"<Blob><Name>{escape(name)}</Name><Properties>{properties}</Properties>"
        f"<Metadata>{told}</Metadata></Blob>"
    )


class AzureService(AzureAccount):
    """Azurite, or the service: ``https://ACCOUNT:KEY@HOST``, the key quoted."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        key = base64.b64decode(unquote(parts.password or ""))
        super().__init__(name=parts.username or "", key=key, port=parts.port or 0)
        self.endpoint = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    def make_bucket(self, name: str) -> str:
        """A new empty container of about this name."""
        container = f"{name}-{secrets.token_hex(4)}"
        client = import_module("azure.storage.blob").BlobServiceClient(
            f"{self.endpoint}/{self.name}",
            credential={"account_name": self.name, "account_key": self.variables["LAKE_KEY"]},
        )
        client.create_container(container)
        return container


@contextlib.contextmanager
def azure_account(*, ahead_s: float = 0.0) -> Iterator[AzureAccount]:
    """An account for the length of a block. ``ahead_s``: of this machine's clock."""
    account = AzureAccount(ahead_s=ahead_s)
    with serving(account.answer, ahead_s=ahead_s) as listener:
        account.port = listener.port
        account.restart = listener.restart
        yield account
