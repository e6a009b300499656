"""Who a configuration is to its campaigns (ADR 0022). Connects to nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable

from rivet_fleet.contracts.identity import CampaignIdentity
from rivet_fleet.errors import ConfigError
from rivet_fleet.planning.connections import SourceConnection, source_connection
from rivet_fleet.planning.loaded import LoadedConfig


def identity_of(loaded: LoadedConfig, connections: Iterable[SourceConnection]) -> CampaignIdentity:
    """``connections``: every source it reads; none where they are not known. Links in the path
    stay as they are: a mounted configuration is a link that moves with each edit."""
    return CampaignIdentity(
        name=loaded.campaign_name,
        named=loaded.config.campaign.name is not None,
        # Not resolve(): see above.
        path=os.path.normpath(loaded.path.absolute()),
        sources=tuple(sorted({_place(one) for one in connections})),
    )


def present_identity(loaded: LoadedConfig) -> CampaignIdentity:
    """The same, where a source's variable may be missing: many verbs do without it."""
    try:
        known = [source_connection(loaded, name) for name in loaded.used_sources()]
    except ConfigError:
        known = []
    return identity_of(loaded, known)


def _place(connection: SourceConnection) -> str:
    """Whose rights it reads with is another matter."""
    scheme, mark, rest = connection.identity.partition("://")
    return scheme + mark + rest.rpartition("@")[2]
