"""Places of the filesystem that somebody else could have taken before us.

In a folder where everybody may write (``/tmp``) a name can be somebody else's: who makes a folder
or a file first reads what is put there, or changes it. Only there is anything asked; a folder of
one's own may hold whatever its owner put into it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

_LINKS_MAX = 40
"""More on one way are a circle, to every kernel."""


def _looked_up(path: Path) -> Iterator[tuple[Path, Path, bool]]:
    """(folder, name in it, whether nothing comes behind it) of every name on the way to ``path``:
    each as it is written, and each that a link leads over, also between two links."""
    at, left, links = Path("/"), list(Path(os.path.abspath(path)).parts[1:]), 0  # noqa: PTH100
    while left:
        one = left.pop(0)
        if one == "..":  # of a link: where it leads there are none of ours
            at = at.parent
            continue
        yield at, at / one, not left
        try:
            there = (at / one).readlink()
        except OSError:  # no link, or nothing: whoever looks at it finds out
            at /= one
            continue
        links += 1
        if links > _LINKS_MAX:
            return
        at = Path("/") if there.is_absolute() else at
        left = [*(part for part in there.parts if part != "/"), *left]


def stranger_at(path: Path) -> str | None:
    """Who else could read or change what is at ``path``, in words; None: nobody, or nothing is
    there yet. Each step of the way is looked at, as it is written and as links lead.

    Raises OSError where the way cannot be looked at.
    """
    for folder, at, last in _looked_up(path):
        try:
            told = at.lstat()
        except (FileNotFoundError, NotADirectoryError):
            break
        if folder.stat().st_mode & stat.S_IWOTH and (who := _stranger(told, last=last)):
            return f"is not this user's alone: {at} {who}"
    return None


def _stranger(told: os.stat_result, *, last: bool) -> str | None:
    if told.st_uid not in (0, os.geteuid()):
        return f"belongs to user {told.st_uid}, and this is user {os.geteuid()}"
    # On the way a link is followed, and what lies in a shared folder is looked at by itself.
    if last and stat.S_ISLNK(told.st_mode):
        return "is a link"
    if last and told.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by others"
    return None


def sharer_of(path: Path) -> str | None:
    """Who else may put a file beside ``path``, or a folder in the place of one on the way to it, in
    words; None: nobody. For what is opened by its name again and again: no look at what is there
    now holds for the next moment where others may change it.

    The folder is this user's or root's, and not everybody's to write; a shared one further up has
    its sticky bit. A group that may write was given that by the folder's owner. Looked at as it is
    written and as links lead. Raises OSError where the way cannot be looked at.
    """
    for folder, _, nearest in _looked_up(path):
        told = folder.stat()
        if nearest and told.st_uid not in (0, os.geteuid()):
            return f"{folder} belongs to user {told.st_uid}, and this is user {os.geteuid()}"
        if told.st_mode & stat.S_IWOTH and (nearest or not told.st_mode & stat.S_ISVTX):
            return f"everybody may write in {folder}"
    return None


def make_own(folder: Path) -> str | None:
    """``make_private``, where nobody else has taken a name on the way: before it and behind it,
    as ``stranger_at`` tells. What was found; None: it is there, and this user's. Raises OSError."""
    what = stranger_at(folder)
    if what is None:
        make_private(folder)
        # Again: between the two looks somebody may have made it.
        what = stranger_at(folder)
    return what


def make_private(folder: Path) -> None:
    """Make a folder with what is missing above it, each for this user alone under any umask;
    what is there stays as it is. Raises OSError."""
    for level in (*reversed(folder.parents), folder):
        if not level.is_dir():
            level.mkdir(mode=0o700, exist_ok=True)
