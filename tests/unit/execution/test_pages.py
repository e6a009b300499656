"""The page servo against simulated sources."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rivet_fleet.execution.servo import (
    AIM,
    AIM_MIN,
    LOOK,
    PAGES_AHEAD_MAX,
    PIECES,
    PROBE_ROWS,
    ROWS_CEILING,
    STEP_DOWN,
    STEP_UP,
    STEP_UP_FAR,
    Allowance,
    PageServo,
)

observations = st.lists(
    st.one_of(
        st.tuples(
            st.integers(0, 2_000_000),
            st.integers(0, 2**34),
            st.floats(0, 1000, allow_nan=False),
        ),
        st.none(),
    ),
    max_size=60,
)


@given(
    seen=observations,
    target_ms=st.sampled_from([0, 1, 150, 60_000]),
    bytes_max=st.sampled_from([0, 1, 4096, 16 * 1024 * 1024]),
    rows_max=st.one_of(st.none(), st.integers(0, 5_000_000)),
)
def test_a_limit_is_never_zero_and_never_above_what_was_set(seen, target_ms, bytes_max, rows_max):
    servo = PageServo(target_ms, bytes_max, rows_max)
    for observation in [*seen, None]:
        limit = servo.limit()
        assert 1 <= limit.rows_max <= min(rows_max or ROWS_CEILING, ROWS_CEILING)
        assert limit.bytes_max > 0
        assert bytes_max == 0 or limit.bytes_max == bytes_max
        if observation is None:
            servo.shrink()
        else:
            servo.observe(*observation)


@given(seen=observations)
def test_a_step_is_damped(seen):
    servo = PageServo(150, 0)
    for observation in seen:
        if observation is None:
            continue
        before = servo.limit().rows_max
        servo.observe(*observation)
        after = servo.limit().rows_max
        far = observation[2] < 0.150 / 4
        assert after <= before * (STEP_UP_FAR if far else STEP_UP) + STEP_UP_FAR
        if observation[1] == 0:  # no byte width learnt: only time decides
            assert after >= int(before / STEP_DOWN) - 1


@given(
    row_us=st.floats(0.5, 5000),
    fixed_ms=st.floats(0, 20),
    target_ms=st.sampled_from([50, 150, 1000]),
)
def test_it_converges_to_the_target_on_a_linear_source(row_us, fixed_ms, target_ms):
    servo = PageServo(target_ms, 0)
    cost_s = lambda rows: (fixed_ms / 1000) + rows * row_us / 1_000_000  # noqa: E731
    for _ in range(40):
        rows = servo.limit().rows_max
        servo.observe(rows, rows * 8, cost_s(rows))
    rows = servo.limit().rows_max
    reachable = min(AIM * target_ms / 1000, cost_s(ROWS_CEILING))
    assert cost_s(rows) == pytest.approx(reachable, rel=0.15, abs=row_us / 1_000_000)


def test_it_leaves_the_probe_in_a_few_pages_and_overshoots_little():
    servo, longest = PageServo(150, 0), 0.0
    for _ in range(8):
        rows = servo.limit().rows_max
        longest = max(longest, rows / 700_000)
        servo.observe(rows, rows * 8, rows / 700_000)
    assert servo.limit().rows_max >= 0.45 * 105_000
    assert longest <= 0.150 * 1.6


def test_the_first_statement_that_is_held_up_is_little_longer_than_the_target():
    """What was not seen yet is allowed for: 2.5 times what all before it took."""
    servo = PageServo(150, 0)
    for _ in range(8):
        rows = servo.limit().rows_max
        servo.observe(rows, rows * 8, rows / 700_000)
    assert servo.limit().rows_max / 700_000 * 2.5 <= 0.200
    # And it is forgotten when nothing comes of it.
    for _ in range(100):
        rows = servo.limit().rows_max
        servo.observe(rows, rows * 8, rows / 700_000)
    assert servo.limit().rows_max == pytest.approx(AIM * 105_000, rel=0.05)


def test_a_source_that_becomes_slow_is_spared_at_once():
    servo = PageServo(150, 0)
    for _ in range(10):
        servo.observe(servo.limit().rows_max, 8, 0.01)
    before = servo.limit().rows_max
    servo.observe(before, before, 10.0)
    assert servo.limit().rows_max <= before / STEP_DOWN


def test_wide_rows_are_bounded_by_bytes():
    servo = PageServo(150, 1_000_000)
    for _ in range(10):
        rows = servo.limit().rows_max
        servo.observe(rows, rows * 4096, 0.001)
    assert servo.limit().rows_max == 1_000_000 // 4096


def test_one_wide_page_counts_at_once_and_is_forgotten_slowly():
    servo = PageServo(0, 1_000_000)
    servo.observe(500, 500 * 10_000, 0.001)
    assert servo.limit().rows_max == 100
    servo.observe(100, 100 * 100, 0.001)
    assert servo.limit().rows_max < 200


def test_shrink_after_a_failed_statement():
    servo = PageServo(150, 0, None, 500)
    servo.shrink()
    assert servo.limit().rows_max == 100


def test_after_a_failure_the_size_grows_slowly():
    servo = PageServo(150, 0)
    for _ in range(4):
        servo.observe(servo.limit().rows_max, 8, 0.001)
    servo.shrink()
    before = servo.limit().rows_max
    servo.observe(before, before, 0.001)
    assert servo.limit().rows_max == int(before * STEP_UP)


def test_the_minimum_is_one_row():
    servo = PageServo(150, 0, None, 6)
    assert not servo.at_minimum
    servo.shrink()
    assert (servo.at_minimum, servo.limit().rows_max) == (True, 1)


def test_two_pages_are_enough_for_a_source_ten_times_slower():
    servo, us_a_row = PageServo(150, 0), 10
    for page in range(330):
        us_a_row = 10 if page < 100 else 100
        rows = servo.limit().rows_max
        statement_s = rows * us_a_row / 1e6
        if page in (99, 329):
            assert statement_s == pytest.approx(AIM * 0.150, rel=0.1)
        if page == 102:  # and more is not risked until that has been so for a while
            assert AIM_MIN * 0.150 <= statement_s <= AIM * 0.150
        servo.observe(rows, rows * 8, statement_s)


def test_where_statements_are_held_up_the_longest_still_ends_in_time():
    """Every seventh takes two and a half times as long as the others."""
    servo, seen_s = PageServo(150, 0), []
    for page in range(150):
        rows = servo.limit().rows_max
        statement_s = rows * 10 / 1e6 * (2.5 if page % 7 == 6 else 1.0)
        servo.observe(rows, rows * 8, statement_s)
        seen_s.append(statement_s)
    assert max(seen_s[:30]) > 0.150  # that had to be learnt
    assert max(seen_s[30:]) <= 0.150
    assert min(seen_s[30:]) >= AIM_MIN * 0.150 / 2.5


def test_that_statements_were_held_up_is_forgotten():
    servo = PageServo(150, 0)
    for page in range(150):
        rows = servo.limit().rows_max
        servo.observe(rows, rows * 8, rows * 10 / 1e6 * (3.0 if page == 20 else 1.0))
    assert servo.limit().rows_max == pytest.approx(AIM * 15_000, rel=0.05)


def test_a_small_fixed_limit_bounds_the_probe_too():
    assert PageServo(150, 0, 7).limit().rows_max == 7


def test_a_page_in_pieces_is_larger_and_each_piece_is_bounded():
    servo = PageServo(0, 1_000_000, piecewise=True)
    assert servo.limit().piece_rows_max is None  # no row's width is known
    for _ in range(10):
        rows = servo.limit().rows_max
        servo.observe(rows, rows * 100, 0.001, wire_bytes=rows * 20)
    limit = servo.limit()
    assert (limit.rows_max, limit.piece_rows_max) == (PIECES * 10_000, 10_000)
    assert limit.piece_bytes_max == 200_000  # on the wire the rows are small


def test_the_pieces_of_a_page_are_about_equal():
    servo = PageServo(0, 1_000_000, 15_000, piecewise=True)
    for _ in range(10):
        rows = servo.limit().rows_max
        servo.observe(rows, rows * 100, 0.001)
    limit = servo.limit()
    assert (limit.rows_max, limit.piece_rows_max) == (15_000, 7_500)


def test_the_next_chunk_begins_with_a_look_and_goes_on_where_the_last_one_was():
    servo = PageServo(150, 0)
    for _ in range(20):
        rows = servo.limit().rows_max
        servo.observe(rows, rows * 8, rows / 100_000)
    usual = servo.limit().rows_max
    servo.begin_chunk()
    look = servo.limit().rows_max
    assert look == pytest.approx(usual / LOOK, rel=0.01)
    servo.observe(look, look * 8, look / 100_000)
    assert servo.limit().rows_max == pytest.approx(usual, rel=0.01)


def test_a_chunk_never_begins_below_what_the_first_one_tried():
    servo = PageServo(150, 0, 800)
    servo.observe(500, 4000, 0.001)
    servo.begin_chunk()
    assert servo.limit().rows_max == PROBE_ROWS
    small = PageServo(150, 0, 20)
    small.begin_chunk()
    assert small.limit().rows_max == 20


def settled(**named):
    """A servo whose pages of 10,000 rows take 0.099 s, and may take a little more."""
    servo = PageServo(150, 0, 10_000, **named)
    for _ in range(60):
        rows = servo.limit().rows_max
        servo.observe(rows, rows * 100, rows * 0.099 / 10_000)
    assert servo.limit().rows_max == 10_000
    return servo


def test_pages_that_are_asked_for_at_once_take_a_second_together():
    servo = settled()
    assert servo.limit().page_s == pytest.approx(0.099)
    assert servo.limit().pages_max == 10
    assert settled(ahead=False).limit().pages_max == 1


def test_a_page_of_which_nothing_is_known_is_asked_for_alone():
    assert PageServo(150, 0).limit().pages_max == 1


def test_however_short_pages_are_few_are_asked_for_at_once():
    """A server keeps all of a message, and of pages that errors have made small most are empty."""
    servo = PageServo(150, 0, 2_000)
    for _ in range(60):
        servo.observe(servo.limit().rows_max, 20_000, 0.01)
    assert servo.limit().pages_max == PAGES_AHEAD_MAX
    while servo.limit().rows_max >= PROBE_ROWS:
        servo.shrink()
    assert servo.limit().pages_max == 1


@pytest.mark.parametrize("rate", [Allowance(rows_max=5_000), Allowance(bytes_max=1 << 20)])
def test_what_is_reserved_of_a_rate_is_for_one_page(rate):
    assert settled().limit(rate).pages_max == 1


def test_pages_asked_for_at_once_do_not_add_up_what_they_tell():
    """Eight that took twice as long as they should tell of one size, and halve it once."""
    servo = PageServo(150, 0, 100_000)
    for _ in range(8):
        servo.observe(20_000, 2_000_000, 0.21, asked_rows=20_000)
    assert servo.limit().rows_max >= 20_000 * AIM_MIN * 150 / 210 - 1
    # One that its reckoned end kept small proves nothing about a larger one.
    servo.observe(2_000, 200_000, 0.01, asked_rows=20_000)
    assert servo.limit().rows_max <= 20_000
