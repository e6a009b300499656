"""What follows from a difference: the table of ADR 0018, and what is never one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rivet_fleet.contracts.basis import (
    SERVER,
    UNKNOWN,
    BasisFact,
    BasisKind,
    Consequence,
    differences,
    resting,
)
from rivet_fleet.contracts.codec import dumps, loads
from rivet_fleet.contracts.keys import ChunkRange, RangeKind, RelationName
from rivet_fleet.contracts.plan import ReadPlan
from rivet_fleet.contracts.window import RowWindow

HEAP = RelationName(schema="s", name="t")
RANGES = {
    kind: ChunkRange(
        kind=kind,
        columns=("k",) if kind not in (RangeKind.WHOLE, RangeKind.BLOCKS) else (),
        relation=HEAP if kind is RangeKind.BLOCKS else None,
    )
    for kind in RangeKind
}
BY_KEY = {RangeKind.KEYSET, RangeKind.SPAN, RangeKind.WINDOW}
EVERY = set(RangeKind)


def fact(kind: BasisKind, subject: str, value: str, *columns: str) -> BasisFact:
    return BasisFact(kind=kind, subject=subject, value=value, columns=columns)


def index(name: str, value: str, *columns: str) -> BasisFact:
    return fact(BasisKind.INDEX, name, value, *columns)


@pytest.mark.parametrize(
    ("one", "fatal", "told"),
    [
        (fact(BasisKind.SOURCE, "database", "a"), EVERY, set()),
        (fact(BasisKind.SOURCE, SERVER, "a"), set(), EVERY),
        (fact(BasisKind.RELATION, "table", "a"), set(), EVERY - {RangeKind.BLOCKS}),
        (fact(BasisKind.COLLATION, "k", "a", "k"), BY_KEY, set()),
        (fact(BasisKind.COLLATION, "other", "a", "other"), set(), set()),
        (fact(BasisKind.COLUMN, "v", "a", "v"), EVERY, set()),
        (fact(BasisKind.DEFINITION, "view s.v", "a"), EVERY, set()),
        (fact(BasisKind.RIGHTS, "the reading role", "a"), EVERY, set()),
        (index("i", "(k)", "k"), {RangeKind.KEYSET}, set()),
        (index("i", "(other)", "other"), set(), set()),
    ],
)
def test_each_kind_has_its_consequence_in_each_way_of_reading(one, fatal, told) -> None:
    after = [] if one.kind is BasisKind.INDEX else [replace(one, value="b")]
    for kind, chunk in RANGES.items():
        assert differences([one], [one], chunk, None) == ()
        found = [each.consequence for each in differences([one], after, chunk, None)]
        expected = [Consequence.FATAL] if kind in fatal else []
        assert found == (expected or ([Consequence.TOLD] if kind in told else [])), kind
        kept = kind in fatal | told
        assert resting([one], [chunk], None) == ((one,) if kept else ())


def test_a_window_is_compared_whatever_its_chunks_are() -> None:
    window = RowWindow(columns=("k",), fallback="f")
    for name in ("k", "f"):
        planned = fact(BasisKind.COLLATION, name, "a", name)
        for chunk in RANGES.values():
            (found,) = differences([planned], [replace(planned, value="b")], chunk, window)
            assert found.consequence is Consequence.FATAL and name in found.sentence


@pytest.mark.parametrize(
    ("before", "after", "consequence"),
    [
        (("i", "(k)"), ("i", "(k)"), None),
        (("i", "(k)"), ("j", "(k)"), Consequence.TOLD),
        (("i", "(k)"), ("i", "(k desc)"), Consequence.TOLD),
        (("i", "(k)"), ("i", "(k s.own_ops)"), Consequence.FATAL),
        (("i", "(k s.own_ops)"), ("i", "(k)"), Consequence.FATAL),
        (("i", "(k s.own_ops)"), ("j", "(k s.own_ops)"), Consequence.TOLD),
    ],
)
def test_what_orders_a_key_may_have_another_name_but_no_other_order(
    before, after, consequence
) -> None:
    planned, now = (index(*each, "k") for each in (before, after))
    found = differences([planned], [now], RANGES[RangeKind.KEYSET], None)
    assert [one.consequence for one in found] == ([consequence] if consequence else [])


def test_a_key_that_another_index_keeps_unique_stays_a_key() -> None:
    by_both = ChunkRange(kind=RangeKind.KEYSET, columns=("at", "id"))
    whole, primary = index("w", "(at, id)", "at", "id"), index("p", "(id)", "id")
    (found,) = differences([whole, primary], [primary], by_both, None)
    assert found.consequence is Consequence.TOLD
    assert differences([whole, primary], [whole], by_both, None) == ()
    (found,) = differences([whole, primary], [index("x", "(z)", "z")], by_both, None)
    assert found.consequence is Consequence.FATAL


def test_the_unknown_and_the_never_sealed_are_no_difference_and_the_gone_is_one() -> None:
    known = fact(BasisKind.DEFINITION, "view s.v", "a")
    unknown = replace(known, value=UNKNOWN)
    chunk = RANGES[RangeKind.WHOLE]
    pairs = (([unknown], [known]), ([known], [unknown]), ([], [known]), ([unknown], []))
    for planned, now in pairs:
        assert differences(planned, now, chunk, None) == ()
    (found,) = differences([known], [], chunk, None)
    assert found.consequence is Consequence.FATAL and found.after == ""


_FACTS = st.lists(
    st.builds(
        fact,
        st.sampled_from(BasisKind),
        st.sampled_from(["a", "b"]),
        st.sampled_from(["", "(k)", "(k desc)", "x"]),
        st.sampled_from(["k", "other"]),
    ),
    unique_by=lambda one: (one.kind, one.subject),
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(_FACTS, _FACTS, st.sampled_from(RangeKind))
def test_a_plan_keeps_what_its_chunks_are_judged_by_and_differs_not_from_itself(
    planned, now, kind
) -> None:
    chunk = RANGES[kind]
    kept = resting(planned, [chunk], None)
    assert differences(planned, planned, chunk, None) == ()
    assert set(differences(kept, now, chunk, None)) == set(differences(planned, now, chunk, None))


def test_a_stored_plan_of_an_older_program_has_no_basis() -> None:
    read = ReadPlan(
        source="s", engine="e", source_identity="i", relation=HEAP, query=None, columns=()
    )
    assert '"basis":[]' in dumps(read)
    old = dumps(read).replace('"basis":[],', "")
    assert "basis" not in old and loads(ReadPlan, old) == read
    sealed = replace(read, basis=(fact(BasisKind.COLLATION, "k", "a", "k"),))
    assert loads(ReadPlan, dumps(sealed)) == sealed
