"""The documents a newcomer follows are followed here, block by block, against a real server."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rivet_fleet.demo.embedded import EmbeddedPostgres
from tests.integration.documents import (
    assert_said,
    blocks,
    exported,
    follow,
    follow_document,
    write_tools,
)
from tests.integration.fleet_cli import COMPILED

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial" / "first-campaign.md"
README = ROOT / "README.md"


@pytest.fixture
def terminal(tmp_path: Path, postgres: EmbeddedPostgres) -> dict[str, str]:
    """An environment in which ``rivet-fleet``, ``python`` and ``psql`` are the right ones."""
    tools = write_tools(
        tmp_path / "tools",
        {
            "rivet-fleet": f'"{sys.executable}" -m rivet_fleet',
            "python": f'"{sys.executable}"',
            "psql": f'"{postgres.bin / "psql"}"',
        },
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RIVET_")}
    return {**kept, **COMPILED, "PATH": f"{tools}:{kept['PATH']}"}


def test_the_tutorial(tmp_path: Path, terminal: dict[str, str], postgres: EmbeddedPostgres) -> None:
    place = tmp_path / "tutorial"
    place.mkdir()
    postgres.psql("CREATE DATABASE shop")
    text = TUTORIAL.read_text(encoding="utf-8")
    text = text.replace("127.0.0.1:5432", f"127.0.0.1:{postgres.port}")
    follow_document(text, place, terminal)

    # In the terminal of another day: the same steps, and no row more.
    again = exported(next(body for _, body in blocks(text)), terminal)
    steps = text[text.index("## 2. The configuration") : text.index("## 4. In pieces")]
    follow_document(steps, place, again)
    assert newest_rows(place / "out" / "orders") == 20_000
    assert len(list(place.glob("out/orders/*/_SUCCESS"))) > 1, "of more than one run"


def newest_rows(dataset: Path) -> int:
    """By pyarrow, of the newest run alone."""
    newest = json.loads((dataset / "latest.json").read_text())
    return sum(pq.read_metadata(dataset / file).num_rows for file in newest["files"])


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
    assert "make install" in script, "the way to install it is shown"
    script = re.sub(r"^make install.*$", "", script, flags=re.MULTILINE)
    script = re.sub(r"'postgresql://[^']*'", f"'{database}'", script)
    for runs in (1, 2):
        said = follow(place, terminal, script)
        assert_said("orders: completed, …100 rows", said)
        assert len(list(place.glob("out/orders/*/_SUCCESS"))) == runs
        assert newest_rows(place / "out" / "orders") == 100


def test_every_page_the_documents_link_to_is_there() -> None:
    for page in (README, TUTORIAL, *sorted((ROOT / "docs").rglob("*.md"))):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
