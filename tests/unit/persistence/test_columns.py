"""What rows are looked at by is what the schema says (a worker does without the schema)."""

from __future__ import annotations

from collections import defaultdict

from rivet_fleet.contracts.protection import BUDGET_NUMBERS
from rivet_fleet.persistence.guards import MOMENTS, NUMBERS, TEXTS
from rivet_fleet.persistence.schema import metadata


def test_every_column_is_of_the_kind_that_its_name_has() -> None:
    kinds: dict[str, set[str]] = defaultdict(set)
    for table in metadata.tables.values():
        for column in table.columns:
            kind = column.type.python_type.__name__
            moment = column.name.endswith(("_at_s", "_until_s", "_before_s"))
            number = kind in ("int", "float")
            kinds[column.name].add(("moment" if moment else "number") if number else kind)
    alone = {name: next(iter(found)) for name, found in kinds.items() if len(found) == 1}
    assert {name for name, kind in alone.items() if kind == "str"} == TEXTS
    assert {name for name, kind in alone.items() if kind == "moment"} == MOMENTS
    assert {name for name, kind in alone.items() if kind == "number"} == NUMBERS | {*BUDGET_NUMBERS}
