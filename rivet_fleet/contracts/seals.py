"""What a process believes of a state (ADR 0024): what is sealed, and places that are allowed.

A seal is a digest over canonical bytes, with a key an HMAC. A digest finds an edit; whoever edits
can compute a new one. A keyed seal can only be made by who holds the key. The key itself is nowhere
but in the environment of the processes that use it.
"""

from __future__ import annotations

import hashlib
import hmac
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rivet_fleet.contracts.codec import canonical_json
from rivet_fleet.errors import StateRefused, StateTampered

KEY_BYTES_MIN = 16
KEY_CODES = ("RIVET_STATE_KEY_MISSING", "RIVET_STATE_KEY_OTHER", "RIVET_STATE_NOT_KEYED")
"""What ``Sealer.check`` says when this process and the state are not sealed alike."""
_PLAIN, _KEYED = "sha256", "hmac-sha256"
_KEY_ID_CHARS = 16
CHUNK_DIGEST_CHARS = 32
"""128 bits for each range: nobody finds another range of the same digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealer:
    """Makes and checks seals. Without a ``key`` they are plain digests."""

    key: bytes | None = field(default=None, repr=False)

    @property
    def key_id(self) -> str:
        """Tells keys apart without showing them; empty without one."""
        if self.key is None:
            return ""
        return hashlib.sha256(b"rivet-fleet seal key\0" + self.key).hexdigest()[:_KEY_ID_CHARS]

    def seal(self, kind: str, fields: Mapping[str, object]) -> str:
        """``sha256:<hex>``, or ``hmac-sha256:<key id>:<hex>``. ``kind``: what is sealed, so that a
        seal of one thing is none of another; ``fields``: plain JSON values by name."""
        body = canonical_json({"kind": kind, "fields": dict(fields)})
        if self.key is None:
            return f"{_PLAIN}:{hashlib.sha256(body).hexdigest()}"
        mac = hmac.new(self.key, body, hashlib.sha256).hexdigest()
        return f"{_KEYED}:{self.key_id}:{mac}"

    def check(self, seal: str | None, kind: str, fields: Mapping[str, object], what: str) -> None:
        """Raise StateTampered unless this is the seal of these fields, StateRefused where it
        was made with another key, or with one and here is none, or the other way round.

        ``what`` names it in the message.
        """
        found = seal or ""
        if found.startswith(f"{_KEYED}:") and self.key is None:
            raise StateRefused(
                f"{what} is sealed with a key, and this process has none",
                hint="name the key's environment variable in state: {key_env: …}; nothing was "
                "read or written",
                code="RIVET_STATE_KEY_MISSING",
            )
        if found.startswith(f"{_PLAIN}:") and self.key is not None:
            raise StateRefused(
                f"{what} is sealed without a key, and this process asks for one",
                hint="had the state this key before? Then somebody has replaced its seals: restore "
                "it, or cancel and plan anew. A state that never had one gets it by `rivet-fleet "
                "state reseal`, which shows first what it would seal",
                code="RIVET_STATE_NOT_KEYED",
            )
        if self.key is not None and found.startswith(f"{_KEYED}:"):
            theirs = found.split(":")[1]
            if theirs != self.key_id:
                raise StateRefused(
                    f"{what} is sealed with another key (id {theirs}) than this process has "
                    f"(id {self.key_id})",
                    hint="give this process the key of the campaign, or `rivet-fleet state reseal "
                    "--old-key-env NAME` after a change of keys",
                    code="RIVET_STATE_KEY_OTHER",
                )
        if not hmac.compare_digest(found.encode(), self.seal(kind, fields).encode()):
            raise tampered(what)


UNKEYED = Sealer()


def is_keyed(seal: str) -> bool:
    """True for a seal that was made with a key, whichever."""
    return seal.startswith(f"{_KEYED}:")


def tampered(what: str) -> StateTampered:
    """The refusal of something that is not what was sealed."""
    return StateTampered(
        f"{what} is not what was sealed: somebody has changed it in the state database",
        hint="nothing was read or written by it; find out who can write to the state; "
        "`rivet-fleet cancel` and a new run plan it anew",
    )


SpoiltRow = StateTampered | StateRefused


def of_one_row(error: SpoiltRow) -> bool:
    """True where one row is not what it should be: its seal is another's, or of another key. The
    others need not wait for it."""
    return isinstance(error, StateTampered) or error.code in KEY_CODES


def range_digest(chunk_index: int, range_json: str) -> str:
    """What a run's seal knows of one chunk. ``range_json`` as it is stored."""
    body = canonical_json({"chunk": chunk_index, "range": range_json})
    return hashlib.sha256(body).hexdigest()[:CHUNK_DIGEST_CHARS]


def range_digests(ranges: Iterable[str]) -> str:
    """The digests of a run's chunks, in their order, as one text."""
    return "".join(range_digest(index, text) for index, text in enumerate(ranges))


def is_sealed_range(digests: str, chunk_index: int, range_json: str) -> bool:
    """True when the chunk's range is the sealed one."""
    start = chunk_index * CHUNK_DIGEST_CHARS
    return digests[start : start + CHUNK_DIGEST_CHARS] == range_digest(chunk_index, range_json)


def digest_of(text: str) -> str:
    """A long text as one value of a seal."""
    return hashlib.sha256(text.encode()).hexdigest()


# ------------------------------------------------------------------------------------------
# What a process may read and where it may write, whatever the state says (ADR 0024).


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """Two lists; an empty one allows everything.

    ``sources``: patterns of a source's identity, ``engine://user@host:port/database``, each behind
    ``NAME=`` when it holds for one source of the configuration alone. ``*`` and ``?`` stand for no
    comma and no ``@``; a ``*`` alone is every source.
    ``destinations``: folders, as paths or ``file://`` URIs, and prefixes of stores as their URIs;
    what lies in them or below is allowed.
    """

    sources: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()

    def reads(self, name: str, identity: str) -> bool:
        """True when the source of this name and identity may be read."""
        return not self.sources or any(_matches(one, name, identity) for one in self.sources)

    def writes(self, prefix: str) -> bool:
        """True when the destination's root lies in an allowed folder. Names alone are compared:
        where links lead is asked where it is opened."""
        if not self.destinations:
            return True
        inside = _folder(prefix)
        return inside != "" and any(
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
        return head == name and _is_like(identity, rest)
    return _is_like(identity, pattern)


def _is_like(identity: str, pattern: str) -> bool:
    """What stands for one host stands neither for several nor for a user in front of it."""
    if pattern == "*":
        return True
    parts = (_WILD.get(one) or re.escape(one) for one in pattern)
    return re.fullmatch("".join(parts), identity, re.DOTALL) is not None


_WILD = {"*": "[^,@]*", "?": "[^,@]"}


def _folder(text: str) -> str:
    scheme, separator, _ = text.partition("://")
    if separator and scheme != "file":
        # A store's keys are letters: nothing is resolved, and what a program on the way could
        # resolve lies in no prefix.
        return "" if {".", ".."} & set(text.split("/")) else text.rstrip("/")
    path = posixpath.normpath(text.removeprefix("file://"))
    return "/" + path.lstrip("/") if path.startswith("/") else path
