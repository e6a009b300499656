"""The judgement's evidence and warnings: which number was used, who says it, at every border."""

from __future__ import annotations

import pytest

from rivet_fleet.contracts.facts import ServerFacts
from rivet_fleet.contracts.keys import RunId
from rivet_fleet.contracts.priority import Severity
from rivet_fleet.contracts.state import MeasuredRun
from rivet_fleet.contracts.typereport import Origin
from rivet_fleet.planning.advice import advise
from rivet_fleet.planning.config.connections import source_connection
from rivet_fleet.planning.judging import Seen, judge, peak_mb
from rivet_fleet.planning.planner import plan_campaign
from tests.unit.planning.shapes import PRIMARY, int_key, table

NOW_S = 1_800_000_000.0


def server(most: int | None = 100, used: int | None = 1) -> ServerFacts:
    return ServerFacts(
        engine="e",
        version="1",
        user="u",
        database="d",
        tls=None,
        now_s=NOW_S,
        connections_max=most,
        connections_used=used,
    )


def measured(rows: int, *, days: float = 1, succeeded: bool = True) -> MeasuredRun:
    return MeasuredRun(
        run_id=RunId("r1"),
        run_at_s=NOW_S - days * 86_400,
        succeeded=succeeded,
        rows=rows,
        bytes=1,
        duration_s=2.0,
        work_s=3.0,
        chunks=1,
        retries=0,
    )


@pytest.fixture
def judged(load_exports):
    """A judgement of ``orders`` by facts, history and server."""

    def of(*, history=(), host=None, readers: int = 2, size: int = 1000, **facts):
        config = load_exports(orders=f"table: orders\nmode: chunked\nchunk_size: {size}")
        found = table(
            **{
                "indexes": (PRIMARY,),
                "keys": (int_key("id", 1, 5000, 10_000),),
                "row_estimate": 10_000,
                "row_estimate_provenance": "statistics",
                "row_width_bytes": 100,
                **facts,
            }
        )
        plan = plan_campaign(
            config,
            {"orders": found},
            campaign_id="20260101T000000Z-abcdef",
            connections={"default": source_connection(config, "default")},
        )
        advised = advise(config, {"orders": found}, plan, {"orders": history}, now_s=NOW_S)
        seen = Seen(
            export=config.config.exports[0],
            facts=found,
            run=plan.runs[0],
            server=host,
            history=history,
            readers=readers,
        )
        (recommendation,) = advised.campaign.ordered_exports
        return judge(seen, advised.preflights["orders"], recommendation, profile="balanced")

    return of


def numbers(judgement) -> dict[tuple[str, str], object]:
    return {(one.what, one.origin.value): one for one in judgement.evidence}


def codes(judgement) -> dict[str, Severity]:
    return {one.code: one.severity for one in judgement.preflight.warnings}


def test_every_number_says_who_says_it(judged) -> None:
    found = numbers(judged(host=server()))
    assert found["rows", "statistics"].value == 10_000
    assert found["row_width_bytes", "statistics"].value == 100
    assert found["peak_memory_mb", "model"].value == round(peak_mb(2, 100))
    assert found["extremes of id", "index"].value == "1 … 10000"
    assert found["rows per value of id", "model"].value == 1.0
    assert found["boundaries of id", "statistics"].value == 1
    assert found["connections_max", "server"].value == 100
    assert found["connections_used", "server"].value == 1


def test_what_was_counted_goes_before_what_is_guessed(judged) -> None:
    judgement = judged(history=[measured(12_000)], host=server())
    found = numbers(judgement)
    assert judgement.preflight.rows == 12_000
    assert (found["rows", "measured"].used, found["rows", "statistics"].used) == (True, False)
    assert "measured 1 days ago" in found["rows", "measured"].note
    assert found["work_s", "measured"].value == 3.0


def test_an_old_count_that_the_source_contradicts_is_shown_and_not_used(judged) -> None:
    judgement = judged(history=[measured(30_000, days=15)], host=server())
    found = numbers(judgement)
    assert judgement.preflight.rows == 10_000
    assert (found["rows", "measured"].used, found["rows", "statistics"].used) == (False, True)


def test_a_failed_run_counted_nothing(judged) -> None:
    found = numbers(judged(history=[measured(5, succeeded=False)], host=server()))
    assert ("rows", "measured") not in found


@pytest.mark.parametrize(
    ("host", "readers", "code", "severity"),
    [
        (server(most=2), 2, "connection_limit", Severity.HIGH),
        (server(most=3, used=2), 2, "connections_busy", Severity.MEDIUM),
        (None, 2, "connection_limit", Severity.HIGH),
        (server(most=None), 2, "connection_limit", Severity.HIGH),
    ],
)
def test_connection_warnings(judged, host, readers, code, severity) -> None:
    assert codes(judged(host=host, readers=readers))[code] is severity


@pytest.mark.parametrize(
    ("host", "readers"), [(server(most=3, used=1), 2), (None, 1), (server(used=None), 2)]
)
def test_enough_connections_are_no_warning(judged, host, readers) -> None:
    found = codes(judged(host=host, readers=readers))
    assert not {"connection_limit", "connections_busy"} & set(found)


def test_the_limit_is_told_with_a_number_three_below_it(judged) -> None:
    (warning,) = judged(host=server(most=10), readers=10).preflight.warnings[:1]
    assert "use at most 7" in warning.message


def test_no_rows_although_the_index_holds_values(judged) -> None:
    assert "zero_estimate" in codes(judged(host=server(), row_estimate=0))
    empty = {"row_estimate": 0, "keys": (), "heaps": ()}
    assert "zero_estimate" not in codes(judged(host=server(), **empty))


def test_a_table_that_was_never_analysed(judged) -> None:
    judgement = judged(host=server(), row_estimate_provenance="size")
    assert codes(judgement)["unanalysed"] is Severity.LOW
    assert ("rows", Origin.SIZE.value) in numbers(judgement)


@pytest.mark.parametrize(("width", "heavy"), [(5_368, False), (5_369, True)])
def test_half_a_gigabyte_in_a_chunk_is_heavy(judged, width: int, heavy: bool) -> None:
    found = codes(judged(host=server(), size=100_000, row_width_bytes=width))
    assert ("heavy_chunk" in found) is heavy


def test_warnings_begin_with_the_most_severe(judged) -> None:
    judgement = judged(
        host=server(most=2), row_estimate_provenance="size", size=100_000, row_width_bytes=9_000
    )
    severities = [one.severity for one in judgement.preflight.warnings]
    order = [Severity.HIGH, Severity.MEDIUM, Severity.LOW]
    assert severities == sorted(severities, key=order.index)
    assert set(severities) == set(order)


def test_a_range_of_blocks_has_no_key(judged) -> None:
    judgement = judged(host=server(), indexes=(), keys=())
    assert not any(one.what.startswith("extremes") for one in judgement.evidence)
