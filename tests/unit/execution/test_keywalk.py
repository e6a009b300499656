"""Walking an index in bounded steps gives exact percentiles, whatever the steps."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from hypothesis import given
from hypothesis import strategies as st

from rivet_fleet.contracts.keys import KeyTuple
from rivet_fleet.execution.engines.facts import walk_keys


class Index:
    """Sorted whole numbers that count what each step skips."""

    def __init__(self, values: list[int]) -> None:
        self.values = sorted(values)
        self.furthest = 0

    def __call__(self, key: KeyTuple | None, operator: str, skip: int) -> KeyTuple | None:
        self.furthest = max(self.furthest, skip)
        find = bisect_left if operator == ">=" else bisect_right
        at = skip + (0 if key is None else find(self.values, int(key[0])))
        return (str(self.values[at]),) if at < len(self.values) else None


@given(st.sets(st.integers(-999, 999), max_size=200), st.integers(1, 60), st.integers(1, 20))
def test_chunks_of_a_unique_key_are_exact(values: set[int], every: int, step: int) -> None:
    index = Index(list(values))
    found = walk_keys(index, columns=("k",), every=every, boundaries_max=1000, step_max=step)
    assert found == tuple((str(one),) for one in index.values[every::every])
    assert index.furthest <= step


@given(st.lists(st.integers(0, 9), max_size=200), st.integers(1, 60), st.integers(1, 20))
def test_equal_keys_stay_together_and_boundaries_rise(
    values: list[int], every: int, step: int
) -> None:
    found = walk_keys(
        Index(values), columns=("k",), every=every, boundaries_max=1000, step_max=step
    )
    assert found is not None
    numbers = [int(one[0]) for one in found]
    assert numbers == sorted(set(numbers))
    assert not numbers or numbers[0] > min(values)


def test_a_walk_that_takes_too_long_is_given_up() -> None:
    clock = iter(range(0, 10**6, 400))
    found = walk_keys(
        Index(list(range(100))),
        columns=("k",),
        every=10,
        boundaries_max=99,
        now_s=lambda: float(next(clock)),
    )
    assert found is None
