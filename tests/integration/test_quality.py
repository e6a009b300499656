"""Gates, drift and what is told of them: several workers, real PostgreSQL, a killed worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.fleet_cli import Desk, run_sqlite

SQL = """
CREATE TABLE t (id int PRIMARY KEY, email text, tenant int NOT NULL, number int NOT NULL);
INSERT INTO t SELECT i, CASE WHEN i % 4 = 0 THEN NULL ELSE 'm' || i END, i % 7, i / 7
FROM generate_series(1, 4000) i;
ANALYZE t;
"""
CONFIG = """\
source: {{type: postgres, url_env: DB}}
campaign: {{name: gates, lease_ttl_s: 4}}
exports:
  - name: t
    table: t
    format: parquet
    mode: chunked
    chunk_by_key: id
    chunk_count: 8
    destination: {{type: local, path: out}}
    tuning: {{batch_size: 100}}
{more}
"""


class Place:
    """A desk whose table lives in a database of its own."""

    def __init__(self, desk: Desk, server: Any, database: str) -> None:
        self.desk = desk
        self._server = server
        self._name = database.rpartition("/")[2]

    def sql(self, text: str) -> None:
        self._server.psql(text, database=self._name)

    def write(self, *more: str) -> None:
        self.desk.write(CONFIG.format(more="\n".join(f"    {line}" for line in more)))

    def run(self, *options: str, code: int = 0) -> dict[str, Any]:
        """A whole campaign with two workers; its report."""
        report: dict[str, Any] = self.desk.cli(
            "run", "--workers", "2", "--json", *options, code=code
        ).json
        return report

    def events(self, name: str) -> list[dict[str, Any]]:
        entries = self.desk.cli("journal", "--json", "--last", "100000").json
        return [entry for entry in entries if entry["event"] == name]

    @property
    def delivered(self) -> bool:
        out = self.desk.out
        names = [*out.glob("manifest*.json"), *out.glob("_SUCCESS"), *out.glob("*/_SUCCESS")]
        return bool(names)


@pytest.fixture
def place(tmp_path: Path, postgres, database: str) -> Place:
    place = Place(Desk(folder=tmp_path, environment={"DB": database}), postgres, database)
    place.sql(SQL)
    return place


HOLD = (
    "quality:",
    "  row_count_min: 4000",
    "  row_count_max: 4000",
    "  null_ratio_max: {email: 0.25, tenant: 0}",
    "  unique_columns: [id, email, [tenant, number]]",
)


def test_gates_that_hold_over_many_parts_and_workers(place: Place) -> None:
    place.write(*HOLD)
    report = place.run()
    (export,) = report["exports"]
    assert export["status"] == "completed"
    assert "quality   7 gates passed" in export["findings"]
    judged = place.events("quality.judged")
    assert {entry["data"]["outcome"] for entry in judged} == {"passed"}
    assert "all 3,000 keys (email) differ" in {entry["message"] for entry in judged}
    assert place.delivered


@pytest.mark.parametrize(
    ("spoil", "gate", "code", "found"),
    [
        ("", "row_count_min: 4001", "ROW_COUNT_MIN", "4,000 rows"),
        ("", "row_count_max: 3999", "ROW_COUNT_MAX", "4,000 rows"),
        ("", "null_ratio_max: {email: 0.2499}", "NULL_RATIO", "NULL in 1,000 of 4,000 rows"),
        (
            "UPDATE t SET email = 'm1' WHERE id = 3999",
            "unique_columns: email",
            "UNIQUE",
            "1 of 3,000 keys (email) are duplicates",
        ),
        (
            "UPDATE t SET tenant = 1, number = 0 WHERE id IN (2000, 4000)",
            "unique_columns: [[tenant, number]]",
            "UNIQUE",
            "2 of 4,000 keys (tenant, number) are duplicates",
        ),
    ],
)
def test_a_gate_that_does_not_hold_keeps_the_run_from_being_delivered(
    place: Place, spoil: str, gate: str, code: str, found: str
) -> None:
    """Q2, Q3."""
    place.sql(spoil or "SELECT 1")
    place.write("quality:", f"  {gate}")
    report = place.run(code=3)
    (export,) = report["exports"]
    assert (export["status"], export["manifest"]) == ("failed", None)
    assert f"RIVET_QUALITY_{code}" in export["error"]
    assert found in export["error"]
    assert not place.delivered
    assert list(place.desk.out.glob("*/*.parquet")), "the evidence stays"
    (told,) = place.events("quality.failed")
    assert found in told["message"]
    assert "quality_refused" in place.desk.cli("status").out
    summary = json.loads(next(place.desk.out.glob("_reports/*/summary.json")).read_text())
    assert summary["findings"]["gates"][0]["outcome"] == "failed"
    # Nothing goes on by itself; the next campaign is the operator's word.
    assert "not delivered: t" in place.desk.cli("run", code=5).err
    place.write("quality:", "  row_count_min: 1")
    place.run("--new")
    assert place.delivered


def test_a_refused_run_leaves_the_former_delivery_alone(place: Place) -> None:
    """Q3: neither manifest nor _SUCCESS, nor the baseline of drift and shape, is touched."""
    place.write("quality: {row_count_min: 4000}")
    place.run()
    good = (place.desk.out / "manifest.json").read_bytes()
    place.sql("DELETE FROM t WHERE id > 10; ALTER TABLE t ADD COLUMN extra int")
    place.run(code=3)
    assert (place.desk.out / "manifest.json").read_bytes() == good
    place.desk.cli("validate", "--depth", "light", code=None)
    assert len(list(place.desk.out.glob("*/_SUCCESS"))) == 1
    place.write("quality: {row_count_min: 1}")
    (export,) = place.run("--new")["exports"]
    assert any("column extra (integer) is new" in line for line in export["findings"])
    assert any("RIVET_SHAPE_ROWS" in line for line in export["findings"])


def test_a_worker_killed_in_the_middle_counts_nothing_twice(place: Place) -> None:
    """Q1: attempts that were killed, reaped and repeated leave the verdict exact."""
    place.sql("UPDATE t SET email = 'm1' WHERE id = 3999")
    place.write(
        "quality:",
        "  row_count_min: 4000",
        "  row_count_max: 4000",
        "  null_ratio_max: {email: 0.25}",
        "  unique_columns: [id, email]",
    )
    first, second = place.desk.folder / "first", place.desk.folder / "second"
    place.desk.environment["RIVET_FLEET_TEST_KILL"] = (
        f"part.staged:kill:2:{first};chunk.committed:kill:2:{second}"
    )
    done = place.desk.cli("run", "--workers", "2", "--json", code=3)
    assert first.exists()
    assert second.exists()
    assert done.json["happened"]["workers_died"] == 2
    (export,) = done.json["exports"]
    assert "1 of 3,000 keys (email) are duplicates" in export["error"]
    assert "ROW_COUNT" not in export["error"]
    assert "NULL_RATIO" not in export["error"]
    # What a scheduler decides by stands in the same document.
    ended = done.json
    assert (ended["code"], ended["kind"], ended["retryable"], ended["exit_code"]) == (
        *("RIVET_QUALITY_UNIQUE", "integrity"),
        *(False, 3),
    )
    assert "were not delivered" in ended["message"] and "rivet-fleet status" in ended["hint"]
    (one,) = ended["failures"]
    assert (one["export_name"], one["code"]) == (export["export_name"], "RIVET_QUALITY_UNIQUE")
    assert "duplicates" in one["message"]


def test_above_the_cap_the_verdict_is_unknown_and_the_policy_decides(place: Place) -> None:
    """Q4."""
    few = ("quality:", "  unique_columns: [number]", "  unique_max_entries: 1000")
    place.sql(
        "ALTER TABLE t ALTER COLUMN number TYPE bigint; UPDATE t SET number = 100000 - id * 3"
    )
    place.write(*few)
    (export,) = place.run(code=3)["exports"]
    assert "is unknown: unique_max_entries" in export["error"]
    place.write(*few, "  on_unknown: warn")
    (export,) = place.run("--new")["exports"]
    assert export["status"] == "completed"
    assert any(line.startswith("quality   unknown:") for line in export["findings"])
    place.write(*few[:2])
    (export,) = place.run()["exports"]
    assert "quality   1 gate passed" in export["findings"]


ALTER = "ALTER TABLE t ADD COLUMN extra int; ALTER TABLE t ALTER COLUMN number TYPE bigint"


def beside_the_proof(export: dict[str, Any]) -> list[str]:
    return [line for line in export["findings"] if not line.startswith("proof ")]


@pytest.mark.parametrize("policy", ["warn", "continue", "fail"])
def test_columns_that_differ_from_the_last_run_are_told_before_the_first_row(
    place: Place, policy: str
) -> None:
    """Q5."""
    place.write(f"on_schema_drift: {policy}")
    (first,) = place.run()["exports"]
    assert beside_the_proof(first) == []
    place.sql(ALTER)
    if policy == "fail":
        refused = place.desk.refused(
            "run", code=4, named="column extra (integer) is new", hint="on_schema_drift: warn"
        )
        assert "column number was integer and is bigint" in refused["error"]
        assert refused["code"] == "RIVET_SCHEMA_DRIFT"
        assert "SchemaDrift" not in place.desk.cli("status").out
        (looked,) = place.desk.cli("check", "--json", code=4).json["exports"]
        assert "column extra (integer) is new" in looked["refused"][0]
        found = place.desk.cli("doctor", "--json", code=1).json["findings"]
        assert "RIVET_SCHEMA_DRIFT" in [one["detail_code"] for one in found]
        return
    (second,) = place.run()["exports"]
    assert beside_the_proof(second) == [
        "schema    column extra (integer) is new [RIVET_SCHEMA_COLUMN_ADDED]",
        "schema    column number was integer and is bigint [RIVET_SCHEMA_COLUMN_RETYPED]",
    ]
    codes = [entry["data"]["code"] for entry in place.events("schema.changed")]
    assert codes == ["RIVET_SCHEMA_COLUMN_ADDED", "RIVET_SCHEMA_COLUMN_RETYPED"]
    planned = place.events("export.planned")
    summaries = [json.loads(p.read_text()) for p in place.desk.out.glob("_reports/*/summary.json")]
    (told,) = [s["plan_warnings"] for s in summaries if s["schema_changes"]]
    assert bool([w for w in told if "extra" in w]) is (policy == "warn"), planned
    (third,) = place.run()["exports"]
    assert beside_the_proof(third) == [], "the completed run is the new baseline"


def test_a_former_runs_hashes_do_not_pile_up(place: Place) -> None:
    place.write(*HOLD)
    for _ in range(2):
        place.run()
    runs = run_sqlite(place.desk.state, "SELECT DISTINCT run_id FROM part_unique")
    assert len(runs) == 1


def test_changed_values_are_told_by_status_and_report(place: Place) -> None:
    place.sql("ALTER TABLE t ADD COLUMN until date DEFAULT 'infinity'")
    place.write("on_unrepresentable: coerce")
    (export,) = place.run()["exports"]
    assert export["changed_values"] == 4000
    told = "4,000 values by on_unrepresentable: coerce"
    assert told in place.desk.cli("status").out
    (status,) = place.desk.cli("status", "--json").json["exports"]
    assert status["changed_values"] == 4000
    summary = json.loads(next(place.desk.out.glob("_reports/*/summary.json")).read_text())
    assert summary["changed"] == {"until": 4000}
