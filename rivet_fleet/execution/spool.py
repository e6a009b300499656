"""The spool: where a worker writes a part before it is finished. One folder per process."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from rivet_fleet.contracts.places import make_private, stranger_at
from rivet_fleet.errors import DestinationRefused
from rivet_fleet.execution.durable import filesystem_errors

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


def make_root(root: Path) -> None:
    """The folder that spool folders lie in, made for this user alone when it is missing.

    Where everybody may write (``/tmp``) its name can be taken by somebody else first, who would
    then read rows or put other files in their place: there it, and each folder on the way to it,
    must be this user's (``stranger_at``). Raises DestinationRefused, Full or Unavailable.
    """
    with filesystem_errors(root, "spool"):
        what = stranger_at(root)
        if what is None:
            make_private(root)
            # Again: between the two looks somebody may have made it.
            what = stranger_at(root)
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
    make_root(root)
    with filesystem_errors(folder, "spool"):
        folder.mkdir(mode=0o700)
    return folder
