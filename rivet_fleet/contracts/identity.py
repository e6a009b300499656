"""Whose a campaign is: the configuration it belongs to, its namespace, its name (ADR 0022).

A name alone is what two configurations may share.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.errors import StateTampered, UsageError

CAMPAIGN_OTHER = "RIVET_CAMPAIGN_OTHER"
"""The code of every refusal to touch a campaign of another configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignIdentity:
    """A configuration as its campaigns know it.

    ``named``: ``campaign.name`` says who it is; else its file does, as an absolute ``path``.
    ``sources``: where it reads, without secrets, sorted; empty where that cannot be told.
    """

    name: str
    named: bool
    path: str
    sources: tuple[str, ...] = ()

    def is_of(self, other: CampaignIdentity, *, shared: bool) -> bool:
        """True for one configuration, which may have been edited, moved or copied to another
        host. ``shared``: other hosts may use the state (N3).

        One path is one file where the state is one host's. Elsewhere containers have all the same
        one, and host names say as little: there a path, as a name anywhere, is of two when they
        are known to read no source in common. It was copied with an example."""
        one_path = self.path == other.path
        if one_path and not shared:
            return True
        return (one_path or (self.named and other.named)) and not self.reads_elsewhere(other)

    def reads_elsewhere(self, other: CampaignIdentity) -> bool:
        """True when both know where they read, and no place is the same."""
        known = bool(self.sources and other.sources)
        return known and set(self.sources).isdisjoint(other.sources)

    @property
    def shown(self) -> str:
        """For people."""
        read = f", which reads {', '.join(self.sources)}" if self.sources else ""
        return f"{self.path} ({'campaign.name ' + self.name if self.named else 'no name'}){read}"


RECONCILE_SUFFIX = "/reconcile"
"""Behind the name of a campaign whose runs are compared with their source (ADR 0030): it delivers
nothing, and nothing that looks for a campaign by its name is to find it."""


def owner_of(campaign_name: str) -> str:
    """The name that a configuration knows a campaign by: one that compares is its deliverer's."""
    return campaign_name.removesuffix(RECONCILE_SUFFIX)


# ------------------------------------------------------------------------------------------
# A namespace: what one team sees of a state database that several may share (ADR 0022).
#
# Ids carry it: ``nightly`` in ``team-a`` is ``nightly@team-a``, and so is every run of it, so a
# statement that names an id names its namespace. Ids without one belong to ``default``. Names
# (campaigns, exports, source groups) are looked up within it.

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


# ------------------------------------------------------------------------------------------
# Names of campaigns and runs: readable, unique, safe as file names everywhere.

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_STAMP = re.compile(r"(\d{4})(\d{2})(\d{2})T\d{6}\.\d{3}")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


def new_campaign_id(now_s: float, namespace: str = NAMESPACE_DEFAULT) -> CampaignId:
    """``YYYYMMDDTHHMMSS.mmm`` in UTC, within the namespace."""
    seconds, millis = divmod(round(now_s * 1000), 1000)
    stamp = datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%dT%H%M%S")
    return CampaignId(within(f"{stamp}.{millis:03d}", namespace))


def campaign_id_within(text: str, namespace: str) -> CampaignId:
    """A user's word for a campaign, with or without ``@namespace``, as the state has it. Another
    namespace stays: the state refuses it by name."""
    bare, _, said = text.partition("@")
    return CampaignId(text if said not in ("", namespace) else within(bare, namespace))


def check_campaign_id(text: str) -> CampaignId:
    """A user's own id, within a namespace or not. Raises UsageError unless it is safe as part of
    file names."""
    bare, at, namespace = text.partition("@")
    try:
        check_namespace(namespace if at else NAMESPACE_DEFAULT)
    except ValueError as problem:
        raise UsageError(f"campaign id {text}: {problem}") from None
    if not _ID.fullmatch(bare) or ".." in bare:
        raise UsageError(
            "the campaign id must be 1 to 100 letters, digits, '.', '_' or '-', "
            "beginning with a letter or digit",
            hint="for example nightly-2024-05-31",
        )
    return CampaignId(text)


_STORED = re.compile(r"[A-Za-z0-9._-]{1,400}(?:@[a-z0-9][a-z0-9._-]{0,39})?")


def checked_id(stored_id: str) -> str:
    """The id of a campaign or run itself, as a state or a plan has it, when it is one name of a
    folder. Raises StateTampered for another: it was never given, and might lead elsewhere."""
    if not _STORED.fullmatch(stored_id) or stored_id in (".", ".."):
        raise StateTampered(
            f"{stored_id[:200]!r} stands where the id of a campaign or run should, and none was "
            "ever given that looks so: it would lead files elsewhere",
            hint="nothing was read or written by it; find out who can write to the state, or who "
            "wrote the plan",
        )
    return stored_id


def run_id_of(export_name: str, campaign_id: CampaignId) -> RunId:
    """``<export>_<campaign>``; a name that had to be changed keeps apart by a short digest."""
    safe = _UNSAFE.sub("_", export_name)
    if safe != export_name:
        safe += "-" + hashlib.sha256(export_name.encode()).hexdigest()[:8]
    return RunId(f"{safe}_{campaign_id}")


def date_of(campaign_id: CampaignId, now_s: float | None) -> str | None:
    """``YYYY-MM-DD`` (UTC) of a campaign: its own stamp, else the given moment, else None."""
    stamped = _STAMP.fullmatch(bare_id_of(campaign_id))
    if stamped:
        return "-".join(stamped.groups())
    if now_s is None:
        return None
    return datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%d")
