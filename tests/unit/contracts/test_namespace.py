"""Namespaces and identities as values (ADR 0022)."""

from __future__ import annotations

import pytest

from rivet_fleet.contracts.identity import (
    CampaignIdentity,
    bare_id_of,
    campaign_id_within,
    check_campaign_id,
    check_namespace,
    date_of,
    namespace_of,
    new_campaign_id,
    run_id_of,
    within,
)
from rivet_fleet.contracts.keys import CampaignId
from rivet_fleet.errors import UsageError


@pytest.mark.parametrize("good", ["default", "a", "team-a", "eu.west_1", "0", "x" * 40])
def test_a_short_printable_name_is_a_namespace(good: str) -> None:
    assert check_namespace(good) == good
    assert namespace_of(within("nightly", good)) == good
    assert bare_id_of(within("nightly", good)) == "nightly"


@pytest.mark.parametrize(
    "bad", ["", "Team", "a b", "a@b", "a/b", "-a", "a..b", "é", "x" * 41, "a\n"]
)
def test_anything_else_is_none(bad: str) -> None:
    with pytest.raises(ValueError, match="1 to 40"):
        check_namespace(bad)


def test_ids_of_two_namespaces_never_meet() -> None:
    """Export names may hold anything: a run's namespace is still its campaign's."""
    for export in ("orders", "a@team-b", "@", "x@default"):
        for namespace in ("default", "team-b"):
            run_id = run_id_of(export, CampaignId(within("c1", namespace)))
            assert namespace_of(run_id) == namespace


def test_a_user_may_leave_ones_own_namespace_out() -> None:
    assert campaign_id_within("c1", "team-a") == "c1@team-a"
    assert campaign_id_within("c1@team-a", "team-a") == "c1@team-a"
    assert campaign_id_within("c1@default", "default") == "c1"
    assert campaign_id_within("c1@team-b", "team-a") == "c1@team-b", "which the state refuses"
    with pytest.raises(UsageError):
        check_campaign_id("c1@team-b@team-a")
    with pytest.raises(UsageError):
        check_campaign_id("c1@Team")


def test_a_new_id_is_of_its_namespace_and_still_tells_its_day() -> None:
    campaign_id = new_campaign_id(1_717_150_272.123, "team-a")
    assert campaign_id == "20240531T101112.123@team-a"
    assert check_campaign_id(campaign_id) == campaign_id
    assert date_of(campaign_id, None) == "2024-05-31"


def identity(path: str, *sources: str, named: bool = True) -> CampaignIdentity:
    return CampaignIdentity(name="shop", named=named, path=path, sources=sources)


_BOTH, _NONE, _FILE = (True, True), (False, False), (True, False)
"""The same on one host's state and on a shared one; on neither; where a path is one file."""


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        (identity("/a", "s1"), identity("/a", "s2"), _FILE),
        (identity("/a", "s1", named=False), identity("/a", "s2", named=False), _FILE),
        (identity("/a", "s1", named=False), identity("/a", "s1", "s2", named=False), _BOTH),
        (identity("/a", "s1", named=False), identity("/a", named=False), _BOTH),
        (identity("/a", named=False), identity("/a"), _BOTH),
        (identity("/a", "s1"), identity("/b", "s1", "s2"), _BOTH),
        (identity("/a", "s1"), identity("/b"), _BOTH),
        (identity("/a", "s1"), identity("/b", "s2"), _NONE),
        (identity("/a", "s1", named=False), identity("/b", "s1"), _NONE),
        (identity("/a", "s1"), identity("/b", "s1", named=False), _NONE),
        (identity("/a", "s1", named=False), identity("/b", "s1", named=False), _NONE),
    ],
    ids=[
        *("one path and name, two sources", "one path, two sources", "one path on two hosts"),
        *("one path, sources unknown here", "its own file, named now"),
        *("moved, with one more source", "moved, sources unknown here"),
        *("a name copied with an example", "a stem that got a name", "a name that lost it"),
        "one stem in two folders",
    ],
)
def test_which_configurations_are_one(
    before: CampaignIdentity, now: CampaignIdentity, same: tuple[bool, bool]
) -> None:
    assert tuple(before.is_of(now, shared=shared) for shared in (False, True)) == same
    assert tuple(now.is_of(before, shared=shared) for shared in (False, True)) == same
