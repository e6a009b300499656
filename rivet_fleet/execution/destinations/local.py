"""A folder on a local or shared POSIX filesystem.

Staged bytes live in ``.staging/`` below the prefix, on the destination's own filesystem, under
the final path plus a nonce: ``.staging/<run_id>/<name>.<nonce>``. Publishing is ``link`` to the
final name (which refuses to overwrite, atomically), fsync of the folder, ``unlink`` of the
staged name. Below the anchor, the part of the prefix without placeholders, no symbolic link is
followed (``folders.Tree``): who may write there knows tomorrow's folder by name.
Receipt: ``{"kind": "local", "staged": "<run_id>/<name>.<nonce>"}``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from rivet_fleet.contracts.destination import (
    DestinationConnection,
    DestinationKind,
    DestinationSetting,
)
from rivet_fleet.contracts.killpoints import KillPoint, reach
from rivet_fleet.contracts.manifest import PartDigest, Receipt
from rivet_fleet.errors import DataIntegrityError, DestinationRefused, DestinationUnavailable
from rivet_fleet.execution.destination import Destination, ObjectInfo, Presence, StagedInfo
from rivet_fleet.execution.durable import (
    checked_path,
    filesystem_errors,
    remove_file,
)
from rivet_fleet.execution.folders import Tree, rehearsed
from rivet_fleet.execution.parts import fingerprint_file

T = TypeVar("T")
Naming = Callable[[Path, Path], bool | None]


def _unsafe(path: str) -> str | None:
    if not path.strip():
        return "must not be empty"
    if any(ord(letter) < 32 for letter in path):
        return "must not hold control characters"
    if ".." in re.split(r"[/\\]", path):
        return "must not hold '..'"
    return None


KIND = DestinationKind(
    name="local",
    below="path",
    settings={
        "path": DestinationSetting(
            meaning="Folder; relative to this file.",
            in_prefix=True,
            required="add path: exports/{export}",
        )
    },
    unsafe=_unsafe,
    anchored=True,
    prefix=lambda settings, folder: os.path.normpath(folder / settings["path"]),
)
"""Its prefix is an absolute path, as it stands in plans and states."""
STAGING = ".staging"

_NONCE = re.compile(r"\.[0-9a-f]{16}")
_NONCE_CHARS = 17
_PROBE = "probe"
_COPY_BYTES = 1024 * 1024
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_FOLDER_TRIES = 20


def open_destination(connection: DestinationConnection, *, create: bool = True) -> Destination:
    """The folder ``connection.prefix``. Touches nothing yet; with ``create`` False the prefix is
    never created (readers), and writing below a missing one is refused."""
    anchor = connection.prefix if connection.anchor is None else connection.anchor
    return _LocalDestination(Path(connection.prefix), Path(anchor), create=create)


class _LocalDestination:
    """Destination over a folder. Any number of processes may work on the same one."""

    def __init__(self, prefix: Path, anchor: Path, *, create: bool) -> None:
        self._prefix = Path(os.path.abspath(prefix))  # noqa: PTH100 (resolve follows links)
        self._staging = self._prefix / STAGING
        self._tree = Tree(Path(os.path.abspath(anchor)))  # noqa: PTH100
        if not (prefix.is_absolute() and self._prefix.is_relative_to(self._tree.root)):
            raise DestinationRefused(
                f"the destination {prefix} is no folder below {anchor}, where its plan begins it",
                hint="the state database or the plan was edited: restore it or plan anew",
                code="RIVET_UNSAFE_PATH",
            )
        self._create = create
        self._own: set[str] = set()
        self._left: set[Path] = set()
        """Staging folders that published parts have left."""
        self._reached: set[Path] = set()
        """Visible folders whose way up is durable, until one is made: none of ours is removed."""

    @property
    def uri(self) -> str:
        """``file:///…``."""
        return self._prefix.as_uri()

    @property
    def exclusive(self) -> bool:
        """By ``link``."""
        return True

    def check(self) -> None:
        """Write, fsync and remove a probe in the staging folder: it may come back."""
        with filesystem_errors(self._prefix, "destination"):
            probe = self._probe()
            try:
                self._tree.sync_file(probe)
            finally:
                self._tree.remove(probe)

    def free_bytes(self) -> int | None:
        """Of the filesystem, for this user."""
        with filesystem_errors(self._prefix, "destination"):
            return shutil.disk_usage(self._prefix).free

    def stage(self, local: Path, path: str, digest: PartDigest) -> Receipt:
        """Move (same filesystem) or copy the file into staging, and make file and name durable."""
        staged = self._new_staged_name(path)
        if _file_size(local) != digest.size_bytes:
            raise DataIntegrityError(f"{local.name} changed between its digest and its staging")
        target = self._staging / staged
        with filesystem_errors(self._prefix, "destination"):
            try:
                self._in_folder(target.parent, lambda: self._move(local, target))
                reach(KillPoint.STAGE_WRITTEN)
                # A moved file keeps the time of its last write; its age here starts now.
                self._tree.settle(target)
                self._sync_up(target.parent, top=self._prefix)
            except OSError:
                with contextlib.suppress(OSError):
                    self._tree.remove(target)
                raise
        self._own.add(staged)
        return {"kind": KIND.name, "staged": staged}

    def look(self, receipt: Receipt, path: str, digest: PartDigest) -> Presence:
        """By the sizes. Staged first, then visible, then staged again: publishing moves in that
        direction, so one pass the other way could miss a part that is being moved."""
        staged, final = self._staged_path(receipt), self._final_path(path)
        with filesystem_errors(self._prefix, "destination"):
            if found := self._look_once(staged, final, digest, self._fits):
                return found
            return Presence.STAGED if self._fits(staged, digest) else Presence.MISSING

    def prove(self, path: str, digest: PartDigest) -> Presence:
        """By the fingerprint of the whole file."""
        final = self._final_path(path)
        with filesystem_errors(self._prefix, "destination"):
            # Presence before content: a part that appears in between must not look foreign.
            if not self._tree.has(final):
                return Presence.MISSING
            if self._holds(final, digest):
                return Presence.VISIBLE
            return Presence.FOREIGN if self._tree.has(final) else Presence.MISSING

    def publish(self, receipt: Receipt, path: str, digest: PartDigest) -> Presence:
        """Link, fsync, unlink; every refusal of the link is resolved by looking."""
        staged, final = self._staged_path(receipt), self._final_path(path)
        with filesystem_errors(self._prefix, "destination"):
            shown = self._may_link(receipt, staged, digest) and self._in_folder(
                final.parent, lambda: self._show(staged, final)
            )
            found = (
                Presence.VISIBLE if shown else self._look_once(staged, final, digest, self._holds)
            )
            known = shown and receipt["staged"] in self._own
            if found is Presence.VISIBLE and not self._settle_visible(final, known=known):
                found = self._look_once(staged, final, digest, self._holds)
            if found is Presence.VISIBLE:
                # The disk is not waited for: a name that comes back is a second link of a visible
                # file (ADR 0003).
                self._tree.remove(staged)
                self._left.add(staged.parent)
                return found
            if found is Presence.STAGED:
                raise DestinationUnavailable(f"{path} could not be made visible, but is staged")
            return found or Presence.MISSING

    def discard(self, receipt: Receipt, path: str) -> None:
        """Remove the staged bytes, durably: no link can be made from them afterwards (F9)."""
        staged, final = self._staged_path(receipt), self._final_path(path)
        if staged.relative_to(self._staging).as_posix()[:-_NONCE_CHARS] != path:
            raise DestinationRefused(
                f"the receipt is not one of {final}: nothing was discarded",
                hint="the state database was edited; restore it or reopen the chunk",
                code="RIVET_UNSAFE_PATH",
            )
        with filesystem_errors(self._prefix, "destination"):
            self._tree.remove(staged)
            # Also when it was gone: the publisher that removed it did not wait for the disk.
            self._forget(staged.parent)

    def remove(self, path: str) -> None:
        """Remove a visible object and make its absence durable."""
        final = self._final_path(path)
        with filesystem_errors(self._prefix, "destination"):
            if self._tree.remove(final) or self._tree.has_folder(final.parent):
                self._tree.sync_folder(final.parent)

    def put_atomic(self, path: str, body: bytes, *, durable: bool = True) -> None:
        """Write beside, fsync, rename over, and where it is to be ``durable`` fsync the folder."""
        self._put(path, body, self._tree.rename, durable=durable)

    def put_new(self, path: str, body: bytes) -> bool:
        """Write beside, fsync, link, fsync the folder, unlink. Without hard links it is looked
        whether the name is free, and then renamed."""
        return self._put(path, body, self._link)

    def read(self, path: str, bytes_max: int) -> bytes | None:
        """The bytes, None when absent. One byte too many raises DataIntegrityError."""
        final = self._final_path(path)
        with filesystem_errors(final, "destination"):
            try:
                with (
                    self._tree.reading(final) as (handle, _),
                    open(handle, "rb", closefd=False) as file,
                ):
                    body = file.read(bytes_max + 1)
            except FileNotFoundError:
                return None
        if len(body) > bytes_max:
            raise DataIntegrityError(f"{path} is larger than {bytes_max} bytes")
        return body

    @contextlib.contextmanager
    def local_copy(self, path: str) -> Iterator[Path]:
        """The path of an open handle: whoever may write here could put another file, or a link
        to one, under the object's own name at any moment."""
        final = self._final_path(path)
        with contextlib.ExitStack() as held:
            with filesystem_errors(final, "destination"):
                try:
                    handle, _ = held.enter_context(self._tree.reading(final))
                except (FileNotFoundError, NotADirectoryError):
                    raise DataIntegrityError(f"{path} is not there") from None
            yield Path(f"/proc/self/fd/{handle}")

    def list_visible(self, folder: str = "") -> Iterator[ObjectInfo]:
        """Files below ``folder`` in name order; staging is left out, links are not followed."""
        root = self._final_path(folder) if folder else self._prefix
        with filesystem_errors(root, "destination"):
            for file, told in self._tree.walk(root, skip=self._staging):
                path = file.relative_to(self._prefix).as_posix()
                yield ObjectInfo(path=path, size_bytes=told.st_size)

    def list_staged(self) -> Iterator[StagedInfo]:
        """Staged files; ages by the filesystem's own clock, read from a file touched just now."""
        with filesystem_errors(self._staging, "destination"):
            if not self._tree.has_folder(self._staging):
                return
            probe = self._probe()
            with self._tree.reading(probe) as (_, told):
                now_s = told.st_mtime
            self._tree.remove(probe)
            for file, told in self._tree.walk(self._staging):
                staged = file.relative_to(self._staging).as_posix()
                if _NONCE.fullmatch(staged[-_NONCE_CHARS:]):
                    yield StagedInfo(
                        receipt={"kind": KIND.name, "staged": staged},
                        path=staged[:-_NONCE_CHARS],
                        size_bytes=told.st_size,
                        age_s=max(0.0, now_s - told.st_mtime),
                    )

    @contextlib.contextmanager
    def rehearsal(self) -> Iterator[Destination]:
        """In a prefix that is there, staging is all that may be missing, and whoever uses it makes
        it again."""
        with rehearsed(self._tree, self._prefix, STAGING) as (prefix, anchor):
            yield _LocalDestination(prefix, anchor, create=False)

    def close(self) -> None:
        """Nothing is held open; what this object's publishing removed is made durable."""
        while self._left:
            with contextlib.suppress(OSError, DestinationRefused):
                self._forget(self._left.pop())

    def _final_path(self, path: str) -> Path:
        if checked_path(path).split("/", 1)[0] == STAGING:
            raise DestinationRefused(f"{path!r} names the staging folder")
        return self._prefix / path

    def _staged_path(self, receipt: Receipt) -> Path:
        staged = receipt.get("staged")
        if receipt.get("kind") != KIND.name or not isinstance(staged, str):
            raise DestinationRefused("the receipt was not written by a local destination")
        return self._staging / checked_path(staged)

    def _new_staged_name(self, path: str) -> str:
        self._final_path(path)
        return checked_path(f"{path}.{secrets.token_hex(8)}")

    def _in_folder(self, folder: Path, action: Callable[[], T]) -> T:
        """Run ``action`` with ``folder`` there. Others remove empty staging folders at any
        moment (``_tidy``) and others make them again, so a missing one is no proof of anything:
        it is tried again a few times. Whoever needs the way to it durable makes it so behind the
        action (``_sync_up``)."""
        for _ in range(_FOLDER_TRIES):
            self._make(folder)
            with contextlib.suppress(FileNotFoundError):
                return action()
        self._make(folder)
        if self._tree.has_folder(folder):
            return action()
        raise DestinationUnavailable(f"{folder} disappears as fast as it is created")

    def _make(self, folder: Path) -> None:
        if not self._create and not self._tree.has_folder(self._prefix):
            raise DestinationRefused(
                f"the destination {self._prefix} does not exist", hint="check the prefix"
            )
        with contextlib.suppress(FileNotFoundError):
            made = self._tree.make(folder, passing=self._prefix)
            if made and not folder.is_relative_to(self._staging):
                self._reached.clear()

    def _probe(self) -> Path:
        probe = self._staging / f"{_PROBE}.{secrets.token_hex(8)}"
        self._in_folder(self._staging, lambda: self._tree.write_new(probe, b"probe\n"))
        return probe

    def _settle_visible(self, final: Path, *, known: bool) -> bool:
        # Whoever linked it may have died before its fsync: each witness makes it durable.
        # False when somebody removed it in this moment (a reopening). ``known``: this object
        # fsynced the bytes when it staged them and has just linked them.
        if not known:
            try:
                self._tree.sync_file(final)
            except FileNotFoundError:
                return False
        self._settle_name(final.parent)
        return True

    def _settle_name(self, folder: Path) -> None:
        """What ``folder`` lists now, and the way to it, survive a power cut."""
        reached = folder in self._reached
        self._sync_up(folder, top=folder if reached else self._prefix)
        self._reached.add(folder)

    def _sync_up(self, folder: Path, *, top: Path) -> None:
        """fsync ``folder`` and its parents up to ``top``: another process may have made one of them
        and died before its own fsync."""
        for level in (folder, *folder.parents):
            self._tree.sync_folder(level)
            if level == top:
                break

    def _may_link(self, receipt: Receipt, staged: Path, digest: PartDigest) -> bool:
        # Bytes this very object staged and fsynced need no second reading; anybody else's
        # are proven by their fingerprint before they become visible.
        if receipt["staged"] in self._own:
            return self._fits(staged, digest)
        return self._holds(staged, digest)

    def _look_once(
        self, staged: Path, final: Path, digest: PartDigest, own: Callable[[Path, PartDigest], bool]
    ) -> Presence | None:
        """``own``: what a file is known by."""
        is_staged = own(staged, digest)
        # Presence before content: a part that appears in between must not look foreign.
        if self._tree.has(final):
            return Presence.VISIBLE if own(final, digest) else Presence.FOREIGN
        return Presence.STAGED if is_staged else None

    def _put(self, path: str, body: bytes, name: Naming, *, durable: bool = True) -> bool:
        """``name`` gives the written bytes their visible name, or returns False."""
        final, target = self._final_path(path), self._staging / self._new_staged_name(path)
        with filesystem_errors(self._prefix, "destination"):
            try:
                # Nothing but the bytes need outlive anything until they have their name.
                write = partial(self._tree.write_new, target, body, durable=True)
                self._in_folder(target.parent, write)
                named = self._in_folder(final.parent, lambda: name(target, final))
                if named is not False and durable:
                    self._settle_name(final.parent)
            finally:
                with contextlib.suppress(OSError, DestinationRefused):
                    self._tree.remove(target)
            self._tidy(target.parent)
        return named is not False

    def _forget(self, folder: Path) -> None:
        """Make durable what was removed from ``folder`` (by the folder above, when another
        process has tidied it away), and tidy."""
        nearest = folder
        while nearest != self._prefix:
            with contextlib.suppress(FileNotFoundError):
                self._tree.sync_folder(nearest)
                break
            nearest = nearest.parent
        self._tidy(folder)

    def _tidy(self, folder: Path) -> None:
        """Remove an emptied folder below staging. One that is in use, or gone, stays as it is."""
        if folder not in (self._staging, self._prefix):
            with contextlib.suppress(OSError):
                self._tree.remove_folder(folder)

    def _move(self, local: Path, target: Path) -> None:
        """Rename when both are on one filesystem, else copy and remove. Never overwrites: the
        target's nonce is fresh."""
        try:
            self._tree.take(local, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with (
                open(local, "rb", opener=_itself) as source,
                self._tree.creating(target) as handle,
                open(handle, "wb", closefd=False) as copy,
            ):
                shutil.copyfileobj(source, copy, _COPY_BYTES)
            remove_file(local)

    def _show(self, staged: Path, final: Path) -> bool:
        """``_link`` of a part."""
        if not self._link(staged, final):
            return False
        reach(KillPoint.PART_RENAMED)
        return True

    def _link(self, staged: Path, final: Path) -> bool:
        """Give the staged bytes their visible name, unless something has it already.

        False when the staged file is gone or the name is taken: the caller looks which.
        """
        try:
            self._tree.link(staged, final)
        except FileExistsError:
            return False
        except FileNotFoundError:
            if not self._tree.has_folder(final.parent):
                raise
            return False
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            return self._link_by_rename(staged, final)
        return True

    def _link_by_rename(self, staged: Path, final: Path) -> bool:
        # Without hard links there is no atomic refusal. Names carry run, chunk, part and fence,
        # so only a foreign writer in this very instant could be overwritten.
        if self._tree.has(final):
            return False
        try:
            self._tree.rename(staged, final)
        except FileNotFoundError:
            return False
        return True

    def _size(self, path: Path) -> int | None:
        try:
            with self._tree.reading(path) as (_, told):
                return told.st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _fits(self, path: Path, digest: PartDigest) -> bool:
        """True when a regular file is there with the digest's size."""
        return self._size(path) == digest.size_bytes

    def _holds(self, path: Path, digest: PartDigest) -> bool:
        """True when a regular file is there with the digest's size and fingerprint."""
        try:
            with self._tree.reading(path) as (handle, told):
                if told.st_size != digest.size_bytes:
                    return False
                return fingerprint_file(handle) == digest.fingerprint
        except (FileNotFoundError, NotADirectoryError):
            return False


def _itself(path: str, flags: int) -> int:
    """Open what was measured, never what a link leads to."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)


def _file_size(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except (FileNotFoundError, NotADirectoryError):
        return None
