"""Object stores as destinations under chaos, and how somebody else reads them.

What lies there is fetched by pyarrow's own clients, and judged as a folder is; nothing of ours
reads it. Staged bytes, which pyarrow cannot see, are asked of the service itself. S3 is a real
server in a process of its own; Azure and Google are services that the tests play.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pyarrow import fs

from tests.servers.azure_fake import azure_account
from tests.servers.gcs_fake import gcs_service
from tests.servers.versitygw import VersitygwMissing, running_versitygw

MISSING_STORES = (VersitygwMissing,)
"""Raised where a server is not to be had."""


class Server(Protocol):
    """A store under test, of whatever kind."""

    port: int

    @property
    def kind(self) -> str:
        """Of destination."""
        ...

    @property
    def settings(self) -> Mapping[str, str]:
        """A configuration's words beside bucket and prefix."""
        ...

    @property
    def variables(self) -> Mapping[str, str]:
        """What processes need in their environment."""
        ...

    def make_bucket(self, name: str) -> str:
        """A new empty one; its name."""
        ...

    def staged(self, bucket: str, below: str) -> list[str]:
        """Names of what is not visible below a prefix."""
        ...

    def sweep(self, bucket: str, below: str) -> None:
        """Take all of that away."""
        ...

    def restart(self) -> None:
        """Kill the server and start it again."""
        ...

    def reader(self) -> fs.FileSystem:
        """Another client."""
        ...


@dataclass(frozen=True, kw_only=True)
class ChaosStore:
    """One bucket."""

    server: Server
    bucket: str
    port: int
    """By which our processes reach it; everybody else goes to the server's own."""

    @property
    def variables(self) -> Mapping[str, str]:
        """What processes need in their environment."""
        return self.server.variables

    def block(self, below: str) -> str:
        """A destination of a configuration, in flow style."""
        words = {
            "type": self.server.kind,
            "bucket": self.bucket,
            "prefix": below,
            **self.server.settings,
            "endpoint": f"http://127.0.0.1:{self.port}",
        }
        return "{" + ", ".join(f"{name}: '{text}'" for name, text in words.items()) + "}"

    def staged(self, below: str) -> list[str]:
        """Names of what is not visible below a prefix."""
        return self.server.staged(self.bucket, f"{below}/")

    def lose_staged(self, below: str) -> None:
        """Take all of that away."""
        self.server.sweep(self.bucket, f"{below}/")

    def fetch(self, below: str, folder: Path) -> None:
        """Everything visible below a prefix, as files of a folder that holds nothing else."""
        shutil.rmtree(folder, ignore_errors=True)
        files, root = self.server.reader(), f"{self.bucket}/{below}"
        selector = fs.FileSelector(root, recursive=True, allow_not_found=True)
        for info in files.get_file_info(selector):
            if info.is_file:
                local = folder / info.path.removeprefix(f"{root}/")
                local.parent.mkdir(parents=True, exist_ok=True)
                with files.open_input_stream(info.path) as stream, local.open("wb") as copy:
                    shutil.copyfileobj(stream, copy)


@contextlib.contextmanager
def _gcs() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder, gcs_service(Path(folder)) as service:
        yield service


_STORES: dict[str, Callable[[], AbstractContextManager[Server]]] = {
    "s3": running_versitygw,
    "azure": azure_account,
    "gcs": _gcs,
}
STORES = tuple(_STORES)
DESTINATIONS = ("local", *STORES)


@contextlib.contextmanager
def running_store(destination: str) -> Iterator[ChaosStore | None]:
    """The server of a kind of destination; None for a folder. Raises ``MISSING_STORES``."""
    if destination == "local":
        yield None
        return
    with _STORES[destination]() as server:
        yield ChaosStore(server=server, bucket=server.make_bucket("chaos"), port=server.port)


_places = itertools.count(1)


def own_place() -> str:
    """A prefix that no other campaign of this process has."""
    return f"c{next(_places)}"
