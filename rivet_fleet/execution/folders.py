"""Folders below one root, in which no symbolic link is followed.

Whoever may write into a destination may put a link where a folder of ours should be, at any moment:
a path that was looked at and then used could lead elsewhere in between. Every step below the root
is therefore taken from the open folder above it (``openat``), and what a link stands for is
refused. The root itself is the user's own word: links that lead to it are followed. What a program
has put together (a day, a table) is none: such levels lie below it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from rivet_fleet.errors import DestinationRefused
from rivet_fleet.execution.durable import (
    REHEARSED,
    filesystem_errors,
    make_folder,
    nearest_folder,
    sync_handle,
)

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_WAY = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
"""A folder on the way to another: it may be one that is not ours to list."""
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
"""``O_NONBLOCK``: a pipe under the name must not make anybody wait."""

_DEPTH_MAX = 64
"""Each level costs an open file and a frame of the stack."""


class Tree:
    """What lies below ``root``. Every path is absolute, and the root or below it.

    Methods raise OSError as the system does (FileNotFoundError where a folder on the way is
    missing), and DestinationRefused for a link on the way.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextlib.contextmanager
    def folder(self, path: Path) -> Iterator[int]:
        """The open folder ``path``."""
        names = path.relative_to(self.root).parts
        handle = os.open(self.root, _WAY if names else _FOLDER)
        try:
            at = self.root
            for left, name in zip(range(len(names))[::-1], names, strict=True):
                at = at / name
                below = _step(handle, name, at, _WAY if left else _FOLDER)
                os.close(handle)
                handle = below
            yield handle
        finally:
            os.close(handle)

    def make(self, path: Path, *, passing: Path | None = None) -> bool:
        """Create a folder with its parents; every level that was missing is durable afterwards,
        but those below ``passing``. True when one below the root was missing."""
        make_folder(self.root)
        made = False
        handle = os.open(self.root, _WAY)
        try:
            at = self.root
            for name in path.relative_to(self.root).parts:
                at = at / name
                try:
                    below = _step(handle, name, at, _WAY)
                except FileNotFoundError:
                    made = True
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, dir_fd=handle)
                    # Also of one that another process made: it may have died before its own fsync.
                    if passing is None or passing not in at.parents:
                        _sync(handle)
                    below = _step(handle, name, at, _WAY)
                os.close(handle)
                handle = below
        finally:
            os.close(handle)
        return made

    def has_folder(self, path: Path) -> bool:
        """True when it is there."""
        try:
            with self.folder(path):
                return True
        except (FileNotFoundError, NotADirectoryError):
            return False

    def has(self, path: Path) -> bool:
        """True when anything has this name, a link among them."""
        try:
            with self.folder(path.parent) as folder:
                os.stat(path.name, dir_fd=folder, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    @contextlib.contextmanager
    def reading(self, path: Path) -> Iterator[tuple[int, os.stat_result]]:
        """A regular file, open, and what it is. FileNotFoundError for anything else."""
        with self.folder(path.parent) as folder:
            try:
                handle = os.open(path.name, _FILE, dir_fd=folder)
            except OSError as error:
                # A link, or a socket (open(2)); a pipe can be opened and is told by its kind below.
                if error.errno in (errno.ELOOP, errno.ENXIO):
                    raise _no_file(path) from None
                raise
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise _no_file(path)
            yield handle, found
        finally:
            os.close(handle)

    def write_new(self, path: Path, body: bytes, *, durable: bool = False) -> None:
        """A file that was not there before; ``durable``: its bytes are on the device. Raises
        FileExistsError when something has the name."""
        with self.creating(path) as handle:
            with open(handle, "wb", closefd=False) as file:
                file.write(body)
            if durable:
                os.fsync(handle)

    @contextlib.contextmanager
    def creating(self, path: Path) -> Iterator[int]:
        """A new file, open for writing."""
        with self.folder(path.parent) as folder:
            handle = os.open(path.name, _NEW, 0o666, dir_fd=folder)
        try:
            yield handle
        finally:
            os.close(handle)

    def take(self, foreign: Path, path: Path) -> None:
        """Rename a file of another place on this filesystem to ``path``."""
        with self.folder(path.parent) as folder:
            os.rename(foreign, path.name, dst_dir_fd=folder)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name below the root, over what has it."""
        with self.folder(old.parent) as source, self.folder(new.parent) as target:
            os.rename(old.name, new.name, src_dir_fd=source, dst_dir_fd=target)

    def link(self, old: Path, new: Path) -> None:
        """A second name for a file. FileExistsError when it is taken."""
        with self.folder(old.parent) as source, self.folder(new.parent) as target:
            os.link(old.name, new.name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)

    def remove(self, path: Path) -> bool:
        """Remove a file, or a link itself. True when it was there."""
        try:
            with self.folder(path.parent) as folder:
                os.unlink(path.name, dir_fd=folder)
        except FileNotFoundError:
            return False
        return True

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        with self.folder(path.parent) as folder:
            os.rmdir(path.name, dir_fd=folder)

    def settle(self, path: Path) -> None:
        """The file's times are now, and its bytes are on the device."""
        with self.reading(path) as (handle, _):
            os.utime(handle)
            os.fsync(handle)

    def sync_file(self, path: Path) -> None:
        """Flush a file's bytes to the device."""
        with self.reading(path) as (handle, _):
            os.fsync(handle)

    def sync_folder(self, path: Path) -> None:
        """Flush a folder's entries to the device."""
        with self.folder(path) as folder:
            sync_handle(folder)

    def walk(self, path: Path, skip: Path | None = None) -> Iterator[tuple[Path, os.stat_result]]:
        """Every regular file below a folder in name order. What disappears meanwhile is left out,
        links are."""
        try:
            with self.folder(path) as folder:
                yield from _walk(folder, path, skip)
        except FileNotFoundError:
            return


@contextlib.contextmanager
def rehearsed(tree: Tree, path: Path, below: str) -> Iterator[tuple[Path, Path]]:
    """A folder in the place of ``path`` for who only looks, and what its tree begins with:
    ``path`` itself where it is there, else one of our own beside its first level that is missing.
    Behind the block it is gone, and so is its folder ``below`` that was not there before, as far as
    nobody has put anything there. Raises DestinationError."""
    with filesystem_errors(path, "destination"):
        at, new = nearest_folder(path), []
        if at != path:
            at = at / f"{REHEARSED}.{secrets.token_hex(8)}"
            tree = tree if at.is_relative_to(tree.root) else Tree(at)
            tree.make(at)
            new.append(at)
        if not tree.has_folder(at / below):
            new.append(at / below)
    try:
        yield at, tree.root
    finally:
        for folder in reversed(new):
            with contextlib.suppress(OSError, DestinationRefused):
                folder.rmdir() if folder == tree.root else tree.remove_folder(folder)


def _walk(
    folder: int, at: Path, skip: Path | None, depth: int = 0
) -> Iterator[tuple[Path, os.stat_result]]:
    if depth > _DEPTH_MAX:
        raise DestinationRefused(
            f"folders lie more than {_DEPTH_MAX} deep below the destination: {str(at)[:200]}…",
            hint="nothing of ours lies so deep: remove what is there",
            code="RIVET_UNSAFE_PATH",
        )
    with os.scandir(folder) as found:
        names = sorted(entry.name for entry in found)
    for name in names:
        path = at / name
        if path == skip:
            continue
        with contextlib.suppress(FileNotFoundError):
            told = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISREG(told.st_mode):
                yield path, told
            elif stat.S_ISDIR(told.st_mode):
                below = _step(folder, name, path)
                try:
                    yield from _walk(below, path, skip, depth + 1)
                finally:
                    os.close(below)


def _sync(way: int) -> None:
    """Flush the entries of a folder that is open as a way alone."""
    handle = os.open(".", _FOLDER, dir_fd=way)
    try:
        sync_handle(handle)
    finally:
        os.close(handle)


def _step(folder: int, name: str, at: Path, flags: int = _FOLDER) -> int:
    """The folder ``name`` in ``folder``, open."""
    try:
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            told = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISLNK(told.st_mode):
                raise _linked(at) from None
        raise


def _linked(path: Path) -> DestinationRefused:
    return DestinationRefused(
        f"{path} is a symbolic link, and links inside a destination are not followed: nothing was "
        "written, published or removed behind it",
        hint="remove the link; if the files belong there, name that folder as destination.path",
        code="RIVET_DESTINATION_LINK",
    )


def _no_file(path: Path) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "no regular file", str(path))
