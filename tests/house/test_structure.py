"""How the modules of the house hang together: what imports what, how much, and in a circle never.

What cannot be mended today stands in a table of this file with its reason; the tables may only
shrink. The rules are functions of a graph or of a syntax tree, and proven on small ones at the end.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from tests.house.tree import (
    PACKAGE,
    ROOT,
    compiled_files,
    functions,
    lines_of,
    parsed,
    python_files,
    shown,
)

MODULE_LINES_SOFT_MAX = 500
ARGUMENTS_MAX = 7
FAN_OUT_MAX = 15
SMALL_LINES = 100

Graph = Mapping[str, set[str]]
PACKAGE_FILES = python_files("rivet_fleet")

LONGER = {
    "contracts/codes.py": "one table, a row for each code",
    "contracts/events.py": "one table, a row for each event",
    "contracts/state.py": "the values of a state, which all stores and all verbs share",
    "coordination/finalize.py": "the one way in which a run ends, told from its first look to "
    "its last transaction",
    "coordination/wiring.py": "it names the versions of every seam, and nobody else does",
    "coordination/worker.py": "one loop with all its ends",
    "execution/chunkreader.py": "reading a chunk page by page, and what a failed page means",
    "execution/engines/facts.py": "what every engine is asked before a plan",
    "execution/sources/postgres/dialect.py": "tables that a DBA reviews, and their SQL",
    "observability/reasons.py": "one catalogue of why something waits, with its advice",
    "persistence/budgets.py": "one row of the state and every transition of it",
    "planning/config/connections.py": "every way to name a database, and each one's refusals",
    "planning/config/models.py": "every key of the configuration, a row for each",
    "planning/config/rules.py": "the rules across keys, one by one",
    "planning/window.py": "windows and marks of every mode: one table of cases",
}
"""Modules over the soft limit, and why they stay whole."""

SMALL = {
    "demo/reader.py": "a program of its own, which must share nothing with the product",
    "execution/referencepacker.py": "taken whole in the compiled module's place, name by name",
    "execution/sources/mysql/driver.py": "what must happen before the driver is imported",
}
"""Small modules that only a sibling imports, and why they stand alone."""

FAN_OUT = {
    "cli/main.py": 16,
    "cli/state.py": 17,
    "coordination/check.py": 19,
    "coordination/doctor.py": 21,
    "coordination/finalize.py": 22,
    "coordination/inquiry.py": 28,
    "coordination/operate.py": 21,
    "coordination/secrets.py": 16,
    "coordination/worker.py": 20,
    "execution/engines/source.py": 16,
    "persistence/campaigns.py": 16,
    "execution/sources/mysql/reading.py": 21,
    "execution/sources/mysql/source.py": 23,
    "execution/sources/postgres/source.py": 26,
    "planning/planner.py": 25,
}
"""Modules that import more of the project than FAN_OUT_MAX, and how many at most."""

ARGUMENTS = {
    "execution/extract.py": 1,
    "execution/sources/mysql/catalog.py": 1,
    "execution/sources/mysql/stream.py": 1,
    "execution/sources/postgres/keyfacts.py": 1,
    "planning/planner.py": 1,
}
"""How many functions of a module have more arguments than ARGUMENTS_MAX."""

ONE_SUBJECT = {
    "artifact": "a sealed plan as a file: the value, and how it comes about",
    "basis": "what a plan rests on: as a value, and as each engine tells it",
    "check": "what a run would do: the command, and what it does",
    "destination": "where files go: as configured, and as the seam that writes",
    "discovery": "suggestions for a relation that nobody configured: as a value, and as decided",
    "doctor": "what is missing for a run: as a value, and as found",
    "facts": "what is known of a relation: as a value, and as engines are asked",
    "journal": "what happened: as it is read from the state, and as it is told",
    "marks": "marks of exports: as an operator accepts them, and as they are stored",
    "metrics": "a campaign in numbers: the command, and the numbers",
    "operate": "what operators do: the commands, and what they do",
    "parameters": "values for `${NAME}`: as sealed, and as placed into SQL",
    "plan": "the plan: the command, and the value",
    "priority": "the order of work: as a value, and as computed",
    "proof": "that what was delivered is what was there: as a value, by page, and by run",
    "protection": "budgets of a source: as a value, and as configured",
    "quality": "quality gates: as a value, and as configured",
    "reconcile": "files compared with their source: the command, its campaign, one range, values",
    "repair": "what differs, read anew: the command, and what it does",
    "seals": "seals of what a state holds: how they are made, and what is sealed",
    "session": "a session with a database: what engines share, and each engine's",
    "signals": "how a source says that it is pressed: the seam, and each engine's",
    "source": "a source: the seam, what engines share, and each engine's",
    "state": "what the state holds: the commands about it, and its values",
    "stream": "the rows of one statement: what engines share, and an engine's",
    "window": "what of a table is read: as a value, and as decided",
    "worker": "a worker: the command, and its loop",
}
"""Names that modules on several floors share, and the one subject that they are about."""

UNUSED = {
    "planning/planner.py plan_campaign": "the planner whole, for whoever plans without a state",
}
"""What the package itself never calls, and for whom it is."""

ENDS_IN_ING = {
    "binding": "what a mark is bound to",
    "decoding": "the seam: a decoder is one of its values",
    "judging": "named by its verb: a judgement is what it yields",
    "listing": "a list of relations as the server gives it",
    "packing": "how a column is packed (ADR 0014)",
    "paging": "how rows are divided into pages",
    "reading": "one reading of one chunk",
    "wiring": "which version stands behind each seam",
}
"""Modules whose names end so, and the noun that each is."""


def below(path: Path) -> str:
    """The path below the package."""
    return path.relative_to(PACKAGE).as_posix()


def module_of(path: Path) -> str:
    """The dotted name of a file of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def path_of(module: str) -> str:
    """A module as the tables above name it."""
    return module.removeprefix("rivet_fleet.").replace(".", "/") + ".py"


def imports_of(tree: ast.AST, modules: set[str]) -> set[str]:
    """The modules that Python code imports, wherever in it: by statement, or by a string that is
    a module's name, alone or before a colon. What only a type checker sees does not count."""
    found: set[str] = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {_known(f"{node.module}.{alias.name}", modules) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {_known(alias.name, modules) for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {node.value.partition(":")[0]} & modules
    return found - {""}


_CYTHON_IMPORT = re.compile(r"^\s*from\s+([\w.]+)\s+c?import\s+\(?\s*(\w+)", re.MULTILINE)


def imports_of_cython(text: str, modules: set[str]) -> set[str]:
    """The same of Cython code, whose ``cimport`` loads the module, too."""
    pairs = _CYTHON_IMPORT.findall(text)
    return {_known(f"{module}.{name}", modules) for module, name in pairs} - {""}


def _known(name: str, modules: set[str]) -> str:
    """The module that ``name`` is, or is defined in; nothing when it is none of ours."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


@cache
def graph() -> Graph:
    """Module → the modules of the package that it imports; compiled ones are modules as well. What
    the packages' own files import by being above a module does not count."""
    compiled = [path for path in compiled_files("rivet_fleet") if path.suffix != ".h"]
    files = [*PACKAGE_FILES, *compiled]
    modules = {module_of(path) for path in files}
    found: dict[str, set[str]] = defaultdict(set)
    for path in files:
        if path.suffix == ".py":
            imported = imports_of(parsed(path), modules)
        else:
            imported = imports_of_cython(path.read_text(encoding="utf-8"), modules)
        found[module_of(path)] |= imported - {module_of(path), "rivet_fleet"}
    return found


def circles(imports: Graph) -> set[frozenset[str]]:
    """The sets of modules each of which imports, by steps, every other one of its set."""
    reached = {module: _reached(module, imports) for module in imports}
    return {
        frozenset({other for other in reached[module] if module in reached.get(other, ())})
        for module in imports
        if module in reached[module]
    }


def _reached(module: str, imports: Graph) -> set[str]:
    found: set[str] = set()
    waiting = [module]
    while waiting:
        new = imports.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


def lonely(imports: Graph) -> dict[str, str]:
    """Module → the one module that imports it, where that is a sibling or the package's face."""
    importers: dict[str, set[str]] = defaultdict(set)
    for module, imported in imports.items():
        for one in imported:
            importers[one].add(module)
    found = {}
    for module, users in importers.items():
        package = module.rpartition(".")[0]
        (user, *more) = users
        if not more and package in (user, user.rpartition(".")[0]):
            found[module] = user
    return found


def many_arguments(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Functions that take more than a reader keeps in mind; options of commands are no arguments
    of ours."""
    for node in functions(tree):
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = sum(one.arg not in ("self", "cls") for one in given)
        above = " ".join(map(ast.unparse, node.decorator_list))
        command = "click." in above or "option" in above
        if count > ARGUMENTS_MAX and not command:
            yield node.lineno, f"{node.name} takes {count} arguments, at most {ARGUMENTS_MAX}"


def defined(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The functions, classes and constants at the top of a module; what a decorator registers is
    called by whoever keeps the register."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.decorator_list:
            yield node.lineno, node.name
        elif isinstance(node, ast.Assign):
            yield from ((one.lineno, one.id) for one in node.targets if isinstance(one, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.lineno, node.target.id


def used(tree: ast.Module) -> Iterator[str]:
    """Every word that may call something: names, attributes, keywords, strings of one word. What
    a definition says of itself does not count, nor does an import."""
    for top in tree.body:
        if isinstance(top, ast.Assign) and "'__all__'" in ast.dump(top.targets[0]):
            continue
        own = getattr(top, "name", None)
        for node in ast.walk(top):
            word: str | None = None
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                word = node.id
            elif isinstance(node, ast.Attribute):
                word = node.attr
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                word = node.value
            if word is not None and word != own:
                yield word


def event_lists(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Tables of events besides the one in ``contracts/events.py``, which every reader derives its
    own from."""
    if not any(isinstance(n, ast.Name) and n.id == "EventName" for n in ast.walk(tree)):
        return
    for node in ast.walk(tree):
        members: list[ast.expr | None] = []
        if isinstance(node, (ast.Set, ast.List, ast.Tuple)):
            members = [*node.elts]
        elif isinstance(node, ast.Dict):
            members = [*node.keys]
        named = [one for one in members if one is not None and "'EventName'" in ast.dump(one)]
        if len(named) > 2:
            yield node.lineno, f"lists {len(named)} events: a field of their own table says it"


def assert_listed(found: Iterable[str], table: Iterable[str], where: str) -> None:
    """What was found stands in the table, and the table holds nothing that is gone."""
    new, gone = {*found} - {*table}, {*table} - {*found}
    assert not new, f"to be in {where}: {sorted(new)}"
    assert not gone, f"no longer so, take it out: {sorted(gone)}"


def test_long_modules_are_few_and_have_a_reason() -> None:
    lengths = {below(p): lines_of(p) for p in PACKAGE_FILES}
    long = {name for name, length in lengths.items() if length > MODULE_LINES_SOFT_MAX}
    assert_listed(long, LONGER.keys(), f"LONGER, or at most {MODULE_LINES_SOFT_MAX} lines")


def test_no_module_imports_one_that_imports_it() -> None:
    found = {" ".join(sorted(map(path_of, circle))) for circle in circles(graph())}
    assert not found, f"circles: {sorted(found)}"


def test_no_module_knows_everybody() -> None:
    counts = {path_of(module): len(imported) for module, imported in graph().items()}
    del counts["coordination/wiring.py"]
    many = {name: count for name, count in counts.items() if count > FAN_OUT_MAX}
    grown = {name: count for name, count in many.items() if count > FAN_OUT.get(name, 0)}
    assert not grown, f"imports of the project, at most {FAN_OUT_MAX}: {grown}"
    assert_listed(many.keys(), FAN_OUT.keys(), "FAN_OUT")


def test_small_modules_are_of_use_to_several() -> None:
    small = {below(p) for p in PACKAGE_FILES if lines_of(p) < SMALL_LINES}
    faces = {below(p) for p in PACKAGE_FILES if p.name == "__init__.py"}
    found = {path_of(module) for module in lonely(graph())} & small - faces
    assert_listed(found, SMALL.keys(), "SMALL, or merged into the sibling that imports it")


def test_functions_take_few_arguments() -> None:
    found = {below(p): [what for _line, what in many_arguments(parsed(p))] for p in PACKAGE_FILES}
    many = {name: what for name, what in found.items() if len(what) > ARGUMENTS.get(name, 0)}
    assert not many, many
    assert not [name for name in ARGUMENTS if not found.get(name)], "take it out of ARGUMENTS"


def test_modules_of_one_name_are_about_one_subject() -> None:
    """Within a folder of versions a name is the seam's: the versions share it on purpose."""
    floors: dict[str, set[str]] = defaultdict(set)
    for path in PACKAGE_FILES:
        folder = re.sub(r"(sources|formats|destinations)/\w+$", r"\1", below(path.parent))
        if path.name != "__init__.py":
            floors[path.stem].add(folder)
    shared = {name for name, folders in floors.items() if len(folders) > 1}
    assert_listed(shared, ONE_SUBJECT.keys(), "ONE_SUBJECT, if it is one, or renamed")


def test_modules_are_named_by_nouns() -> None:
    named = {p.stem for p in PACKAGE_FILES if p.stem.endswith("ing")}
    assert_listed(named, ENDS_IN_ING.keys(), "ENDS_IN_ING, if it is a noun, or renamed")


def test_events_are_listed_in_one_place() -> None:
    broken = [
        f"{shown(path)}:{line}: {what}"
        for path in PACKAGE_FILES
        for line, what in event_lists(parsed(path))
    ]
    assert not broken, "\n".join(broken)


def test_what_nobody_calls_is_not_kept() -> None:
    words = {word for path in PACKAGE_FILES for word in used(parsed(path))}
    for path in compiled_files("rivet_fleet"):
        words |= set(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    unused = {
        f"{below(path)} {name}"
        for path in PACKAGE_FILES
        if not below(path).startswith(_ASKED_FOR_BY_OTHERS)
        for _line, name in defined(parsed(path))
        if name not in words and not name.startswith("__")
    }
    assert_listed(unused, UNUSED.keys(), "UNUSED, or gone")


_ASKED_FOR_BY_OTHERS = ("persistence/schema.py", "persistence/migrations/")
"""Tables are registered by being made, and Alembic asks for a migration's names."""


MODULES = {"a", "a.b", "a.c", "a.d.e"}


@pytest.mark.parametrize(
    "code",
    [
        "import a.b",
        "from a import b",
        "from a.b import thing",
        "def f():\n    from a import b",
        "import_module('a.b')",
        "TABLE = {'x': 'a.b:command'}",
        "from __future__ import annotations\nif True:\n    import a.b as z",
    ],
)
def test_every_way_to_import_is_seen(code: str) -> None:
    assert imports_of(ast.parse(code), MODULES) >= {"a.b"}


def test_what_only_the_checker_imports_is_not_counted() -> None:
    code = "if TYPE_CHECKING:\n    from a import b\nelse:\n    from a import c\nsay('a.b is good')"
    assert imports_of(ast.parse(code), MODULES) == {"a.c"}


def test_imports_of_compiled_code_are_seen() -> None:
    code = "from libc.math cimport sin\nfrom a.b cimport (\n  x,\n  y)\nfrom a import c\n"
    assert imports_of_cython(code, MODULES) == {"a.b", "a.c"}


def test_a_circle_is_seen_whatever_its_length() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}) == {frozenset("abc")}
    assert not circles({"a": {"b", "c"}, "b": {"c"}, "c": set()})


def test_the_graph_is_the_whole_package() -> None:
    """A rule over an empty graph would hold."""
    imports = graph()
    assert {path_of(m) for m in imports} >= {below(p) for p in PACKAGE_FILES if "_" not in p.stem}
    assert "rivet_fleet.execution.packer" in imports["rivet_fleet.execution.packing"]
    assert (
        "rivet_fleet.contracts.columns" in imports["rivet_fleet.execution.sources.mysql.packetrows"]
    )
    assert "rivet_fleet.cli.worker" in imports["rivet_fleet.cli.main"]
    assert "rivet_fleet.persistence.store" in imports["rivet_fleet.persistence.open"]


def test_a_lonely_module_is_seen() -> None:
    imports = {"p.a": {"p.b"}, "p": {"p.c"}, "q.a": {"p.d"}, "p.e": {"p.f"}, "q.b": {"p.f"}}
    assert lonely(imports) == {"p.b": "p.a", "p.c": "p"}


def test_many_arguments_are_seen() -> None:
    names = ", ".join("abcdefgh")
    assert list(many_arguments(ast.parse(f"def f({names}): ...")))
    assert list(many_arguments(ast.parse(f"class A:\n    def f(self, *, {names}): ...")))
    assert not list(many_arguments(ast.parse("def f(self, a, b, c, d, e, f, g): ...")))
    assert not list(many_arguments(ast.parse(f"@click.option('-a')\ndef f({names}): ...")))


def test_what_nobody_calls_is_seen() -> None:
    code = "def f():\n    return f()\nclass A: ...\nX = 1\nY: int = X\n@on\ndef g(): ...\n"
    tree = ast.parse("from b import h\nh.i\n" + code)
    assert [name for _line, name in defined(tree)] == ["f", "A", "X", "Y"]
    assert {name for _line, name in defined(tree)} - {*used(tree)} == {"f", "A", "Y"}
    assert {"f", "i"} <= {*used(ast.parse("call('f', h.i)"))}
    assert not {*used(ast.parse("__all__ = ['f']"))} & {"f"}


def test_a_list_of_events_is_seen() -> None:
    three = "EventName.A, EventName.B, EventName.C"
    assert list(event_lists(ast.parse(f"LOUD = {{{three}}}")))
    assert list(event_lists(ast.parse(f"LOUD = frozenset(({three}))")))
    assert list(
        event_lists(ast.parse("W = {EventName.A.value: 1, EventName.B: 2, EventName.C: 3}"))
    )
    assert not list(event_lists(ast.parse("told(EventName.A, EventName.B)")))
