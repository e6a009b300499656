"""The test's side of the oracle process: one process, many campaigns."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any


class OracleProcess:
    """``python -m chaos.oracle --serve``. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "chaos.oracle", "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )

    def watch(self, prefix: Path) -> None:
        """From now on nothing incomplete may become visible there."""
        with self._lock:
            self._say({"op": "watch", "prefix": str(prefix)})

    def judge(self, prefix: Path, digest: Path) -> dict[str, Any]:
        """Watcher and reader in one verdict: ``ok``, ``failures``, ``rows``, ``parts``."""
        with self._lock:
            self._say({"op": "judge", "prefix": str(prefix), "digest": str(digest)})
            assert self._process.stdout is not None
            answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the oracle process ended")
        verdict: dict[str, Any] = json.loads(answer)
        return verdict

    def close(self) -> None:
        """End it, by its own process handle."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _say(self, message: dict[str, str]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
