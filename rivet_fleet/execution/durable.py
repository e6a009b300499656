"""What a POSIX filesystem needs before bytes survive a power cut, and what its errors mean.

A file is durable after ``fsync`` of the file; its name is durable after ``fsync`` of the folder
that holds it; a new folder's name after ``fsync`` of its own parent.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rivet_fleet.contracts.places import make_own, stranger_at
from rivet_fleet.errors import (
    DestinationError,
    DestinationFull,
    DestinationRefused,
    DestinationUnavailable,
)
from rivet_fleet.execution.destination import Destination, Presence
from rivet_fleet.execution.parts import digest_file

SPOOL = "spool"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {
    errno.EACCES: "permission denied",
    errno.EPERM: "operation not permitted",
    errno.EROFS: "the filesystem is read-only",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "a folder is where a file should be",
    errno.ENAMETOOLONG: "the name is too long for this filesystem",
    errno.ENOENT: "it does not exist",
    errno.EEXIST: "something is there already",
    errno.ELOOP: "too many symbolic links",
}


def filesystem_error(error: OSError, path: Path, purpose: str) -> DestinationError:
    """Our error for the operating system's, naming the path. ``purpose``: destination, spool."""
    ours = _meaning(error.errno or 0, type(error).__name__, path, purpose)
    ours.spool = purpose == SPOOL
    return ours


def _meaning(code: int, kind: str, path: Path, purpose: str) -> DestinationError:
    if code in _FULL:
        return DestinationFull(
            f"no space left in the {purpose} at {path}",
            hint="free space or raise the quota there; the chunk is tried again",
            code="RIVET_NO_SPACE",
        )
    if code == errno.EFBIG:
        large = DestinationFull(
            f"a file is larger than any may be in the {purpose} at {path}",
            hint="raise this process's limit (ulimit -f), use another filesystem, or make smaller "
            "files (max_file_size_mb)",
            code="RIVET_FILE_TOO_LARGE",
        )
        large.passing = False
        return large
    if code in _REFUSED:
        return DestinationRefused(
            f"the {purpose} at {path} cannot be used: {_REFUSED[code]}",
            hint="check that the path exists and that this user may write there",
            code="RIVET_NOT_WRITABLE",
        )
    reason = os.strerror(code) if code else kind
    return DestinationUnavailable(
        f"the {purpose} at {path} failed: {reason}",
        hint="check the disk or the mount",
        code="RIVET_IO_ERROR",
    )


@contextlib.contextmanager
def filesystem_errors(path: Path, purpose: str) -> Iterator[None]:
    """The border: an OSError inside leaves as DestinationFull, Refused or Unavailable."""
    try:
        yield
    except OSError as error:
        raise filesystem_error(error, path, purpose) from error


def sync_file(path: Path) -> None:
    """Flush a file's bytes to the device. A failure is the caller's error, never ignored:
    after a failed fsync the kernel may have dropped the dirty pages."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the device."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_handle(handle)
    finally:
        os.close(handle)


def sync_handle(folder: int) -> None:
    """The same of an open folder."""
    try:
        os.fsync(folder)
    except OSError as error:
        # Some network and FUSE filesystems cannot fsync a folder and say EINVAL; anything
        # else (EIO above all) is a real failure.
        if error.errno != errno.EINVAL:
            raise


def make_folder(path: Path) -> None:
    """Create a folder with its parents; every level that was missing is durable afterwards.

    Others may remove an empty folder again at any moment: FileNotFoundError then, never the
    NotADirectoryError that a real file in the way gets.
    """
    missing = []
    level = path
    while not level.exists():
        missing.append(level)
        level = level.parent
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        # Also of one that another process made: it may have died before its own fsync.
        sync_folder(folder.parent)
    # Asked once: between two questions the folder may have gone.
    if not stat.S_ISDIR(path.stat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def remove_file(path: Path) -> bool:
    """Remove a file if it is there. True when it was."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


# ------------------------------------------------------------------------------------------
# The spool: where a worker writes a part before it is finished. One folder per process.

_NAME = re.compile(r"w-(?P<pid>\d{1,10})-(?P<started>\d{1,15}\.\d{2})-(?P<nonce>[0-9a-f]{8})")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolOwner:
    """The process a spool folder belongs to. ``pid_started_at_s`` (to the hundredth of a second)
    tells a reused pid from the old one."""

    pid: int
    pid_started_at_s: float


def spool_name(owner: SpoolOwner, nonce: str) -> str:
    """``w-<pid>-<pid_started_at_s>-<nonce>``."""
    return f"w-{owner.pid}-{owner.pid_started_at_s:.2f}-{nonce}"


def parse_spool_name(name: str) -> SpoolOwner | None:
    """Whose folder it is; None for a name that ``spool_name`` did not make."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    return SpoolOwner(pid=int(match["pid"]), pid_started_at_s=float(match["started"]))


_ROOT_TRIES = 20


def make_root(root: Path) -> None:
    """The folder that spool folders lie in, made for this user alone when it is missing.

    Where everybody may write (``/tmp``) its name can be taken by somebody else first, who would
    then read rows or put other files in their place: there it, and each folder on the way to it,
    must be this user's (``make_own``). Raises DestinationRefused, Full or Unavailable.
    """
    with filesystem_errors(root, "spool"):
        what = make_own(root)
    _refuse_others(root, what)


def _refuse_others(root: Path, what: str | None) -> None:
    if what is not None:
        refused = DestinationRefused(
            f"the spool folder {root} {what}: whoever made it could read and change rows",
            hint="remove it, or name another with spool_dir",
            code="RIVET_SPOOL_NOT_OURS",
        )
        refused.spool = True
        raise refused


def create_spool(root: Path, pid: int, started_at_s: float) -> Path:
    """A new folder for this process below ``root`` (created too), readable by its user only.

    Raises DestinationRefused, DestinationFull or DestinationUnavailable, naming the path.
    """
    owner = SpoolOwner(pid=pid, pid_started_at_s=started_at_s)
    folder = root / spool_name(owner, secrets.token_hex(4))
    for _ in range(_ROOT_TRIES):
        make_root(root)
        # Empty until then, it may be removed by whoever tidies up.
        with filesystem_errors(folder, "spool"), contextlib.suppress(FileNotFoundError):
            folder.mkdir(mode=0o700)
            return folder
    with filesystem_errors(folder, "spool"):
        folder.mkdir(mode=0o700)
    return folder


# ------------------------------------------------------------------------------------------
# Object paths as the ledger and manifests spell them: checked before a disk or store sees them.

SEGMENT_BYTES_MAX = 255


def checked_path(path: str) -> str:
    """``path`` itself, when it stays below the prefix it is relative to.

    State rows, receipts and manifests may have been edited by anybody: an absolute path, a
    ``..``, an empty segment, a NUL or a backslash raises DestinationRefused.
    """
    segments = path.split("/")
    if not all(segments) or "." in segments or ".." in segments:
        raise _refused(path, "every segment between slashes must be a plain name")
    if "\0" in path or "\\" in path:
        raise _refused(path, "NUL and backslash are not allowed")
    try:
        path.encode()
    except UnicodeEncodeError:
        # JSON can spell half of a character pair; no filesystem and no terminal can.
        raise _refused(path, "it is no text that UTF-8 can carry") from None
    if any(len(segment.encode()) > SEGMENT_BYTES_MAX for segment in segments):
        raise _refused(path, f"a name is longer than {SEGMENT_BYTES_MAX} bytes")
    return path


def _refused(path: str, why: str) -> DestinationRefused:
    return DestinationRefused(
        f"unsafe object path {path[:200]!r}: {why}",
        hint="the state database or the manifest was edited; restore it or reopen the chunk",
        code="RIVET_UNSAFE_PATH",
    )


# ------------------------------------------------------------------------------------------
# Proving what a destination and a spool folder promise, by doing it with a few bytes.

PROBE = "_rivet_doctor_probe"
_BYTES_MAX = 1024


REHEARSED = "_rivet_doctor_folder"
"""Whoever examines makes no folder that a run could take for there: it is gone a moment later."""


def nearest_folder(path: Path) -> Path:
    """``path``, or what it lies in, as far as it is there; what is no folder is found, too."""
    return next(level for level in (path, *path.parents) if os.path.lexists(level))


@contextlib.contextmanager
def rehearsed_spool(root: Path) -> Iterator[tuple[Path, int]]:
    """A folder of our own in ``root``, or where ``root`` would be made, and the free bytes there; a
    small file was written and read. It is removed behind the block. Raises DestinationRefused,
    DestinationFull or DestinationUnavailable."""
    with filesystem_errors(root, "spool"):
        _refuse_others(root, stranger_at(root))
        folder = nearest_folder(root) / f"{REHEARSED}.{secrets.token_hex(8)}"
        folder.mkdir(mode=0o700)
    try:
        with filesystem_errors(root, "spool"):
            probe = folder / PROBE
            try:
                probe.write_bytes(b"probe\n")
                probe.read_bytes()
            finally:
                probe.unlink(missing_ok=True)
            free_bytes = shutil.disk_usage(folder).free
        yield folder, free_bytes
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()


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
                destination.discard(receipt, path)
            destination.remove(path)
        return found == [Presence.VISIBLE, Presence.FOREIGN] and kept
    finally:
        for file in files:
            file.unlink(missing_ok=True)
