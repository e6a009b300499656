"""Proving what a destination and a spool folder promise, by doing it with a few bytes."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from rivet_fleet.execution.destination import Destination, Presence
from rivet_fleet.execution.durable import filesystem_errors
from rivet_fleet.execution.parts import digest_file
from rivet_fleet.execution.spool import make_root

PROBE = "_rivet_doctor_probe"
_BYTES_MAX = 1024


@contextlib.contextmanager
def removed_if_made(folder: Path) -> Iterator[None]:
    """Whatever the block makes of ``folder`` and of what it lies in is removed behind it, as far
    as it is empty: examining leaves nothing behind."""
    missing = [level for level in (folder, *folder.parents) if not level.exists()]
    try:
        yield
    finally:
        for level in missing:
            with contextlib.suppress(OSError):
                level.rmdir()


def probe_spool(root: Path) -> int:
    """Write, read and remove a small file below ``root`` (made when missing); the free bytes
    there. Raises DestinationRefused, DestinationFull or DestinationUnavailable."""
    probe = root / f"{PROBE}.{secrets.token_hex(8)}"
    make_root(root)
    with filesystem_errors(root, "spool"):
        try:
            probe.write_bytes(b"probe\n")
            probe.read_bytes()
        finally:
            probe.unlink(missing_ok=True)
        return shutil.disk_usage(root).free


def creates_only(destination: Destination, spool: Path) -> bool:
    """True when a second file under a visible name is turned away and the first one stays (what
    keeps two workers from delivering one chunk twice). Leaves nothing behind.

    Raises DestinationError.
    """
    token = secrets.token_hex(8)
    path = f"{PROBE}.{token}"
    files = [spool / f"{path}.{number}" for number in (1, 2)]
    try:
        with filesystem_errors(spool, "spool"):
            for number, file in enumerate(files):
                file.write_bytes(f"probe {number}\n".encode())
        digests = [digest_file(file, rows=0) for file in files]
        receipts = [
            destination.stage(file, path, digest)
            for file, digest in zip(files, digests, strict=True)
        ]
        try:
            found = [
                destination.publish(receipt, path, digest)
                for receipt, digest in zip(receipts, digests, strict=True)
            ]
            kept = destination.read(path, _BYTES_MAX) == b"probe 0\n"
        finally:
            for receipt in receipts:
                destination.discard(receipt)
            destination.remove(path)
        return found == [Presence.VISIBLE, Presence.FOREIGN] and kept
    finally:
        for file in files:
            file.unlink(missing_ok=True)
