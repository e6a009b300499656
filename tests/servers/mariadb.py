"""A real MariaDB on a loopback TCP port: the fetched one, or the machine's own.

``scripts/install-tools`` fetches the server's packages into ``.tools/mariadb`` without
installing anything; else ``mariadbd`` of the machine is used.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rivet_fleet.demo.embedded import free_port
from tests.waiting import until

_PR_SET_PDEATHSIG = 1
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 20.0
_UNPRIVILEGED = ("mysql", "nobody")
_TOOLS = Path(__file__).resolve().parents[2] / ".tools" / "mariadb"
_SYSTEM_TABLES = (
    "mysql_system_tables.sql",
    "mysql_performance_tables.sql",
    "mysql_system_tables_data.sql",
)
_SETTINGS = {
    "innodb_buffer_pool_size": "134217728",
    "innodb_log_file_size": "50331648",
    "innodb_flush_log_at_trx_commit": "2",
    "max_connections": "120",
    "max_allowed_packet": "1073741824",
    "character_set_server": "utf8mb4",
    "performance_schema": "ON",
    "table_open_cache": "200",
}


class EmbeddedMariadbMissing(RuntimeError):
    """There is no MariaDB server on this machine and none was fetched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MariadbInstall:
    """One installed server: its programs, its shared files, where its libraries lie."""

    server: Path
    client: Path
    share: Path
    libraries: Path | None

    @property
    def environment(self) -> dict[str, str]:
        """Variables its programs run with."""
        extra = {} if self.libraries is None else {"LD_LIBRARY_PATH": str(self.libraries)}
        return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", **extra}


def find_mariadb(tools: Path = _TOOLS) -> MariadbInstall:
    """The server fetched into ``tools``, else the machine's. Raises EmbeddedMariadbMissing."""
    for root in (tools / "usr", None):
        folders = [root / "sbin", root / "bin"] if root else None
        server = _program(("mariadbd",), folders)
        client = _program(("mariadb", "mysql"), folders)
        if server is None or client is None:
            continue
        share = (root or server.resolve().parents[1]) / "share" / "mysql"
        if not share.is_dir():
            share = share.with_name("mariadb")
        libraries = next((root / "lib").glob("*-linux-gnu*"), None) if root else None
        return MariadbInstall(server=server, client=client, share=share, libraries=libraries)
    raise EmbeddedMariadbMissing(
        "there is no mariadbd on this machine: run scripts/install-tools, or install mariadb-server"
    )


def _program(names: tuple[str, ...], folders: list[Path] | None) -> Path | None:
    searched = [*os.environ.get("PATH", os.defpath).split(os.pathsep), "/usr/sbin", "/usr/bin"]
    for name in names:
        for folder in folders if folders is not None else searched:
            if os.access(Path(folder) / name, os.X_OK):
                return Path(folder) / name
    return None


def die_with_parent() -> None:
    """In a process that was just forked: no server outlives the tests."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class EmbeddedMariadb:
    """One server: start, stop, kill -9, restart, on the same port and data directory."""

    def __init__(
        self,
        directory: Path,
        *,
        settings: dict[str, str] | None = None,
        install: MariadbInstall | None = None,
    ) -> None:
        """``directory`` is created; its parents must be traversable by everybody under root.

        ``settings`` are server variables, over the small defaults of this module.
        """
        self.directory = directory
        self.port = free_port()
        self.settings = settings or {}
        self.install = install or find_mariadb()
        self.password = secrets.token_hex(8)
        self._user = _server_user(self.install)
        self._process: subprocess.Popen[bytes] | None = None

    def url(
        self, database: str = "mysql", *, user: str = "root", password: str | None = None
    ) -> str:
        """A URL for ``database`` on this server; the administrator's unless told otherwise."""
        secret = self.password if password is None and user == "root" else password
        return f"mysql://{user}{f':{secret}' if secret else ''}@127.0.0.1:{self.port}/{database}"

    @property
    def _scratch(self) -> Path:
        return self.directory / "tmp"

    @property
    def pid(self) -> int | None:
        """The server's pid, None when it does not run."""
        if self._process is None or self._process.poll() is not None:
            return None
        return self._process.pid

    def start(self) -> None:
        """Initialise the data directory if needed, start the server, wait until it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._own(self.directory)
        self._scratch.mkdir(exist_ok=True)
        self._own(self._scratch)
        data = self.directory / "data"
        if not data.exists():
            self._init(data)
        options = {
            "bind_address": "127.0.0.1",
            "port": str(self.port),
            **_SETTINGS,
            **self.settings,
        }
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command(data), *(f"--{k}={v}" for k, v in options.items())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=self.install.environment,
                start_new_session=True,
                preexec_fn=die_with_parent,
                **self._as_user(),  # type: ignore[call-overload]
            )
        self._wait_ready()

    def stop(self, *, mode: str = "fast") -> None:
        """``fast`` ends connections and shuts down; ``immediate`` is a crash with recovery."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM if mode == "fast" else signal.SIGKILL)
            try:
                self._process.wait(timeout=_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(timeout=_STOP_TIMEOUT_S)
        self._process = None

    def restart(self, *, mode: str = "immediate") -> None:
        """Stop and start again on the same port."""
        self.stop(mode=mode)
        self.start()

    def create_database(self, name: str) -> str:
        """A new empty database; returns its URL."""
        self.sql(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")
        return self.url(name)

    def sql(self, text: str, *, database: str = "mysql") -> str:
        """Run SQL with the real client; its output, tab-separated. Raises on any error."""
        done = subprocess.run(
            [
                *(str(self.install.client), "--no-defaults", "--protocol=TCP", "--batch"),
                *("--skip-column-names", "--host=127.0.0.1", f"--port={self.port}"),
                *("--user=root", "--default-character-set=utf8mb4", database),
            ],
            input=text,
            text=True,
            capture_output=True,
            check=False,
            env={**self.install.environment, "MYSQL_PWD": self.password},
        )
        if done.returncode != 0:
            raise RuntimeError(f"mariadb failed: {done.stderr.strip()}")
        return done.stdout.strip("\n")

    def _command(self, data: Path) -> list[str]:
        """The server with everything that is not a setting; never the machine's my.cnf."""
        command = [
            *(str(self.install.server), "--no-defaults", f"--datadir={data}"),
            *(f"--socket={self.directory / 's'}", f"--pid-file={self.directory / 'pid'}"),
            # A server that starts empties its tmpdir of every "#sql…": in a common one, those
            # of servers that run, which then crash.
            f"--tmpdir={self._scratch}",
            f"--lc-messages-dir={self.install.share}",
            f"--character-sets-dir={self.install.share / 'charsets'}",
            *("--skip-log-bin", "--skip-name-resolve", "--innodb-fast-shutdown=1"),
        ]
        if os.geteuid() == 0 and self._user is None:
            command.append("--user=root")
        return command

    def _init(self, data: Path) -> None:
        """The system tables, without the help texts, and one administrator who has a password."""
        data.mkdir()
        self._own(data)
        tables = [(self.install.share / name).read_text() for name in _SYSTEM_TABLES]
        script = [
            "CREATE DATABASE IF NOT EXISTS mysql;",
            "USE mysql;",
            "SET @auth_root_socket=NULL;",
            *tables,
            "FLUSH PRIVILEGES;",
            f"CREATE OR REPLACE USER 'root'@'127.0.0.1' IDENTIFIED BY '{self.password}';",
            "GRANT ALL PRIVILEGES ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION;",
        ]
        done = subprocess.run(
            [*self._command(data), "--bootstrap", "--enforce-storage-engine=", "--skip-networking"],
            input="\n".join(script),
            text=True,
            capture_output=True,
            check=False,
            cwd="/",
            env=self.install.environment,
            **self._as_user(),  # type: ignore[call-overload]
        )
        if done.returncode != 0:
            shutil.rmtree(data, ignore_errors=True)
            raise RuntimeError(f"MariaDB could not be initialised: {done.stderr[-2000:]}")

    def _own(self, folder: Path) -> None:
        if self._user is not None:
            shutil.chown(folder, self._user)

    def _as_user(self) -> dict[str, object]:
        return {} if self._user is None else {"user": self._user, "extra_groups": []}

    def _wait_ready(self) -> None:
        until(self._greets, limit_s=_START_TIMEOUT_S, what="MariaDB's first greeting")

    def _greets(self) -> bool:
        """True when the server sends its handshake. Raises RuntimeError when it has ended."""
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"MariaDB did not start: see {self.directory / 'server.log'}")
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2.0) as probe:
                return len(probe.recv(5)) == 5
        except OSError:
            return False


def _server_user(install: MariadbInstall) -> str | None:
    """Whom a server that root starts runs as; None: as ourselves (root, when nobody else can)."""
    if os.geteuid() != 0:
        return None
    for name in _UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            pwd.getpwnam(name)
            wanted = [install.server, install.share / "charsets" / "Index.xml"]
            tests = " && ".join(f"test -r '{path}'" for path in wanted)
            if subprocess.run(["sh", "-c", tests], user=name, check=False, cwd="/").returncode == 0:
                return name
    return None


@contextlib.contextmanager
def embedded_mariadb(
    directory: Path | None = None,
    *,
    settings: dict[str, str] | None = None,
    install: MariadbInstall | None = None,
) -> Iterator[EmbeddedMariadb]:
    """A server for the length of a ``with`` block; a temporary directory is removed after it.

    Raises EmbeddedMariadbMissing where there is none.
    """
    install = install or find_mariadb()
    own = directory is None
    # Not pytest's tmp_path: that is private to root, and the server runs as somebody else.
    where = directory or Path(tempfile.mkdtemp(prefix="rivet-fleet-maria-"))
    if own:
        where.chmod(0o755)
    server = EmbeddedMariadb(where / "mariadb", settings=settings, install=install)
    try:
        server.start()
        yield server
    finally:
        server.stop(mode="immediate")
        if own:
            shutil.rmtree(where, ignore_errors=True)
