"""A default has one home; documents that repeat its number say what it is."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from rivet_fleet.contracts.clock import RETRIES_SAVED_MAX
from rivet_fleet.contracts.plan import TARGET_STATEMENT_MS
from rivet_fleet.contracts.protection import UNREADABLE_MAX
from rivet_fleet.planning.config.models import CampaignConfig
from rivet_fleet.planning.export_plan import TUNING_PROFILES
from tests.house.tree import ROOT

_LEASE_S = f"{CampaignConfig.model_fields['lease_ttl_s'].default:g}"
NUMBERS = {
    ("README.md", r"sized to end within (\d+) ms"): str(TARGET_STATEMENT_MS),
    ("ARCHITECTURE.md", r"within `target_statement_ms` \((\d+)\)"): str(TARGET_STATEMENT_MS),
    ("docs/howto/mysql.md", r"sized to end within (\d+) ms"): str(TARGET_STATEMENT_MS),
    ("docs/adr/0004-reading-in-pages.md", r"`target_statement_ms`, default (\d+)"): str(
        TARGET_STATEMENT_MS
    ),
    ("docs/reference/configuration.md", r"statement should take; (\d+) where"): str(
        TARGET_STATEMENT_MS
    ),
    ("docs/howto/kubernetes.md", r"have run out \((\d+) s\)"): _LEASE_S,
    (
        "docs/adr/0024-sealed-means-checked.md",
        r"give the (\d+) saved tries",
    ): f"{RETRIES_SAVED_MAX:g}",
    ("docs/explanation/rivet-compatibility.md", r"`statement_timeout_s` \| (\d+ \| \d+ \| \d+)"): (
        " | ".join(
            f"{TUNING_PROFILES[name]['statement_timeout_s']:g}"
            for name in ("fast", "balanced", "safe")
        )
    ),
    ("docs/howto/protect-the-source.md", r"after (\w+) samples"): {3: "three"}[UNREADABLE_MAX],
}
"""(document, the phrase with its number) → what the code says."""


@pytest.mark.parametrize(("place", "number"), NUMBERS.items(), ids=lambda one: str(one)[:60])
def test_a_document_repeats_the_number_of_the_code(place: tuple[str, str], number: str) -> None:
    assert said(place) == {number}


def said(place: tuple[str, str], documents: Mapping[str, str] | None = None) -> set[str]:
    """Every number that the document gives in such a phrase."""
    document, phrase = place
    text = (documents or {}).get(document) or (ROOT / document).read_text(encoding="utf-8")
    return set(re.findall(phrase, " ".join(text.split())))


def test_another_number_is_noticed() -> None:
    place = ("README.md", r"sized to end within (\d+) ms")
    assert said(place, {"README.md": "sized to end within 170\nms"}) == {"170"}
