"""Every configuration that the tests, the documents and the examples hold, found by reading them.

A text of Python counts when it is a configuration, or the settings of an export alone; what it
would fill in is given a value here. Blocks of YAML in documents count when they are whole.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from rivet_fleet.planning.config.models import ExportConfig

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"```yaml\n(.*?)```", re.S)
_TELLS = re.compile(r"exports|mode: |columns: |format: |\bcursor_\w+: |chunk_\w+: |partition_\w+: ")
_PLACE = re.compile(r"(?<!\$)\{[a-z_]*\}")
_FILLED = "orders"
"""What stands in a template's place: a name wherever one is wanted."""
_SETTINGS = frozenset(ExportConfig.model_fields)
_OF_THE_EXPORT = {"name", "table", "query", "query_file", "source", "destination"}


@cache
def configurations() -> tuple[dict[str, Any], ...]:
    """Whole ones, as mappings."""
    found = [text for text, _ in _texts() if "exports:" in text]
    mappings = [one for one in map(_mapping, found) if _is_whole(one)]
    return _once(mappings)


@cache
def settings() -> tuple[dict[str, Any], ...]:
    """What tests say of an export beside its name, its table and its destination."""
    found: list[dict[str, Any]] = []
    for text, is_python in _texts():
        if is_python and ":" in text and len(text) < 400:
            for one in (_mapping(text), _mapping("{" + text + "}")):
                if one and set(one) <= _SETTINGS and not set(one) & _OF_THE_EXPORT:
                    found.append(one)
    whole = [
        {k: v for k, v in export.items() if k not in _OF_THE_EXPORT}
        for one in configurations()
        for export in one["exports"]
    ]
    return _once([*found, *(one for one in whole if one)])


@cache
def _texts() -> tuple[tuple[str, bool], ...]:
    return tuple(_read())


def _read() -> Iterator[tuple[str, bool]]:
    for path in sorted([*ROOT.glob("docs/**/*.md"), ROOT / "README.md"]):
        for block in _FENCE.findall(path.read_text(encoding="utf-8")):
            yield block, False
    for path in sorted([*ROOT.glob("examples/**/*.yaml"), *ROOT.glob("deploy/**/*.yaml")]):
        yield path.read_text(encoding="utf-8"), False
    for folder in ("tests/integration", "tests/rogue", "tests/unit/planning", "chaos", "bench"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            for node in ast.walk(ast.parse(text)) if _TELLS.search(text) else ():
                if (text := _text_of(node)) is not None:
                    yield text, True


def _text_of(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = _PLACE.sub(_FILLED, node.value) if "{" in node.value else node.value
        return text.replace("{{", "{").replace("}}", "}")
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value
            if isinstance(part, ast.Constant) and isinstance(part.value, str)
            else _FILLED
            for part in node.values
        )
    return None


def _mapping(text: str) -> dict[str, Any] | None:
    try:
        found = yaml.load(text, _LOADER)
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return found if isinstance(found, dict) and all(isinstance(k, str) for k in found) else None


def _is_whole(one: dict[str, Any] | None) -> bool:
    exports = (one or {}).get("exports")
    return isinstance(exports, list) and bool(exports) and all(isinstance(e, dict) for e in exports)


def _once(found: list[Any]) -> tuple[dict[str, Any], ...]:
    """Those that differ by more than a number."""
    return tuple({re.sub(r"\b\d{2,}\b|[2-9]", "n", repr(one)): one for one in found}.values())
