"""What a POSIX filesystem needs before bytes survive a power cut, and what its errors mean.

A file is durable after ``fsync`` of the file; its name is durable after ``fsync`` of the folder
that holds it; a new folder's name after ``fsync`` of its own parent.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from rivet_fleet.errors import (
    DestinationError,
    DestinationFull,
    DestinationRefused,
    DestinationUnavailable,
)

SPOOL = "spool"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
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


def make_folder(path: Path) -> list[Path]:
    """Create a folder with its parents; every level that was missing is durable afterwards.
    Returns those that this call made, outermost first.

    Others may remove an empty folder again at any moment: FileNotFoundError then, never the
    NotADirectoryError that a real file in the way gets.
    """
    missing, made = [], []
    level = path
    while not level.exists():
        missing.append(level)
        level = level.parent
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            made.append(folder)
        sync_folder(folder.parent)
    # Asked once: between two questions the folder may have gone.
    if not stat.S_ISDIR(path.stat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    return made


def remove_file(path: Path) -> bool:
    """Remove a file if it is there. True when it was."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
