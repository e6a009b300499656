"""Plug-ins are found by their folders and named constants."""

import pytest

from rivet_fleet.contracts.destination import DestinationConnection
from rivet_fleet.contracts.plan import FormatPlan
from rivet_fleet.errors import ConfigError
from rivet_fleet.execution import registry


def test_what_is_offered():
    assert {"csv", "parquet"} <= set(registry.format_names())
    assert "local" in registry.destination_kinds()
    assert "memory" not in registry.destination_kinds()


def test_every_engine_has_a_port():
    assert set(registry.default_ports()) == set(registry.engine_names())


def test_an_unknown_name_is_refused_with_what_there_is():
    with pytest.raises(ConfigError, match="'avro'") as raised:
        registry.open_format(FormatPlan(format="avro"))
    assert "parquet" in raised.value.hint
    with pytest.raises(ConfigError, match="'tape'") as raised:
        registry.open_destination(DestinationConnection(kind="tape", prefix="x"))
    assert "memory" not in raised.value.hint
