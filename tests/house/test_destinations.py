"""A destination is known by its seam alone: nobody else makes a path of its prefix."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.house.tree import PACKAGE, parsed, python_files, shown

KINDS = PACKAGE / "execution" / "destinations"
OPENERS = {"Path", "PurePath", "open", "fsspec"}
MODULES = {"os", "path", "shutil", "glob", "posixpath"}


def paths_of_prefixes(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Calls that make a path of something's ``prefix``, and paths put together from one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _opens(node.func):
            parts: list[ast.AST] = [*node.args, *(word.value for word in node.keywords)]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            parts = [node.left, node.right]
        else:
            continue
        for inner in (inner for part in parts for inner in ast.walk(part)):
            if isinstance(inner, ast.Attribute) and inner.attr == "prefix":
                yield node.lineno, ast.unparse(node)


def _opens(function: ast.expr) -> bool:
    if isinstance(function, ast.Attribute):
        owner = function.value
        name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
        return name in MODULES or function.attr in OPENERS
    return isinstance(function, ast.Name) and function.id in OPENERS


def test_no_path_is_made_of_a_prefix_outside_its_kind() -> None:
    found = [
        f"{shown(path)}:{line}: {text}"
        for path in python_files("rivet_fleet")
        if KINDS not in path.parents
        for line, text in paths_of_prefixes(parsed(path))
    ]
    assert not found, "ask the destination (execution/destination.py):\n" + "\n".join(found)


def test_what_the_rule_finds() -> None:
    written = "Path(plan.destination.prefix)\nos.listdir(run.prefix)\nroot / plan.prefix / 'x'"
    assert len(list(paths_of_prefixes(ast.parse(written)))) == 3 + 1, "each division once"
    assert not list(paths_of_prefixes(ast.parse("f'{plan.prefix}/{name}'; open(prefix)")))


def test_only_the_registry_knows_the_modules_of_destinations() -> None:
    found = [
        shown(path)
        for path in python_files("rivet_fleet")
        if KINDS not in path.parents and path.name != "registry.py"
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith("rivet_fleet.execution.destinations")
    ]
    assert not found
