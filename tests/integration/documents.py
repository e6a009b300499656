"""How a document is followed: its blocks in order, as a newcomer would type them.

``sh`` blocks run in one folder, ``yaml`` blocks become the file their first line names, and each
line of a ``text`` block must stand, with ``…`` for anything, in what the commands since the last
``text`` block said.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

FOLLOW_TIMEOUT_S = 200


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, body) of every fenced block, in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(str(language), str(body)) for language, body in found]


def write_tools(folder: Path, commands: Mapping[str, str]) -> Path:
    """A folder for PATH in which each name runs its shell command."""
    folder.mkdir()
    for name, command in commands.items():
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        script.chmod(0o755)
    return folder


def follow(where: Path, environment: dict[str, str], script: str) -> str:
    """Run shell lines as typed: the first failure ends them. Everything they said."""
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        cwd=where,
        env=environment,
        text=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=FOLLOW_TIMEOUT_S,
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


def follow_document(text: str, where: Path, environment: dict[str, str]) -> None:
    """Every block of the document, from the first to the last."""
    said = ""
    for language, body in blocks(text):
        if language == "sh":
            said += follow(where, environment, body)
            environment = exported(body, environment)
        elif language == "yaml":
            name = body.splitlines()[0].removeprefix("# ")
            (where / name).write_text(body, encoding="utf-8")
        else:
            assert language == "text", f"a block of no known kind: {language!r}"
            assert_said(body, said)
            said = ""
