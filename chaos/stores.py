"""Object stores as destinations under chaos, and how somebody else reads them.

What lies there is fetched by pyarrow's own clients, and judged as a folder is; nothing of ours
reads it. Staged bytes, which pyarrow cannot see, are asked of the service itself.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from pyarrow import fs

from tests.servers.versitygw import Versitygw, VersitygwMissing, running_versitygw

MISSING_STORES = (VersitygwMissing,)
"""Raised where a server is not to be had."""


class ChaosStore(Protocol):
    """One server and one bucket."""

    variables: dict[str, str]
    """What processes need in their environment."""

    def block(self, below: str) -> str:
        """A destination of a configuration, in flow style."""
        ...

    def staged(self, below: str) -> list[str]:
        """Names of what is not visible below a prefix."""
        ...

    def lose_staged(self, below: str) -> None:
        """Take all of that away."""
        ...

    def restart(self) -> None:
        """Kill the server and start it again."""
        ...

    def files(self) -> tuple[fs.FileSystem, str]:
        """Another client, and the bucket's name."""
        ...


def fetch(store: ChaosStore, below: str, folder: Path) -> None:
    """Everything visible below a prefix, as files of a folder that holds nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    files, bucket = store.files()
    root = f"{bucket}/{below}"
    selector = fs.FileSelector(root, recursive=True, allow_not_found=True)
    for info in files.get_file_info(selector):
        if info.is_file:
            local = folder / info.path.removeprefix(f"{root}/")
            local.parent.mkdir(parents=True, exist_ok=True)
            with files.open_input_stream(info.path) as stream, local.open("wb") as copy:
                shutil.copyfileobj(stream, copy)


class _S3:
    """versitygw."""

    def __init__(self, server: Versitygw) -> None:
        self._server = server
        self._bucket = server.make_bucket("chaos")
        self.variables = server.variables

    def block(self, below: str) -> str:
        return (
            f"{{type: s3, bucket: {self._bucket}, prefix: {below}, "
            f"endpoint: '{self._server.endpoint}', access_key_env: LAKE_KEY, "
            "secret_key_env: LAKE_SECRET}"
        )

    def staged(self, below: str) -> list[str]:
        return [key for key, _ in self._uploads(below)]

    def lose_staged(self, below: str) -> None:
        for key, upload_id in self._uploads(below):
            with contextlib.suppress(FileNotFoundError):
                self._call("abort_multipart_upload", Key=key, UploadId=upload_id)

    def _uploads(self, below: str) -> list[tuple[str, str]]:
        told = self._call("list_multipart_uploads", Prefix=f"{below}/")
        return [(upload["Key"], upload["UploadId"]) for upload in told.get("Uploads", ())]

    def _call(self, method: str, **words: str) -> Any:
        import s3fs

        service = s3fs.S3FileSystem(
            key=self._server.access_key,
            secret=self._server.secret_key,
            endpoint_url=self._server.endpoint,
            client_kwargs={"region_name": "us-east-1"},
        )
        return service.call_s3(method, Bucket=self._bucket, **words)

    def restart(self) -> None:
        self._server.restart()

    def files(self) -> tuple[fs.FileSystem, str]:
        client = fs.S3FileSystem(
            access_key=self._server.access_key,
            secret_key=self._server.secret_key,
            endpoint_override=f"127.0.0.1:{self._server.port}",
            scheme="http",
            region="us-east-1",
        )
        return client, self._bucket


@contextlib.contextmanager
def _s3() -> Iterator[ChaosStore]:
    with running_versitygw() as server:
        yield _S3(server)


_STORES: dict[str, Callable[[], AbstractContextManager[ChaosStore]]] = {"s3": _s3}
DESTINATIONS = ("local", *_STORES)


def running_store(destination: str) -> AbstractContextManager[ChaosStore | None]:
    """The server of a kind of destination; None for a folder. Raises ``MISSING_STORES``."""
    return contextlib.nullcontext() if destination == "local" else _STORES[destination]()


_places = itertools.count(1)


def own_place() -> str:
    """A prefix that no other campaign of this process has."""
    return f"c{next(_places)}"
