"""Two teams, one state, the same names (ADR 0022): the real program, one PostgreSQL, real files."""

from __future__ import annotations

from pathlib import Path

from rivet_fleet.contracts.identity import CAMPAIGN_OTHER, NAMESPACE_NEEDED, NAMESPACE_OTHER
from rivet_fleet.coordination.names import DESTINATION_SHARED
from tests.integration.conftest import ROWS
from tests.integration.fleet_cli import Desk, fleet_yaml

ALL = list(range(1, ROWS + 1))
NIGHTLY = ("--campaign-id", "nightly")
C_TEAM = ("--namespace", "team-c")


def team(folder: Path, shop: str, state: str, namespace: str, text: str | None = None) -> Desk:
    folder.mkdir()
    environment = {
        "SHOP_URL": shop,
        "RIVET_FLEET_STATE_URL": state,
        "RIVET_FLEET_NAMESPACE": namespace,
    }
    desk = Desk(folder=folder, environment=environment)
    desk.write(text or fleet_yaml())
    return desk


def test_two_teams_neither_see_nor_touch_each_other(
    tmp_path: Path, shop: str, database: str
) -> None:
    a = team(tmp_path / "a", shop, database, "team-a")
    b = team(tmp_path / "b", shop, database, "team-b")
    nobody = team(tmp_path / "c", shop, database, "")
    b.cli("submit", *NIGHTLY)
    a.cli("run", *NIGHTLY)
    assert a.delivered() == ALL and b.delivered() == []
    assert [one.name for one in (a.out / "orders").glob("orders_*")] == ["orders_nightly@team-a"]

    needed = nobody.refused("status", code=1, named="nothing says whose", hint="namespace: …")
    assert needed["code"] == NAMESPACE_NEEDED
    assert "team-" not in str(needed), "nor does it say who is there"
    foreign = ("--campaign-id", "nightly@team-b")
    told = a.refused("cancel", *foreign, code=1, named="nightly@team-b", hint="--namespace")
    assert told["code"] == NAMESPACE_OTHER
    nobody.write(fleet_yaml(destination=str(a.out / "orders")))
    told = nobody.refused(
        *("submit", *C_TEAM),
        code=1,
        named="another namespace",
        hint="destination.path",
    )
    assert told["code"] == DESTINATION_SHARED
    for verb in ("check", "doctor", "plan"):
        assert "holds deliveries of another" in nobody.cli(verb, *C_TEAM, code=1).said

    waits = b.cli("status", "--json").json
    assert (waits["campaign_id"], waits["status"]) == ("nightly@team-b", "active")
    a.cli("gc", "--min-age-s", "0")
    assert "forgot 1 runs" in a.cli("state", "reset", "-e", "orders", "--yes").out
    assert b.cli("status", "--json").json["exports"] == waits["exports"]
    b.cli("worker", *NIGHTLY)
    assert b.delivered() == ALL
    entries = b.cli("journal", "--json").json
    assert {one["campaign_id"] for one in entries} == {"nightly@team-b"}


def test_a_stem_is_no_name(tmp_path: Path, shop: str) -> None:
    state = f"sqlite:///{tmp_path / 'shared.db'}"
    unnamed = fleet_yaml().replace("name: shop, ", "")
    a = team(tmp_path / "a", shop, state, "", unnamed)
    b = team(tmp_path / "b", shop, state, "", unnamed)
    a.cli("submit", *NIGHTLY)
    ours = (("budget", "shop", "--chunks", "9"), ("reseal",), ("reset", "-e", "orders"))
    for verb in (("run",), ("cancel", *NIGHTLY), *(("state", *one) for one in ours), ("plan",)):
        told = b.refused(*verb, code=1, named=str(a.config), hint="state accept --campaign")
        assert told["code"] == CAMPAIGN_OTHER
    for verb in ("check", "doctor"):
        assert f"belongs to another configuration: to {a.config}" in b.cli(verb, code=1).said
    signed = b.cli("state", "accept", "--campaign", "--reason", "moved", "--by", "ann").out
    assert str(b.config) in signed and str(a.config) in signed
    b.cli("cancel", "--yes", *NIGHTLY)
    told = a.refused("status", code=1, named=str(b.config), hint="state accept --campaign")
    assert told["code"] == CAMPAIGN_OTHER


def test_a_path_is_no_name_where_hosts_share_a_state(
    tmp_path: Path, shop: str, database: str
) -> None:
    """Two teams of containers: each has its configuration at one path, copied from one example."""
    a = team(tmp_path / "etc", shop, database, "shop")
    b = Desk(folder=a.folder, environment={**a.environment, "SHOP_URL": database})
    a.cli("submit", *NIGHTLY)
    looks = (("metrics", "--prometheus"), ("state", "reset", "-e", "orders"))
    for verb in (("run",), ("cancel", *NIGHTLY), *looks):
        told = b.refused(*verb, code=1, named=database.rpartition("/")[2], hint="{namespace: …}")
        assert told["code"] == CAMPAIGN_OTHER
    told = b.refused("worker", code=9, named="belongs to another", hint="environment of the")
    assert told["code"] == "RIVET_WORKER_CONFIGURATION"
    alias = {**a.environment, "SHOP_URL": shop.replace("127.0.0.1", "localhost")}
    assert alias != a.environment
    moved = Desk(folder=a.folder, environment=alias)
    told = moved.refused("status", code=1, named="localhost", hint="state accept --campaign")
    moved.cli("state", "accept", "--campaign", "--reason", "a new name of the server")
    assert moved.cli("status", "--json").json["status"] == "active"
    a.refused("status", code=1, named="localhost", hint="reads elsewhere now, sign once")
