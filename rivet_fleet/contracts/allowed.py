"""What a process may read and where it may write, whatever the state says (ADR 0024). Pure."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """Two lists; an empty one allows everything.

    ``sources``: patterns (``*``, ``?``) of a source's identity, ``engine://user@host:port/database``,
    each behind ``NAME=`` when it holds for one source of the configuration alone.
    ``destinations``: folders, as paths or ``file://`` URIs; what lies in them or below is allowed.
    """

    sources: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()

    def reads(self, name: str, identity: str) -> bool:
        """True when the source of this name and identity may be read."""
        return not self.sources or any(_matches(one, name, identity) for one in self.sources)

    def writes(self, prefix: str) -> bool:
        """True when the destination's root lies in an allowed folder. Names alone are compared:
        where links lead is the destination's own business."""
        if not self.destinations:
            return True
        inside = _folder(prefix)
        return any(
            inside == root or inside.startswith(root.rstrip("/") + "/")
            for root in map(_folder, self.destinations)
        )


EVERYTHING = Allowed()


def words(variable: str | None) -> tuple[str, ...]:
    """A list as it stands in an environment variable: one word a line."""
    return tuple(line.strip() for line in (variable or "").splitlines() if line.strip())


def _matches(pattern: str, name: str, identity: str) -> bool:
    head, separator, rest = pattern.partition("=")
    named = separator and "://" not in head
    if named:
        return head == name and fnmatchcase(identity, rest)
    return fnmatchcase(identity, pattern)


def _folder(text: str) -> str:
    path = posixpath.normpath(text.removeprefix("file://"))
    return "/" + path.lstrip("/") if path.startswith("/") else path
