"""Names of campaigns and runs: readable, unique, safe as file names everywhere."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime

from rivet_fleet.contracts.keys import CampaignId, RunId
from rivet_fleet.contracts.namespace import (
    NAMESPACE_DEFAULT,
    bare_id_of,
    check_namespace,
    within,
)
from rivet_fleet.errors import UsageError

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
