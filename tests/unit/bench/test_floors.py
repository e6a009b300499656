from bench.floors import judge, memory_growth
from bench.values import ClaimRate, MemoryPoint
from tests.unit.bench.test_summary import run

MB = 2**20


def point(rows: int, peak_mb: int, **changes: object) -> MemoryPoint:
    values = {"longest_statement_s": 0.1, "wall_s": 1.0, **changes}
    return MemoryPoint(rows=rows, peak_rss_bytes=peak_mb * MB, **values)


def rate(state: str, claims_per_s: float | None, **changes: object) -> ClaimRate:
    values = {"p50_s": 0.01, "p99_s": 0.03, "locked": 0, "errors": 0, "claims": 1, **changes}
    return ClaimRate(state=state, processes=16, claims_per_s=claims_per_s, **values)


def verdicts(runs=(), memory=(), claims=()) -> dict[str, bool | None]:
    names = ("arrived", "statement", "flat", *(c.state for c in claims), "locked")
    return {n: f.passed for n, f in zip(names, judge(runs, memory, claims), strict=True)}


def test_one_long_statement_in_one_run_is_one_too_many():
    short = [run("x", n, 1.0, longest_statement_s=0.1) for n in (1, 2)]
    long = run("x", 3, 1.0, longest_statement_s=0.251)
    assert verdicts(short)["statement"] is True
    assert verdicts([*short, long])["statement"] is False


def test_a_long_statement_of_the_memory_runs_counts_too():
    assert verdicts(memory=[point(10**5, 100, longest_statement_s=0.3)])["statement"] is False


def test_memory_may_fill_its_row_group_first_and_then_not_grow():
    flat = [point(10**4, 80), point(10**5, 100), point(10**6, 110), point(6 * 10**6, 114)]
    assert memory_growth(flat) == 1.14
    assert verdicts(memory=flat)["flat"] is True
    assert verdicts(memory=[*flat[:3], point(6 * 10**6, 116)])["flat"] is False


def test_growth_is_unknown_with_too_few_sizes():
    assert memory_growth([point(10**4, 80), point(10**5, 100)]) is None
    assert verdicts(memory=[point(10**5, 100)])["flat"] is None


def test_a_failed_memory_run_is_no_proof_of_flatness():
    memory = [point(10**5, 100), point(10**6, 50, error="died")]
    found = verdicts(memory=memory)
    assert (found["arrived"], found["flat"]) == (False, None)


def test_each_backend_has_its_own_floor():
    found = verdicts(claims=[rate("sqlite", 600.0), rate("postgres", 600.0)])
    assert (found["sqlite"], found["postgres"], found["locked"]) == (True, False, True)


def test_claims_that_could_not_be_measured_have_failed():
    missing = rate("sqlite", None, locked=None, errors=None, error="no answer")
    found = verdicts(claims=[missing])
    assert (found["sqlite"], found["locked"]) == (False, None)


def test_one_locked_error_is_one_too_many():
    claims = [rate("sqlite", 900.0, locked=1), rate("postgres", 2000.0)]
    assert verdicts(claims=claims)["locked"] is False


def test_nothing_measured_is_neither_kept_nor_broken():
    assert set(verdicts().values()) == {None}
