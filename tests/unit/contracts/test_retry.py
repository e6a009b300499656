"""The budget of retries: what all askers together are let do, whatever they ask for and when."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rivet_fleet.contracts.clock import (
    REREAD_BYTES_PER_RETRY,
    RETRIES_SAVED_MAX,
    RETRY_EVERY_S,
    RETRY_WAIT_MAX_S,
    retry_cost_s,
)
from tests.model.budgets import retry_appointment

PAUSES_S = st.sampled_from([0.0, 0.01, 1.0, 7.0, 200.0])
LOST_BYTES = st.sampled_from([0, 1, REREAD_BYTES_PER_RETRY, 3 * REREAD_BYTES_PER_RETRY])


@settings(deadline=None, derandomize=True)
@given(asked=st.lists(st.tuples(PAUSES_S, LOST_BYTES), min_size=1, max_size=90))
def test_no_window_of_time_lets_in_more_than_was_saved_and_its_length(asked) -> None:
    now_s, paid_s = 1000.0, 0.0
    let_in: list[tuple[float, float]] = []
    for pause_s, lost_bytes in asked:
        now_s += pause_s
        cost_s = retry_cost_s(lost_bytes)
        paid_s, wait_s = retry_appointment(paid_s, now_s, cost_s)
        assert 0.0 <= wait_s <= RETRY_WAIT_MAX_S
        let_in.append((now_s + wait_s, cost_s))
    if paid_s - now_s >= RETRY_WAIT_MAX_S:
        return
    for first in range(len(let_in)):
        spent_s = 0.0
        for at_s, cost_s in let_in[first:]:
            spent_s += cost_s
            window_s = at_s - let_in[first][0]
            saved_s = RETRIES_SAVED_MAX * RETRY_EVERY_S
            # The first may have cost more than was saved, and has waited for that.
            assert spent_s <= saved_s + window_s + let_in[first][1] + 1e-6


def test_a_clock_that_was_set_back_holds_nobody_for_longer_than_the_most() -> None:
    _, wait_s = retry_appointment(9e9, 1000.0, 1.0)
    assert wait_s == RETRY_WAIT_MAX_S
