"""What a benchmark knows: plain values, written as JSON and rendered as Markdown."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """One contender's one run over one table, in a fresh process.

    ``client_cpu_s`` is user and system time of the whole process tree; ``peak_rss_bytes`` is
    the largest of its processes (for rivet-fleet: of its workers); ``longest_statement_s`` is
    what the server itself measured. ``error`` is None when every row arrived.
    """

    contender: str
    table: str
    round: int
    rows: int
    wall_s: float
    client_cpu_s: float
    server_cpu_s: float
    peak_rss_bytes: int
    coordinator_rss_bytes: int | None
    longest_statement_s: float
    statements: int
    output_bytes: int
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Medians over a contender's good runs over one table; ratios are to the same round's floor.

    Everything is None when no run was good.
    """

    contender: str
    table: str
    rounds: int
    wall_s: float | None
    wall_ratio: float | None
    client_cpu_s: float | None
    rows_per_cpu_s: float | None
    server_cpu_s: float | None
    server_cpu_ratio: float | None
    peak_rss_bytes: float | None
    longest_statement_s: float | None
    output_bytes: float | None
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPoint:
    """rivet-fleet's one worker over ``rows`` rows as a single chunk, with the defaults."""

    rows: int
    peak_rss_bytes: int
    longest_statement_s: float
    wall_s: float
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRate:
    """Claims from one state backend. Latencies in seconds.

    ``errors`` counts the claims that failed, ``locked`` those among them that said "locked".
    """

    state: str
    processes: int
    claims: int | None
    claims_per_s: float | None
    p50_s: float | None
    p99_s: float | None
    locked: int | None
    errors: int | None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """A promise and whether it was kept; ``passed`` None: not measured in this run."""

    name: str
    limit: str
    measured: str
    passed: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything one invocation found."""

    machine: dict[str, str]
    tables: tuple[dict[str, object], ...]
    floor_contender: str
    runs: tuple[RunResult, ...]
    summaries: tuple[Summary, ...]
    memory: tuple[MemoryPoint, ...] = ()
    claims: tuple[ClaimRate, ...] = ()
    floors: tuple[Floor, ...] = ()
    notes: tuple[str, ...] = field(default=())
