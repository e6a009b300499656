"""The verbs of every day, as a user types them: some exports alone, the newest files, a look at
files alone, and a question before something is given up."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pyarrow.parquet as pq
import pytest

from rivet_fleet.cli.environment import TEST_KILL, TESTING
from tests.integration.fleet_cli import COMPILED, Desk, run_sqlite
from tests.waiting import until

TABLES = ("a", "b", "c")
HIDE_CURSOR, SHOW_CURSOR = b"\x1b[?25l", b"\x1b[?25h"


@pytest.fixture
def desk(tmp_path: Path, database: str) -> Desk:
    with psycopg.connect(database, autocommit=True) as sql:
        for name in TABLES:
            sql.execute(f"CREATE TABLE {name} (id int PRIMARY KEY)".encode())
            sql.execute(f"INSERT INTO {name} VALUES (1), (2)".encode())
    desk = Desk(folder=tmp_path, environment={"SHOP_URL": database})
    exports = "\n".join(
        f"  - {{name: {t}, table: {t}, format: parquet,"
        f" destination: {{type: local, path: ./out/{t}}}}}"
        for t in TABLES
    )
    desk.write(
        "source: {type: postgres, url_env: SHOP_URL}\n"
        f"campaign: {{name: shop, workers: 1}}\nexports:\n{exports}\n"
    )
    return desk


def complete(desk: Desk) -> str:
    """Which exports have a run that is complete."""
    return "".join(t for t in TABLES if list((desk.out / t).glob("*/_SUCCESS")))


def rows_of(files: list[str]) -> list[int]:
    return [i for file in files for i in pq.read_table(file).column("id").to_pylist()]


def test_some_exports_alone(desk: Desk) -> None:
    """Without ``-c``: the configuration is the one of the folder."""
    quiet = desk.bare("run", "-e", "a", "-q")
    assert (quiet.out, quiet.err) == ("", "") and complete(desk) == "a"
    files = desk.bare("files", "-e", "a").out.splitlines()
    assert rows_of(files) == [1, 2]
    latest = json.loads((desk.out / "a" / "latest.json").read_text())
    assert [str(desk.out / "a" / one) for one in latest["files"]] == files
    told = desk.bare("files", "-e", "b", "--json", code=1)
    assert told.json["code"] == "RIVET_NOTHING_DELIVERED"

    desk.bare("submit", "--campaign-id", "night")
    half = desk.bare("resume", "-e", "b")
    assert complete(desk) == "ab" and "rivet-fleet resume" in half.err, "c waits for the next one"
    assert len(list((desk.out / "a").glob("*/_SUCCESS"))) == 1
    more = desk.bare("run", "-e", "c", "--json").json
    assert (more["campaign_id"], more["status"]) == ("night", "active") and "code" not in more
    assert complete(desk) == "abc"
    whole = desk.bare("resume", "--json").json
    assert (whole["status"], whole["rows"]) == ("completed", 6)
    newest = desk.bare("files", "--json").json
    assert [(one["export_name"], one["run_id"]) for one in newest] == [
        (name, f"{name}_night") for name in TABLES
    ]

    desk.bare("submit", "-e", "a", "--campaign-id", "other")
    told = desk.bare("run", "-e", "a", "-e", "b", "--json", code=1)
    assert told.json["code"] == "RIVET_EXPORT_IN_PROGRESS" and "without b" in told.json["message"]
    typo = desk.bare("run", "-e", "aa", "--json", code=1).json
    assert typo["code"] == "RIVET_USAGE" and "did you mean 'a'?" in typo["hint"]
    unasked = desk.bare("cancel", "--json", code=1).json
    assert unasked["code"] == "RIVET_NOT_CONFIRMED" and "nothing was changed" in unasked["message"]
    assert desk.bare("status", "--json").json["status"] == "active"
    desk.bare("run", "-e", "b", "-q")
    assert len(list((desk.out / "b").glob("*/_SUCCESS"))) == 2, "nobody had it unfinished"
    desk.bare("cancel", "--yes", "--campaign-id", "other")


def test_files_alone_and_with_what_the_state_accepted(desk: Desk) -> None:
    desk.bare("run", "-q", "--campaign-id", "night")
    place = desk.out / "a"
    elsewhere = Desk(folder=desk.folder / "elsewhere")
    elsewhere.folder.mkdir()
    for prefix in (str(place), place.as_uri()):
        (alone,) = elsewhere.bare("validate", "--prefix", prefix, "--json").json["exports"]
        assert (alone["verdict"], alone["export_name"]) == ("PASSED", "a")
        assert alone["verification"]["ledger"] == "not_asked"
    assert list(elsewhere.folder.iterdir()) == [], "looking makes nothing"
    both = desk.cli("validate", "--prefix", str(place), "--run-id", "a_night", "--json").json
    assert both["exports"][0]["verification"]["ledger"] == "consistent"
    assert "ledger consistent" in desk.bare("validate", "--run-id", "b_night").out

    (file,) = desk.bare("files", "-e", "a").out.splitlines()
    Path(file).write_bytes(b"something else")
    found = elsewhere.bare("validate", "--prefix", str(place), "--json", code=3).json
    assert (found["code"], found["kind"]) == ("RIVET_VERIFY_PART_SIZE_MISMATCH", "integrity")
    assert [one["export_name"] for one in found["failures"]] == ["a"]
    gone = elsewhere.bare("validate", "--prefix", "nowhere", "--json", code=3).json
    assert gone["code"] == "RIVET_VERIFY_MANIFEST_REQUIRED"


def at_a_terminal(desk: Desk, *arguments: str) -> tuple[subprocess.Popen[bytes], int]:
    """The program on a terminal of its own: the process and the terminal's other end."""
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RIVET_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "rivet_fleet", *arguments],
        env={**environment, **COMPILED, **desk.environment, "TERM": "xterm"},
        cwd=desk.folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    return process, ours


def heard(terminal: int, until: bytes | None, limit_s: float = 60.0) -> bytes:
    """What the terminal shows, up to ``until`` or to its end."""
    said, ends_s = b"", time.monotonic() + limit_s
    while time.monotonic() < ends_s and (until is None or until not in said):
        if not select.select([terminal], [], [], 1.0)[0]:
            continue
        try:
            more = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not more:
            break
        said += more
    assert until is None or until in said, said
    return said


def test_a_terminal_is_asked_and_gets_its_cursor_back(desk: Desk) -> None:
    """Whoever interrupts twice gets it back, too: the drawing's own way out is not gone then."""
    desk.bare("submit", "--campaign-id", "night")
    process, terminal = at_a_terminal(desk, "cancel")
    heard(terminal, b"Give campaign night up? [y/N]")
    os.write(terminal, b"n\n")
    assert b"RIVET_NOT_CONFIRMED" in heard(terminal, None) and process.wait(30) == 1

    # A worker that is stopped in the middle of a page leaves in no order at all.
    stuck = {TEST_KILL: f"page.read:stop:1:{desk.folder / 'marker'}", TESTING: "1"}
    stubborn = Desk(folder=desk.folder, environment={**desk.environment, **stuck})
    process, terminal = at_a_terminal(stubborn, "resume")
    heard(terminal, HIDE_CURSOR)
    until(lambda: (desk.folder / "marker").exists())
    process.send_signal(signal.SIGINT)
    stopped = "SELECT 1 FROM run_journal WHERE event = 'campaign.stopped'"
    until(lambda: bool(run_sqlite(desk.state, stopped)))
    process.send_signal(signal.SIGINT)
    said = heard(terminal, None)
    assert process.wait(30) == 130
    assert SHOW_CURSOR in said and HIDE_CURSOR not in said.rpartition(SHOW_CURSOR)[2]
