"""A run compared with its source: what is asked, what was found, and how it is judged (ADR 0030).

Pure. A row of a side is *settled* when nobody may have written it since the run began; only such
rows are compared, and the others may excuse what is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from rivet_fleet.contracts.aggregates import measures_plain
from rivet_fleet.contracts.columns import MOMENTS, ColumnSpec, TypeKind
from rivet_fleet.contracts.keys import ChunkRange, RangeKind, RunId, describe_range
from rivet_fleet.errors import DataIntegrityError

RECONCILE_MISMATCH = "RIVET_RECONCILE_MISMATCH"
"""Source and files differ, confirmed by a second look."""
RECONCILE_UNKNOWN = "RIVET_RECONCILE_UNKNOWN"
"""A side of some range could not be seen."""
RECONCILE_UNSETTLED = "RIVET_RECONCILE_UNSETTLED"
"""What differs may have been written since the run began."""
REPORT_VERSION = 1
LIMIT_DEFAULT = 100
CONFIRM_AFTER_S = 5.0


class ReconcileDepth(Enum):
    """How much is compared. Values are the configuration's words."""

    COUNT = "count"
    AGGREGATE = "aggregate"
    HASH = "hash"


CANNOT_SEE = {
    ReconcileDepth.COUNT: "any change that leaves the number of rows of a range",
    ReconcileDepth.AGGREGATE: (
        "values exchanged between rows of a range; what leaves a column's NULLs, extremes, sum and "
        "bytes, as another case does; of floating numbers all but their extremes, and the sign of "
        "a zero; of types without measures all but NULLs; which rows differ"
    ),
    ReconcileDepth.HASH: (
        "what is decoded wrongly both times; two rows without a key that were exchanged"
    ),
}
"""What a match at a depth leaves open."""


class NotAsWritten(DataIntegrityError):
    """A part's file is not the one that was delivered: no row of it is looked at."""


class RangeVerdict(Enum):
    """How a range was judged. Values stand in reports."""

    MATCH = "match"
    MISMATCH = "mismatch"
    UNSETTLED = "unsettled"
    UNKNOWN = "unknown"


_GRAVEST = (RangeVerdict.MISMATCH, RangeVerdict.UNKNOWN, RangeVerdict.UNSETTLED, RangeVerdict.MATCH)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcilePlan:
    """What a run asks that compares another one with its source. ``campaign_name``: the other's.

    ``settled_by``: a column of moments; rows below ``settled_before_us`` (microseconds since 1970,
    when the run that is compared began) are settled. None: all rows are. ``limit``: so many
    differing rows of a range are kept. ``confirm_after_s``: how long to wait for the second look.
    ``run_began_us``: when the run that is compared was stored, by the state's clock.
    """

    of_run: RunId
    campaign_name: str
    depth: ReconcileDepth
    settled_by: str | None = None
    settled_before_us: int | None = None
    limit: int = LIMIT_DEFAULT
    confirm_after_s: float = CONFIRM_AFTER_S
    run_began_us: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One end of a look at a side. ``at_s``: by the source's own clock, or by the state's for files
    (since 1970); None when it would not say. ``position``: how far the source's server had come
    (LSN, GTID); empty where it does not say, or in more than ``POSITION_CHARS_MAX`` characters."""

    at_s: float | None = None
    position: str = ""


POSITION_CHARS_MAX = 1_000
"""A longer one is not kept with every range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One look at one side of a range. ``rows``: those that are settled. A look is many pages, each
    a snapshot of its own: all of them lie between ``begun`` and ``ended``. ``digest``: the sum of
    the settled rows' hashes, 16 hex digits, where rows were hashed."""

    rows: int
    unsettled: int = 0
    begun: Moment = Moment()
    ended: Moment = Moment()
    digest: str = ""


class Difference(Enum):
    """How a row differs. Values stand in reports."""

    MISSING = "missing"
    """The source has it, the files do not."""
    EXTRA = "extra"
    """The files have it, the source does not."""
    CHANGED = "changed"
    """Both have its key, with other values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferingRow:
    """One row, named by its key; empty where the export has none. ``columns``: whose values
    differ."""

    difference: Difference
    key: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeResult:
    """What was found of one range. ``looks``: how often each side was looked at. ``complete``
    False: there are more differing rows than were looked for."""

    verdict: RangeVerdict
    sentence: str
    source: Side | None = None
    files: Side | None = None
    looks: int = 1
    missing: int = 0
    extra: int = 0
    changed: int = 0
    complete: bool = True
    key_columns: tuple[str, ...] = ()
    rows: tuple[DifferingRow, ...] = ()
    measures: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The measures in which a column of the range differs (``contracts.aggregates``), by column."""
    measured: bool = False
    """Columns were measured, and no row was looked at."""


def judged_count(source: Side, files: Side) -> tuple[RangeVerdict, str]:
    """Two numbers of rows. Only rows that left the settled ones may be lacking at the source."""
    gone = files.rows - source.rows
    if gone == 0:
        return RangeVerdict.MATCH, f"{files.rows:,} rows on both sides"
    numbers = f"the source has {source.rows:,} rows, the files {files.rows:,}"
    if 0 < gone <= source.unsettled:
        return (
            RangeVerdict.UNSETTLED,
            f"{numbers}; {source.unsettled:,} of the source were written since, some of them may "
            "be those",
        )
    return RangeVerdict.MISMATCH, numbers


def judged_measures(
    source: Side, files: Side, measures: Mapping[str, Sequence[str]]
) -> tuple[RangeVerdict, str]:
    """Two numbers of rows, and the ``measures`` in which their columns differ. A row that left the
    settled ones is not at the source: where none is lacking, no such row excuses a measure."""
    verdict, sentence = judged_count(source, files)
    if not measures:
        if verdict is RangeVerdict.MATCH:
            sentence = f"{sentence}, and of each column what can be measured is the same"
        return verdict, sentence
    told = ", ".join(f"{' and '.join(names)} of {one}" for one, names in measures.items())
    if verdict is RangeVerdict.MATCH:
        verdict = RangeVerdict.MISMATCH
    return verdict, f"{sentence}; they differ in {told}"


def confirmed_count(first: Side, source: Side, files: Side) -> tuple[RangeVerdict, str]:
    """The same of a second look: a source that moved between the two says nothing."""
    verdict, sentence = judged_count(source, files)
    if verdict is RangeVerdict.MISMATCH and first.rows != source.rows:
        moves = f"it had {first.rows:,} at the first look: it is being written to"
        return RangeVerdict.UNSETTLED, f"{sentence}; {moves}"
    return verdict, sentence


_NARROW = (
    *(TypeKind.BOOL, TypeKind.INT16, TypeKind.INT32, TypeKind.DATE, TypeKind.FLOAT32),
    *(TypeKind.INT64, TypeKind.UINT64, TypeKind.FLOAT64, TypeKind.TIME, TypeKind.TIMESTAMP),
    *(TypeKind.TIMESTAMP_UTC, TypeKind.UUID, TypeKind.DECIMAL, TypeKind.ENUM, TypeKind.INTERVAL),
)


def counted_columns(
    columns: Sequence[ColumnSpec], chunk_range: ChunkRange, settled_by: str | None
) -> tuple[str, ...]:
    """The few columns that counting a range by reading it needs: those that it is paged by, which
    travel anyway, or else the narrowest; and the one that tells which rows are settled."""
    names = [one.name for one in columns]
    paged = chunk_range.kind in (RangeKind.KEYSET, RangeKind.SPAN)
    wanted = {name for name in chunk_range.columns if paged and name in names}
    if settled_by is not None:
        wanted.add(settled_by)
    if not wanted:
        wanted = {min(columns, key=_width).name}
    return tuple(name for name in names if name in wanted)


def _width(column: ColumnSpec) -> int:
    kind = column.type.kind
    return _NARROW.index(kind) if kind in _NARROW else len(_NARROW)


def settling_columns(columns: Sequence[ColumnSpec]) -> tuple[str, ...]:
    """Those that can tell which rows are settled."""
    return tuple(one.name for one in columns if one.type.kind in MOMENTS)


def key_columns(columns: Sequence[ColumnSpec], chunk_range: ChunkRange) -> tuple[str, ...]:
    """What tells the rows of a range apart, of the columns that are exported: the key that they are
    paged by, else the table's own. Empty where neither is all there."""
    names = {one.name for one in columns}
    if chunk_range.kind is RangeKind.KEYSET and names.issuperset(chunk_range.columns):
        return chunk_range.columns
    return tuple(one.name for one in columns if one.key)


# ------------------------------------------------------------------------------------------
# A whole run.


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRange:
    """One range with its result; None where the comparison has not come to an end."""

    chunk_index: int
    chunk_range: ChunkRange
    result: RangeResult | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """All ranges of a run, judged together."""

    verdict: RangeVerdict
    sentence: str
    ranges: tuple[ComparedRange, ...]
    counts: dict[str, int] = field(default_factory=dict)
    """Ranges by verdict."""

    def total(self, name: str) -> int:
        """``missing``, ``extra`` or ``changed`` rows of all ranges."""
        return sum(getattr(one.result, name) for one in self.ranges if one.result)

    def between(self, side: str) -> tuple[Moment, Moment]:
        """From when and until when the last looks at ``source`` or ``files`` were, of all ranges
        that say."""
        sides = [getattr(one.result, side) for one in self.ranges if one.result]
        begun = [one.begun for one in sides if one and one.begun.at_s is not None]
        ended = [one.ended for one in sides if one and one.ended.at_s is not None]
        first = min(begun, key=lambda one: one.at_s or 0.0, default=Moment())
        return first, max(ended, key=lambda one: one.at_s or 0.0, default=Moment())

    def rows(self, side: str) -> int | None:
        """Settled rows of ``source`` or ``files``; None when some range could not be seen."""
        sides = [getattr(one.result, side) if one.result else None for one in self.ranges]
        found = [one.rows for one in sides if one is not None]
        return sum(found) if len(found) == len(sides) else None


def compared_run(ranges: Sequence[ComparedRange]) -> RunComparison:
    """The run's own verdict: its gravest range's, but where rows move between ranges all of them
    are one."""
    verdicts = [one.result.verdict if one.result else RangeVerdict.UNKNOWN for one in ranges]
    counts = {one.value: 0 for one in RangeVerdict} | Counter(one.value for one in verdicts)
    verdict = next((one for one in _GRAVEST if one in verdicts), RangeVerdict.UNKNOWN)
    sentence = _said(counts)
    if verdict is RangeVerdict.MISMATCH and _rows_move(ranges):
        verdict, sentence = _together(ranges)
    return RunComparison(verdict=verdict, sentence=sentence, ranges=tuple(ranges), counts=counts)


def _said(counts: dict[str, int]) -> str:
    told = [f"{number} {name}" for name, number in counts.items() if number]
    return f"ranges: {', '.join(told)}"


def _rows_move(ranges: Sequence[ComparedRange]) -> bool:
    """A row of a heap that is updated lies in another block afterwards."""
    blocks = all(one.chunk_range.kind is RangeKind.BLOCKS for one in ranges)
    seen = all(one.result and one.result.source and one.result.files for one in ranges)
    return blocks and seen and len(ranges) > 1


def _together(ranges: Sequence[ComparedRange]) -> tuple[RangeVerdict, str]:
    results = [one.result for one in ranges if one.result]
    source, files = _summed([r.source for r in results]), _summed([r.files for r in results])
    verdict, sentence = judged_count(source, files)
    if verdict is RangeVerdict.MATCH and source.digest != files.digest:
        return RangeVerdict.MISMATCH, f"{sentence}, but of other values"
    if verdict is RangeVerdict.MATCH:
        same = "and are the same" if files.digest else "and only their number was compared"
        if any(one.measured for one in results):
            same = "and what adds up of their columns is the same; extremes were not compared"
        sentence += f": they lie in other blocks than before, {same}"
    return verdict, sentence


def _summed(sides: Sequence[Side | None]) -> Side:
    found = [one for one in sides if one is not None]
    digests = [int(one.digest, 16) for one in found if one.digest]
    return Side(
        rows=sum(one.rows for one in found),
        unsettled=sum(one.unsettled for one in found),
        digest=f"{sum(digests) % 2**64:016x}" if digests else "",
    )


def moments_plain(
    comparison: RunComparison, asked: ReconcilePlan, run_position: str
) -> dict[str, Any]:
    """At which moments a run and its two sides were looked at, as plain JSON. ``run_position``:
    what the server had when the run was planned (``ReadPlan.position``)."""
    source, files = comparison.between("source"), comparison.between("files")
    began_us = asked.run_began_us
    return {
        "run_began_s": None if began_us is None else began_us / 1_000_000,
        "run_position": run_position or None,
        "source_begun_s": source[0].at_s,
        "source_begun_position": source[0].position or None,
        "source_ended_s": source[1].at_s,
        "source_ended_position": source[1].position or None,
        "files_begun_s": files[0].at_s,
        "files_ended_s": files[1].at_s,
    }


def report_plain(
    comparison: RunComparison,
    asked: ReconcilePlan,
    *,
    export_name: str,
    run_id: str,
    strategy: str,
    run_position: str,
    columns: Sequence[ColumnSpec],
) -> dict[str, Any]:
    """The report of one run as plain JSON (docs/reference/reconcile.md). ``run_id``: of the run
    that compared; ``run_position``: see ``moments_plain``. Fields are added and never taken away
    (RC5)."""
    return {
        "report_version": REPORT_VERSION,
        "export_name": export_name,
        "run_id": asked.of_run,
        "reconcile_run_id": run_id,
        "strategy": strategy,
        "depth": asked.depth.value,
        "cannot_see": CANNOT_SEE[asked.depth],
        "measures": measures_plain(columns) if asked.depth is ReconcileDepth.AGGREGATE else {},
        "settled_by": asked.settled_by,
        "settled_before_us": asked.settled_before_us,
        "verdict": comparison.verdict.value,
        "found": comparison.sentence,
        "moments": moments_plain(comparison, asked, run_position),
        "summary": {
            "total_partitions": len(comparison.ranges),
            "matches": comparison.counts["match"],
            "mismatches": comparison.counts["mismatch"],
            "unsettled": comparison.counts["unsettled"],
            "unknown": comparison.counts["unknown"],
            "total_source_rows": comparison.rows("source"),
            "total_exported_rows": comparison.rows("files"),
            "missing": comparison.total("missing"),
            "extra": comparison.total("extra"),
            "changed": comparison.total("changed"),
        },
        "partitions": [_range_plain(one) for one in comparison.ranges],
    }


def _side_moments(name: str, side: Side | None) -> dict[str, Any]:
    shown = side or Side(rows=0)
    plain = {
        f"{name}_read_at_s": shown.begun.at_s,
        f"{name}_read_until_s": shown.ended.at_s,
    }
    if name == "files":
        return plain
    return plain | {
        f"{name}_position": shown.begun.position or None,
        f"{name}_until_position": shown.ended.position or None,
    }


def _range_plain(one: ComparedRange) -> dict[str, Any]:
    result = one.result
    body: dict[str, Any] = {
        "kind": "chunk",
        "chunk_index": one.chunk_index,
        "identifier": describe_range(one.chunk_range),
        "status": result.verdict.value if result else RangeVerdict.UNKNOWN.value,
        "note": result.sentence if result else "not compared: its chunk failed, or is not done yet",
        "source_count": result.source.rows if result and result.source else None,
        "exported_count": result.files.rows if result and result.files else None,
    }
    if result is None:
        return body
    return body | {
        "source_unsettled": result.source.unsettled if result.source else None,
        **_side_moments("source", result.source),
        **_side_moments("files", result.files),
        "looks": result.looks,
        "missing": result.missing,
        "extra": result.extra,
        "changed": result.changed,
        "complete": result.complete,
        "measures": {name: list(told) for name, told in result.measures.items()},
        "key_columns": list(result.key_columns),
        "rows": [
            {
                "difference": row.difference.value,
                "key": list(row.key),
                "columns": list(row.columns),
            }
            for row in result.rows
        ],
    }
