"""PostgreSQL's way of comparing keys, for tests without a server to ask."""

from __future__ import annotations

from dataclasses import replace

from rivet_fleet.execution.sources.postgres.dialect import quote_literal
from rivet_fleet.execution.sources.postgres.keyorder import KeyOrder, Keys


def order(
    type_name: str = '"pg_catalog"."text"', schema: str = "pg_catalog", **more: bool
) -> KeyOrder:
    """The order of a type whose operators live in ``schema``."""
    signs = ("<", "<=", "=", ">=", ">")
    return KeyOrder(
        order_class=f"1994/{type_name}",
        operators=tuple(f'OPERATOR("{schema}".{sign})' for sign in signs),
        type=type_name,
        **more,
    )


class _Alike(dict[str, KeyOrder]):
    def __missing__(self, name: str) -> KeyOrder:
        return order()


def text_keys(**others: KeyOrder) -> Keys:
    """Every column is text, but for ``others``."""
    return Keys(_Alike(others))


class PlainKeys(Keys):
    """The same conditions in the SQL that every database understands (SQLite stands for one)."""

    def __init__(self) -> None:
        super().__init__(_Plain())

    def literal(self, name: str, text: str) -> str:
        return quote_literal(text)


class _Plain(dict[str, KeyOrder]):
    def __missing__(self, name: str) -> KeyOrder:
        return replace(order(), operators=("<", "<=", "=", ">=", ">"))
