"""The repository as the house tests see it: committed files, parsed once."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "rivet_fleet"
_NEVER = {".venv", ".git", ".tools", "__pycache__", "build", "dist"}


@cache
def committed_files() -> tuple[Path, ...]:
    """What git tracks or would track; without git (an unpacked archive) every file."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        files = [p for p in ROOT.rglob("*") if not _NEVER & set(p.relative_to(ROOT).parts)]
    return tuple(sorted(p for p in files if p.is_file()))


def python_files(*folders: str) -> list[Path]:
    """The Python files below these top-level folders."""
    return [
        path
        for path in committed_files()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in folders
    ]


def compiled_files(folder: str) -> list[Path]:
    """The Cython and C files below this top-level folder."""
    return [
        path
        for path in committed_files()
        if path.suffix in (".pyx", ".pxd", ".h") and path.relative_to(ROOT).parts[0] == folder
    ]


@cache
def parsed(path: Path) -> ast.Module:
    """The module's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method, nested ones included."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def shown(path: Path) -> str:
    """The path as a message names it."""
    return path.relative_to(ROOT).as_posix()


def lines_of(path: Path) -> int:
    """How many lines the file has."""
    return len(path.read_text(encoding="utf-8").splitlines())
