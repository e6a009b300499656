"""Watches destination folders while a campaign runs: nothing visible is ever incomplete.

Every visible file is opened and read completely the moment it is seen, and its bytes must never
change afterwards. Knows the published layout (``<prefix>/<run_id>/…``) and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

STAGING = ".staging"
_INTERVAL_S = 0.01
_PART = re.compile(r"(?P<chunk>.+-c\d{6}-p\d{3})-f(?P<fence>\d+)\.parquet")
_MARK = re.compile(r"manifest(-[\w-]+)?\.json|latest\.json|_SUCCESS|summary\.(json|md)")


@dataclass(slots=True, kw_only=True)
class _Seen:
    """A visible part as it was read completely."""

    identity: tuple[int, int, int]
    fingerprint: str


@dataclass(slots=True, kw_only=True)
class Watched:
    """What the watcher knows of one prefix."""

    prefix: Path
    files: int = 0
    failures: list[str] = field(default_factory=list)
    seen: dict[str, _Seen] = field(default_factory=dict)
    marks: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def look(self) -> None:
        """One look at everything visible."""
        present = dict(_visible(self.prefix, ""))
        for relative, name in present.items():
            self._look_at(self.prefix / relative, relative, name)
        self._look_for_twins(present)
        latest = self.prefix / "latest.json"
        if latest.name in self.marks and not latest.exists():
            self._blame(f"{latest.name} was there, and is gone")
        for gone in self.seen.keys() - present.keys():
            # Removed by a reopen: a file of the same name would be a new one.
            del self.seen[gone]

    def look_again(self) -> None:
        """Read every part once more: its bytes are those of the first look."""
        self.look()
        for relative, seen in list(self.seen.items()):
            body = _read(self.prefix / relative)
            if body is not None and _fingerprint(body) != seen.fingerprint:
                self._blame(f"{relative} changed after it had become visible")

    def _look_at(self, path: Path, relative: str, name: str) -> None:
        if _MARK.fullmatch(name):
            self._look_at_mark(path, relative, name)
            return
        if not _PART.fullmatch(name):
            self._blame(f"a file with an unexpected visible name: {relative}")
            return
        identity = _identity(path)
        known = self.seen.get(relative)
        if identity is None or (known is not None and known.identity == identity):
            return
        body = _read(path)
        if body is None:
            return
        if known is not None and known.fingerprint != _fingerprint(body):
            self._blame(f"{relative} changed after it had become visible")
        complaint = _incomplete(body)
        if complaint:
            self._blame(f"{relative} was visible but incomplete: {complaint}")
        self.files += 1
        self.seen[relative] = _Seen(identity=identity, fingerprint=_fingerprint(body))

    def _look_at_mark(self, path: Path, relative: str, name: str) -> None:
        identity = _identity(path)
        if identity is None or self.marks.get(relative) == identity:
            return
        body = _read(path)
        if body is None:
            return
        self.marks[relative] = identity
        if name == "_SUCCESS":
            if not re.fullmatch(rb"xxh3:[0-9a-f]{16}\n", body):
                self._blame(f"{relative} was visible but incomplete: {body!r}")
            return
        try:
            if name.endswith(".json"):
                json.loads(body)
        except ValueError as error:
            self._blame(f"{relative} was visible but incomplete: {error}")

    def _look_for_twins(self, present: dict[str, str]) -> None:
        """Two attempts of one chunk must never be visible at the same moment."""
        first: dict[str, str] = {}
        for relative, name in present.items():
            part = _PART.fullmatch(name)
            if part is None:
                continue
            chunk = f"{os.path.dirname(relative)}/{part['chunk']}"
            other = first.setdefault(chunk, relative)
            both = [self.prefix / other, self.prefix / relative]
            # The listing is no snapshot: they count only if both are there now.
            if other != relative and all(path.exists() for path in both):
                self._blame(f"two attempts are visible at once: {other} and {relative}")

    def _blame(self, failure: str) -> None:
        if failure not in self.failures:
            self.failures.append(failure)


class Watcher:
    """Looks at every watched prefix again and again from a thread of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[Path, Watched] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        """Begin looking."""
        self._thread.start()

    def watch(self, prefix: Path) -> None:
        """From now on. The folder need not exist yet."""
        with self._lock:
            self._watched.setdefault(prefix, Watched(prefix=prefix))

    def finish(self, prefix: Path) -> Watched:
        """Stop watching ``prefix``, with one last complete look."""
        with self._lock:
            watched = self._watched.pop(prefix, None) or Watched(prefix=prefix)
            watched.look_again()
        return watched

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stop.wait(_INTERVAL_S):
            with self._lock:
                for watched in self._watched.values():
                    watched.look()


def _visible(prefix: Path, below: str) -> list[tuple[str, str]]:
    """(relative path, name) of every visible file."""
    found = []
    try:
        entries = list(os.scandir(prefix / below))
    except (FileNotFoundError, NotADirectoryError):
        return []
    for entry in entries:
        relative = f"{below}/{entry.name}" if below else entry.name
        if entry.is_dir(follow_symlinks=False):
            if entry.name != STAGING or below:
                found += _visible(prefix, relative)
        else:
            found.append((relative, entry.name))
    return found


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _fingerprint(body: bytes) -> str:
    return str(xxhash.xxh3_64_hexdigest(body))


def _incomplete(body: bytes) -> str | None:
    """Why the bytes are no complete Parquet file with every row readable; None when they are."""
    try:
        file = pq.ParquetFile(pa.BufferReader(body))
        rows = sum(batch.num_rows for batch in file.iter_batches())
    except (pa.ArrowException, OSError, ValueError) as error:
        return str(error)
    told = int(file.metadata.num_rows)
    return None if rows == told else f"{rows} rows of {told}"
