"""What is left of a sentence that may be about a row."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rivet_fleet.contracts.foreign import SAID_CHARS_MAX, as_foreseen

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


class Counted(str):
    """A text that counts how many of its characters are looked at."""

    looked = 0

    def __getitem__(self, at: Any) -> Counted:
        return Counted(super().__getitem__(at))

    def find(self, part: str, start: Any = 0, end: Any = None) -> int:
        found = super().find(part, start, end)
        until = found + len(part) if found >= 0 else len(self) if end is None else end
        Counted.looked += until - start
        return found


@pytest.mark.parametrize("repeated", ["x", " of ", " is ", "of is missing "])
def test_of_a_long_message_no_more_is_looked_at_than_is_shown(repeated: str) -> None:
    Counted.looked = 0
    said = Counted("column " + repeated * (4_000_000 // len(repeated)) + " is missin")
    assert as_foreseen(said, SENTENCES) is None
    assert Counted.looked <= len(SENTENCES) * SAID_CHARS_MAX
    beginning = "invalid input syntax for type integer: "
    kept = as_foreseen(beginning + repeated * SAID_CHARS_MAX, SENTENCES, KNOWN)
    assert kept == f"{beginning}***"
