"""Accepting a refused run: only its end is done, whatever dies, whoever else accepts (S6)."""

from __future__ import annotations

import json
import signal

import duckdb

from tests.integration.test_quality import Place, place
from tests.waiting import until

__all__ = ["place"]

REFUSE = ("quality:", "  row_count_min: 4001")
POINTS = ("finalize.leased", "manifest.written", "success.written")


def accept(place: Place, *options: str, kill: str = "", code: int | None = 0):
    place.desk.environment["RIVET_FLEET_TEST_KILL"] = f"{kill}:kill" if kill else ""
    try:
        return place.desk.cli("accept", "t", *options, code=code)
    finally:
        place.desk.environment.pop("RIVET_FLEET_TEST_KILL")


def eventually(attempt, good, *, within_s: float = 30.0):
    """Try again while a dead finalizer's lease runs out."""
    said: list[str] = []

    def succeeded():
        done = attempt()
        said.append(done.said)
        return done if good(done) else None

    return until(succeeded, limit_s=within_s, what=f"what was wanted, after {said}")


def test_an_acceptance_survives_every_death_of_its_finalizer(place: Place) -> None:
    place.desk.write("")
    place.write(*REFUSE)
    place.desk.write(place.desk.config.read_text().replace("lease_ttl_s: 4", "lease_ttl_s: 1"))
    place.run(code=3)
    assert not place.delivered
    events = len(place.events("chunk.claimed"))
    word = ("--reason", "a day without orders", "--by", "ann")
    for point in POINTS:
        eventually(
            lambda point=point: accept(place, *word, kill=point, code=None),
            lambda done: done.code == -signal.SIGKILL,
        )
        (export,) = place.desk.cli("status", "--json").json["exports"]
        assert export["status"] == "in_progress"
    done = eventually(
        lambda: accept(place, "--reason", "me too", "--by", "bob", "--json"),
        lambda done: done.json["status"] == "completed",
    )
    assert (done.json["by"], done.json["created"]) == ("ann", False)
    assert len(place.events("chunk.claimed")) == events, "nothing was read again"
    place.desk.cli("validate", "--depth", "full")
    manifest = json.loads((place.desk.out / "manifest.json").read_text())
    assert manifest["accepted"]["by"] == "ann"
    assert manifest["accepted"]["reason"] == "a day without orders"
    (gate,) = manifest["accepted"]["gates"]
    assert gate["code"] == "RIVET_QUALITY_ROW_COUNT_MIN"
    (folder,) = [one.parent for one in place.desk.out.glob("*/_SUCCESS")]
    rows = duckdb.sql(f"SELECT count(*), count(DISTINCT id) FROM '{folder}/*.parquet'").fetchall()
    assert rows == [(4000, 4000)]
    assert "accepted by ann: a day without orders" in place.desk.cli("status").said
    summary = json.loads(next(place.desk.out.glob("_reports/*/summary.json")).read_text())
    assert summary["findings"]["acceptance"]["by"] == "ann"
    assert [entry["data"]["by"] for entry in place.events("run.accepted")] == ["ann"]


def test_what_cannot_be_accepted_is_refused(place: Place) -> None:
    place.write()
    place.run()
    wrong = {"code": 1, "named": "no quality gate refused it", "hint": "newest run"}
    error = place.desk.refused("accept", "t", "--reason", "why not", **wrong)
    assert error["code"] == "RIVET_ACCEPT_WRONG_STATE"
    place.desk.refused("accept", "x", "--reason", "why not", code=1, named="x", hint="its exports")
    place.desk.refused("accept", "t", "--reason", " ", code=1, named="--reason", hint="why")


def test_a_lost_part_is_read_again_and_judged_anew(place: Place) -> None:
    place.write(*REFUSE)
    place.run(code=3)
    part = next(place.desk.out.glob("*/*.parquet"))
    part.unlink()
    place.sql("DELETE FROM t")
    done = accept(place, "--reason", "a day without orders", code=None)
    assert "in_progress" in done.said, "its chunk waits to be read again"
    report = place.desk.cli("resume", "--workers", "1", "--json", code=3).json
    assert "not delivered" in report["exports"][0]["error"], "S6: those rows were never accepted"
    assert not place.delivered
