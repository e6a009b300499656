"""Rivet's state beside ours: told apart, read as it is, and never changed."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rivet_fleet.coordination.history import Memory
from rivet_fleet.errors import StateRefused
from rivet_fleet.persistence import dialects
from rivet_fleet.persistence.open import open_store
from rivet_fleet.persistence.rivet import (
    CURSOR_CHARS_MAX,
    OF_RIVET,
    cursors_of_file,
    is_rivets_file,
)

RIVETS = """
PRAGMA journal_mode=WAL;
CREATE TABLE schema_version (version INTEGER NOT NULL);
INSERT INTO schema_version VALUES (25);
CREATE TABLE export_state (export_name TEXT, last_cursor_value TEXT, last_run_at TEXT,
                           resume_run_id TEXT, destination TEXT);
CREATE TABLE chunk_run (run_id TEXT PRIMARY KEY, export_name TEXT, status TEXT);
"""


def rivets(path: Path, *rows: tuple[str | None, ...]) -> Path:
    """Rivet's file: (export, cursor, unfinished run, destination)."""
    with closing(sqlite3.connect(path)) as file:
        file.executescript(RIVETS)
        for name, value, resume, destination in rows:
            file.execute(
                "INSERT INTO export_state VALUES (?, ?, '2026-01-01T00:00:00Z', ?, ?)",
                (name, value, resume, destination),
            )
        file.commit()
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir(mode=0o700)
    return tmp_path / "home" / ".rivet_state.db"


def test_it_is_told_from_ours_and_from_any_other_file(path: Path) -> None:
    other = path.with_name("other.db")
    assert not is_rivets_file(other), "nothing is there"
    other.write_bytes(b"no database at all" * 100)
    assert not is_rivets_file(other)
    other.unlink()
    with closing(open_store(f"sqlite:///{other}")) as store:
        store.migrate()
    assert not is_rivets_file(other)
    assert is_rivets_file(rivets(path))
    with closing(sqlite3.connect(other)) as ours:
        ours.execute("CREATE TABLE schema_version (version)")
    assert not is_rivets_file(other), "a table more makes ours no state of Rivet's"
    other.unlink()
    os.mkfifo(other)
    assert not is_rivets_file(other)


def test_it_is_read_as_it_is_and_nothing_is_made_beside_it(path: Path) -> None:
    rivets(
        path,
        ("orders", "2026-01-01T00:00:00", None, None),
        ("users", "17", "r1", None),
        ("two", "1", None, "a"),
        ("two", "2", None, "b"),
        ("same", "5", None, "a"),
        ("same", "5", None, "b"),
        ("none", None, None, None),
        ("long", "x" * (CURSOR_CHARS_MAX + 1), None, None),
    )
    before = path.read_bytes()
    found = {one.export_name: one for one in cursors_of_file(path)}
    assert set(found) == {"orders", "users", "two", "same"}
    assert found["orders"].value == "2026-01-01T00:00:00" and not found["orders"].unfinished
    assert found["users"].unfinished and found["two"].several and not found["same"].several
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_what_rivet_has_written_and_not_yet_folded_in_is_seen(path: Path) -> None:
    with closing(sqlite3.connect(rivets(path, ("orders", "1", None, None)))) as running:
        running.execute("UPDATE export_state SET last_cursor_value = '2'")
        running.commit()
        assert path.with_name(path.name + "-wal").stat().st_size
        (found,) = cursors_of_file(path)
    assert found.value == "2"


def test_half_of_a_transaction_is_not_taken_for_the_state(path: Path) -> None:
    """A program that ended in the middle leaves a journal, which only a writer may play back."""
    rivets(path, *((f"e{n}", "before" * 40, None, None) for n in range(200)))
    torn = path.with_name("torn.db")
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode=DELETE").fetchall()
        writer.execute("PRAGMA cache_size=1").fetchall()
        writer.execute(
            "UPDATE export_state SET last_cursor_value = replace(last_cursor_value, "
            "'before', 'middle')"
        )
        for end in ("", "-journal"):
            copy = path.with_name(path.name + end).read_bytes()
            torn.with_name(torn.name + end).write_bytes(copy)
    assert b"middle" in torn.read_bytes()
    with pytest.raises(StateRefused, match="cannot be read"):
        cursors_of_file(torn)


def test_what_is_no_state_of_rivets_is_refused_by_name(path: Path) -> None:
    with pytest.raises(StateRefused, match="there is no state of Rivet at"):
        cursors_of_file(path)
    with closing(open_store(f"sqlite:///{path}")) as store:
        store.migrate()
    with pytest.raises(StateRefused, match="is no state of Rivet's"):
        cursors_of_file(path)
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(StateRefused, match="cannot be read"):
        cursors_of_file(path)


def test_no_state_of_ours_is_made_among_its_tables(path: Path) -> None:
    rivets(path, ("orders", "1", None, None))
    with (
        closing(open_store(f"sqlite:///{path}")) as store,
        pytest.raises(StateRefused, match="holds the state of Rivet") as caught,
    ):
        store.migrate()
    assert caught.value.code == OF_RIVET
    assert [one.value for one in cursors_of_file(path)] == ["1"]


@pytest.mark.parametrize(
    "column",
    [
        "regexp('^(a+)+$', export_name)",
        "export_name REGEXP '^(a+)+$'",
        "export_name LIKE '%a%a%a%a%a%a%a%a%a%a%a%a%a%a%b'",
        "export_name GLOB '*a*a*a*a*a*a*a*a*a*a*a*a*a*b'",
        "hex(zeroblob(1000000))",
    ],
)
def test_what_a_column_of_it_computes_costs_nothing(path: Path, column: str) -> None:
    """Of a file that names this process's functions, or those of SQLite that take minutes."""
    with closing(sqlite3.connect(path)) as file:
        for name in ("regexp", "like", "glob"):  # as deterministic as whoever makes it says
            file.create_function(name, 2, lambda _one, _two: 0, deterministic=True)
        file.execute("CREATE TABLE schema_version (version)")
        file.execute(
            "CREATE TABLE export_state (export_name TEXT, last_cursor_value TEXT "
            f"GENERATED ALWAYS AS ({column}) VIRTUAL)"
        )
        file.execute("INSERT INTO export_state (export_name) VALUES (?)", ("a" * 3_000 + "!",))
        file.commit()
    with pytest.raises(StateRefused, match="cannot be read"):
        cursors_of_file(path)


def test_a_file_of_many_rows_is_given_up(path: Path, monkeypatch) -> None:
    rivets(path, *(("x" * 5_000, "1", None, None) for _ in range(200)))
    assert cursors_of_file(path) == ()
    monkeypatch.setattr(dialects, "_STEPS_BETWEEN_LOOKS", 10)
    monkeypatch.setattr(dialects, "_LOOKS_MAX", 50)
    with pytest.raises(StateRefused, match="cannot be read"):
        cursors_of_file(path)


def test_a_file_that_others_may_have_put_there_is_not_read(path: Path) -> None:
    """A cursor far ahead would keep rows from ever being read."""
    rivets(path, ("orders", "9999-01-01", None, None))
    path.parent.chmod(0o1777)
    with pytest.raises(StateRefused) as caught:
        cursors_of_file(path)
    assert caught.value.code == "RIVET_STATE_NOT_OURS"
    assert not is_rivets_file(path)
    assert Memory(rivets=path).elsewhere() == {}
