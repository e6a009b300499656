"""Object paths as the ledger and manifests spell them: checked before a disk or store sees them."""

from __future__ import annotations

from rivet_fleet.errors import DestinationRefused

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
