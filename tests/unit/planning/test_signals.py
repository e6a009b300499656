"""What a monitor asks: kept without what may be a key, and asked by who has the whole alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rivet_fleet.contracts.protection import SignalPlan
from rivet_fleet.errors import ConfigError
from rivet_fleet.planning.config.protection import public_address, whole_question

KEPT = SignalPlan(name="load", kind="http", ask="https://m.example/q?***", private=True)


def configured(**signals: Any) -> Any:
    monitor = SimpleNamespace(signals=signals)
    groups = {"g": SimpleNamespace(monitor=monitor), "quiet": SimpleNamespace(monitor=None)}
    return SimpleNamespace(config=SimpleNamespace(source_groups=groups))


def asks(http: str | None = None, sql: str | None = None) -> Any:
    return SimpleNamespace(http=http, sql=sql)


def test_what_follows_the_question_mark_is_not_kept() -> None:
    assert public_address("https://m.example/q?key=k3y?more") == KEPT.ask
    assert public_address("https://m.example/q") == "https://m.example/q"


def test_a_key_goes_where_the_plan_asks_and_nowhere_else() -> None:
    url = "https://m.example/q?key=k3y"
    assert whole_question(configured(load=asks(url)), "g", KEPT) == url
    for elsewhere in (
        configured(load=asks("https://other.example/q?key=k3y")),
        configured(load=asks("http://m.example/q?key=k3y")),
        configured(load=asks(sql="select 1")),
        configured(other=asks(url)),
    ):
        with pytest.raises(ConfigError, match="does not hold the rest") as refused:
            whole_question(elsewhere, "g", KEPT)
        assert refused.value.code == "RIVET_CONFIG_SIGNAL_UNKNOWN"
        assert "k3y" not in refused.value.message
    for group in ("quiet", "nobody"):
        with pytest.raises(ConfigError):
            whole_question(configured(load=asks(url)), group, KEPT)
