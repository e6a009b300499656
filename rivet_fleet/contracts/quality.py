"""What must hold before a run is delivered, and what is unlike former runs. Pure.

Gates are judged once per run from statistics that merge over its parts (ADR 0008, Q1 to Q4).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from rivet_fleet.contracts.proof import ProofOutcome, RunProof

# ------------------------------------------------------------------------------------------
# What is different from former runs: of the columns before a run, of its shape after it.


class SchemaChangeCode(Enum):
    """Stable names of schema differences (ADR 0008)."""

    ADDED = "RIVET_SCHEMA_COLUMN_ADDED"
    REMOVED = "RIVET_SCHEMA_COLUMN_REMOVED"
    RETYPED = "RIVET_SCHEMA_COLUMN_RETYPED"
    NULLABILITY = "RIVET_SCHEMA_COLUMN_NULLABILITY"
    REORDERED = "RIVET_SCHEMA_COLUMNS_REORDERED"


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaChange:
    """One difference between an export's last completed run and its new plan.

    ``column`` is None when the order of several is meant; ``before`` and ``after`` are None for a
    column that was not there.
    """

    code: SchemaChangeCode
    column: str | None
    before: str | None
    after: str | None

    @property
    def sentence(self) -> str:
        """What a person reads."""
        match self.code:
            case SchemaChangeCode.ADDED:
                return f"column {self.column} ({self.after}) is new"
            case SchemaChangeCode.REMOVED:
                return f"column {self.column} ({self.before}) is gone"
            case SchemaChangeCode.REORDERED:
                return f"the order of columns was {self.before} and is {self.after}"
            case _:
                return f"column {self.column} was {self.before} and is {self.after}"


class ShapeChangeCode(Enum):
    """Stable names of shape differences (ADR 0008)."""

    ROWS = "RIVET_SHAPE_ROWS"
    BYTES = "RIVET_SHAPE_BYTES"
    ROW_WIDTH = "RIVET_SHAPE_ROW_WIDTH"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeChange:
    """One number of a finished run that is far from what former runs had.

    ``usual`` is the median of ``samples`` former runs; the unit is rows, bytes, or bytes per row.
    """

    code: ShapeChangeCode
    usual: float
    now: float
    samples: int

    @property
    def sentence(self) -> str:
        """What a person reads."""
        what = {
            ShapeChangeCode.ROWS: "rows",
            ShapeChangeCode.BYTES: "bytes",
            ShapeChangeCode.ROW_WIDTH: "bytes per row",
        }[self.code]
        runs = (
            "the last run" if self.samples == 1 else f"the median of the last {self.samples} runs"
        )
        return f"{_number(self.now)} {what}; {runs} had {_number(self.usual)}"


def _number(value: float) -> str:
    return f"{value:,.1f}" if value < 100 and value != int(value) else f"{value:,.0f}"


UNIQUE_ENTRIES_MAX_DEFAULT = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class UniqueKey:
    """Columns whose values together occur once. ``within_chunks``: equal keys cannot be in
    different chunks, so each chunk is judged alone. ``entries_max`` hashes are held per chunk."""

    columns: tuple[str, ...]
    within_chunks: bool
    entries_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityPlan:
    """The gates of one export. ``null_ratio_max`` maps a column to a share between 0 and 1.

    ``on_unknown``: what a gate does that could not be judged, ``fail`` or ``warn``.
    """

    row_count_min: int | None = None
    row_count_max: int | None = None
    null_ratio_max: dict[str, float] = field(default_factory=dict)
    unique: tuple[UniqueKey, ...] = ()
    unique_entries_max: int = UNIQUE_ENTRIES_MAX_DEFAULT
    on_unknown: str = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class UniqueStats:
    """What one part knows about one unique key; merges over the parts of a run.

    ``keys``: rows of the part without NULL in the key. ``duplicates``: keys that its chunk had
    already. ``complete``: every key of the chunk so far was compared. ``entries``: the hashes
    this part brought, sorted 64-bit little-endian, all those below ``2**(64 - shift)``; empty
    where equal keys cannot be in different chunks.
    """

    columns: tuple[str, ...]
    keys: int
    duplicates: int
    complete: bool
    shift: int = 0
    entries: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class UniqueFound:
    """One unique key over a whole run. ``shift``: only about one key in ``2**shift`` was
    compared with all others when not ``complete``. ``missing``: parts of whose keys nothing is
    known, as of a run that is made whole again behind a later one."""

    columns: tuple[str, ...]
    keys: int
    duplicates: int
    complete: bool
    shift: int = 0
    missing: int = 0


class GateOutcome(Enum):
    """How a gate was judged."""

    PASSED = "passed"
    FAILED = "failed"
    UNKNOWN = "unknown"


class GateCode(Enum):
    """Stable names of gates."""

    ROW_COUNT_MIN = "RIVET_QUALITY_ROW_COUNT_MIN"
    ROW_COUNT_MAX = "RIVET_QUALITY_ROW_COUNT_MAX"
    NULL_RATIO = "RIVET_QUALITY_NULL_RATIO"
    UNIQUE = "RIVET_QUALITY_UNIQUE"
    PROOF_COUNT = "RIVET_PROOF_COUNT"
    """Nobody asks for it but ``prove``: the source counts other rows than were delivered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateVerdict:
    """One gate, judged. ``sentence`` says what was found and what was asked for."""

    code: GateCode
    columns: tuple[str, ...]
    outcome: GateOutcome
    refuses: bool
    """True when the run is not delivered because of it."""
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """An operator's word that a refused run's data are right: exactly for these verdicts (S6)."""

    by: str
    reason: str
    at_s: float
    """By the state database's clock."""
    gates: tuple[GateVerdict, ...]

    @property
    def sentence(self) -> str:
        """Who accepted what, and why."""
        codes = ", ".join(gate.code.value for gate in self.gates)
        return f"accepted by {self.by}: {self.reason} [{codes}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFindings:
    """What was seen when a run was finished, kept with it."""

    gates: tuple[GateVerdict, ...] = ()
    shape: tuple[ShapeChange, ...] = ()
    acceptance: Acceptance | None = None
    proof: RunProof | None = None

    @property
    def refused(self) -> tuple[GateVerdict, ...]:
        """The gates that keep the run from being delivered. A verdict that an operator accepted
        does not; another one of the same gate does."""
        accepted = self.acceptance.gates if self.acceptance else ()
        return tuple(gate for gate in self.gates if gate.refuses and gate not in accepted)


def judge(
    plan: QualityPlan, *, rows: int, nulls: Mapping[str, int], unique: Sequence[UniqueFound]
) -> tuple[GateVerdict, ...]:
    """Every gate of ``plan``, in the plan's order. ``rows`` and ``nulls`` are the run's sums;
    ``unique`` has one entry per unique key of the plan."""
    return (
        *_row_gates(plan, rows),
        *(_null_gate(column, most, rows, nulls) for column, most in plan.null_ratio_max.items()),
        *(_unique_gate(found, plan.on_unknown) for found in unique),
    )


def proof_gates(proof: RunProof | None) -> tuple[GateVerdict, ...]:
    """A run that the source counts otherwise is refused as by a gate: it can be accepted."""
    if proof is None or proof.outcome is not ProofOutcome.DIFFERS:
        return ()
    return (_verdict(GateCode.PROOF_COUNT, False, proof.sentence),)


def _row_gates(plan: QualityPlan, rows: int) -> Iterator[GateVerdict]:
    if plan.row_count_min is not None:
        yield _verdict(
            GateCode.ROW_COUNT_MIN,
            rows >= plan.row_count_min,
            f"{rows:,} rows, row_count_min is {plan.row_count_min:,}",
        )
    if plan.row_count_max is not None:
        yield _verdict(
            GateCode.ROW_COUNT_MAX,
            rows <= plan.row_count_max,
            f"{rows:,} rows, row_count_max is {plan.row_count_max:,}",
        )


def _null_gate(column: str, most: float, rows: int, nulls: Mapping[str, int]) -> GateVerdict:
    empty = nulls.get(column, 0)
    ratio = empty / rows if rows else 0.0
    return _verdict(
        GateCode.NULL_RATIO,
        ratio <= most,
        f"column {column} is NULL in {empty:,} of {rows:,} rows ({ratio:.4g}), "
        f"null_ratio_max is {most:.4g}",
        column,
    )


def _unique_gate(found: UniqueFound, on_unknown: str) -> GateVerdict:
    what = ", ".join(found.columns)
    if found.duplicates:
        least = "" if found.complete else "at least "
        sentence = f"{least}{found.duplicates:,} of {found.keys:,} keys ({what}) are duplicates"
        return _verdict(GateCode.UNIQUE, False, sentence, *found.columns)
    if found.missing:
        return GateVerdict(
            code=GateCode.UNIQUE,
            columns=found.columns,
            outcome=GateOutcome.UNKNOWN,
            refuses=on_unknown == "fail",
            sentence=f"whether keys ({what}) differ is unknown: those of {found.missing:,} parts "
            "are not kept any more, since a later run was finished",
        )
    if found.complete:
        return _verdict(
            GateCode.UNIQUE, True, f"all {found.keys:,} keys ({what}) differ", *found.columns
        )
    return GateVerdict(
        code=GateCode.UNIQUE,
        columns=found.columns,
        outcome=GateOutcome.UNKNOWN,
        refuses=on_unknown == "fail",
        sentence=f"whether {found.keys:,} keys ({what}) differ is unknown: unique_max_entries "
        f"allowed to compare about one in {2**found.shift:,}, and those differ",
    )


def _verdict(code: GateCode, passed: bool, sentence: str, *columns: str) -> GateVerdict:
    return GateVerdict(
        code=code,
        columns=columns,
        outcome=GateOutcome.PASSED if passed else GateOutcome.FAILED,
        refuses=not passed,
        sentence=sentence,
    )


def refusal(gates: Sequence[GateVerdict]) -> str:
    """Why a run is not delivered, in one line; the error of the failed run."""
    told = "; ".join(f"{gate.sentence} [{gate.code.value}]" for gate in gates)
    unproven = all(gate.code is GateCode.PROOF_COUNT for gate in gates)
    what = "the proof of its completeness" if unproven else "a quality gate"
    return f"not delivered, {what} does not hold: {told}"
