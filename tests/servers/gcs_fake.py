"""A service of Google Cloud Storage on a loopback port, as its JSON reference says: generations and
their conditions on uploads (of a resumable one at its start and at its end), rewrites and deletes,
MD5s, versions that are not the newest, and a token for who signs with a service account.

fake-gcs-server ignores the conditions of rewrites and deletes, which is what matters here.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from rivet_fleet.contracts.destination import DestinationConnection
from tests.servers.web import Answer, Asked, serving

_PAGE = 3
"""Names of one page of a listing: few, so that pages are turned."""
_SKEW_MAX_S = 15 * 60
_EXPIRES_SOON_S = 300
_GRANULE = 256 * 1024
_REWRITE_BYTES = 4 * 1024 * 1024
"""A larger object takes a rewrite of several steps."""


class _Refused(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        error = {"error": {"code": status, "message": reason}}
        self.answer = Answer(status, json.dumps(error).encode(), _JSON)


_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Version:
    """One generation of one name."""

    generation: int
    body: bytes
    created: str


@dataclass(slots=True)
class Bucket:
    """One bucket."""

    name: str
    versioned: bool = False
    live: dict[str, Version] = field(default_factory=dict)
    older: dict[str, list[Version]] = field(default_factory=dict)


@dataclass(slots=True)
class _Session:
    bucket: str
    about: dict[str, str]
    condition: str | None
    body: bytes = b""


@dataclass(slots=True)
class GcsService:
    """The service's side."""

    kind: ClassVar[str] = "gcs"
    folder: Path
    """Where its credentials are."""
    ahead_s: float = 0.0
    """Its clock, of this machine's."""
    port: int = 0
    buckets: dict[str, Bucket] = field(default_factory=dict)
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    forgets: int = 0
    """Of how many pieces of resumable uploads nothing is kept from now on; a half of the last."""
    restart: Callable[[], None] = lambda: None
    """Kill the server and start it again; what it has, it keeps."""
    expires_s: float = 3600.0
    """Tokens; a new one makes the older ones void."""
    _sessions: dict[str, _Session] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _generations: Iterator[int] = field(default_factory=lambda: itertools.count(1_700_000))

    @property
    def variables(self) -> dict[str, str]:
        """None: its credentials are a file."""
        return {}

    @property
    def settings(self) -> dict[str, str]:
        """A configuration's words beside bucket and prefix."""
        return {
            "endpoint": f"http://127.0.0.1:{self.port}",
            "credentials_file": str(self.folder / "account.json"),
        }

    def connection(self, bucket: str, prefix: str) -> DestinationConnection:
        """A destination of it, resolved."""
        place = f"{bucket}@127.0.0.1:{self.port}"
        return DestinationConnection(
            kind="gcs", prefix=f"gs://{place}/{prefix}", options=self.settings
        )

    def make_bucket(self, name: str) -> str:
        """A new empty bucket; its name."""
        self.buckets[name] = Bucket(name)
        return name

    def remove_bucket(self, name: str) -> None:
        """As a project's owner may, whatever is in it."""
        with self._lock:
            del self.buckets[name]

    def staged(self, bucket: str, below: str = "") -> list[str]:
        """Names of what waits in staging folders."""
        return [
            name for name in self.bodies(bucket) if name.startswith(below) and "/.staging/" in name
        ]

    def sweep(self, bucket: str, below: str = "") -> None:
        """As a lifecycle rule does with what is old in a staging folder, and the service with
        uploads of a week."""
        with self._lock:
            live = self.buckets[bucket].live
            for name in [one for one in live if one.startswith(below) and "/.staging/" in one]:
                del live[name]
            self._sessions.clear()

    def reader(self) -> Any:
        """Somebody else's client."""
        fs = import_module("pyarrow.fs")
        return fs.GcsFileSystem(
            access_token=self.token,
            credential_token_expiration=datetime.now(UTC) + timedelta(days=1),
            endpoint_override=f"127.0.0.1:{self.port}",
            scheme="http",
        )

    def bodies(self, bucket: str) -> dict[str, bytes]:
        """What can be seen."""
        with self._lock:
            return {name: one.body for name, one in self.buckets[bucket].live.items()}

    def lose(self, bucket: str, name: str) -> None:
        """As somebody who deletes by hand."""
        with self._lock:
            del self.buckets[bucket].live[name]

    def write_credentials(self) -> None:
        """A service account that asks this service for its tokens."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        account = {
            "type": "service_account",
            "project_id": "p",
            "private_key_id": "k",
            "private_key": pem.decode(),
            "client_email": "fleet@p.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"http://127.0.0.1:{self.port}/token",
        }
        (self.folder / "account.json").write_text(json.dumps(account))

    def answer(self, asked: Asked) -> Answer:
        """To one request; each is carried out alone."""
        try:
            with self._lock:
                return self._answer(asked)
        except _Refused as refused:
            return refused.answer

    def _answer(self, asked: Asked) -> Answer:
        if asked.path == "/token":
            return self._give_token(asked)
        if asked.path.startswith("/session/"):
            return self._piece(asked)
        if asked.headers.get("authorization") != f"Bearer {self.token}":
            raise _Refused(401, "Invalid Credentials")
        found = re.fullmatch(
            r"(?P<upload>/upload)?/storage/v1/b/(?P<bucket>[^/]+)/o(?:/(?P<name>[^/]+))?"
            r"(?:/rewriteTo/b/[^/]+/o/(?P<to>[^/]+))?",
            asked.path,
        )
        if found is None:
            raise _Refused(404, "no such method")
        bucket = self.buckets.get(unquote(found["bucket"]))
        if bucket is None:
            raise _Refused(404, "The specified bucket does not exist.")
        if found["upload"]:
            return self._upload(bucket, unquote(found["bucket"]), asked)
        if not found["name"]:
            return _list(bucket, asked.query)
        name = unquote(found["name"])
        if found["to"]:
            return self._rewrite(bucket, name, unquote(found["to"]), asked.query)
        version: Version = _version(bucket, name, asked.query.get("generation"))
        if asked.method == "DELETE":
            return _delete(bucket, name, version, "generation" in asked.query)
        if asked.query.get("alt") == "media":
            return _media(version, asked.headers.get("range", ""))
        return _told(name, version)

    def _give_token(self, asked: Asked) -> Answer:
        """To whoever signs that it is now."""
        claims = parse_qs(asked.body.decode())["assertion"][0].split(".")[1]
        begun_s = json.loads(base64.urlsafe_b64decode(claims + "=="))["iat"]
        if abs(self._now().timestamp() - begun_s) > _SKEW_MAX_S:
            raise _Refused(400, "invalid_grant")
        if self.expires_s < _EXPIRES_SOON_S:
            self.token = secrets.token_hex(16)
        told = {"access_token": self.token, "expires_in": self.expires_s, "token_type": "Bearer"}
        return Answer(200, json.dumps(told).encode(), _JSON)

    def _now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.ahead_s)

    def _upload(self, bucket: Bucket, bucket_name: str, asked: Asked) -> Answer:
        condition = asked.query.get("ifGenerationMatch")
        if asked.query["uploadType"] == "resumable":
            about = json.loads(asked.body)
            _refuse(bucket, about["name"], condition)
            session = secrets.token_hex(16)
            self._sessions[session] = _Session(bucket_name, about, condition)
            location = (
                f"http://127.0.0.1:{asked.headers['host'].rpartition(':')[2]}/session/{session}"
            )
            return Answer(200, headers={"Location": location})
        boundary = asked.headers["content-type"].partition("boundary=")[2].strip('"').encode()
        _, told, media, _ = asked.body.split(b"--" + boundary)
        about = json.loads(told.partition(b"\r\n\r\n")[2])
        return self._insert(bucket, about, condition, media.partition(b"\r\n\r\n")[2][:-2])

    def _piece(self, asked: Asked) -> Answer:
        session = self._sessions.get(asked.path.rpartition("/")[2])
        span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", asked.headers.get("content-range", ""))
        if session is None or span is None:
            raise _Refused(404, "no such upload")
        first, last, total = (int(one) for one in span.groups())
        if first > len(session.body) or last - first + 1 != len(asked.body):
            raise _Refused(503, "bytes are missing")
        body = session.body + asked.body[len(session.body) - first :]
        if self.forgets and last + 1 != total:
            self.forgets -= 1
            # The last time a half, before all of it: the answer has no range then.
            body = body[: first + (last - first) // 2 if self.forgets == 0 else first]
        if len(body) == total:
            bucket = self.buckets[session.bucket]
            live = bucket.live.get(session.about["name"])
            if live is not None and live.body == body:
                return _told(session.about["name"], live)
            return self._insert(bucket, session.about, session.condition, body)
        session.body = body[: len(body) // _GRANULE * _GRANULE]
        kept = {"Range": f"bytes=0-{len(session.body) - 1}"} if session.body else {}
        return Answer(308, headers=kept)

    def _insert(
        self, bucket: Bucket, about: Mapping[str, str], condition: str | None, body: bytes
    ) -> Answer:
        _refuse(bucket, about["name"], condition)
        if about.get("md5Hash", _md5(body)) != _md5(body):
            raise _Refused(400, "Provided MD5 hash does not match")
        return self._show(bucket, about["name"], body)

    def _show(self, bucket: Bucket, name: str, body: bytes) -> Answer:
        created = self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        _retire(bucket, name)
        bucket.live[name] = Version(next(self._generations), body, created)
        return _told(name, bucket.live[name])

    def _rewrite(self, bucket: Bucket, name: str, to: str, query: Mapping[str, str]) -> Answer:
        version = _version(bucket, name, query.get("sourceGeneration"))
        if query.get("ifSourceGenerationMatch", str(version.generation)) != str(version.generation):
            raise _Refused(412, "conditionNotMet")
        _refuse(bucket, to, query.get("ifGenerationMatch"))
        if len(version.body) > _REWRITE_BYTES and "rewriteToken" not in query:
            told: dict[str, Any] = {"done": False, "rewriteToken": "more"}
        else:
            shown = self._show(bucket, to, version.body)
            told = {"done": True, "resource": json.loads(shown.body)}
        return Answer(200, json.dumps(told).encode(), _JSON)


def _refuse(bucket: Bucket, name: str, condition: str | None) -> None:
    live = bucket.live.get(name)
    if condition is not None and condition != str(live.generation if live else 0):
        raise _Refused(412, "conditionNotMet")


def _version(bucket: Bucket, name: str, generation: str | None) -> Version:
    live = bucket.live.get(name)
    versions: list[Version] = [
        *([live] if live else []),
        *(bucket.older.get(name, ()) if generation else ()),
    ]
    for version in versions:
        if generation in (None, str(version.generation)):
            return version
    raise _Refused(404, "No such object")


def _retire(bucket: Bucket, name: str) -> None:
    live = bucket.live.pop(name, None)
    if live is not None and bucket.versioned:
        bucket.older.setdefault(name, []).append(live)


def _delete(bucket: Bucket, name: str, version: Version, for_good: bool) -> Answer:
    if bucket.live.get(name) is version:
        _retire(bucket, name)
    if for_good and version in bucket.older.get(name, ()):
        bucket.older[name].remove(version)
    return Answer(204)


def _media(version: Version, span: str) -> Answer:
    body = version.body
    told = {"X-Goog-Generation": str(version.generation)}
    found = re.fullmatch(r"bytes=(\d+)-(\d+)", span)
    if found is None:
        return Answer(200, body, told)
    first, last = int(found[1]), min(int(found[2]), len(body) - 1)
    if first >= len(body):
        raise _Refused(416, "Request range not satisfiable")
    told["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
    return Answer(206, body[first : last + 1], told)


def _list(bucket: Bucket, query: Mapping[str, str]) -> Answer:
    names = sorted(
        name
        for name in bucket.live
        if name.startswith(query.get("prefix", "")) and name >= query.get("pageToken", "")
    )
    told: dict[str, Any] = {"kind": "storage#objects"}
    if names:
        told["items"] = [
            {**_about(name, bucket.live[name]), "bucket": bucket.name} for name in names[:_PAGE]
        ]
    if len(names) > _PAGE:
        told["nextPageToken"] = names[_PAGE]
    return Answer(200, json.dumps(told).encode(), _JSON)


def _told(name: str, version: Version) -> Answer:
    return Answer(200, json.dumps(_about(name, version)).encode(), _JSON)


def _about(name: str, version: Version) -> dict[str, str]:
    return {
        "name": name,
        "size": str(len(version.body)),
        "md5Hash": _md5(version.body),
        "generation": str(version.generation),
        "timeCreated": version.created,
    }


def _md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


@contextlib.contextmanager
def gcs_service(folder: Path, *, ahead_s: float = 0.0) -> Iterator[GcsService]:
    """A service for the length of a block. ``ahead_s``: of this machine's clock."""
    service = GcsService(folder, ahead_s=ahead_s)
    with serving(service.answer, ahead_s=ahead_s) as listener:
        service.port = listener.port
        service.restart = listener.restart
        service.write_credentials()
        yield service
