"""What a name that is not there may have meant."""

from __future__ import annotations

import pytest

from rivet_fleet.contracts.keys import RelationName
from rivet_fleet.execution.engines.facts import close_relations

HERE = ["shop.Orders", "shop.order_items", "shop.customers"]
COPIES = [f"copy_{n}.{name}" for n in range(20) for name in ("orders", "custmers")]


def relation(text: str) -> RelationName:
    schema, name = text.split(".")
    return RelationName(schema=schema, name=name)


@pytest.mark.parametrize(
    ("wanted", "first"),
    [
        ("shop.orders", "shop.Orders"),
        ("shop.custmers", "shop.customers"),
        ("shp.order_items", "shop.order_items"),
        ("copy_1.Orders", "copy_1.orders"),
    ],
)
def test_the_schema_that_was_asked_comes_before_its_copies(wanted: str, first: str) -> None:
    said = close_relations(relation(wanted), [relation(each) for each in COPIES + HERE])
    assert said is not None
    assert said.startswith(f"did you mean {first}")
    assert said.count(",") <= 2


def test_nothing_close_is_said_as_nothing() -> None:
    assert close_relations(relation("shop.zebra"), [relation(each) for each in HERE]) is None
    assert close_relations(relation("shop.zebra"), []) is None
