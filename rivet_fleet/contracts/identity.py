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

    def is_of(self, other: CampaignIdentity) -> bool:
        """True for one configuration, which may have been edited, moved or copied to another
        host. The same file is. Elsewhere only a name makes it so, and not where the two read no
        source in common: that is a name that was copied with an example (N3)."""
        if self.path == other.path:
            return True
        if not (self.named and other.named):
            return False
        known = bool(self.sources and other.sources)
        return not known or not set(self.sources).isdisjoint(other.sources)

    @property
    def shown(self) -> str:
        """For people."""
        read = f", which reads {', '.join(self.sources)}" if self.sources else ""
        return f"{self.path} ({'campaign.name ' + self.name if self.named else 'no name'}){read}"
