"""The promises the benchmark must keep, judged from the results. Pure.

Every goal is listed in every report; one without measurements says "not measured".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from bench.contenders import CONNECTORX, FLOOR_NAMES, PEERS, RIVET
from bench.links import BETWEEN, Link
from bench.parts import MANY, ONE, PAGES, STATEMENT
from bench.rivet_cli import RIVET_CLI
from bench.schema import Engine
from bench.small import (
    CHECK,
    DOCTOR,
    FLEET,
    GIANT,
    HELP,
    HUNDRED,
    MANY_CHUNKS,
    MANY_TABLES,
    MEMORY,
    ONE_ROW,
)
from bench.stores import LOCAL, MANY_PARTS, STORE
from bench.summary import median, ratios, summarise
from bench.values import Goal, MemoryPoint, Results, RunResult, Section, Summary

FLOOR_WALL_MAX = 1.15
ROWS_PER_CPU_S_MIN = 900_000.0
PEER_CPU_MIN = 1.4
CONNECTORX_WALL_MIN = 1.4
CONNECTORX_CPU_MIN = 1.8
OVERHEAD_MAX = 0.03
SERVO_MAX = 0.08
STORE_WALL_MAX = 1.15
STORE_WORKER_RSS_MB_MAX = 200.0
HELP_S_MAX = 0.2
SMALL_WALL_MAX = {HUNDRED: 0.9, MANY_TABLES: 0.9, GIANT: 0.9, MANY_CHUNKS: 1.0, CHECK: 2.0}
"""Over rivet-cli's wall in the same round."""
SMALL_S_MAX = {ONE_ROW: 0.45, HELP: 0.12, DOCTOR: 2.0}
LINK_WALL_MAX = 1.15
FLEET_PSS_MB_MAX = 300.0
STATEMENT_S_MAX = 0.2
WORKER_RSS_MB_MAX = 150.0
MEMORY_GROWTH_MAX = 1.15
CLAIMS_PER_S_MIN = {"postgres": 1_000.0, "sqlite": 500.0}
ONE_WORKER = "rivet-fleet, 1 worker"
_MB = 1024 * 1024
_MAIN_TABLE = "lineitem"


def judge(results: Results) -> tuple[Goal, ...]:
    """Every goal, in the order of the report."""
    return tuple(_goals(results))


def _goals(results: Results) -> Iterator[Goal]:
    yield _arrived(results)
    yield from _postgres(results)
    yield from _mariadb(results)
    for engine in Engine:
        yield _overhead(results, engine)
        yield _servo(results, engine)
        yield from _stores(results, engine)
        yield _links(results, engine)
    yield from _small(results)
    yield _statements(results)
    yield from _memory(results)
    yield _help(results)
    yield from _claims(results)


def at_most(name: str, limit: float, found: float | None, show: Callable[[float], str]) -> Goal:
    """A goal with an upper limit."""
    return Goal(
        name=name,
        limit=f"≤ {show(limit)}",
        measured="not measured" if found is None else show(found),
        passed=None if found is None else found <= limit,
    )


def at_least(name: str, limit: float, found: float | None, show: Callable[[float], str]) -> Goal:
    """A goal with a lower limit."""
    return Goal(
        name=name,
        limit=f"≥ {show(limit)}",
        measured="not measured" if found is None else show(found),
        passed=None if found is None else found >= limit,
    )


def _times(value: float) -> str:
    return f"×{value:.2f}"


def _percent(value: float) -> str:
    return f"{value * 100:.1f} %"


def _seconds(value: float) -> str:
    return f"{value:.3f} s"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _megabytes(value: float) -> str:
    return f"{value:.0f} MB"


def _arrived(results: Results) -> Goal:
    ours = [run for run in _all_runs(results) if run.group == RIVET]
    points = [point for section in results.of_kind("memory") for point in section.memory]
    wrong = sum(run.error is not None for run in ours)
    wrong += sum(point.error is not None for point in points)
    total = len(ours) + len(points)
    return Goal(
        name="every row and every column's content arrives in every run",
        limit="0 runs with an error",
        measured=f"{wrong} of {total}" if total else "not measured",
        passed=wrong == 0 if total else None,
    )


def _all_runs(results: Results) -> Iterator[RunResult]:
    for section in results.sections.values():
        yield from section.runs


def _main_contest(results: Results, engine: Engine) -> Sequence[RunResult]:
    section = results.sections.get(f"contest/{engine.value}/{_MAIN_TABLE}")
    return section.runs if section else ()


def _postgres(results: Results) -> Iterator[Goal]:
    runs = _main_contest(results, Engine.POSTGRES)
    found = summarise(runs, FLOOR_NAMES[Engine.POSTGRES])
    mine = _named(found, ONE_WORKER)
    where = "PostgreSQL lineitem, 1 worker"
    yield at_most(
        f"{where}: wall over the COPY floor's",
        FLOOR_WALL_MAX,
        mine.wall_ratio if mine else None,
        _times,
    )
    rate = mine.rows_per_cpu_s if mine else None
    yield at_least(f"{where}: rows per client CPU-second", ROWS_PER_CPU_S_MIN, rate, _whole)
    peer = _best(found, PEERS, lambda each: each.rows_per_cpu_s)
    yield at_least(
        f"{where}: rows per client CPU-second over the best peer's{_called(peer)}",
        PEER_CPU_MIN,
        _ratio(rate, peer.rows_per_cpu_s if peer else None),
        _times,
    )


def _mariadb(results: Results) -> Iterator[Goal]:
    runs = _main_contest(results, Engine.MARIADB)
    found = summarise(runs, FLOOR_NAMES[Engine.MARIADB])
    one_connection = [each for each in found if "connections" not in each.contender]
    mine = _named(found, ONE_WORKER)
    where = "MariaDB lineitem, 1 worker against ConnectorX on one connection"
    for what, limit, value in (
        ("wall", CONNECTORX_WALL_MIN, lambda run: run.wall_s),
        ("client CPU", CONNECTORX_CPU_MIN, lambda run: run.client_cpu_s),
    ):
        best = _fastest(one_connection, runs, value)
        yield at_least(
            f"{where}: {what}{_called(best)}",
            limit,
            None if mine is None or best is None else _paired(runs, best, mine, value),
            _times,
        )


def _fastest(
    found: Iterable[Summary], runs: Sequence[RunResult], value: Callable[[RunResult], float]
) -> Summary | None:
    candidates = [each for each in found if each.group == CONNECTORX and each.rounds]

    def cost(each: Summary) -> float:
        return median(value(r) for r in _good(runs, each.contender)) or 0.0

    return min(candidates, key=cost, default=None)


def _paired(
    runs: Sequence[RunResult],
    theirs: Summary,
    mine: Summary,
    value: Callable[[RunResult], float],
) -> float | None:
    """Median of theirs over mine, round by round."""
    return median(ratios(_good(runs, theirs.contender), _good(runs, mine.contender), value))


def _good(runs: Sequence[RunResult], contender: str) -> list[RunResult]:
    return [run for run in runs if run.contender == contender and run.error is None]


def _named(found: Sequence[Summary], name: str) -> Summary | None:
    return next((each for each in found if each.contender == name and each.rounds), None)


def _best(
    found: Iterable[Summary], groups: Sequence[str], value: Callable[[Summary], float | None]
) -> Summary | None:
    candidates = [each for each in found if each.group in groups and value(each)]
    return max(candidates, key=lambda each: value(each) or 0.0, default=None)


def _called(peer: Summary | None) -> str:
    return f" ({peer.contender})" if peer else ""


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above and below else None


def _overhead(results: Results, engine: Engine) -> Goal:
    """Protocol time between the chunks, as a share of the run's wall time."""
    sections = [s for s in results.of_kind("chunks") if s.key.split("/")[1] == engine.value]
    shares = [
        each.protocol_s / each.wall_s
        for section in sections
        for each in section.lifecycles
        if each.chunks > 1
    ]
    name = f"{engine.value}: coordinator and protocol, share of wall at 100 chunks"
    return at_most(name, OVERHEAD_MAX, median(shares), _percent)


def chunk_cost(section: Section) -> float | None:
    """What a hundred chunks cost over one, everything counted, as a share."""
    found = median(ratios(_good(section.runs, MANY), _good(section.runs, ONE), lambda r: r.wall_s))
    return None if found is None else found - 1.0


def servo_cost(section: Section) -> float | None:
    """What pages of the default target cost over one statement, as a share."""
    runs = section.runs
    found = median(ratios(_good(runs, PAGES), _good(runs, STATEMENT), lambda r: r.wall_s))
    return None if found is None else found - 1.0


def _servo(results: Results, engine: Engine) -> Goal:
    sections = [s for s in results.of_kind("servo") if s.key.split("/")[1] == engine.value]
    costs = [cost for cost in map(servo_cost, sections) if cost is not None]
    name = f"{engine.value}: pages of the default target against one statement, worst table"
    return at_most(name, SERVO_MAX, max(costs, default=None), _percent)


def _stores(results: Results, engine: Engine) -> Iterator[Goal]:
    sections = results.of_kind("stores")
    runs = [r for s in sections for r in s.runs if r.engine == engine.value]
    found = {each.contender: each for each in summarise(runs, LOCAL)}
    where = f"{engine.value} {_MAIN_TABLE} into a local S3 server, 1 worker"
    store = found.get(STORE)
    ratio = store.wall_ratio if store else None
    yield at_most(f"{where}: wall over a folder's", STORE_WALL_MAX, ratio, _times)
    peaks = [found[n].peak_rss_bytes for n in (STORE, MANY_PARTS) if n in found]
    highest = max((peak / _MB for peak in peaks if peak is not None), default=None)
    name = f"{where}: its peak RSS, few parts or many"
    yield at_most(name, STORE_WORKER_RSS_MB_MAX, highest, _megabytes)


def _links(results: Results, engine: Engine) -> Goal:
    """One worker over a long wire against the same wire without its length."""
    section = results.sections.get(f"links/{engine.value}/{_MAIN_TABLE}")
    runs = section.runs if section else ()
    links = [Link(encrypted=False, rtt_ms=rtt_ms, megabits_per_s=1_000) for rtt_ms in (0, 50)]
    near, far = (_good(runs, f"{link.name}{BETWEEN}{ONE_WORKER}") for link in links)
    found = median(ratios(far, near, lambda run: run.wall_s))
    name = f"{engine.value} {_MAIN_TABLE}, 1 worker: wall at RTT 50 ms over RTT 0"
    return at_most(name, LINK_WALL_MAX, found, _times)


def _small(results: Results) -> Iterator[Goal]:
    """On PostgreSQL, where both programs read every case."""
    section = results.sections.get(f"small/{Engine.POSTGRES.value}")
    runs = [run for run in (section.runs if section else ()) if run.error is None]

    def of(case: str, contender: str) -> list[RunResult]:
        return [run for run in runs if (run.table, run.contender) == (case, contender)]

    for case, limit in SMALL_S_MAX.items():
        wall_s = median(run.wall_s for run in of(case, FLEET))
        yield at_most(f"{case}: wall", limit, wall_s, _seconds)
    for case, limit in SMALL_WALL_MAX.items():
        found = ratios(of(case, FLEET), of(case, RIVET_CLI), lambda run: run.wall_s)
        yield at_most(f"{case}: wall over {RIVET_CLI}'s", limit, median(found), _times)
    whole = median(run.tree_pss_bytes / _MB for run in of(MEMORY, FLEET))
    yield at_most(f"{MEMORY}: PSS of all processes", FLEET_PSS_MB_MAX, whole, _megabytes)


def _statements(results: Results) -> Goal:
    """The longest of all runs, not a median: one long statement is one too many."""
    runs = [r for r in _all_runs(results) if r.group == RIVET and r.contender != STATEMENT]
    longest = [run.longest_statement_s for run in runs if run.error is None]
    longest += [
        point.longest_statement_s
        for section in results.of_kind("memory")
        for point in section.memory
        if point.error is None
    ]
    name = "longest statement of any run, every table, both engines"
    return at_most(name, STATEMENT_S_MAX, max(longest, default=None), _seconds)


def _memory(results: Results) -> Iterator[Goal]:
    points = [p for section in results.of_kind("memory") for p in section.memory if not p.error]
    highest = max((p.peak_rss_bytes / _MB for p in points), default=None)
    yield at_most(
        "worker's peak RSS, any number of rows, every table", WORKER_RSS_MB_MAX, highest, _megabytes
    )
    growths = [
        growth
        for section in results.of_kind("memory")
        if (growth := memory_growth(section.memory)) is not None
    ]
    yield at_most(
        "worker's peak RSS, most rows over a hundredth of them, worst table",
        MEMORY_GROWTH_MAX,
        max(growths, default=None),
        _times,
    )


def memory_growth(memory: Sequence[MemoryPoint]) -> float | None:
    """Peak at the most rows over the peak two decades below; None without both.

    Strict on purpose: at so few rows a row group need not be full yet.
    """
    good = sorted((p for p in memory if p.error is None), key=lambda p: p.rows)
    below = [p for p in good if good and p.rows <= good[-1].rows / 100]
    if not below:
        return None
    return good[-1].peak_rss_bytes / below[-1].peak_rss_bytes


def _help(results: Results) -> Goal:
    walls = [wall for s in results.of_kind("startup") for each in s.startup for wall in each.wall_s]
    return at_most("`rivet-fleet --help`, wall", HELP_S_MAX, median(walls), _seconds)


def _claims(results: Results) -> Iterator[Goal]:
    rates = [rate for section in results.of_kind("claims") for rate in section.claims]
    for state, least in CLAIMS_PER_S_MIN.items():
        found = next((rate.claims_per_s for rate in rates if rate.state == state), None)
        yield at_least(f"claims per second, {state} state, 16 processes", least, found, _whole)
    locked = [rate.locked for rate in rates if rate.locked is not None]
    yield Goal(
        name="`database is locked` surfacing",
        limit="0",
        measured=str(sum(locked)) if locked else "not measured",
        passed=sum(locked) == 0 if locked else None,
    )
