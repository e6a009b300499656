"""A service behind a bucket's endpoint that answers what no such service answers: refused by name,
and read no farther than was asked for."""

from __future__ import annotations

import http.server
import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from rivet_fleet.contracts.destination import DestinationConnection
from rivet_fleet.contracts.manifest import PartDigest
from rivet_fleet.errors import ConfigError, DestinationUnavailable
from rivet_fleet.execution.destinations.gcs import GcsStore
from rivet_fleet.execution.registry import open_destination
from rivet_fleet.execution.storeclient import end_of_range, understood

DIGEST = PartDigest(rows=1, size_bytes=3, fingerprint="xxh3:0000000000000000", md5_base64="AAAA")
TOKENS = {"upload_id": "u"}
NOTHING = '<?xml version="1.0"?><Answer/>'
ENDLESS = (
    '<?xml version="1.0"?><Answer><IsTruncated>true</IsTruncated><NextKeyMarker>a</NextKeyMarker>'
    "<NextContinuationToken>a</NextContinuationToken><NextUploadIdMarker>a</NextUploadIdMarker>"
    "<NextPartNumberMarker>1</NextPartNumberMarker></Answer>"
)
AGAIN = (
    '<?xml version="1.0"?><EnumerationResults ContainerName="lake"><Blobs/>'
    "<NextMarker>a</NextMarker></EnumerationResults>"
)
Answer = tuple[int, dict[str, str], str]


class Service:
    """Answers every request with ``answer``."""

    def __init__(self) -> None:
        self.answer: Answer = (200, {}, "")
        self.asked = 0
        self.answers_max = 1000

    def handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """On nobody's screen."""

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                service.asked += 1
                ended = service.asked > service.answers_max
                status, headers, body = (404, {}, "") if ended else service.answer
                self.send_response(status)
                for name, text in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, text)
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else body.encode())

            do_GET = do_PUT = do_POST = do_DELETE = answer

        return Handler


@contextmanager
def serving(service: Service) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), service.handler()) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[Service, Any]]:
    pytest.importorskip("s3fs")
    made = Service()
    with serving(made) as place:
        options = {"endpoint": f"http://{place}", "access_key_env": "A", "secret_key_env": "B"}
        connection = DestinationConnection(
            kind="s3",
            prefix=f"s3://lake@{place}/raw",
            options=options,
            secrets={"access_key_env": "AKIA", "secret_key_env": "x" * 20},
        )
        yield made, open_destination(connection)


ASKS: dict[str, Callable[[Any], object]] = {
    "begin": lambda there: there._store.begin("raw/x", DIGEST),
    "send": lambda there: there._store.begin("raw/x", DIGEST).send(b"abc", b"m" * 16, last=True),
    "list": lambda there: list(there.list_visible()),
    "staged": lambda there: list(there.list_staged()),
    "pieces": lambda there: there._store.staged(TOKENS, "raw/x", DIGEST),
    "read": lambda there: there.read("x", 100),
}


@pytest.mark.parametrize(
    ("answer", "asks"),
    [
        ((200, {}, NOTHING), ("begin",)),
        ((200, {}, "<Answer><UploadId>u</UploadId></Answer>"), ("send",)),
        ((200, {"Date": "Thu, 01 Jan 2026 00:00:00 GMT"}, ENDLESS), ("list", "staged", "pieces")),
        ((206, {"ETag": '"a"', "Content-Range": "bytes 0-0/none"}, "x"), ("read",)),
        ((206, {"ETag": '"a"', "Content-Range": "bytes 0-0/100"}, ""), ("read",)),
        ((206, {"ETag": '"a"', "Content-Range": "bytes 7-7/100"}, "x"), ("read",)),
        ((206, {"Content-Range": "bytes 0-0/100"}, "x"), ("read",)),
    ],
    ids=["no upload", "no etag", "no end", "no number", "no bytes", "other bytes", "no version"],
)
def test_an_answer_that_is_none_is_refused_by_name(
    service: tuple[Service, Any], answer: Answer, asks: tuple[str, ...]
) -> None:
    rogue, there = service
    rogue.answer = answer
    for ask in asks:
        asked = rogue.asked
        with pytest.raises(DestinationUnavailable) as caught:
            ASKS[ask](there)
        assert caught.value.code == "RIVET_STORE_UNAVAILABLE"
        assert rogue.asked - asked <= 3


def test_a_listing_of_azure_that_stays_where_it_is_is_refused_by_name() -> None:
    pytest.importorskip("adlfs")
    rogue = Service()
    rogue.answer, rogue.answers_max = (200, {"Content-Type": "application/xml"}, AGAIN), 9
    with serving(rogue) as place:
        connection = DestinationConnection(
            kind="azure",
            prefix=f"az://lake@rogue.{place}/raw",
            options={
                "endpoint": f"http://{place}",
                "account_name": "rogue",
                "account_key_env": "A",
            },
            secrets={"account_key_env": "AAAA"},
        )
        with (
            closing(open_destination(connection)) as there,
            pytest.raises(DestinationUnavailable) as caught,
        ):
            list(there.list_visible())
    assert caught.value.code == "RIVET_STORE_UNAVAILABLE" and rogue.asked == 2


def test_a_body_that_is_larger_than_was_asked_for_is_not_read(
    service: tuple[Service, Any],
) -> None:
    rogue, there = service
    rogue.answer = (200, {"ETag": '"a"', "Content-Length": str(1 << 40)}, "x")
    with pytest.raises(DestinationUnavailable, match="more than was asked for"):
        there.read("x", 100)


@pytest.mark.parametrize(
    ("told", "at", "size_bytes"),
    [(None, 4, 4), ("", 0, 4), ("bytes 0-3/3", 0, 4), ("bytes 0-3/9", 4, 4), ("bytes */9", 0, 4)],
)
def test_a_range_is_the_one_that_was_asked_for(told: str | None, at: int, size_bytes: int) -> None:
    with pytest.raises(ValueError, match="range"):
        end_of_range(told, at, size_bytes)
    assert end_of_range("bytes 4-7/9", 4, 4) == 9
    assert end_of_range(None, 0, 4) == 4


def test_whatever_any_store_stumbles_into_is_an_error_of_ours() -> None:
    class Store:
        def head(self, key: str) -> object:
            return {}[key]

        def list(self, prefix: str) -> Iterator[int]:
            yield int(prefix)

    for ask in (lambda it: it.head("x"), lambda it: list(it.list("x"))):
        with pytest.raises(DestinationUnavailable, match="an answer that is none"):
            ask(understood(Store(), "s3://lake/raw"))


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        ("s3", "s3://lake@minio.example:9000/raw"),
        ("gcs", "gs://lake@gcs.example/raw"),
        ("azure", "az://lake@account/raw"),
    ],
)
def test_a_service_that_no_setting_leads_to_is_not_looked_for_elsewhere(
    kind: str, prefix: str
) -> None:
    """A cloud's own service may have a bucket of that name, and anybody's."""
    with pytest.raises(ConfigError, match="no setting says how it is reached"):
        open_destination(DestinationConnection(kind=kind, prefix=prefix, options={}))


@pytest.mark.parametrize(("kind", "scheme"), [("s3", "s3"), ("gcs", "gs"), ("azure", "az")])
def test_a_place_without_a_bucket_is_refused_by_name(kind: str, scheme: str) -> None:
    connection = DestinationConnection(kind=kind, prefix=f"{scheme}:///raw", options={})
    with pytest.raises(ConfigError, match="names no bucket"):
        open_destination(connection)


def test_an_upload_to_google_goes_nowhere_in_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads the address on the wire may write, and reads the rows besides."""
    pytest.importorskip("gcsfs")
    connection = DestinationConnection(kind="gcs", prefix="gs://lake/raw", options={})
    store = GcsStore(importlib.import_module("gcsfs"), "lake", "raw", connection)
    there = urlsplit(store._upload_url)
    for scheme, taken in (("https", True), ("http", False)):
        told = {"Location": f"{scheme}://{there.netloc}/session"}
        monkeypatch.setattr(store, "ask", lambda *_, told=told, **__: (told, b""))
        if taken:
            assert store.resumable("{}") == told["Location"]
        else:
            with pytest.raises(DestinationUnavailable, match="an upload elsewhere"):
                store.resumable("{}")
