from __future__ import annotations

import pytest

from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.errors import RetryClass, SourceRefused, SourceUnavailable
from rivet_fleet.execution.extract import open_patiently
from rivet_fleet.execution.servo import Allowance

TUNING = TuningPlan(max_retries=3, retry_backoff_ms=1000)


class Pacer:
    def __init__(self) -> None:
        self.waits: list[float] = []
        self.told: list[int] = []

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)

    def allowance(self) -> Allowance:
        return Allowance()

    def retry_in_s(self, wait_s: float, lost_bytes: int, answer_bytes: int = 0) -> float:
        return wait_s

    def retried(self, error, attempt: int, wait_s: float) -> None:
        self.told.append(attempt)


def opener(*outcomes):
    left = list(outcomes)

    def open_chunk():
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return open_chunk


def away() -> SourceUnavailable:
    return SourceUnavailable("away", retry=RetryClass.RECONNECT)


def test_a_source_that_comes_back_costs_only_waits() -> None:
    pacer = Pacer()
    reader = object()
    opened = open_patiently(
        opener(away(), away(), reader), tuning=TUNING, pacer=pacer, jitter=lambda: 0.0
    )
    assert opened is reader
    assert pacer.told == [1, 2] and pacer.waits == [1.0, 2.0]


def test_the_budget_ends() -> None:
    pacer = Pacer()
    with pytest.raises(SourceUnavailable):
        open_patiently(opener(*[away()] * 4), tuning=TUNING, pacer=pacer)
    assert len(pacer.waits) == 3


def test_a_refusal_is_not_repeated() -> None:
    pacer = Pacer()
    refused = SourceRefused("no", retry=RetryClass.PERMANENT)
    with pytest.raises(SourceRefused):
        open_patiently(opener(refused), tuning=TUNING, pacer=pacer)
    assert not pacer.waits
