"""Parameters in SQL: each place of each engine, and that no value is more than one token there."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rivet_fleet.contracts.parameters import Parameter, ParameterType
from rivet_fleet.errors import ConfigError
from rivet_fleet.execution.onestatement import TokenKind, tokens
from rivet_fleet.execution.parameters import place_parameters
from rivet_fleet.execution.sources.mysql import ENGINE as MYSQL
from rivet_fleet.execution.sources.postgres import ENGINE as POSTGRES

BOTH = (POSTGRES.writing, MYSQL.writing)
SAME = [
    ("select * from o where day >= '${x}'", "2026-01-31"),
    ("select * from o where id > ${x}", "17"),
    ("select * from o where id > ${x} and a", "1.5e-3"),
    ("select '${x}', '${x}' from o -- since ${x}", "2026-01-31"),
    ("select * from events_${x} where a", "2026"),
    ("select * from sales.e${x}_y", "01"),
    ("select * from o where flag = ${x}", "TRUE"),
    ("select * from o order by ${x}", "2"),
    ("select * from o limit ${x} offset ${x}", "10"),
    ("select interval '${x} days'", "3"),
    ("select f(${x}, ${x})", "5"),
    ("select a as v from o where n like '%${x}%'", "50%_"),
    ("select 1${x}", "5"),
    ("select extract(year from ${x})", "1"),
    ("select /* ${x} */ 1", "2026-01-31 up"),
]
"""What pasting would give as well, byte for byte."""
NAME = ParameterType.IDENTIFIER
PLACED = [
    (POSTGRES.writing, "select '${x}'", "it's", None, "select 'it''s'"),
    (POSTGRES.writing, "select '${x}'", "c:\\", None, "select 'c:\\'"),
    (POSTGRES.writing, "select E'${x}\\n'", "c:\\'", None, "select E'c:\\\\''\\n'"),
    (POSTGRES.writing, "select E'a' -- it\n'${x}'", "\\'", None, "select E'a' -- it\n'\\\\'''"),
    (POSTGRES.writing, 'select 1 as "${x}"', 'a"b', None, 'select 1 as "a""b"'),
    (POSTGRES.writing, "select 5 -${x}", "-5", None, "select 5 -(-5)"),
    (POSTGRES.writing, "select ${x}", "it's", None, "select 'it''s'"),
    (POSTGRES.writing, "select ${x}", "a\\", None, "select  E'a\\\\'"),
    (POSTGRES.writing, "select ${x}", "5", ParameterType.TEXT, "select '5'"),
    (POSTGRES.writing, "select ${x}", "null", ParameterType.TEXT, "select 'null'"),
    (POSTGRES.writing, "select * from ${x}", "orders", NAME, 'select * from "orders"'),
    (POSTGRES.writing, "select * from ${x}", 'a."B c"', NAME, 'select * from "a"."B c"'),
    (POSTGRES.writing, "select * from sales.${x}", "o", NAME, 'select * from sales."o"'),
    (
        POSTGRES.writing,
        "select * from o order by ${x}",
        "id",
        NAME,
        'select * from o order by "id"',
    ),
    (POSTGRES.writing, "select 1 -- ${x}", "a\nb", None, "select 1 -- ***"),
    (
        POSTGRES.writing,
        "select 1 where a is distinct from ${x}",
        "b",
        None,
        "select 1 where a is distinct from 'b'",
    ),
    (POSTGRES.writing, "select trim(both from ${x})", "b", None, "select trim(both from 'b')"),
    (MYSQL.writing, "select '${x}'", "it's", None, "select 'it''s'"),
    (MYSQL.writing, "select '${x}'", "a\\", None, "select _utf8mb4 X'615c'"),
    (MYSQL.writing, "select 'it''s ${x}'", "\\'", None, "select _utf8mb4 X'69742773205c27'"),
    (MYSQL.writing, 'select "${x}"', 'a"b', None, 'select "a""b"'),
    (MYSQL.writing, "select 1 as `${x}`", "a`\\", None, "select 1 as `a``\\`"),
    (MYSQL.writing, "select ${x}", "it's", None, "select _utf8mb4 X'69742773'"),
    (MYSQL.writing, "select * from ${x}", "a.b", NAME, "select * from `a`.`b`"),
    (MYSQL.writing, "select 5-${x}", "-5", None, "select 5-(-5)"),
]
REFUSED = [
    ((POSTGRES.writing,), "select E'a' -- ${x}\n'b'", "c", "in a comment between", None),
    (BOTH, "select * from ${x}", "orders", "where a name must be", "type: identifier"),
    (BOTH, "select * from ${x}", "5", "where a name must be", "type: identifier"),
    (BOTH, "select * from a, ${x}", "orders", "where a name must be", "type: identifier"),
    (BOTH, "select * from a join ${x} on 1 = 1", "o", "where a name must be", "identifier"),
    (BOTH, "select * from ${x}.orders", "sales", "where a name must be", "type: identifier"),
    (BOTH, "select (select 1 from ${x})", "o", "where a name must be", "type: identifier"),
    (BOTH, "select * from o order by a, ${x}", "id desc", "to order or group by", "identifier"),
    (BOTH, "select * from o where ${x}", "id > 5", "a condition", "write the SQL itself"),
    (BOTH, "select * from o where a and (${x})", "b", None, None),
    (BOTH, "${x}", "select 1", "the statement", "write the SQL itself"),
    (BOTH, "select * from events_${x}", "1; drop", "part of a word", "in quotes"),
    (BOTH, "select 'a'${x}", "b", "touches '", "a blank"),
    (BOTH, "select ${x}'a'", "E", "touches '", "a blank"),
    (BOTH, "select @${x}", "a", "touches @", "a blank"),
    (BOTH, "select '${x}'", "a\0", "NUL", None),
    (BOTH, "select '${x}'", "a\udcff", "UTF-8", None),
    (BOTH, "select ${x} from o; select 1", "1", "a second statement", "one SELECT"),
    ((POSTGRES.writing,), "select $$${x}$$", "a", "$…$ quotes", "'…' quotes"),
    ((POSTGRES.writing,), "select $${x}$ ; -- $q$", "q", "which nothing closes", None),
    ((POSTGRES.writing,), "select ${x}$q$", "1", "touches $", None),
    ((POSTGRES.writing,), "select E'\\${x}'", "'", "behind a backslash", "two of them"),
    ((POSTGRES.writing,), "select U&'${x}'", "\\0041", "U&'…'", None),
    ((POSTGRES.writing,), "select U&${x}", "\\0041", "touches &", None),
    ((POSTGRES.writing,), "select a${x}&'\\0041'", "U", "touches &", None),
    ((MYSQL.writing,), "select '\\${x}'", "'", "behind a backslash", None),
    ((MYSQL.writing,), "select 'it\\'s ${x}'", "a", "one thing under one setting", "it''s"),
    ((MYSQL.writing,), 'select "${x}"', "a\\", "depends on the server's settings", "'…' alone"),
    ((MYSQL.writing,), "select '\\n${x}'", "a\\", "depends on the server's settings", "'…' alone"),
    ((MYSQL.writing,), "select X'${x}'", "\\", "depends on the server's settings", "'…' alone"),
    ((MYSQL.writing,), "select /*!50000 ${x} */ 1", "2", "/*! … */", "without it"),
]


def placed(engine, template, value, kind=None, **more):  # type: ignore[no-untyped-def]
    given = {"x": Parameter(value=value, type=kind)}
    return place_parameters(template, engine(), given, **more)


@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.parametrize(("template", "value"), SAME)
def test_what_was_right_when_pasted_is_the_same(engine, template: str, value: str) -> None:
    found = placed(engine, template, value)
    assert found.sql == template.replace("${x}", value)
    assert not found.notes


@pytest.mark.parametrize(("engine", "template", "value", "kind", "sql"), PLACED)
def test_a_value_is_what_its_place_says(engine, template, value, kind, sql) -> None:
    assert placed(engine, template, value, kind).sql == sql


@pytest.mark.parametrize(("engines", "template", "value", "named", "hint"), REFUSED)
def test_a_place_that_cannot_hold_it_is_refused(engines, template, value, named, hint) -> None:
    for engine in engines:
        if named is None:
            with pytest.raises(ConfigError):
                placed(engine, template.replace("(${x})", "${x}"), value)
            continue
        with pytest.raises(ConfigError, match=re.escape(named)) as refused:
            placed(engine, template, value)
        assert hint is None or hint in (refused.value.hint or "")
        assert refused.value.code in (
            "RIVET_PARAMETER_PLACE",
            "RIVET_PARAMETER_VALUE",
            "RIVET_QUERY_NOT_ONE_STATEMENT",
        )


def test_a_declared_type_is_held_to() -> None:
    with pytest.raises(ConfigError, match="declared a number"):
        placed(POSTGRES.writing, "select ${x}", "5 or 1", ParameterType.NUMBER)
    with pytest.raises(ConfigError, match="identifier, and has"):
        placed(POSTGRES.writing, "select * from ${x}", "a b", NAME)


def test_a_bare_text_is_taken_and_told() -> None:
    found = placed(POSTGRES.writing, "select ${x} as run", "blue")
    assert found.sql == "select 'blue' as run"
    assert "read as a text, not as SQL" in found.notes[0]
    assert not placed(POSTGRES.writing, "select ${x} as run", "blue", ParameterType.TEXT).notes


def test_names_kept_for_later_leave_a_template_that_means_the_same() -> None:
    values = {"s": Parameter(value="it's"), "x": Parameter(value="${s}"), "y": Parameter(value="$")}
    text = "select '${s}', '${x}', '${y}{s}', ${s}, '${$}{s}' from o -- ${s}"
    whole = place_parameters(text, POSTGRES.writing(), values).sql
    template = place_parameters(text, POSTGRES.writing(), values, frozenset("s")).sql
    assert "it" not in template
    again = place_parameters(template, POSTGRES.writing(), {"s": values["s"]}).sql
    two = place_parameters(
        "select 1 -- ${x}\n, '${s}'", POSTGRES.writing(), values, frozenset(("s", "x"))
    ).sql
    assert two == "select 1 -- ***\n, '${s}'"
    # A comment says nothing, so it gets no second chance to say a secret.
    assert again == whole.replace("-- it", "-- ***")


HOSTILE = st.lists(
    st.sampled_from(
        [
            "'",
            "''",
            '"',
            "`",
            "\\",
            "\n",
            "--",
            "/*",
            "*/",
            ";",
            "$",
            "$$",
            "$a$",
            "{",
            "}",
            "E'",
            "U&'",
            " ",
            "x",
            "0",
            "5",
            "-",
            "#",
            "@",
            ")",
            "(",
            "é",
            "\u2028",
            "null",
            "select 1",
        ]
    ),
    max_size=7,
).map("".join)
PLACES = (
    "select '${x}' as v from o",
    "select 'a ${x} ''b' as v, 'z' from o",
    "select ${x} as v, 1 from o",
    "select f(1,${x}) - ${x} from o",
    "select 1 as `${x}` from o",
    'select 1 as "${x}" from o',
    "select E'a\\\\${x}' from o",
    "select a_${x} from o",
    "select 1 -- ${x}\nfrom o",
    "select 1 /* ${x} */ from o",
    "select * from ${x}",
)


@settings(max_examples=400, derandomize=True, deadline=None)
@given(
    value=HOSTILE, template=st.sampled_from(PLACES), kind=st.sampled_from([None, *ParameterType])
)
def test_no_value_is_ever_a_second_token(value, template, kind) -> None:
    """Under every reading of the engine the text divides as it does with a harmless value."""
    for engine in BOTH:
        try:
            found = placed(engine, template, value, kind).sql
            harmless = placed(engine, template, "7").sql
        except ConfigError:
            continue
        shapes = set()
        for rules in engine().rules:
            divided = tokens(found, rules)
            assert divided is not None, found
            spoken = [t for t in divided if t.kind is not TokenKind.COMMENT]
            shapes.add(len(spoken))
            before = [t for t in tokens(harmless, rules) or () if t.kind is not TokenKind.COMMENT]
            # A literal that no setting can misread is two tokens, a signed number four, a name
            # with its schema three.
            grown = template.count("${x}") * 3
            assert len(before) <= len(spoken) <= len(before) + grown, found
            assert not any(found[t.start : t.end] == ";" for t in spoken), found
        assert len(shapes) == 1, found
