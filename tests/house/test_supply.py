"""Nothing that this repository installs, or tells anybody to install, is taken on trust.

Packages come by hash from lock files, Go modules by their ``go.sum``, images by digest, Debian's
packages by apt's signatures. The rules look at every committed line, the documentation's too.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.house.tree import ROOT, committed_files, shown

_LOCKS = sorted([*ROOT.glob("requirements*.lock"), ROOT / "bench" / "requirements.lock"])
_HERE = Path(__file__).resolve()
_BINARY = {".so", ".png", ".parquet", ".gz", ".db"}

# What fetches, and what makes it the thing that was meant. None: nothing does.
_RULES: dict[str, tuple[re.Pattern[str], re.Pattern[str] | None]] = {
    "pip without hashes": (
        re.compile(r"\bpip3?\b[\"',]*(?: [^|&;]*)?[ \"'](?:install|wheel|download)\b"),
        re.compile(r"--require-hashes|--no-index"),
    ),
    "an installer that takes names": (
        re.compile(
            r"\b(?:pipx (?:install|run)|uvx |uv (?:pip install|tool|add)|easy_install|npx |"
            r"npm (?:install|i) |go (?:install|get) |cargo install|gem install|conda install)"
        ),
        None,
    ),
    "a script from the network, run": (
        re.compile(r"\b(?:curl|wget)\b[^|\n]*\|\s*(?:sudo )?(?:ba|z|da)?sh\b|<\((?:curl|wget)\b"),
        None,
    ),
    "a file from the network": (re.compile(r"\b(?:curl|wget) +-?[a-zA-Z]*.*https?://"), None),
    "an index of its own": (
        re.compile(r"--(?:extra-)?index-url\b|--trusted-host\b|--find-links\b"),
        None,
    ),
    "apt without signatures": (
        re.compile(r"--allow-unauthenticated|--force-yes|\[trusted=yes\]|AllowInsecure"),
        None,
    ),
    "an image without a digest": (
        re.compile(
            r"^ *(?:- )?image: *[\"']?(?!rivet-fleet:)[a-z]|# *syntax=|"
            r"\bdocker (?:run|pull) (?!.*rivet-fleet)"
        ),
        re.compile(r"@sha256:[0-9a-f]{64}\b"),
    ),
}

_BASE = re.compile(r"^FROM +(?:--platform=\S+ +)?(?!scratch\b)(?!\S+@sha256:[0-9a-f]{64}\b)\S")


def commands(text: str) -> Iterator[tuple[int, str]]:
    """Every command of a line with its number, continued lines (a backslash at the end) as one."""
    whole, first = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        first = first if whole else number
        if line.endswith("\\"):
            whole += line[:-1].strip() + " "
            continue
        for command in re.split(r"&&|\|\||;", whole + (line.strip() if whole else line)):
            yield first, command
        whole = ""


def findings(text: str, *, of_image: bool = False) -> set[tuple[int, str]]:
    """The lines that break a rule, by number and rule; ``of_image``: as a Dockerfile's."""
    found = {
        (number, rule)
        for number, line in commands(text)
        for rule, (fetches, holds) in _RULES.items()
        if fetches.search(line) and not (holds and holds.search(line))
    }
    if of_image:
        found |= {
            (number, "an image without a digest")
            for number, line in commands(text)
            if _BASE.search(line)
        }
    return found


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def test_nothing_is_installed_on_trust() -> None:
    found = [
        f"{shown(path)}:{number}: {rule}"
        for path in committed_files()
        if path.resolve() != _HERE and path.suffix not in _BINARY and path not in _LOCKS
        for number, rule in findings(read(path), of_image="Dockerfile" in path.name)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("pip install rivet-fleet", "pip without hashes"),
        ("\t$(BIN)/python -m pip install -q uv", "pip without hashes"),
        ("RUN pip install --requirement requirements.lock", "pip without hashes"),
        ("/opt/x/bin/pip install --no-deps .", "pip without hashes"),
        ('run(python, "-m", "pip", "install", name)', "pip without hashes"),
        ("RUN pip \\\n    install wheel", "pip without hashes"),
        ("pip wheel . && pip install --no-index x.whl", "pip without hashes"),
        ("uvx ruff", "an installer that takes names"),
        ("go install example.com/x@v1", "an installer that takes names"),
        ("npm install left-pad", "an installer that takes names"),
        ("curl -sSf https://example.com/i | sh", "a script from the network, run"),
        ("bash <(curl https://example.com/i)", "a script from the network, run"),
        ("wget -q https://example.com/x.tar.gz", "a file from the network"),
        ("pip install --require-hashes --extra-index-url x -r y", "an index of its own"),
        ("apt-get install --allow-unauthenticated x", "apt without signatures"),
        ("FROM python:3.11-slim", "an image without a digest"),
        ("FROM python@sha256:abc", "an image without a digest"),
        ("# syntax=docker/dockerfile:1", "an image without a digest"),
        ("    image: postgres:16", "an image without a digest"),
        ("        - image: busybox", "an image without a digest"),
        ("docker run --rm postgres:16", "an image without a digest"),
    ],
)
def test_a_broken_rule_is_noticed(line: str, rule: str) -> None:
    assert rule in {found for _, found in findings(line, of_image=True)}


@pytest.mark.parametrize(
    "line",
    [
        "pip install --require-hashes -r requirements.lock",
        "pip install \\\n  --no-index x.whl",
        "image: rivet-fleet:0.1.0",
        "docker build -f deploy/Dockerfile -t rivet-fleet:0.1.0 .",
        "FROM python:3.11@sha256:" + "0" * 64,
        "SELECT 1 FROM orders",
        "installing pip is not needed",
    ],
)
def test_what_keeps_the_rules_is_let_through(line: str) -> None:
    assert findings(line, of_image=line.startswith("FROM")) == set()


# ---- locks ------------------------------------------------------------------------------


def test_every_requirement_of_every_lock_has_a_hash() -> None:
    assert len(_LOCKS) == 10
    for lock in _LOCKS:
        entries = re.split(r"^(?=[A-Za-z0-9])", read(lock), flags=re.MULTILINE)[1:]
        assert entries
        for entry in entries:
            assert re.match(r"[a-zA-Z0-9._-]+==\S+ (?:; .+ )?\\\n +--hash=sha256:", entry), entry


def test_every_group_and_the_build_have_a_lock() -> None:
    project = tomllib.loads(read(ROOT / "pyproject.toml"))
    groups = project["dependency-groups"]
    assert {f"requirements-{name}.lock" for name in groups} <= {lock.name for lock in _LOCKS}
    assert sorted(groups["build"]) == sorted(project["build-system"]["requires"])
    named = re.search(r"for group in ([a-z ]+);", read(ROOT / "Makefile"))
    assert named is not None and set(named[1].split()) == set(groups)


def pins(lock: Path) -> set[str]:
    return set(re.findall(r"^[A-Za-z0-9._-]+==[^ ]+", read(lock), re.MULTILINE))


def test_what_is_tested_is_what_is_shipped() -> None:
    tested = pins(ROOT / "requirements-dev.lock")
    assert pins(ROOT / "requirements.lock") <= tested
    for store in ("s3", "gcs", "azure"):
        assert (
            pins(ROOT / "requirements.lock") < pins(ROOT / f"requirements-{store}.lock") <= tested
        )
    assert pins(ROOT / "requirements-build.lock") <= tested


def test_every_go_module_has_its_sum() -> None:
    folders = [path.parent for path in (ROOT / "scripts" / "go").glob("*/go.mod")]
    assert {folder.name for folder in folders} == {"toxiproxy", "kustomize", "versitygw"}
    for folder in folders:
        modules = read(folder / "go.mod")
        assert "replace" not in modules
        sums = set(re.findall(r"^(\S+) (\S+) h1:\S{43}=$", read(folder / "go.sum"), re.MULTILINE))
        wanted = re.findall(r"^(?:require |\t)(\S+) (v\S+)", modules, re.MULTILINE)
        assert wanted and set(wanted) <= sums
    script = read(ROOT / "scripts" / "install-tools")
    assert "-mod=readonly" in script and "GOTOOLCHAIN=local" in script
    assert not re.search(r"GONOSUM|GOINSECURE|GONOVERIFY|GOSUMDB|GOFLAGS=.*-insecure", script)


# ---- the bill of materials --------------------------------------------------------------


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_sbom", ROOT / "scripts" / "write_sbom.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["write_sbom"] = module  # its frozen values look their own module up
    spec.loader.exec_module(module)
    return module


def test_the_bill_names_all_that_is_locked(writer: ModuleType) -> None:
    bill = writer.bill(ROOT)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    required = {c["purl"] for c in bill["components"] if c["scope"] == "required"}
    excluded = {c["purl"] for c in bill["components"] if c["scope"] == "excluded"}
    for lock, purls in (("requirements.lock", required), ("requirements-build.lock", excluded)):
        names = {pin.replace("==", "@") for pin in pins(ROOT / lock)}
        assert {purl.removeprefix("pkg:pypi/") for purl in purls} == names
    hashes = sum(len(c["externalReferences"][0]["hashes"]) for c in bill["components"])
    locked = read(ROOT / "requirements.lock") + read(ROOT / "requirements-build.lock")
    assert hashes == locked.count("--hash=sha256:")


def test_the_bill_says_who_wants_what_and_under_which_licence(writer: ModuleType) -> None:
    bill = writer.bill(ROOT)
    graph = {entry["ref"]: set(entry["dependsOn"]) for entry in bill["dependencies"]}
    references = {c["bom-ref"] for c in bill["components"]}
    assert set(graph) == references | {bill["metadata"]["component"]["bom-ref"]}
    assert set().union(*graph.values()) == references, "nothing is there that nobody wants"
    licences = {c["name"]: c.get("licenses") for c in bill["components"]}
    assert licences["pyarrow"] == [{"expression": "Apache-2.0"}]
    assert json.dumps(bill) == json.dumps(writer.bill(ROOT)), "the same bytes every time"
