"""One part on its way into each kind of store: through a proxy that goes wrong on purpose, and past
it, where the truth is."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rivet_fleet.errors import DestinationUnavailable
from rivet_fleet.execution import registry
from rivet_fleet.execution.destination import Presence
from rivet_fleet.execution.parts import digest_file
from tests.servers.faults import FaultProxy

Matches = Callable[[str, str], bool]
S3: dict[str, Matches] = {
    "begin": lambda m, p: m == "POST" and p.endswith("?uploads"),
    "piece": lambda m, p: m == "PUT" and "partNumber=" in p,
    "commit": lambda m, p: m == "POST" and "uploadId=" in p,
    "pieces": lambda m, p: m == "GET" and "uploadId=" in p,
    "abort": lambda m, p: m == "DELETE" and "uploadId=" in p,
    "look": lambda m, p: m == "HEAD",
    "get": lambda m, p: m == "GET" and "?" not in p,
    "list": lambda m, p: m == "GET" and "list-type=" in p,
    "uploads": lambda m, p: m == "GET" and "uploads" in p and "prefix=" in p,
    "put": lambda m, p: m == "PUT" and "?" not in p,
    "delete": lambda m, p: m == "DELETE" and "?" not in p,
}
AZURE: dict[str, Matches] = {
    "piece": lambda m, p: m == "PUT" and "comp=block&" in f"{p}&",
    "commit": lambda m, p: m == "PUT" and "comp=blocklist" in p,
    "pieces": lambda m, p: m == "GET" and "comp=blocklist" in p,
    "look": lambda m, p: m == "HEAD",
    "get": lambda m, p: m == "GET" and "comp=" not in p,
    "list": lambda m, p: m == "GET" and "comp=list" in p,
    "put": lambda m, p: m == "PUT" and "comp=" not in p,
    "delete": lambda m, p: m == "DELETE",
}
GCS: dict[str, Matches] = {
    "piece": lambda m, p: m in ("POST", "PUT") and ("/upload/" in p or "/session/" in p),
    "commit": lambda m, p: m == "POST" and "/rewriteTo/" in p,
    "look": lambda m, p: m == "GET" and "/o/" in p and "alt=" not in p,
    "get": lambda m, p: m == "GET" and "alt=media" in p,
    "list": lambda m, p: m == "GET" and "/o?" in p,
    "delete": lambda m, p: m == "DELETE",
}
CALLS = {"s3": S3, "azure": AZURE, "gcs": GCS}
"""What is asked of each kind of store, by what its requests look like."""
PATH = "run-1/orders-c000001-p000-f1.parquet"
_numbers = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Service:
    """A store, and the way to it."""

    store: Any
    proxy: FaultProxy

    @property
    def kind(self) -> str:
        return str(self.store.kind)

    @property
    def calls(self) -> dict[str, Matches]:
        return CALLS[self.kind]


class Scene:
    """One part, and a bucket of its own."""

    path = PATH

    def __init__(self, service: Service, folder: Path) -> None:
        self.proxy, self.store = service.proxy, service.store
        self.calls = service.calls
        self.bucket = self.store.make_bucket(f"faults{next(_numbers)}x")
        self.below = "orders"
        direct = self.store.connection(self.bucket, self.below)
        endpoint = {"endpoint": f"http://127.0.0.1:{self.proxy.port}"}
        self.here: Any = registry.open_destination(
            replace(direct, options={**direct.options, **endpoint})
        )
        self.truth: Any = registry.open_destination(direct)
        self.local = folder / f"part-{self.bucket}"
        self.write(b"PAR1 one part PAR1")

    def write(self, body: bytes) -> None:
        """What the part holds."""
        self.local.write_bytes(body)
        self.digest = digest_file(self.local, 1)

    def meant(self, call: str) -> Matches:
        """Requests of one kind about this bucket alone."""
        matches = self.calls[call]
        return lambda method, path: matches(method, path) and f"/{self.bucket}" in path

    def stage(self) -> Any:
        """The receipt."""
        return self.here.stage(self.local, self.path, self.digest)

    def publish(self, receipt: Any) -> Presence:
        """By the way that may go wrong."""
        found: Presence = self.here.publish(receipt, self.path, self.digest)
        return found

    def delivered(self) -> Presence:
        """As a chunk is: what was not staged is staged anew, what cannot be told now is asked
        again."""
        receipt = again(self.stage)
        return again(lambda: self.publish(receipt))

    def visible(self) -> list[str]:
        return [info.path for info in self.truth.list_visible()]

    def left(self) -> list[Any]:
        """What is staged."""
        return list(self.truth.list_staged())


def again(action: Callable[[], Any]) -> Any:
    """As whoever cannot be told now asks again."""
    for _ in range(3):
        try:
            return action()
        except DestinationUnavailable:
            continue
    raise AssertionError("never done")
