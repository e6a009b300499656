"""Documents name modules, tests and folders that are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.tree import ROOT

_FILE = r"[\w./-]+\.(?:pyx|pxd|pyi|py|md|yaml|toml|lock|h|sql|service)"
_FOLDER = r"(?:rivet_fleet|tests|chaos|bench|docs|deploy|scripts|examples)(?:/[\w.-]+)*/?"
_NAMED = re.compile(f"`({_FILE}|{_FOLDER})`")
_ROOTS = ("", "rivet_fleet", "rivet_fleet/execution", "docs", "docs/reference", "tests")
"""A path is written from one of these, or from the document's own folder."""
MADE_BY_USERS = {"fleet.yaml", "summary.md", "shop.yaml"}
"""Names of files that the program or its users write."""
DOCUMENTS = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    if path.name != "CHANGELOG.md"
)


def lost(document: Path, text: str) -> Iterator[str]:
    """What the text names and nobody finds."""
    folders = ("rivet_fleet", "tests", "deploy", "chaos", "bench", "examples")
    names = {path.name for folder in folders for path in (ROOT / folder).rglob("*.*")}
    for path in _NAMED.findall(text):
        if path.startswith("/") or Path(path).name in MADE_BY_USERS:
            continue
        places = [*(ROOT / root for root in _ROOTS), document.parent]
        if any((place / path).exists() for place in places):
            continue
        if "/" in path or path not in names:
            yield path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_what_a_document_names_is_there(document: Path) -> None:
    assert not list(lost(document, document.read_text(encoding="utf-8")))


def test_a_lost_path_is_noticed() -> None:
    text = "see `planning/nowhere.py`, `rivet_fleet/nowhere` and `planning/planner.py`"
    assert list(lost(ROOT / "README.md", text)) == ["planning/nowhere.py", "rivet_fleet/nowhere"]
