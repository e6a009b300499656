"""Places of the filesystem that somebody else could have taken before us.

In a folder where everybody may write (``/tmp``) a name can be somebody else's: who makes a folder
or a file first reads what is put there, or changes it. Only there is anything asked; a folder of
one's own may hold whatever its owner put into it.
"""

from __future__ import annotations

import itertools
import os
import stat
from pathlib import Path


def stranger_at(path: Path) -> str | None:
    """Who else could read or change what is at ``path``, in words; None: nobody, or nothing is
    there yet. Each step of the way is looked at, as it is written and as links lead.

    Raises OSError where the way cannot be looked at.
    """
    ways = (os.path.abspath(path), os.path.realpath(path))  # noqa: PTH100 (nothing raises)
    for way in map(Path, dict.fromkeys(ways)):
        steps = (*reversed(way.parents), way)
        for folder, at in itertools.pairwise(steps):
            try:
                told = at.lstat()
            except (FileNotFoundError, NotADirectoryError):
                break
            if folder.stat().st_mode & stat.S_IWOTH and (who := _stranger(told, last=at == way)):
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


def make_private(folder: Path) -> None:
    """Make a folder with what is missing above it, each for this user alone under any umask;
    what is there stays as it is. Raises OSError."""
    for level in (*reversed(folder.parents), folder):
        if not level.is_dir():
            level.mkdir(mode=0o700, exist_ok=True)
