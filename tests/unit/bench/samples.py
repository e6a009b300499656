"""Results that never happened, for the pure half of the benchmark."""

from bench.values import (
    ClaimRate,
    Lifecycle,
    MemoryPoint,
    Results,
    RunResult,
    Section,
    Startup,
    TableFacts,
)

MB = 2**20


def run(contender: str, number: int = 1, wall_s: float = 1.0, **changes: object) -> RunResult:
    values = {
        "engine": "postgres",
        "table": "lineitem",
        "group": "rivet",
        "rows": 1_000_000,
        "client_cpu_s": 1.0,
        "server_cpu_s": 1.0,
        "peak_rss_bytes": 100 * MB,
        "longest_statement_s": 0.1,
        **changes,
    }
    return RunResult(contender=contender, round=number, wall_s=wall_s, **values)


def point(rows: int, peak_mb: int, **changes: object) -> MemoryPoint:
    values = {
        "engine": "postgres",
        "table": "events",
        "tree_rss_bytes": 0,
        "longest_statement_s": 0.1,
        "wall_s": 1.0,
        **changes,
    }
    return MemoryPoint(rows=rows, peak_rss_bytes=peak_mb * MB, **values)


def rate(state: str, claims_per_s: float | None, **changes: object) -> ClaimRate:
    values = {"p50_s": 0.01, "p99_s": 0.03, "locked": 0, "errors": 0, "claims": 1, **changes}
    return ClaimRate(state=state, processes=16, claims_per_s=claims_per_s, **values)


def lifecycle(chunks: int, protocol_s: float, wall_s: float = 10.0) -> Lifecycle:
    return Lifecycle(
        engine="postgres",
        table="lineitem",
        chunks=chunks,
        round=1,
        wall_s=wall_s,
        reading_s=wall_s - protocol_s,
        protocol_s=protocol_s,
    )


def section(key: str, **changes: object) -> Section:
    engine, _, name = key.partition("/")[2].partition("/")
    table = TableFacts(engine=engine, name=name, rows=1234567, source_bytes=5 * MB)
    values = {"context": {"command": "python -m bench --again"}, **changes}
    return Section(key=key, table=table if name else None, **values)


def help_times(*walls_s: float) -> Section:
    return section("startup", startup=(Startup(command="rivet-fleet --help", wall_s=walls_s),))


def results(*sections: Section) -> Results:
    return Results(
        scale=1.0, machine={"cpu": "one of two cores"}, sections={s.key: s for s in sections}
    )
