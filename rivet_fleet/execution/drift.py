"""How a source differs from what was planned: its columns, and what the plan rests on."""

from __future__ import annotations

from collections.abc import Callable

from rivet_fleet.contracts import basis
from rivet_fleet.contracts.basis import BasisDifference, BasisFact, Consequence
from rivet_fleet.contracts.columns import ColumnSpec
from rivet_fleet.contracts.facts import ColumnFacts
from rivet_fleet.contracts.keys import ChunkRange
from rivet_fleet.contracts.plan import ReadPlan
from rivet_fleet.errors import SchemaDrift


def check_columns(read: ReadPlan, now: tuple[ColumnFacts, ...]) -> None:
    """Raises SchemaDrift when the source's columns are not the planned ones."""
    differences = drift(read.columns, now)
    if differences:
        raise SchemaDrift(
            f"{read.relation or 'the query'}: the columns are not the planned ones: "
            + "; ".join(differences),
            hint="plan the export again",
        )


def judge(
    read: ReadPlan, chunk_range: ChunkRange, now: tuple[BasisFact, ...]
) -> tuple[BasisDifference, ...]:
    """What is another than planned and only to be told. Raises SchemaDrift when a difference would
    make this chunk's rows others than the plan's (ADR 0018). Nothing else judges."""
    planned = (*read.basis, *basis.of_session(read.session))
    found = basis.differences(planned, now, chunk_range, read.window)
    fatal = [one for one in found if one.consequence is Consequence.FATAL]
    if fatal:
        raise SchemaDrift(
            f"{read.relation or 'the query'}: what the plan rests on has changed: "
            + "; ".join(one.sentence for one in fatal),
            hint="nothing of this chunk was delivered; plan the export again",
            code="RIVET_BASIS_CHANGED",
        )
    return found


class Footing:
    """What one chunk's plan rests on: judged when the chunk is opened and again behind its pages.
    ``look`` asks the source; it raises SourceError."""

    def __init__(
        self, read: ReadPlan, chunk_range: ChunkRange, look: Callable[[], tuple[BasisFact, ...]]
    ) -> None:
        self._read, self._range, self._look = read, chunk_range, look
        self._told: dict[BasisDifference, None] = {}

    def judge(self, now: tuple[BasisFact, ...]) -> tuple[BasisDifference, ...]:
        """Everything that was found changed so far, without harm. Raises SchemaDrift."""
        self._told |= dict.fromkeys(judge(self._read, self._range, now))
        return tuple(self._told)

    def prove(self) -> tuple[BasisDifference, ...]:
        """Look again, and judge; nothing is asked for a plan that sealed nothing."""
        return self.judge(self._look()) if self._read.basis else ()


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
