"""The grammar of relation names: it says every name, and reads back what it says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rivet_fleet.contracts.keys import RelationName, parse_relation

HOSTILE = (
    "a.b",
    '"',
    '""',
    "`",
    "a``b",
    "${HOME}",
    "{export}",
    "100%",
    "%s",
    "a;--",
    "/* */",
    "back\\slash",
    " lead",
    "trail ",
    "new\nline",
    "📦",
    "é",
    "select",
    "'",
    "$1",
    ".",
    "",
)
part = st.one_of(
    st.sampled_from([one for one in HOSTILE if one]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20),
    st.text('."`a$ \\', min_size=1, max_size=8),
)


@given(schema=st.one_of(st.just(""), part), name=part)
def test_every_name_is_written_so_that_it_reads_back_as_itself(schema: str, name: str) -> None:
    relation = RelationName(schema=schema, name=name)
    assert parse_relation(str(relation)) == relation


@given(first=st.tuples(part, part), second=st.tuples(part, part))
def test_two_names_are_never_written_alike(first, second) -> None:
    one, two = (str(RelationName(schema=s, name=n)) for s, n in (first, second))
    assert (one == two) == (first == second)


@pytest.mark.parametrize(
    ("written", "schema", "name"),
    [
        ("orders", "", "orders"),
        ("Sales.Orders$1", "Sales", "Orders$1"),
        ('"sales.orders"', "", "sales.orders"),
        ('sales."odd ""name"', "sales", 'odd "name'),
        ("`sales`.`a``b`", "sales", "a`b"),
        ('`a"b`', "", 'a"b'),
        ('" "', "", " "),
    ],
)
def test_what_is_written_is_what_is_meant(written: str, schema: str, name: str) -> None:
    assert parse_relation(written) == RelationName(schema=schema, name=name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (RelationName(schema="", name="orders"), "orders"),
        (RelationName(schema="sales", name="orders"), "sales.orders"),
        (RelationName(schema="", name="sales.orders"), '"sales.orders"'),
        (RelationName(schema="a b", name='c"d'), '"a b"."c""d"'),
    ],
)
def test_only_what_needs_quotes_has_them(name: RelationName, text: str) -> None:
    assert str(name) == text


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", "is empty"),
        ("a.", "ends where a name is expected"),
        (".a", "has '.' outside quotes"),
        ("a b", "has ' ' outside quotes"),
        ("a;--", "has ';' outside quotes"),
        ("1a", "has '1' outside quotes"),
        ("größe", "has 'ö' outside quotes"),
        ('"a', "that nothing closes"),
        ('""', "an empty part"),
        ('a""', "has '\"' outside quotes"),
        ("a.b.c", "has 3 parts"),
        ('"a\0"', "a NUL character"),
    ],
)
def test_what_is_no_name_is_refused_with_the_reason(written: str, said: str) -> None:
    with pytest.raises(ValueError, match=r".*") as refused:
        parse_relation(written)
    assert said in str(refused.value)
