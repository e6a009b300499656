"""Facts in a few words."""

from __future__ import annotations

import itertools
from typing import Any

from rivet_fleet.contracts.columns import ColumnType, TypeKind
from rivet_fleet.contracts.facts import (
    ColumnFacts,
    IndexFacts,
    KeyFacts,
    PhysicalRelation,
    SourceCapabilities,
    SourceFacts,
)
from rivet_fleet.contracts.keys import ChunkRange, RangeKind, RelationName

ORDERS = RelationName(schema="public", name="orders")
ABLE = SourceCapabilities(keyset=True, composite_keyset=True, block_ranges=True)


def column(name: str, kind: TypeKind, *, nullable: bool = False) -> ColumnFacts:
    return ColumnFacts(
        name=name, native_type=kind.value, type=ColumnType(kind=kind), nullable=nullable
    )


COLUMNS = (
    column("id", TypeKind.INT64),
    column("line", TypeKind.INT32),
    column("ref", TypeKind.UUID),
    column("code", TypeKind.STRING),
    column("total", TypeKind.DECIMAL),
    column("ratio", TypeKind.FLOAT64),
    column("region", TypeKind.INT32, nullable=True),
)


def index(name: str, *columns: str, **more: bool) -> IndexFacts:
    return IndexFacts(name=name, columns=columns, **{"unique": True, **more})


PRIMARY = index("orders_pkey", "id", primary=True)


def key(*columns: str, **more: Any) -> KeyFacts:
    return KeyFacts(
        **{
            "columns": columns,
            "minimum": None,
            "maximum": None,
            "boundaries": (),
            "provenance": "histogram",
            **more,
        }
    )


def int_key(name: str, *values: int, **more: Any) -> KeyFacts:
    """Minimum, quantiles, maximum."""
    texts = tuple((str(v),) for v in values)
    return key(name, minimum=texts[0], maximum=texts[-1], boundaries=texts[1:-1], **more)


def heap(name: str = "orders", blocks: int = 1000, rows: int | None = 100_000) -> PhysicalRelation:
    return PhysicalRelation(
        name=RelationName(schema="public", name=name), blocks=blocks, row_estimate=rows
    )


def table(**more: Any) -> SourceFacts:
    return SourceFacts(
        **{
            "engine": "postgres",
            "server_version": "16.1",
            "capabilities": ABLE,
            "relation": ORDERS,
            "columns": COLUMNS,
            "heaps": (heap(),),
            "row_estimate": 1_000_000,
            "row_estimate_provenance": "statistics",
            "row_width_bytes": 100,
            **more,
        }
    )


def query(**more: Any) -> SourceFacts:
    return table(relation=None, heaps=(), indexes=(), **more)


def assert_contiguous(ranges: list[ChunkRange]) -> None:
    """One open-ended, half-open chain of key ranges."""
    keyed = [one for one in ranges if one.kind in (RangeKind.KEYSET, RangeKind.SPAN)]
    assert keyed[0].lower is None
    assert keyed[-1].upper is None
    for left, right in itertools.pairwise(keyed):
        assert left.upper is not None
        assert left.upper == right.lower
    inner = [one.upper for one in keyed[:-1]]
    assert len(set(inner)) == len(inner)
