"""A real PgBouncer before a PostgreSQL: the fetched one, or the machine's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from rivet_fleet.demo.embedded import free_port
from tests.waiting import until

_FETCHED = Path(__file__).parents[2] / ".tools" / "pgbouncer"
_UNPRIVILEGED = "nobody"


class PgBouncerMissing(RuntimeError):
    """The program is not there."""


class PgBouncer:
    """One pooler, which can be killed and started again on its port."""

    def __init__(self, where: Path, server_port: int, settings: dict[str, str]) -> None:
        self.port = free_port()
        self._where = where
        self._program, self._libraries = _program(where)
        self._process: subprocess.Popen[bytes] | None = None
        options = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "any",
            "admin_users": "admin",
            "pool_mode": "transaction",
            "default_pool_size": "1",
            "max_client_conn": "100",
            **settings,
        }
        lines = ["[databases]", f"* = host=127.0.0.1 port={server_port} user=postgres"]
        lines += ["[pgbouncer]", *(f"{name} = {value}" for name, value in options.items())]
        (where / "pgbouncer.ini").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def url(self, database: str) -> str:
        """A URL for ``database`` through the pooler."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Until it answers."""
        # PgBouncer refuses to run as root.
        user: dict[str, Any] = (
            {"user": _UNPRIVILEGED, "extra_groups": []} if os.geteuid() == 0 else {}
        )
        with (self._where / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, self._where / "pgbouncer.ini"],
                env={"LD_LIBRARY_PATH": str(self._libraries)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                **user,
            )
        until(self._answers, limit_s=20.0, what="the pooler's answer")

    def kill(self) -> None:
        """``SIGKILL``; its port stays its own."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(timeout=20)
            self._process = None

    def show(self, what: str) -> list[dict[str, object]]:
        """``SHOW what`` of the pooler's own console."""
        url = f"postgresql://admin@127.0.0.1:{self.port}/pgbouncer"
        with psycopg.connect(url, autocommit=True, cursor_factory=psycopg.ClientCursor) as console:
            cursor = console.execute(f"SHOW {what}".encode())
            names = [column.name for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, self._log()
        try:
            return bool(self.show("VERSION"))
        except psycopg.OperationalError:
            return False

    def _log(self) -> str:
        return (self._where / "log").read_text(encoding="utf-8")


def _program(where: Path) -> tuple[Path, Path]:
    """A copy of the program and its libraries that anybody may run."""
    fetched = _FETCHED / "usr" / "sbin" / "pgbouncer"
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if not fetched.exists() and found is None:
        raise PgBouncerMissing(
            "there is no PgBouncer: run scripts/install-tools, or install pgbouncer"
        )
    libraries = where / "lib"
    libraries.mkdir()
    if fetched.exists():
        for library in _FETCHED.glob("usr/lib/*-linux-gnu*/*.so*"):
            shutil.copy(library, libraries)
    return Path(shutil.copy(fetched if fetched.exists() else str(found), where)), libraries


@contextlib.contextmanager
def pgbouncer(server_port: int, **settings: str) -> Iterator[PgBouncer]:
    """A pooler for the length of a ``with`` block, before the PostgreSQL at a loopback port:
    transaction mode and one server connection for each database, unless told otherwise. Raises
    PgBouncerMissing."""
    # Not pytest's tmp_path: that is private to root, and PgBouncer refuses to run as root.
    where = Path(tempfile.mkdtemp(prefix="rivet-fleet-pgbouncer-"))
    where.chmod(0o755)
    try:
        pooler = PgBouncer(where, server_port, settings)
        try:
            pooler.start()
            yield pooler
        finally:
            pooler.kill()
    finally:
        shutil.rmtree(where, ignore_errors=True)
