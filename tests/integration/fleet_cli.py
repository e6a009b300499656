"""A user at a terminal: a folder with a configuration, the real program, real files to count.

Everything goes through ``python -m rivet_fleet`` in a process of its own; rows are counted by
pyarrow from the files that stand beside a ``_SUCCESS``, never from the program's own words.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests import warm

TIMEOUT_S = 120.0
COMPILED = {
    "PYTHONDONTWRITEBYTECODE": "",
    "PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir()) / f"rivet-fleet-pycache-{os.getuid()}"),
}
"""Compile each module once, not once per process: a third of the time where nothing is kept."""
FAILURE_KEYS = {*("code", "class", "kind", "retryable", "message", "hint", "action", "exit_code")}
"""Of a failure as JSON, and of each of its ``failures`` beside ``export_name``."""
FAILURE_FIELDS = {*FAILURE_KEYS, "exit_class", "failures"}
NAMESPACE = {"RIVET_FLEET_NAMESPACE": "default"}
"""A state on a server is refused without one."""
ORDERS = """
CREATE TABLE {name} (id bigint PRIMARY KEY, note text, total numeric(10,2));
INSERT INTO {name} SELECT i, repeat('n', 20) || i, i / 100.0 FROM generate_series(1, {rows}) i;
ANALYZE {name};
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How a command ended, and everything it said."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        """The one JSON object of ``--json-errors``: the last line that is one."""
        lines = [line for line in self.err.splitlines() if line.startswith('{"error"')]
        assert len(lines) == 1, f"not exactly one JSON error:\n{self.said}"
        body: dict[str, Any] = json.loads(lines[0])
        return body


@dataclass(slots=True, kw_only=True)
class Desk:
    """One user's folder. ``environment`` is added to the process's own."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.folder / "fleet.yaml"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def state(self) -> Path:
        return self.folder / ".rivet_fleet_state.db"

    def write(self, text: str) -> None:
        self.config.write_text(text, encoding="utf-8")

    def start(self, *arguments: str, **more: Any) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RIVET_")}
        return warm.start(
            "rivet_fleet",
            arguments,
            env={
                **environment,
                **COMPILED,
                **NAMESPACE,
                "RIVET_FLEET_TESTING": "1",
                **self.environment,
            },
            cwd=self.folder,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **more,
        )

    def cli(self, *arguments: str, code: int | None = 0) -> Done:
        """Run a command that takes ``-c`` to its end; ``code`` None accepts any exit code."""
        return self.bare(*arguments, "-c", str(self.config), code=code)

    def bare(self, *arguments: str, code: int | None = 0) -> Done:
        return self.finish(self.start(*arguments), code=code)

    def finish(self, process: subprocess.Popen[str], *, code: int | None = 0) -> Done:
        try:
            out, err = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"no end after {TIMEOUT_S} s:\n{out}\n{err}") from None
        done = Done(code=process.returncode, out=out, err=err)
        assert code is None or done.code == code, f"exit {done.code}, not {code}:\n{done.said}"
        return done

    def refused(self, *arguments: str, code: int, named: str, hint: str) -> dict[str, Any]:
        """The command fails as documented: exit code, message, hint, in JSON and in words.

        ``named`` must stand in the message, ``hint`` in what it says to do next.
        """
        done = self.cli("--json-errors", *arguments, code=code)
        error = done.error
        assert set(error) == {"error", "error_class", *FAILURE_FIELDS}
        assert error["exit_code"] == code, error
        assert named in error["error"], error
        assert hint in (error["hint"] or error["error"]), error
        assert "Traceback" not in done.said, done.said
        return error

    def delivered(self, table: str = "orders") -> list[int]:
        """Every id of every file in a folder that says ``_SUCCESS``, sorted."""
        ids: list[int] = []
        for success in sorted((self.out / table).glob("*/_SUCCESS")):
            for part in sorted(success.parent.glob("*.parquet")):
                ids += pq.read_table(part, columns=["id"]).column("id").to_pylist()
        return sorted(ids)


def fleet_yaml(
    *,
    table: str = "orders",
    export: str | None = None,
    source: str = "{type: postgres, url_env: SHOP_URL}",
    destination: str | None = None,
    extra: str = "mode: chunked, chunk_size: 50",
    campaign: str = "workers: 1, max_chunk_attempts: 3, lease_ttl_s: 5",
    tail: str = "",
) -> str:
    """A small configuration; ``extra`` is the export's own settings in flow style."""
    name = export or table
    # What a run proves of itself must hold in everything that is tested.
    proven = campaign if "prove:" in campaign else f"{campaign}, prove: all"
    return f"""\
source: {source}
campaign: {{name: shop, {proven}}}
exports:
  - {{name: {name}, table: {table}, format: parquet, {extra},
     destination: {{type: local, path: {destination or f"./out/{name}"}}}}}
{tail}"""


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """However the block ends, the process has ended afterwards."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A tmpfs of its own at ``folder`` (root only)."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def may_mount() -> bool:
    """True where this process may mount a filesystem."""
    if os.geteuid() != 0:
        return False
    probe = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/tmp"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def run_sqlite(path: Path, sql: str, values: Mapping[str, Any] | tuple[Any, ...] = ()) -> list[Any]:
    """Ask or change a SQLite state behind the program's back."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(path, timeout=10.0)) as connection, connection:
        return connection.execute(sql, values).fetchall()


def seal_anew(url: str) -> None:
    """What a test has changed behind the program's back counts as what was sealed."""
    from contextlib import closing

    from rivet_fleet.contracts.seals import Sealer
    from rivet_fleet.persistence.open import open_store
    from rivet_fleet.persistence.reseal import reseal

    with closing(open_store(url)) as store, store._db.migrating() as connection:
        reseal(connection, None, Sealer(), None)
