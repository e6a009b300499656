"""The threat model is true to the tests: what it promises is proven by tests that are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.house.tree import ROOT, functions, parsed

_MODEL = ROOT / "docs" / "explanation" / "threat-model.md"
_WHO = {
    "The source",
    "A server in the middle",
    "A writer of the state",
    "Other users of the host",
    "Other teams on the same state",
    "The author of a configuration",
    "A reader of files and logs",
    "The host of a worker",
    "The owner of a destination",
    "The author of a package",
}
_KINDS = {
    "progress": "a step that moves nothing is no progress, and a retry amplifies nothing",
    "decoders": "bytes of a server stay within their buffers",
    "foreign text": "what servers say is cut, redacted, printable",
    "SQL": "the user's SQL stays in its transaction",
    "identity": "what is remembered speaks of what it names",
    "bad worker": "a process's own defect is its own",
    "seal": "sealed means checked",
    "state": "the fleet's memory",
    "TLS": "sources and state alike",
    "files": "rights, predictable names, links",
    "secrets": "passwords, keys, rows",
    "HTTP": "a signal's URL is bounded",
    "host": "what the process may do",
    "truth": "what is delivered is what was there",
    "supply chain": "what is installed is what was meant",
}
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


@dataclass(frozen=True, slots=True)
class Promise:
    """A row of the model."""

    who: str
    text: str
    kind: str
    tests: tuple[tuple[str, str], ...]


def sections(text: str) -> dict[str, str]:
    """What stands below each heading of the second level."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def promises(text: str) -> Iterator[Promise]:
    """The rows of the tables, heads left out."""
    for who, body in sections(text).items():
        for line in body.splitlines():
            if line.startswith("| ") and not line.startswith("| promise "):
                said, kind, proof = (cell.strip() for cell in line.strip("| ").split(" | "))
                yield Promise(who, said, kind, tuple(_TEST.findall(proof)))


def missing_tests(found: Promise) -> list[str]:
    """The tests that a promise names and nobody wrote."""
    return [
        f"{file}::{name}"
        for file, name in found.tests
        if not (ROOT / file).is_file() or name not in _names(ROOT / file)
    ]


def _names(file: Path) -> set[str]:
    return {function.name for function in functions(parsed(file))}


def test_every_promise_is_proven_by_tests_that_exist() -> None:
    rows = list(promises(_MODEL.read_text(encoding="utf-8")))
    assert len(rows) > 30
    for row in rows:
        assert row.tests, f"nothing proves: {row.text}"
        assert not missing_tests(row), f"{row.text}: {missing_tests(row)}"


def test_everybody_is_spoken_of_and_every_kind_is_held() -> None:
    text = _MODEL.read_text(encoding="utf-8")
    rows = list(promises(text))
    assert {row.who for row in rows} == _WHO
    assert {row.kind for row in rows} == set(_KINDS)
    for who, body in sections(text).items():
        assert "\nNot promised: " in body, f"what {who} may do all the same is not said"


def test_a_promise_without_its_test_is_noticed() -> None:
    row = "## X\n| Nothing burns. | seal | `tests/house/test_style.py::test_nothing_burns` |\n"
    (burning,) = promises(row)
    assert missing_tests(burning) == ["tests/house/test_style.py::test_nothing_burns"]
    (empty,) = promises("## X\n| promise | kind | proven by |\n| Nothing burns. | seal | hope |\n")
    assert not empty.tests


def test_the_front_page_leads_to_the_model() -> None:
    assert "docs/explanation/threat-model.md" in (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "SECURITY.md" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "threat-model.md" in (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
