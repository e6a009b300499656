"""The peers' own Python environment, installed from the hashed lock file when it is missing."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

FOLDER = ".bench-venv"
_LOCK = Path(__file__).parent / "requirements.lock"
_STAMP = "requirements.stamp"
_VERSIONS = """
import json, sys
from importlib.metadata import version
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeersEnvironment:
    """Where it is."""

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def tpchgen(self) -> Path:
        """The data generator."""
        return self.folder / "bin" / "tpchgen-cli"

    def versions(self) -> dict[str, str]:
        """Versions of what is compared."""
        names = ("duckdb", "duckdb-extension-postgres-scanner", "connectorx", "pyarrow")
        answer = subprocess.run(
            [str(self.python), "-c", _VERSIONS, *names], check=True, capture_output=True
        )
        return dict(json.loads(answer.stdout))


def peers_environment(root: Path) -> PeersEnvironment:
    """The environment under ``root``, brought to the lock file's state. Raises RuntimeError.

    Installed by our own pip, hashes required, into a folder that ignores itself; a stamp with
    the lock file's digest makes the next call free.
    """
    found = PeersEnvironment(folder=root / FOLDER)
    digest = hashlib.sha256(_LOCK.read_bytes()).hexdigest()
    stamp = found.folder / _STAMP
    if stamp.is_file() and stamp.read_text() == digest:
        return found
    print(f"installing the peers into {FOLDER} …", file=sys.stderr, flush=True)
    _run(sys.executable, "-m", "venv", "--clear", "--without-pip", str(found.folder))
    (found.folder / ".gitignore").write_text("*\n")
    pip = (sys.executable, "-m", "pip", "--python", str(found.python), "--quiet")
    _run(*pip, "install", "--disable-pip-version-check", "--require-hashes", "-r", str(_LOCK))
    stamp.write_text(digest)
    return found


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"setting up the peers failed:\n{done.stderr[-2000:]}")
