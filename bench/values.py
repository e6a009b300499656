"""What a benchmark knows: plain values, written as JSON and rendered as Markdown."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """One contender's one run over one table, in a fresh process.

    ``client_cpu_s`` is user and system time of the whole process tree; ``peak_rss_bytes`` is
    the largest of its processes (for rivet-fleet: of its workers), ``tree_rss_bytes`` the most
    all of them had at once (``tree_pss_bytes``: with each shared page counted once, where it was
    reckoned); ``longest_statement_s`` is what the server itself measured.
    ``error`` is None when every row arrived, and for rivet-fleet every column's content.
    """

    engine: str
    table: str
    contender: str
    group: str
    round: int
    rows: int
    wall_s: float = 0.0
    client_cpu_s: float = 0.0
    server_cpu_s: float = 0.0
    peak_rss_bytes: int = 0
    tree_rss_bytes: int = 0
    tree_pss_bytes: int = 0
    longest_statement_s: float = 0.0
    statements: int = 0
    output_bytes: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Medians over a contender's good runs over one table; ratios are to the same round's floor.

    Everything is None when no run was good. ``longest_statement_s`` alone is no median.
    """

    engine: str
    table: str
    contender: str
    group: str
    rounds: int
    wall_s: float | None
    wall_ratio: float | None
    client_cpu_s: float | None
    rows_per_cpu_s: float | None
    server_cpu_s: float | None
    server_cpu_ratio: float | None
    peak_rss_bytes: float | None
    tree_rss_bytes: float | None
    tree_pss_bytes: float | None
    longest_statement_s: float | None
    output_bytes: float | None
    statements: float | None
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """What a contender's files hold beside what the source holds, column by column.

    ``types``: column → the file's type where it is not the source's. ``values``: columns whose
    content differs. ``unreadable``: columns that could not be compared in this type.
    """

    engine: str
    table: str
    contender: str
    types: dict[str, str] = field(default_factory=dict)
    values: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPoint:
    """rivet-fleet's one worker over ``rows`` rows as a single chunk, with the defaults."""

    engine: str
    table: str
    rows: int
    peak_rss_bytes: int
    tree_rss_bytes: int
    longest_statement_s: float
    wall_s: float
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifecycle:
    """Where one worker's time went, by the journal's own clock, in seconds.

    ``reading_s``: in which some chunk was between its claim and the staging of its file.
    ``protocol_s``: all the rest between the first claim and the last completion: commit, publish,
    complete, claim, as far as nothing else was read meanwhile.
    """

    engine: str
    table: str
    chunks: int
    round: int
    wall_s: float
    reading_s: float
    protocol_s: float


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
class Startup:
    """Wall times of one command, each in a fresh process, warm."""

    command: str
    wall_s: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A promise and whether it was kept; ``passed`` None: not measured in this run."""

    name: str
    limit: str
    measured: str
    passed: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """A table as the report names it."""

    engine: str
    name: str
    rows: int
    source_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part of the benchmark, measured in one invocation. ``key`` is ``kind/engine/table``,
    shorter where there is no engine or table; ``context`` says when, how and with what."""

    key: str
    context: dict[str, str] = field(default_factory=dict)
    table: TableFacts | None = None
    runs: tuple[RunResult, ...] = ()
    fidelity: tuple[Fidelity, ...] = ()
    memory: tuple[MemoryPoint, ...] = ()
    lifecycles: tuple[Lifecycle, ...] = ()
    claims: tuple[ClaimRate, ...] = ()
    startup: tuple[Startup, ...] = ()

    @property
    def kind(self) -> str:
        """One of ``bench.results.KINDS``."""
        return self.key.split("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything known at one scale. ``sections`` by key, in the order of the report."""

    scale: float
    machine: dict[str, str]
    sections: dict[str, Section]

    def of_kind(self, kind: str) -> list[Section]:
        """The sections of one kind."""
        return [section for section in self.sections.values() if section.kind == kind]
