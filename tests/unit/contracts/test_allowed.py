"""What a process may read and write, by words (ADR 0024)."""

from __future__ import annotations

import pytest

from rivet_fleet.contracts.seals import Allowed, words

SHOP = "postgresql://reader@db.example:5432/shop"


@pytest.mark.parametrize(
    ("pattern", "allowed"),
    [
        (SHOP, True),
        ("postgresql://reader@*/shop", True),
        ("*", True),
        ("main=postgresql://reader@db.example:5432/*", True),
        ("other=postgresql://reader@db.example:5432/*", False),
        ("postgresql://reader@db.example:5432/sho", False),
        ("postgresql://*@db.example:5432/salaries", False),
        ("main=*", True),
        ("main", False),
        ("", False),
        ("postgresql://reader@db.example:543?/shop", True),
        ("postgresql://*/shop", False),
        ("[p]ostgresql://reader@db.example:5432/shop", False),
    ],
)
def test_a_source_is_allowed_by_its_identity(pattern: str, allowed: bool) -> None:
    assert Allowed(sources=("mysql://x@y/z", pattern)).reads("main", SHOP) is allowed


def test_a_pattern_for_one_host_is_none_for_two() -> None:
    one = Allowed(sources=("postgresql://reader@db.*/shop",))
    assert one.reads("main", SHOP)
    assert not one.reads("main", "postgresql://reader@db.example,far.example:5432/shop")
    assert not one.reads("main", "postgresql://reader@db.x@far.example:5432/shop")


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("/data/out", True),
        ("/data/out/", True),
        ("/data", True),
        ("/", True),
        ("file:///data/out", True),
        ("/data/ou", False),
        ("/data/out/orders/x", False),
        ("/data/out/../secret", False),
        ("data/out", False),
    ],
)
def test_a_destination_is_allowed_in_and_below_a_folder(folder: str, allowed: bool) -> None:
    assert Allowed(destinations=(folder,)).writes("/data/out/orders") is allowed


def test_a_way_up_leads_out_of_a_folder() -> None:
    within = Allowed(destinations=("/data/out",))
    assert not within.writes("/data/out/../stolen")
    assert not within.writes("/data/outside")
    assert within.writes("/data/out/./a//b")


@pytest.mark.parametrize(
    ("prefix", "allowed"),
    [
        ("s3://lake/raw", True),
        ("s3://lake/raw/orders", True),
        ("s3://lake/raw_archive", False),
        ("s3://lake/rawer/..", False),
        ("s3://lake/raw/../secret", False),
        ("s3://lake@evil.example:9000/raw/orders", False),
        ("gs://lake/raw/orders", False),
        ("/lake/raw/orders", False),
        ("file:///lake/raw", False),
    ],
)
def test_a_prefix_of_a_store_is_allowed_by_its_whole_authority(prefix: str, allowed: bool) -> None:
    assert Allowed(destinations=("s3://lake/raw/",)).writes(prefix) is allowed
    assert not Allowed(destinations=("/",)).writes("s3://lake/raw")


def test_nothing_said_allows_everything_and_words_stand_on_lines() -> None:
    assert Allowed().reads("x", SHOP)
    assert Allowed().writes("/anywhere")
    assert words(" a \n\n b=c,d \n") == ("a", "b=c,d")
    assert words(None) == words("  ") == ()
