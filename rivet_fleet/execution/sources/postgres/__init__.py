"""PostgreSQL as a source: the folder's whole public face."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from rivet_fleet.contracts.url import CAREFUL, DatabaseUrl, Login
from rivet_fleet.execution.sources.postgres.dialect import DEFAULT_PORT, ENGINE_NAMES

if TYPE_CHECKING:
    from rivet_fleet.execution.parameters import Writing
    from rivet_fleet.execution.signals import SignalSpec
    from rivet_fleet.execution.sources.postgres.signals import PostgresSignals
    from rivet_fleet.execution.sources.postgres.source import PostgresSource

__all__ = [
    "DEFAULT_PORT",
    "ENGINE_NAMES",
    "decoder_compiled",
    "open_signals",
    "open_source",
    "signal_specs",
    "writing",
]


def open_source(
    url: DatabaseUrl,
    *,
    tls_mode: str | None = None,
    tls_ca_file: str | None = None,
    application_name: str,
    login: Login = CAREFUL,
    max_value_bytes: int | None = None,
) -> PostgresSource:
    """See ``source.open_source``. Imported when called: the driver costs memory and time in
    every process that only asks which engines there are."""
    from rivet_fleet.execution.sources.postgres import source

    return source.open_source(
        url,
        tls_mode=tls_mode,
        tls_ca_file=tls_ca_file,
        application_name=application_name,
        login=login,
        max_value_bytes=max_value_bytes,
    )


def decoder_compiled() -> bool:
    """True when the compiled decoder is installed; else the plain reference decoder reads."""
    try:
        importlib.import_module(f"{__name__}.copyrows")
    except ImportError:
        return False
    return True


def open_signals(
    url: DatabaseUrl,
    *,
    tls_mode: str | None = None,
    tls_ca_file: str | None = None,
    application_name: str,
    login: Login = CAREFUL,
) -> PostgresSignals:
    """A connection that reads signals, opened lazily. Imported when called, as the source is."""
    from rivet_fleet.execution.sources.postgres import signals

    return signals.open_signals(
        url,
        tls_mode=tls_mode,
        tls_ca_file=tls_ca_file,
        application_name=application_name,
        login=login,
    )


def signal_specs() -> dict[str, SignalSpec]:
    """What this engine's servers can tell about the pressure on them."""
    from rivet_fleet.execution.sources.postgres import signals

    return signals.SIGNALS


def writing() -> Writing:
    """How this engine's SQL is read, and how a value is written in it."""
    from rivet_fleet.execution.sources.postgres import dialect

    return dialect.WRITING
