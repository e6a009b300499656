"""The spool: where a worker writes a part before it is finished. One folder per process."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path

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


def create_spool(root: Path, pid: int, started_at_s: float) -> Path:
    """A new folder for this process below ``root`` (created too), readable by its user only.

    Raises DestinationRefused, DestinationFull or DestinationUnavailable, naming the path.
    """
    owner = SpoolOwner(pid=pid, pid_started_at_s=started_at_s)
    folder = root / spool_name(owner, secrets.token_hex(4))
    with filesystem_errors(folder, "spool"):
        root.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    return folder
