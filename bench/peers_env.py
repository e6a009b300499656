"""The peers' own Python environment, installed from the hashed lock file when it is missing."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = ".bench-venv"
_LOCK = Path(__file__).parent / "requirements.lock"
_STAMP = "requirements.stamp"
_COMPARED = (
    "duckdb",
    "duckdb-extension-postgres-scanner",
    "duckdb-extension-mysql-scanner",
    "duckdb-extension-httpfs",
    "connectorx",
    "adbc-driver-postgresql",
    "arrow-odbc",
    "sling-linux-amd64",
    "dlt",
    "sqlalchemy",
    "psycopg2-binary",
    "pymysql",
    "pyarrow",
    "s3fs",
    "tpchgen-cli",
    "rivet-cli",
)
_VERSIONS = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""
_REQUIREMENT = re.compile(r"^[A-Za-z0-9].*?(?=^[A-Za-z0-9]|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeersEnvironment:
    """Where it is, and which of the compared packages are in it, with their versions."""

    folder: Path
    versions: dict[str, str]

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def tpchgen(self) -> Path:
        """The data generator."""
        return self.folder / "bin" / "tpchgen-cli"

    def missing(self, *packages: str) -> str | None:
        """Why something that needs ``packages`` cannot run; None when it can."""
        absent = [name for name in packages if name not in self.versions]
        return f"{', '.join(absent)} could not be installed" if absent else None


def peers_environment(root: Path) -> PeersEnvironment:
    """The environment under ``root``, brought to the lock file's state. Raises RuntimeError.

    Installed by our own pip, hashes required, into a folder that ignores itself; a stamp with
    the lock file's digest makes the next call free. Where the whole cannot be installed, each
    package is tried by itself: one that cannot be had does not cost the others.
    """
    folder = root / FOLDER
    python = folder / "bin" / "python"
    digest = hashlib.sha256(_LOCK.read_bytes()).hexdigest()
    stamp = folder / _STAMP
    if not (stamp.is_file() and stamp.read_text() == digest):
        print(f"installing the peers into {FOLDER} …", file=sys.stderr, flush=True)
        made = _run(sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder))
        if made is not None:
            raise RuntimeError(f"making {FOLDER} failed: {made}")
        (folder / ".gitignore").write_text("*\n")
        if _install(python, _LOCK) is None:
            stamp.write_text(digest)
        else:
            _install_each(python)
    answer = subprocess.run(
        [str(python), "-c", _VERSIONS, *_COMPARED], check=True, capture_output=True
    )
    return PeersEnvironment(folder=folder, versions=json.loads(answer.stdout))


def requirements(lock: str) -> Iterator[str]:
    """The lock file's requirements one by one, each with its hashes."""
    for found in _REQUIREMENT.finditer(lock):
        yield found[0]


def _install_each(python: Path) -> None:
    for requirement in requirements(_LOCK.read_text()):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as alone:
            alone.write(requirement)
            alone.flush()
            failed = _install(python, Path(alone.name), "--no-deps")
        if failed is not None:
            name = requirement.split("==")[0]
            print(f"{name} cannot be installed: {failed[-300:]}", file=sys.stderr, flush=True)


def _install(python: Path, wanted: Path, *options: str) -> str | None:
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python))
    return _run(*pip, "--quiet", "install", "--require-hashes", *options, "-r", str(wanted))


def _run(*command: str) -> str | None:
    """None, or what a failed command had to say."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stderr.strip()[-2000:] if done.returncode else None
