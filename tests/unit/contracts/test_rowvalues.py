"""What is left of a sentence that may be about a row."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rivet_fleet.contracts.foreign import as_foreseen

SENTENCES = (
    "division by zero",
    "invalid input syntax for type %s: %s",
    "relation %s does not exist",
    "column %s of %s is missing",
)
KNOWN = {"integer", "shop", "orders"}


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("division by zero", "division by zero"),
        (
            'invalid input syntax for type integer: "SSN 12"',
            "invalid input syntax for type integer: ***",
        ),
        ('relation "shop.orders" does not exist', 'relation "shop.orders" does not exist'),
        ("relation `shop`.`orders` does not exist", "relation `shop`.`orders` does not exist"),
        ('relation "shop.alice" does not exist', "relation *** does not exist"),
        ("column  of orders is missing", "column  of orders is missing"),
        ("customer alice is bad", None),
        ("division by zero, says alice", None),
        ("relation does not exist", None),
        ("", None),
    ],
)
def test_a_foreseen_sentence_stays_and_what_is_in_it_goes(said: str, kept: str | None) -> None:
    assert as_foreseen(said, SENTENCES, KNOWN) == kept


def test_a_number_is_no_word_of_the_statement() -> None:
    assert as_foreseen("relation 12 does not exist", SENTENCES, {"12"}) == (
        "relation *** does not exist"
    )


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.text(alphabet="\"':.% \nxy", max_size=20), st.sampled_from(SENTENCES))
def test_no_quote_of_the_values_own_ends_it(value: str, sentence: str) -> None:
    secret = f"S{value}S"
    for quote in ("", '"', "'"):
        said = sentence.replace("%s", f"{quote}{secret}{quote}")
        kept = as_foreseen(said, SENTENCES, KNOWN)
        assert kept is not None and "S" not in kept


def test_a_long_message_costs_time_in_proportion() -> None:
    said = "column " + " of " * 400_000 + " is missin"
    began_s = time.process_time()
    assert as_foreseen(said, SENTENCES * 20) is None
    assert time.process_time() - began_s < 2
