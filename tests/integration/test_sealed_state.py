"""An edited state commands nobody (ADR 0024): nothing is read, nothing is written, it is named."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from rivet_fleet.contracts.seals import Sealer
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.persistence.open import open_store
from rivet_fleet.persistence.reseal import reseal
from tests.integration.conftest import ROWS
from tests.integration.fleet_cli import Desk, fleet_yaml, run_sqlite
from tests.integration.relay import Relay

HIDING = "'token=' || (SELECT string_agg(iban, ',') FROM payroll)"
"""A pattern of what looks like a secret would hide the rest of it."""
UNSEEN = " /* cyrillic \u0430, unseen \u200b */"
KEY = "correct-horse-battery-staple"


def tamper(desk: Desk, stolen: Path) -> None:
    """Another query and another folder in the plan, as somebody with SQL would put them."""
    ((text,),) = run_sqlite(desk.state, "SELECT plan_json FROM chunk_run")
    plan = json.loads(text)
    plan["read"] |= {
        "relation": None,
        "query": f"SELECT 1::bigint AS id, {HIDING} AS note, 1.0 AS total{UNSEEN}",
    }
    plan["destination"]["prefix"] = str(stolen)
    run_sqlite(desk.state, "UPDATE chunk_run SET plan_json = ?", (json.dumps(plan),))


@contextmanager
def restored(desk: Desk):
    """The state is afterwards what it was."""
    shutil.copy(desk.state, desk.folder / "kept.db")
    yield
    for name in ("", "-wal", "-shm"):
        Path(f"{desk.state}{name}").unlink(missing_ok=True)
    shutil.copy(desk.folder / "kept.db", desk.state)


@pytest.fixture
def counted(desk: Desk, shop: str):
    """The desk, whose source is reached by a relay that counts its connections."""
    url = parse_database_url(shop)
    relay = Relay((url.host, url.port or 5432))
    desk.environment["SHOP_URL"] = shop.replace(f":{url.port}/", f":{relay.port}/")
    yield desk, relay
    relay.close()


def test_an_edited_plan_is_refused_before_anything_is_asked(counted, tmp_path: Path) -> None:
    desk, relay = counted
    stolen = tmp_path / "stolen"
    desk.cli("submit")
    asked = relay.accepted
    assert asked > 0
    with restored(desk):
        tamper(desk, stolen)
        for command in ("resume", "worker", "status"):
            error = desk.cli("--json-errors", command, code=3).error
            assert error["code"] == "RIVET_STATE_TAMPERED", error
            assert "orders" in error["error"]
        desk.cli("cancel", "--yes")
    assert relay.accepted == asked, "the source was asked"
    assert not stolen.exists()
    assert not list(desk.out.rglob("*.parquet"))
    assert run_sqlite(desk.state, "SELECT DISTINCT status FROM chunk_task") == [("pending",)]
    desk.cli("resume")
    assert desk.delivered() == list(range(1, ROWS + 1))
    # What no seal covers and nobody of ours wrote ends no look at everything else.
    run_sqlite(desk.state, "UPDATE worker SET pid = 'x', ended_at_s = NULL WHERE name = 'worker-1'")
    run_sqlite(desk.state, "UPDATE run_journal SET data_json = 'x' WHERE event = 'run.completed'")
    assert desk.cli("status").err.count("state.left_out") == 1
    said = desk.cli("journal", "--last", "1000")
    assert said.err.count("state.left_out") == 1 and "journal.unreadable" in said.out


def test_a_key_and_lists_hold_whatever_the_state_says(desk: Desk, tmp_path: Path) -> None:
    desk.write(fleet_yaml(tail="state: {key_env: STATE_KEY}\n"))
    desk.environment["STATE_KEY"] = KEY
    desk.cli("submit")
    with restored(desk), closing(open_store(f"sqlite:///{desk.state}")) as store:
        tamper(desk, tmp_path / "stolen")
        with store._db.migrating() as connection:  # type: ignore[attr-defined]
            reseal(connection, None, Sealer(), None)

        def refused(code: str, *arguments: str, **environment: str) -> dict[str, object]:
            other = Desk(folder=desk.folder, environment={**desk.environment, **environment})
            error = other.cli("--json-errors", "worker", *arguments, code=9).error
            assert error["code"] == f"RIVET_WORKER_{code}", error
            assert KEY not in str(error)
            return error

        assert "sealed without a key" in str(refused("CONFIGURATION"))
        # Who follows the hint sees what would get the key's seal, and it is not what was planned.
        looked = desk.cli("state", "reseal", code=1)
        shown = looked.out
        assert "[RIVET_NOT_CONFIRMED]" in looked.err and "nothing was changed" in looked.err
        (fingerprint,) = re.findall(r"--yes ([0-9a-f]{64})", looked.err)
        assert f"fingerprint of all of it: {fingerprint}" in shown
        assert HIDING in shown and "cyrillic \\u0430, unseen \\u200b" in shown
        other = desk.cli("--json-errors", "state", "reseal", "--yes", "0" * 64, code=1).error
        assert other["code"] == "RIVET_STATE_NOT_SHOWN"
        assert str(tmp_path / "stolen") in shown
        assert "replaced its seals" in shown
        assert "sealed without a key" in str(refused("CONFIGURATION"))
        assert "sealed anew: 1 runs" in desk.cli("state", "reseal", "--yes", fingerprint).out
    assert "another key" in str(refused("CONFIGURATION", STATE_KEY="another-key-of-16-bytes"))
    assert "STATE_KEY" in str(refused("CONFIGURATION", STATE_KEY=""))
    assert "16" in str(refused("CONFIGURATION", STATE_KEY="short"))
    refused("NOT_ALLOWED", "--allow-destination", str(tmp_path / "elsewhere"))
    refused("NOT_ALLOWED", RIVET_FLEET_ALLOW_SOURCE="postgresql://*/salaries\nother=*")
    assert not (tmp_path / "stolen").exists()
    assert run_sqlite(desk.state, "SELECT DISTINCT attempts FROM chunk_task") == [(0,)]
    allowed = ("--allow-source", "default=*@*/cli_shop", "--allow-destination", str(desk.out))
    desk.cli("worker", *allowed)
    assert desk.delivered() == list(range(1, ROWS + 1))
    assert KEY.encode() not in desk.state.read_bytes()


def test_a_key_is_exchanged_and_taken_away(desk: Desk) -> None:
    """Who has a key that leaked must be able to have another one, and to have none."""
    desk.write(fleet_yaml(tail="state: {key_env: STATE_KEY}\n"))
    former, desk.environment["STATE_KEY"] = KEY, KEY
    desk.cli("submit")
    desk.environment |= {"STATE_KEY": "another-key-of-16-bytes", "FORMER_KEY": "not-the-former-key"}
    reseal = ("--json-errors", "state", "reseal", "--old-key-env", "FORMER_KEY")
    assert "another key" in desk.cli(*reseal, code=1).error["error"]
    desk.environment["FORMER_KEY"] = former
    assert "sealed anew: 1 runs" in desk.cli(*reseal).out
    desk.environment["FORMER_KEY"] = desk.environment["STATE_KEY"]
    desk.write(fleet_yaml())
    assert "sealed anew: 1 runs" in desk.cli(*reseal).out
    del desk.environment["FORMER_KEY"]
    assert "FORMER_KEY is not set" in desk.cli(*reseal, code=1).error["error"]
    desk.cli("resume")
    assert desk.delivered() == list(range(1, ROWS + 1))
