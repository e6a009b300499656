"""Sweeping what nobody has to publish: staged bytes without a committed row, dead spools.

The order carries the safety (F9): list first, read the ledger second. Bytes staged after the
listing are not in it; bytes committed after the listing are in the ledger. What is left is an
attempt that staged before the listing and commits after the ledger was read: it holds its chunk,
which the ledger says, too. Should it ever be swept, its part is proven lost and extracted again.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

from rivet_fleet.contracts.manifest import receipt_key
from rivet_fleet.execution.destination import Destination, StagedInfo
from rivet_fleet.execution.durable import filesystem_errors, parse_spool_name

STAGED_MIN_AGE_S = 3600.0


def sweep_staged(
    destination: Destination,
    ledger_receipts: Callable[[], set[str]],
    *,
    ours: Callable[[StagedInfo], bool] = lambda _staged: True,
    min_age_s: float = STAGED_MIN_AGE_S,
    dry_run: bool = False,
) -> list[StagedInfo]:
    """Discard staged bytes at least ``min_age_s`` old that no ledger row needs.

    ``ledger_receipts`` reads the ``receipt_key`` of every committed row (a published one's part
    is durable under its name); it is called exactly once, after the listing is complete. ``ours``,
    asked behind that: what the ledger could know of, and no attempt that holds its chunk has made.
    Returns what was (or would be) discarded.
    Raises DestinationError; what was discarded before stays discarded.
    """
    listed = list(destination.list_staged())
    if not listed:
        return []
    named = ledger_receipts()
    garbage = [
        staged
        for staged in listed
        if staged.age_s >= min_age_s and ours(staged) and receipt_key(staged.receipt) not in named
    ]
    if not dry_run:
        for staged in garbage:
            destination.discard(staged.receipt, staged.path)
    return garbage


def sweep_spool(
    root: Path, alive: Callable[[int, float], bool], *, dry_run: bool = False
) -> list[Path]:
    """Remove the spool folders of processes on this host that are gone.

    ``alive(pid, pid_started_at_s)`` judges (start times to the hundredth of a second). Names
    that the spool did not make are never touched. Returns what was (or would be) removed.
    """
    if not root.is_dir():
        return []
    with filesystem_errors(root, "spool"):
        dead = [folder for folder in sorted(root.iterdir()) if _is_dead(folder, alive)]
        if not dry_run:
            for folder in dead:
                # Another sweeper may be removing the same folder.
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(folder)
    return dead


def _is_dead(folder: Path, alive: Callable[[int, float], bool]) -> bool:
    owner = parse_spool_name(folder.name)
    if owner is None or folder.is_symlink() or not folder.is_dir():
        return False
    return not alive(owner.pid, owner.pid_started_at_s)
