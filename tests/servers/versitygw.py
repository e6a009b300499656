"""A real S3 server on a loopback port: versitygw, which keeps a bucket as a folder.

It checks signatures and conditions, and what was uploaded outlives ``kill -9``. Built by
``scripts/install-tools``.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from rivet_fleet.contracts.destination import DestinationConnection
from rivet_fleet.demo.embedded import free_port
from tests.servers.mariadb import die_with_parent
from tests.waiting import until

_SERVER = Path(__file__).resolve().parents[2] / ".tools" / "bin" / "versitygw"
_UPLOADS = ".sgwtmp"
_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 10.0


class VersitygwMissing(RuntimeError):
    """The program is not installed."""


class Versitygw:
    """One server: start, kill, restart, on the same port and folder."""

    kind = "s3"

    def __init__(self, directory: Path) -> None:
        """``directory`` is created, on a file system with extended attributes."""
        self.directory = directory
        self.port = free_port()
        self.access_key = f"key{secrets.token_hex(4)}"
        self.secret_key = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> dict[str, str]:
        """A configuration's words beside bucket and prefix."""
        return {
            "endpoint": self.endpoint,
            "access_key_env": "LAKE_KEY",
            "secret_key_env": "LAKE_SECRET",
        }

    @property
    def variables(self) -> dict[str, str]:
        """Its credentials as a configuration's ``LAKE_KEY`` and ``LAKE_SECRET``."""
        return {"LAKE_KEY": self.access_key, "LAKE_SECRET": self.secret_key}

    def connection(self, bucket: str, prefix: str) -> DestinationConnection:
        """A destination of it, resolved."""
        return DestinationConnection(
            kind="s3",
            prefix=f"s3://{bucket}@127.0.0.1:{self.port}/{prefix}",
            options=self.settings,
            secrets={"access_key_env": self.access_key, "secret_key_env": self.secret_key},
        )

    def make_bucket(self, name: str) -> str:
        """A new empty bucket; its name."""
        self.folder(name).mkdir()
        return name

    def remove_bucket(self, name: str) -> None:
        """As an account's owner may, whatever is in it."""
        shutil.rmtree(self.folder(name))

    def bodies(self, bucket: str) -> dict[str, bytes]:
        """What can be seen: each object is a file, beside a folder of uploads."""
        folder = self.folder(bucket)
        found = (path for path in folder.rglob("*") if path.is_file())
        named = {path.relative_to(folder).as_posix(): path for path in found}
        return {
            name: path.read_bytes()
            for name, path in named.items()
            if not name.startswith(f"{_UPLOADS}/")
        }

    def lose(self, bucket: str, name: str) -> None:
        """As somebody who deletes by hand."""
        (self.folder(bucket) / name).unlink()

    def staged(self, bucket: str, below: str = "") -> list[str]:
        """Keys of the uploads that are not completed."""
        told = self._client.list_multipart_uploads(Bucket=bucket, Prefix=below)
        return [upload["Key"] for upload in told.get("Uploads", ())]

    def sweep(self, bucket: str, below: str = "") -> None:
        """As a lifecycle rule does with uploads that are too old."""
        client = self._client
        told = client.list_multipart_uploads(Bucket=bucket, Prefix=below)
        for one in told.get("Uploads", ()):
            # Else it has been completed meanwhile.
            with contextlib.suppress(client.exceptions.NoSuchUpload):
                client.abort_multipart_upload(
                    Bucket=bucket, Key=one["Key"], UploadId=one["UploadId"]
                )

    def reader(self) -> Any:
        """Somebody else's client."""
        fs = import_module("pyarrow.fs")
        return fs.S3FileSystem(
            access_key=self.access_key,
            secret_key=self.secret_key,
            endpoint_override=f"127.0.0.1:{self.port}",
            scheme="http",
            region="us-east-1",
        )

    @cached_property
    def _client(self) -> Any:
        return (
            import_module("botocore.session")
            .Session()
            .create_client(
                "s3",
                endpoint_url=self.endpoint,
                region_name="us-east-1",
                aws_access_key_id=self.access_key,
                aws_secret_access_key=self.secret_key,
            )
        )

    def folder(self, name: str) -> Path:
        """Where a bucket's objects are files."""
        return self.directory / "data" / name

    def start(self) -> None:
        """Start it and wait until it listens."""
        (self.directory / "data").mkdir(parents=True, exist_ok=True)
        keys = {"ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key}
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(str(_SERVER), "--port", f"127.0.0.1:{self.port}", "--quiet"),
                    # As the clouds do.
                    "--keep-alive",
                    *("posix", str(self.directory / "data")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={"PATH": os.environ.get("PATH", os.defpath), **keys},
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        until(self._listens, limit_s=_START_TIMEOUT_S, what="versitygw's port")

    def kill(self) -> None:
        """SIGKILL: as after a power cut, but for what the system still writes."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(timeout=_STOP_TIMEOUT_S)
        self._process = None

    def restart(self) -> None:
        """Kill and start again on the same port."""
        self.kill()
        self.start()

    def _listens(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"versitygw did not start: see {self.directory / 'server.log'}")
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=2.0).close()
        except OSError:
            return False
        return True


@contextlib.contextmanager
def running_versitygw() -> Iterator[Versitygw]:
    """A server for the length of a block. Raises VersitygwMissing where there is none."""
    if not os.access(_SERVER, os.X_OK):
        raise VersitygwMissing("versitygw is not built: run scripts/install-tools")
    folder = Path(tempfile.mkdtemp(prefix="rivet-fleet-s3-"))
    server = Versitygw(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)
