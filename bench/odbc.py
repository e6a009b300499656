"""ODBC drivers without root: Debian's packages, unpacked into ``.tools/odbc``, never installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.schema import Engine

_PACKAGES = (
    *("odbc-postgresql", "odbc-mariadb", "libodbc2", "libodbcinst2"),
    *("libltdl7", "libmariadb3", "libpq5"),
)
_DRIVERS = {Engine.POSTGRES: "psqlodbcw.so", Engine.MARIADB: "libmaodbc.so"}
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OdbcDrivers:
    """Where the drivers and what they link to lie; ``missing`` says why they do not."""

    folder: Path
    versions: dict[str, str]
    missing: str | None = None

    @property
    def libraries(self) -> Path:
        """For ``LD_LIBRARY_PATH``."""
        return next((self.folder / "usr" / "lib").glob("*-linux-gnu*"), self.folder)

    def driver(self, engine: Engine) -> Path:
        """The engine's driver file."""
        return self.libraries / "odbc" / _DRIVERS[engine]


def odbc_drivers(root: Path) -> OdbcDrivers:
    """The drivers under ``root``, fetched with ``apt-get download`` when they are not there."""
    folder = root / ".tools" / "odbc"
    found = OdbcDrivers(folder=folder, versions=_versions(folder))
    if all(found.driver(engine).is_file() for engine in Engine):
        return found
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return OdbcDrivers(folder=folder, versions={}, missing="no Debian to take drivers from")
    print("fetching the ODBC drivers into .tools/odbc …", file=sys.stderr, flush=True)
    failed = _fetch(folder)
    if failed is not None:
        return OdbcDrivers(folder=folder, versions={}, missing=failed)
    return OdbcDrivers(folder=folder, versions=_versions(folder))


def _fetch(folder: Path) -> str | None:
    """None, or why it failed. The folder appears whole."""
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="odbc.") as name:
        work = Path(name)
        failed = _run(["apt-get", "download", *_PACKAGES], work)
        if failed is not None:
            return f"the drivers' packages cannot be downloaded: {failed}"
        for package in work.glob("*.deb"):
            failed = _run(["dpkg-deb", "-x", str(package), str(work / "root")], work)
            if failed is not None:
                return failed
        named = sorted(package.name for package in work.glob("odbc-*.deb"))
        (work / "root" / "packages.txt").write_text("\n".join(named) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        (work / "root").rename(folder)
    return None


def _versions(folder: Path) -> dict[str, str]:
    listed = folder / "packages.txt"
    if not listed.is_file():
        return {}
    names = [line.split("_") for line in listed.read_text().split()]
    return {parts[0]: parts[1].replace("%3a", ":") for parts in names}


def _run(command: list[str], folder: Path) -> str | None:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            check=False,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return f"{command[0]}: no answer within {_TIMEOUT_S:.0f} s"
    lines = done.stderr.strip().splitlines() or ["no message"]
    return lines[-1] if done.returncode else None
