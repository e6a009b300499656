"""URLs, paths and filesystems: what is refused before anything is opened."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest

from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import StateRefused
from rivet_fleet.persistence import dialects
from rivet_fleet.persistence.database import Database
from rivet_fleet.persistence.dialects import SqliteDialect, refuse_network_filesystem
from rivet_fleet.persistence.open import open_store, state_health
from rivet_fleet.persistence.postgres_dialect import PostgresDialect
from tests.unit.contracts.test_places import give_away

MOUNTS = "\n".join(
    [
        "/dev/vda / ext4 rw 0 0",
        "server:/export /mnt/share nfs4 rw 0 0",
        "//server/c /mnt/with\\040space cifs rw 0 0",
        "tmpfs /mnt/share/local tmpfs rw 0 0",
    ]
)


@pytest.mark.parametrize("path", ["/mnt/share/state.db", "/mnt/with space/x/state.db"])
def test_a_network_filesystem_is_refused(path: str) -> None:
    with pytest.raises(StateRefused, match="network filesystem") as caught:
        refuse_network_filesystem(Path(path), MOUNTS)
    assert "PostgreSQL" in (caught.value.hint or "")


@pytest.mark.parametrize("path", ["/data/s.db", "/mnt/share/local/s.db", "/mnt/shared/s.db"])
def test_a_local_filesystem_is_not(path: str) -> None:
    refuse_network_filesystem(Path(path), MOUNTS)


@pytest.mark.parametrize("end", ["", "-wal", "-shm", "-journal", ".lock"])
def test_a_file_that_somebody_else_made_first_is_refused(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite would read pages out of it."""
    tmp_path.chmod(0o1777)
    theirs = tmp_path / f"state.db{end}"
    theirs.touch()
    give_away(theirs, monkeypatch)
    with pytest.raises(StateRefused, match="belongs to user") as caught:
        open_store(f"sqlite:///{tmp_path}/state.db")
    assert caught.value.code == "RIVET_STATE_NOT_OURS"


@pytest.mark.parametrize("mode", [0o1777, 0o777])
def test_a_folder_where_everybody_may_put_files_beside_the_state_is_refused(
    mode: int, tmp_path: Path
) -> None:
    """No look at what is there holds until SQLite opens it, and it opens it again and again."""
    store = open_store(f"sqlite:///{tmp_path}/state.db")
    store.migrate()
    store.close()
    before = sorted(tmp_path.iterdir())
    tmp_path.chmod(mode)
    for ask in (open_store, state_health):
        for name in ("state.db", "another.db"):
            with pytest.raises(StateRefused, match="everybody may write in") as caught:
                ask(f"sqlite:///{tmp_path}/{name}")
            assert caught.value.code == "RIVET_STATE_NOT_OURS"
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("changed", ["everybody may write", "belongs to user"])
def test_a_place_that_changes_while_the_state_is_opened_is_refused(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the lock: what is opened then is nobody's whom the look has seen."""
    opened: list[int] = []

    class Late(dialects.FileLock):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            opened.append(self._fd)
            if changed == "belongs to user":
                give_away(path.parent, monkeypatch)
            else:
                path.parent.chmod(0o777)

    monkeypatch.setattr(dialects, "FileLock", Late)
    with pytest.raises(StateRefused, match=changed) as caught:
        open_store(f"sqlite:///{tmp_path}/state.db")
    assert caught.value.code == "RIVET_STATE_NOT_OURS"
    monkeypatch.undo()
    assert not (tmp_path / "state.db").exists()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "state.db.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateRefused):
        open_store(f"sqlite:///{tmp_path}/state.db")
    assert not (tmp_path / "elsewhere").exists()


def test_a_trigger_in_the_file_calls_no_function_of_this_process(tmp_path: Path) -> None:
    """``regexp``, which SQLAlchemy gives each connection, would hold all threads for minutes."""
    store = open_store(f"sqlite:///{tmp_path}/state.db")
    store.migrate()
    store.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db")) as theirs:
        theirs.execute(
            "CREATE TRIGGER theirs AFTER INSERT ON fleet_meta BEGIN SELECT regexp('a', 'a'); END"
        )
    database = Database(SqliteDialect(tmp_path / "state.db"))
    sql = "INSERT INTO fleet_meta (key, value, at_s) VALUES ('x', 'y', 1)"
    with pytest.raises(StateRefused, match="unsafe use of regexp"):
        database.write(lambda tx: tx.run(sql))
    database.close()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://u@h/d", "nonsense"])
def test_urls_that_cannot_be_a_fleets_state_are_refused(url: str) -> None:
    with pytest.raises(StateRefused):
        open_store(url)


def test_a_password_with_delimiters_is_kept_and_never_shown() -> None:
    secret = "p@s:s/w#o?rd%"
    store = open_store("postgresql://fleet:p%40s%3As%2Fw%23o%3Frd%25@127.0.0.1:1/state")
    assert secret not in repr(store) and "p%40" not in repr(store)
    engine = store._db.engine  # type: ignore[attr-defined]
    assert secret not in repr(engine) + str(engine.url)
    told = store._db.dialect._connect_args()  # type: ignore[attr-defined]
    assert told["password"] == secret
    store.close()


def test_a_refused_url_is_not_repeated() -> None:
    with pytest.raises(StateRefused) as caught:
        open_store("postgresql://u:hunter2@host:notaport/db")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("host", ["db.example", "10.0.0.1", "127.evil.example", "a,127.0.0.1"])
def test_a_remote_state_says_whether_its_way_is_encrypted(host: str) -> None:
    for silent in ("", "?sslmode=prefer", "?sslmode=allow", "?application_name=x"):
        with pytest.raises(StateRefused, match="is remote") as caught:
            open_store(f"postgresql://u:pw@{host}/state{silent}")
        assert caught.value.code == "RIVET_STATE_NOT_ENCRYPTED"
        assert "pw" not in caught.value.message and "sslmode" in (caught.value.hint or "")
    for decided in ("require", "verify-full", "disable"):
        open_store(f"postgresql://u:pw@{host}/state?sslmode={decided}").close()


def test_an_option_cannot_lead_the_state_away() -> None:
    for option in ("host=db.example", "hostaddr=10.0.0.1", "service=elsewhere"):
        with pytest.raises(StateRefused, match="is remote"):
            open_store(f"postgresql://u@127.0.0.1/state?{option}")


def test_a_state_that_is_not_verified_gets_a_proof_of_the_password_only() -> None:
    def required(rest: str) -> object:
        url = parse_database_url(f"postgresql://u:pw@{rest}")
        return PostgresDialect(url)._connect_args().get("require_auth")

    assert required("127.0.0.1/state") == "!password"
    assert required("h/state?sslmode=require") == "!password"
    assert required("h/state?sslmode=verify-full") is None
    assert required("/state?host=/run/postgresql") is None
    assert required("/state?host=/run/postgresql&hostaddr=10.0.0.1") == "!password"
    assert required("h/state?sslmode=require&require_auth=password") == "password"


@pytest.mark.parametrize(
    ("rest", "place"),
    [
        ("u@/d", ("localhost", "", "5432", "d", "")),
        ("u@h:6000", ("h", "", "6000", "u", "")),
        ("u@h:6000,g/d", ("h,g", "", "6000,", "d", "")),
        ("u@h/d?options=-csearch_path%3Df", ("h", "", "5432", "d", "-csearch_path=f")),
        ("u@/d?hostaddr=10.0.0.1", ("", "10.0.0.1", "5432", "d", "")),
        ("/d?host=/run/postgresql", ("/run/postgresql", "", "5432", "d", "")),
        ("?service=s", (None, None, None, None, None)),
    ],
)
def test_what_a_state_url_leaves_out_no_variable_says(
    rest: str, place: tuple[str | None, ...]
) -> None:
    """A parameter that is empty is given: libpq asks PGHOST, PGOPTIONS and others no more."""
    given = PostgresDialect(parse_database_url(f"postgresql://{rest}"))._connect_args()
    assert tuple(given.get(n) for n in ("host", "hostaddr", "port", "dbname", "options")) == place


def test_a_state_url_names_its_database() -> None:
    with pytest.raises(StateRefused, match="names no database"):
        open_store("postgresql://localhost")
