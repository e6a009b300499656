"""What rows are looked at by is what the schema says (a worker does without the schema)."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from rivet_fleet.contracts.protection import BUDGET_NUMBERS
from rivet_fleet.persistence import guards
from rivet_fleet.persistence.guards import MOMENTS, NUMBERS, SECONDS_MADE, TEXTS
from rivet_fleet.persistence.schema import metadata


def test_every_column_is_of_the_kind_that_its_name_has() -> None:
    kinds: dict[str, set[str]] = defaultdict(set)
    for table in metadata.tables.values():
        for column in table.columns:
            kind = column.type.python_type.__name__
            moment = column.name.endswith(("_at_s", "_until_s", "_before_s"))
            number = kind in ("int", "float")
            kinds[column.name].add(("moment" if moment else "number") if number else kind)
    alone = {name: next(iter(found)) for name, found in kinds.items() if len(found) == 1}
    assert {name for name, kind in alone.items() if kind == "str"} == TEXTS
    assert {name for name, kind in alone.items() if kind == "moment"} == MOMENTS
    assert {name for name, kind in alone.items() if kind == "number"} == NUMBERS | {*BUDGET_NUMBERS}


def statements(source: str) -> Iterator[str]:
    """Every text of a module in which something may be selected; what an f-string puts in is left
    out."""
    parts = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts |= {id(value) for value in node.values}
            yield "".join(str(v.value) if isinstance(v, ast.Constant) else "?" for v in node.values)
        elif isinstance(node, ast.Constant) and id(node) not in parts:
            yield str(node.value)


def selected(sql: str) -> Iterator[tuple[str, str | None]]:
    """What its outermost SELECT or RETURNING gives back, and how each is named: of a SELECT in
    brackets what that one gives back."""
    depth, begin = 0, None
    for found in re.finditer(r"[(),]|\b(SELECT|RETURNING|FROM|UNION|ORDER)\b|\Z", sql):
        word = found[0]
        depth += {"(": 1, ")": -1}.get(word, 0)
        if depth or word in ("(", ")"):
            continue
        if begin is not None and word not in ("SELECT", "RETURNING"):
            item = " ".join(sql[begin : found.start()].split())
            what, name = re.fullmatch(r"(.*?)(?: AS (\w+)\W*)?", item).groups()
            if what.startswith("(SELECT") and what.endswith(")"):
                what = next(selected(what[1:-1]))[0]
            yield what, name or (what.split(".")[-1] if re.fullmatch(r"[\w.]+", what) else None)
        begin = found.end() if word in ("SELECT", "RETURNING") or (word == "," and begin) else None


def test_whatever_is_made_of_a_number_or_a_moment_has_a_name_that_is_looked_at() -> None:
    """A row is looked at by the names that its columns have: what has none could be anything."""
    read, whether = MOMENTS | NUMBERS | {*BUDGET_NUMBERS}, r".* (THEN \d ELSE \d END|[<>] NOW_S)"
    names, unnamed = set(), []
    for path in Path(guards.__file__).parent.glob("*.py"):
        for sql in statements(path.read_text()):
            if sql.lstrip().startswith("INSERT"):
                continue  # what it selects stays there
            for what, name in selected(sql):
                made = read & set(re.findall(r"\w+", what.partition("(SELECT")[0]))
                if made and name not in read and not re.fullmatch(whether, what):
                    (names.add if name in SECONDS_MADE else unnamed.append)(name or what)
    assert unnamed == []
    assert names == SECONDS_MADE
