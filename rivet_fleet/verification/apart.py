"""Reading a part's values in a process of its own.

A file is whatever somebody put there. Its few bytes may stand for more than all memory, and a
footer that contradicts itself ends the process that reads it (an exception of C++ that nobody
catches). So it is read by a child that may grow by so much and no more, and whose end is a finding.

The child is forked, by a command that waits for it and holds no lock: it starts in a hundredth of a
second and has the file's handle. It touches nothing else of what the command has (a store's client
has a thread of its own, which does not come along), says what it found, and is gone.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from rivet_fleet.errors import DataIntegrityError, DestinationError, DestinationUnavailable
from rivet_fleet.execution.allocator import memory_bounded
from rivet_fleet.execution.format import PartFormat

READING_BYTES_MAX = 1024 * 1024 * 1024
"""What the values of one part may take while they are read, whatever its file says of itself: eight
times the largest row group that is written (``export_plan.ROW_GROUP_BYTES_MAX``)."""
_FORKS = sys.platform == "linux"
"""Elsewhere libraries do not live through a fork, and nobody bounds an address space."""


class PartReader:
    """``PartFormat`` of finished files, read apart. Raises MemoryError for what takes more than
    ``READING_BYTES_MAX``, DataIntegrityError for what ends its reader, and OSError."""

    def __init__(self, part_format: PartFormat) -> None:
        self._format = part_format

    def count_rows(self, path: Path) -> int:
        """Rows of a finished local file."""
        return int(_apart(lambda: self._format.count_rows(path)))

    def checksums(self, path: Path) -> Mapping[str, str]:
        """The checksum of each column of a finished local file that has one."""
        return dict(_apart(lambda: dict(self._format.checksums(path))))


def _apart(work: Callable[[], Any]) -> Any:
    """What ``work`` gives, as plain JSON."""
    if not _FORKS:
        return _given(_said(work), 0)
    reads, writes = os.pipe()
    with warnings.catch_warnings():
        # Later Pythons warn of a fork beside threads: the child takes no lock of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _answer(work, writes)
    os.close(writes)
    try:
        with os.fdopen(reads, "rb") as answers:
            said = answers.read()
    finally:
        # It has said what it had to say, or nobody listens any more.
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    return _given(said, status)


def _answer(work: Callable[[], Any], writes: int) -> NoReturn:
    """In the child. What a library says as it aborts is nobody's to read, and leaves no core."""
    import resource

    try:
        faulthandler.disable()
        # Before its first use: Arrow's own pool has a gigabyte in hand that no limit would count.
        os.putenv("ARROW_DEFAULT_MEMORY_POOL", "system")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with os.fdopen(writes, "wb") as answers:
            answers.write(_said(work))
    finally:
        os._exit(0)


def _said(work: Callable[[], Any]) -> bytes:
    try:
        with memory_bounded(READING_BYTES_MAX):
            said: dict[str, Any] = {"found": work()}
    except MemoryError:
        said = {"memory": True}
    except DataIntegrityError as error:
        said = {"wrong": error.message}
    except DestinationError as error:
        said = {"unread": error.message}
    except OSError as error:
        said = {"errno": error.errno, "strerror": error.strerror or str(error)}
    return json.dumps(said).encode()


def _given(said: bytes, status: int) -> Any:
    try:
        answer = json.loads(said)
    except ValueError:  # nothing, or the half that it had written when it was ended
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        ended = f" by {signal.Signals(number).name}" if number else ""
        raise DataIntegrityError(f"it cannot be decoded: its reader was ended{ended}") from None
    if "memory" in answer:
        raise MemoryError
    if "wrong" in answer:
        raise DataIntegrityError(answer["wrong"])
    if "unread" in answer:
        raise DestinationUnavailable(answer["unread"])
    if "errno" in answer:
        raise OSError(answer["errno"], answer["strerror"])
    return answer["found"]
