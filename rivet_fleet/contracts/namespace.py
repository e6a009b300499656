"""A namespace: what one team sees of a state database that several may share (ADR 0022).

Ids carry it: ``nightly`` in ``team-a`` is ``nightly@team-a``, and so is every run of it, so a
statement that names an id names its namespace. Ids without one belong to ``default``. Names
(campaigns, exports, source groups) are looked up within it.
"""

from __future__ import annotations

import re

NAMESPACE_DEFAULT = "default"
"""Where everything of a state is that knew no namespaces."""
NAMESPACE_NEEDED = "RIVET_NAMESPACE_NEEDED"
"""The code of the refusal to guess a namespace."""
NAMESPACE_OTHER = "RIVET_NAMESPACE_OTHER"
"""The code of every refusal to touch what belongs to another namespace."""
_AT = "@"
# Lower case alone: a folder's name holds it, and some filesystems do not tell cases apart.
_NAMESPACE = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")


def check_namespace(text: str) -> str:
    """``text`` itself. Raises ValueError with what a namespace is."""
    if not _NAMESPACE.fullmatch(text) or ".." in text:
        raise ValueError(
            "a namespace is 1 to 40 lower-case letters, digits, '.', '_' or '-', beginning with "
            "a letter or digit"
        )
    return text


def within(bare_id: str, namespace: str) -> str:
    """The id as the state has it. ``bare_id``: without a namespace."""
    return bare_id if namespace == NAMESPACE_DEFAULT else f"{bare_id}{_AT}{namespace}"


def namespace_of(stored_id: str) -> str:
    """Whose a campaign or run is."""
    return stored_id.rpartition(_AT)[2] if _AT in stored_id else NAMESPACE_DEFAULT


def bare_id_of(stored_id: str) -> str:
    """The id without its namespace."""
    return stored_id.partition(_AT)[0]
