"""The documents a newcomer follows are followed here, block by block, against a real server.

``sh`` blocks run in one folder, ``yaml`` blocks become the file their first line names, and each
line of a ``text`` block must stand, with ``…`` for anything, in what the commands since the last
``text`` block said.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rivet_fleet.demo.embedded import EmbeddedPostgres
from tests.integration.fleet_cli import COMPILED

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial" / "first-campaign.md"
README = ROOT / "README.md"


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, body) of every fenced block, in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(str(language), str(body)) for language, body in found]


@pytest.fixture
def terminal(tmp_path: Path, postgres: EmbeddedPostgres) -> dict[str, str]:
    """An environment in which ``rivet-fleet``, ``python`` and ``psql`` are the right ones."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, command in (
        ("rivet-fleet", f'"{sys.executable}" -m rivet_fleet'),
        ("python", f'"{sys.executable}"'),
        ("psql", f'"{postgres.bin / "psql"}"'),
    ):
        script = tools / name
        script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        script.chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RIVET_")}
    return {**kept, **COMPILED, "PATH": f"{tools}:{kept['PATH']}"}


def follow(where: Path, environment: dict[str, str], script: str) -> str:
    """Run shell lines as typed: the first failure ends them. Everything they said."""
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        cwd=where,
        env=environment,
        text=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def exported(script: str, environment: dict[str, str]) -> dict[str, str]:
    """What the script's ``export`` lines leave behind for the next block."""
    after = dict(environment)
    for name, value in re.findall(r"^export (\w+)=['\"](.*)['\"]$", script, re.MULTILINE):
        after[name] = re.sub(r"\$(\w+)", lambda m: after[m[1]], value)
    return after


def assert_said(expected: str, said: str) -> None:
    for line in expected.splitlines():
        pattern = ".*".join(re.escape(piece) for piece in line.strip().split("…"))
        assert re.search(pattern, said), f"{line!r} was not said:\n{said}"


def test_the_tutorial(tmp_path: Path, terminal: dict[str, str], postgres: EmbeddedPostgres) -> None:
    place = tmp_path / "tutorial"
    place.mkdir()
    postgres.psql("CREATE DATABASE shop")
    text = TUTORIAL.read_text(encoding="utf-8")
    text = text.replace("127.0.0.1:5432", f"127.0.0.1:{postgres.port}")
    said, environment = "", terminal
    for language, body in blocks(text):
        if language == "sh":
            said += follow(place, environment, body)
            environment = exported(body, environment)
        elif language == "yaml":
            name = body.splitlines()[0].removeprefix("# ")
            (place / name).write_text(body, encoding="utf-8")
        else:
            assert language == "text", f"a block of no known kind: {language!r}"
            assert_said(body, said)
            said = ""


def test_first_steps_of_the_readme(
    tmp_path: Path, terminal: dict[str, str], postgres: EmbeddedPostgres, database: str
) -> None:
    place = tmp_path / "readme"
    place.mkdir()
    postgres.psql(
        "CREATE TABLE orders (id bigint PRIMARY KEY);"
        "INSERT INTO orders SELECT generate_series(1, 100); ANALYZE orders;",
        database=database.rpartition("/")[2],
    )
    section = README.read_text(encoding="utf-8").partition("## First steps")[2]
    script = next(body for _, body in blocks(section) if "rivet-fleet run" in body)
    assert "pip install ." in script, "the way to install it is shown"
    script = re.sub(r"^pip install.*$", "", script, flags=re.MULTILINE)
    script = re.sub(r"'postgresql://[^']*'", f"'{database}'", script)
    said = follow(place, terminal, script)
    assert_said("orders: completed, …100 rows", said)
    assert list(place.glob("out/orders/*/_SUCCESS"))


def test_every_page_the_documents_link_to_is_there() -> None:
    for page in (README, TUTORIAL, *sorted((ROOT / "docs").rglob("*.md"))):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
