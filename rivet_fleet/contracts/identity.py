"""Which configuration a campaign belongs to (ADR 0022): its name alone is what two may share."""

from __future__ import annotations

from dataclasses import dataclass

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
