"""How a source's columns differ from the planned ones. Pure; used by every engine."""

from __future__ import annotations

from rivet_fleet.contracts.columns import ColumnSpec
from rivet_fleet.contracts.facts import ColumnFacts


def drift(planned: tuple[ColumnSpec, ...], now: tuple[ColumnFacts, ...]) -> tuple[str, ...]:
    """How the source's columns differ from the planned ones, one phrase each."""
    before = {column.name: column for column in planned}
    after = {column.name: column for column in now}
    found = [f"{name} is gone" for name in before if name not in after]
    found += [f"{name} ({after[name].native_type}) is new" for name in after if name not in before]
    for name in before.keys() & after.keys():
        old, new = before[name], after[name]
        if old.native_type != new.native_type:
            found.append(f"{name} was {old.native_type} and is {new.native_type}")
        elif not old.nullable and new.nullable:
            found.append(f"{name} was NOT NULL and may be NULL")
    if not found and tuple(before) != tuple(after):
        found.append(f"the order was {', '.join(before)} and is {', '.join(after)}")
    return tuple(sorted(found))
