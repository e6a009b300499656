"""How the house is kept: sizes, names, engines in their folders, errors and the environment.

Each rule is a function from a syntax tree to the places that break it, so that the second half
of this file can prove every rule on a snippet that breaks it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.house.tree import (
    PACKAGE,
    ROOT,
    committed_files,
    compiled_files,
    functions,
    lines_of,
    parsed,
    python_files,
    shown,
)

MODULE_LINES_MAX = 800
FUNCTION_LINES_MAX = 70
SLEEP_S_MAX = 0.25
BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "manager", "handler"}
BROAD_EXCEPT_ALLOWED = {
    "cli/main.py",
    *(f"coordination/{name}.py" for name in ("governor", "heartbeat", "sampler")),
    *("coordination/supervisor.py", "coordination/worker.py"),
}
ENGINE = re.compile(r"postgres|mysql|mariadb|mssql|sqlserver|psycopg", re.IGNORECASE)
ENGINES_ALLOWED = ("execution/sources/", "persistence/", "demo/")

NUMBERS_OF_OURS = {
    "execution/engines/facts.py": {"int((i + 1) * _GOLDEN % 1.0 * (room - width))"},
    "execution/engines/session.py": {"int(said)", "float(said)"},  # the converters themselves
    "execution/sources/mysql/liveness.py": {"int(self.thread_id())"},  # the driver's own number
    "execution/sources/mysql/statements.py": {"int(seconds)"},
    "execution/sources/mysql/wire.py": {"int(code)", "int(NUMBERS[column.wire_type][-1])"},
    "execution/sources/postgres/liveness.py": {
        *("int(pages)", "int(backend_pid)", "int(wanted)", "int(received - waiting)"),
    },
    "execution/sources/postgres/signals.py": {"int(ANSWER_MAX_S * 1000)"},
    # Taken out of bytes, or out of so many digits as the expression before allows.
    "execution/sources/mysql/dialect.py": {"int(match[1])", "int(match[2] or 0)"},
    "execution/sources/mysql/estimates.py": {"int(match[1])"},
    "execution/sources/mysql/values.py": {
        "int(match[2] + fraction[:scale] or b'0')",
        "int(((hours * 60 + minutes) * 60 + seconds) * 1000000 + us)",
        "int(days)",
    },
    "execution/sources/postgres/dialect.py": {"int(match[1])", "int(match[2] or 0)"},
    "execution/sources/postgres/reference.py": {"int(extension_bytes)"},
    "execution/sources/postgres/values.py": {"int(first)"},
}
"""Numbers made in the engines' folders that no server has worded."""

Rule = Callable[[ast.Module], Iterator[tuple[int, str]]]
PACKAGE_FILES = python_files("rivet_fleet")
ALL_PYTHON = python_files("rivet_fleet", "tests", "chaos")


def assert_kept(rule: Rule, files: list[Path], allowed: set[str] | tuple[str, ...] = ()) -> None:
    """No file outside ``allowed`` (paths or prefixes below the package) breaks the rule."""
    broken = [
        f"{shown(path)}:{line}: {what}"
        for path in files
        if not _below_package(path).startswith(tuple(allowed) or ("\0",))
        for line, what in rule(parsed(path))
    ]
    assert not broken, "\n" + "\n".join(broken)


def _below_package(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else shown(path)


def long_functions(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Functions longer than the house allows, docstring included."""
    for node in functions(tree):
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > FUNCTION_LINES_MAX:
            yield node.lineno, f"{node.name} has {length} lines, at most {FUNCTION_LINES_MAX}"


def broad_excepts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Handlers that swallow anything. BaseException is fine where it is raised again."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            names = (
                {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)}
                if (node.type)
                else {"bare except"}
            )
            again = isinstance(node.body[-1], ast.Raise)
            if names & {"Exception", "bare except"} or (names & {"BaseException"} and not again):
                yield node.lineno, f"catches {', '.join(sorted(names))}"
        elif _suppressed(node) & {"Exception", "BaseException"}:
            yield node.lineno, "suppresses everything"


def direct_echoes(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Printing past ``cli/say.py``, which keeps what others wrote from commanding a terminal."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _dotted(node.func) in {
            "click.echo",
            "click.secho",
            "print",
        }:
            yield node.lineno, f"prints by {_dotted(node.func)}"


def unescaped_json(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """JSON said as lines for people: what turns or hides writing would be taken out of its texts,
    which then say something else to a program."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and _dotted(node.func) == "say" and node.args):
            continue
        made = {_dotted(one.func) for one in ast.walk(node.args[0]) if isinstance(one, ast.Call)}
        told = {word.arg for word in node.keywords}
        if made & {"dumps", "json.dumps"} and "as_json" not in told:
            yield node.lineno, "says JSON without as_json"


def _suppressed(node: ast.AST) -> set[str]:
    """The names given to ``contextlib.suppress``."""
    if isinstance(node, ast.Call) and _dotted(node.func).endswith("suppress"):
        return {_dotted(arg) for arg in node.args}
    return set()


def environment_reads(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Anything that asks the process's environment."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _dotted(node) in {
            "os.environ",
            "os.environb",
            "os.getenv",
        }:
            yield node.lineno, _dotted(node)
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            for alias in node.names:
                if alias.name in {"environ", "environb", "getenv"}:
                    yield node.lineno, f"from os import {alias.name}"


def engine_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Identifiers with an engine's name, and strings with one that decide something.

    Prose (docstrings, help, messages) may name an engine; a comparison, a lookup key or an
    imported module may not.
    """
    for node in ast.walk(tree):
        for name in _identifiers(node):
            if ENGINE.search(name):
                yield getattr(node, "lineno", 0), f"identifier {name}"
        for text in _deciding_strings(node):
            if ENGINE.search(text):
                yield getattr(node, "lineno", 0), f"decides by {text!r}"


def _identifiers(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, ast.arg) or (isinstance(node, ast.keyword) and node.arg):
        yield node.arg
    elif isinstance(node, ast.ImportFrom):
        yield node.module or ""
    elif isinstance(node, ast.alias):
        yield node.name
        yield node.asname or ""


_DECIDING_CALLS = (".startswith", ".endswith", ".get", "import_module")


def _deciding_strings(node: ast.AST) -> Iterator[str]:
    """Constants that are compared, matched, looked up, keys of a table, or tested as a prefix."""
    deciding: list[ast.AST] = []
    if isinstance(node, ast.Compare):
        deciding = [node.left, *node.comparators]
    elif isinstance(node, ast.MatchValue):
        deciding = [node.value]
    elif isinstance(node, ast.Subscript):
        deciding = [node.slice]
    elif isinstance(node, ast.Dict):
        deciding = [key for key in node.keys if key is not None]
    elif isinstance(node, ast.Call) and _dotted(node.func).endswith(_DECIDING_CALLS):
        deciding = list(node.args)
    for part in deciding:
        for leaf in ast.walk(part):
            if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str):
                yield leaf.value


def waiting_by_sleep(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Sleeps that hope: outside a polling loop, or longer than a poll."""
    polled = {
        id(inner)
        for loop in ast.walk(tree)
        if isinstance(loop, (ast.While, ast.For))
        for inner in ast.walk(loop)
    }
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and _dotted(node.func) in {"time.sleep", "sleep"}):
            continue
        length = node.args[0] if node.args else None
        too_long = isinstance(length, ast.Constant) and (
            isinstance(length.value, (int, float)) and length.value > SLEEP_S_MAX
        )
        if id(node) not in polled:
            yield node.lineno, "sleeps outside a polling loop: wait for a condition"
        elif too_long:
            yield node.lineno, f"polls slower than every {SLEEP_S_MAX} s"


def pointing_docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Public functions whose documentation is a pointer to another and nothing else."""
    for node in functions(tree):
        said = ast.get_docstring(node) or ""
        if not node.name.startswith("_") and _POINTER.fullmatch(said):
            yield node.lineno, f"{node.name} says only: {said}"


_POINTER = re.compile(r"See \S+")


def imports_of_tests(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Imports of what is in the repository for the product's sake and no part of it."""
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            if name.partition(".")[0] in _NOT_THE_PRODUCT:
                yield node.lineno, f"imports {name}"


_NOT_THE_PRODUCT = {"tests", "chaos", "bench", "pytest", "hypothesis", "unittest"}


def bare_numbers(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """``int`` and ``float`` that are called, or handed on to be; of an array's own numbers not."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        given = [*node.args, *(one.value for one in node.keywords)]
        if name in ("int", "float"):
            of = given[0].func if given and isinstance(given[0], ast.Call) else None
            reduced = isinstance(of, ast.Attribute) and of.attr in ("min", "max", "sum", "argmax")
            if not reduced:
                yield node.lineno, ast.unparse(node)
        elif name not in ("isinstance", "cast"):
            handed = {one.id for one in given if isinstance(one, ast.Name)} & {"int", "float"}
            if handed:
                yield node.lineno, ast.unparse(node)


def numpy_bridges(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Calls that need pyarrow's optional NumPy, which a worker does without (cli/nursery.py)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in _NUMPY_BRIDGES:
            yield node.lineno, f"{node.attr} needs pyarrow's NumPy; a worker's has none"


_NUMPY_BRIDGES = {"to_pandas_dtype", "from_numpy_dtype", "to_numpy", "to_pandas", "from_pandas"}


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


# Spelled in pieces: this file is read, too. A path counts where it starts, not inside a URL.
_HOMES = "|".join(["work", "root", "home", "Users"])
MACHINE_PATH = re.compile(rf"(?<![\w.\-:/}}])/(?:{_HOMES})/[\w.\-]+")
PLACEHOLDER_PATHS = re.compile(r"^/(?:home|Users)/(?:you|me|user|rivet|app|<\w+>)\b")


def machine_paths(text: str) -> Iterator[tuple[int, str]]:
    """Absolute paths that exist on one machine only."""
    for number, line in enumerate(text.splitlines(), start=1):
        for found in MACHINE_PATH.finditer(line):
            if not PLACEHOLDER_PATHS.match(found[0]):
                yield number, found[0]


def test_modules_are_short() -> None:
    modules = [*PACKAGE_FILES, *compiled_files("rivet_fleet")]
    long = {shown(p): lines_of(p) for p in modules if lines_of(p) > MODULE_LINES_MAX}
    assert not long, f"modules longer than {MODULE_LINES_MAX} lines: {long}"


def test_functions_are_short() -> None:
    # A migration is a list of tables, frozen once it shipped.
    assert_kept(long_functions, PACKAGE_FILES, {"persistence/migrations/versions/"})


def test_names_say_what_is_inside() -> None:
    parts = {part for p in PACKAGE_FILES for part in p.relative_to(ROOT).with_suffix("").parts}
    assert not parts & BANNED_NAMES


def test_every_module_says_what_it_is() -> None:
    silent = [shown(p) for p in PACKAGE_FILES if not ast.get_docstring(parsed(p))]
    assert not silent


def test_only_the_outermost_loops_catch_everything() -> None:
    """A loop of a process or a thread, what asks whoever may answer anything, and the door through
    which an error leaves the program."""
    assert_kept(broad_excepts, PACKAGE_FILES, BROAD_EXCEPT_ALLOWED)


def test_the_outermost_loops_catch_everything_once_each() -> None:
    for name in BROAD_EXCEPT_ALLOWED:
        path = PACKAGE / name
        if path.exists():
            assert len(list(broad_excepts(parsed(path)))) <= 1, name


def test_only_the_command_line_reads_the_environment() -> None:
    # The demo is a front of its own: it starts the command as a user's shell would.
    assert_kept(environment_reads, PACKAGE_FILES, {"cli/", "demo/"})


def test_the_terminal_has_one_door() -> None:
    assert_kept(direct_echoes, PACKAGE_FILES, {"cli/say.py", "demo/"})


def test_json_goes_to_the_terminal_as_json() -> None:
    assert_kept(unescaped_json, PACKAGE_FILES)


def test_what_a_server_calls_a_number_is_converted_in_one_place() -> None:
    """``int`` of text or a decimal raises what nobody expects, or takes hours (``whole``)."""
    engines = ("execution/engines/", "execution/sources/")
    found = {
        name: numbers
        for path in PACKAGE_FILES
        if (name := _below_package(path)).startswith(engines)
        and (numbers := {what for _line, what in bare_numbers(parsed(path))})
    }
    assert found == NUMBERS_OF_OURS, "take `whole` or `real`, or say above that it is ours"


def test_the_package_brings_no_tests() -> None:
    """What stands for a store, a destination or a server in tests lives in ``tests/``."""
    assert_kept(imports_of_tests, PACKAGE_FILES)


def test_docstrings_say_what_a_function_does() -> None:
    assert_kept(pointing_docstrings, PACKAGE_FILES)


def test_arrow_copes_without_numpy() -> None:
    assert_kept(numpy_bridges, PACKAGE_FILES)


def test_engines_stay_in_their_folders() -> None:
    assert_kept(engine_names, PACKAGE_FILES, ENGINES_ALLOWED)


def test_an_engine_folder_names_no_other_engine() -> None:
    engines = PACKAGE / "execution" / "sources"
    folders = [f.name for f in engines.iterdir() if f.is_dir() and not f.name.startswith("_")]
    for folder in folders:
        others = [name for name in folders if name != folder]
        for path in PACKAGE_FILES:
            if path.is_relative_to(engines / folder):
                names = " ".join(what for _line, what in engine_names(parsed(path)))
                assert not [other for other in others if other in names], shown(path)


def test_tests_wait_for_conditions() -> None:
    assert_kept(waiting_by_sleep, python_files("tests"))


def test_no_committed_file_knows_a_machine() -> None:
    broken = []
    for path in committed_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        broken += [f"{shown(path)}:{line}: {found}" for line, found in machine_paths(text)]
    assert not broken, "\n" + "\n".join(broken)


@pytest.mark.parametrize(
    ("rule", "snippet"),
    [
        (long_functions, "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX),
        (broad_excepts, "try:\n    f()\nexcept Exception:\n    pass"),
        (broad_excepts, "try:\n    f()\nexcept:\n    pass"),
        (broad_excepts, "try:\n    f()\nexcept (OSError, Exception):\n    raise"),
        (broad_excepts, "try:\n    f()\nexcept BaseException:\n    pass"),
        (broad_excepts, "import contextlib\nwith contextlib.suppress(Exception):\n    f()"),
        (environment_reads, "import os\nx = os.environ['A']"),
        (environment_reads, "import os\nx = os.getenv('A')"),
        (environment_reads, "from os import environ"),
        (engine_names, "if engine == 'mysql':\n    f()"),
        (engine_names, "if engine in ('a', 'postgres'):\n    f()"),
        (engine_names, "match engine:\n    case 'mssql':\n        f()"),
        (engine_names, "ports = {'mariadb': 3306}"),
        (engine_names, "x = url.startswith('postgresql://')"),
        (engine_names, "from rivet_fleet.execution.sources.postgres import source"),
        (engine_names, "import psycopg"),
        (engine_names, "def open_sqlserver(): ..."),
        (engine_names, "f(mysql=1)"),
        (imports_of_tests, "from tests.model.store import MemoryStore"),
        (imports_of_tests, "import unittest.mock"),
        (pointing_docstrings, 'class A:\n    def f(self):\n        """See ``Store.f``."""'),
        (numpy_bridges, "dtype = kind.to_pandas_dtype()"),
        (bare_numbers, "x = int(row[0])"),
        (bare_numbers, "x = float(f(now_s))"),
        (bare_numbers, "x = sorted(map(int, row))"),
        (bare_numbers, "x = sorted(rows, key=int)"),
        (direct_echoes, "import click\nclick.echo('x')"),
        (waiting_by_sleep, "import time\ndef test_x():\n    time.sleep(0.01)"),
        (unescaped_json, "say(dumps(found), err=True)"),
        (waiting_by_sleep, "import time\nwhile not done():\n    time.sleep(2)"),
    ],
)
def test_each_rule_sees_what_it_forbids(rule: Rule, snippet: str) -> None:
    assert list(rule(ast.parse(snippet)))


@pytest.mark.parametrize(
    ("rule", "snippet"),
    [
        (broad_excepts, "try:\n    f()\nexcept BaseException:\n    undo()\n    raise"),
        (broad_excepts, "try:\n    f()\nexcept ValueError:\n    pass"),
        (environment_reads, "import os\nx = os.path"),
        (engine_names, '"""PostgreSQL needs this."""\nhelp_text = "for PostgreSQL and MySQL"'),
        (imports_of_tests, "from rivet_fleet.errors import tests"),
        (pointing_docstrings, 'def f():\n    """See ``Store.f``. Nothing is written."""'),
        (pointing_docstrings, 'def _f():\n    """See ``Store.f``."""'),
        (numpy_bridges, "cells = column.to_pylist()"),
        (bare_numbers, "x: int = int(days.max())\ny = isinstance(x, int)"),
        (unescaped_json, "say(dumps(found), as_json=True)\nsay('x')"),
        (direct_echoes, "from rivet_fleet.cli.say import say\nsay('x')"),
        (waiting_by_sleep, "import time\nwhile not done():\n    time.sleep(0.05)"),
    ],
)
def test_each_rule_leaves_the_rest_alone(rule: Rule, snippet: str) -> None:
    assert not list(rule(ast.parse(snippet)))


def test_machine_paths_are_seen() -> None:
    inside = "/".join(["", "work", "main"])
    assert list(machine_paths(f"see {inside}/x.py"))
    assert list(machine_paths("/".join(["", "home", "alice", "x"])))
    assert not list(machine_paths(f"https://example.org{inside}"))
    assert not list(machine_paths("/".join(["", "home", "you", "fleet"])))
