"""What a folder of ``sources/`` is to everybody else: one value, its face.

By convention the folder has ``session.Session``, ``source.QUESTIONS``, ``signals.Signals`` and the
two modules that its ``Engine`` names. They are imported when they are asked for: a driver costs
memory and time in every process that only asks which engines there are.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rivet_fleet.contracts.url import CAREFUL, DatabaseUrl, Login

if TYPE_CHECKING:
    from rivet_fleet.execution.parameters import Writing
    from rivet_fleet.execution.signals import SignalSpec, SourceSignals
    from rivet_fleet.execution.source import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One kind of source. ``names`` are the schemes of its URLs, ``default_port`` is where its
    servers listen when a URL names no port."""

    folder: str
    """The package: ``__name__`` of its face."""
    names: tuple[str, ...]
    default_port: int
    decoder: str
    """The module of the compiled decoder, which need not be installed."""
    statements: str
    """The module that has ``WRITING``."""
    import_driver: Callable[[], None] | None = None
    """Where importing the driver needs care."""

    def open_source(
        self,
        url: DatabaseUrl,
        *,
        tls_mode: str | None = None,
        tls_ca_file: str | None = None,
        application_name: str,
        login: Login = CAREFUL,
        max_value_bytes: int | None = None,
    ) -> Source:
        """A source for ``url``; connects at first use. Of the URL's options those are honoured
        that the engine's reference lists.

        ``max_value_bytes`` lowers the limit of the tuning, never raises it. Raises ConfigError for
        an unknown ``tls_mode`` or option.
        """
        session = self._module("session").Session(
            url,
            tls_mode=tls_mode,
            tls_ca_file=tls_ca_file,
            application_name=application_name,
            login=login,
        )
        from rivet_fleet.execution.engines.source import EngineSource

        questions = self._module("source").QUESTIONS
        return EngineSource(session, questions, max_value_bytes=max_value_bytes)

    def open_signals(
        self,
        url: DatabaseUrl,
        *,
        tls_mode: str | None = None,
        tls_ca_file: str | None = None,
        application_name: str,
        login: Login = CAREFUL,
    ) -> SourceSignals:
        """A monitoring connection of its own; connects at first use. Raises as ``open_source``."""
        from rivet_fleet.execution.signals import ANSWER_BYTES_MAX

        session = self._module("session").Session(
            url,
            tls_mode=tls_mode,
            tls_ca_file=tls_ca_file,
            application_name=application_name,
            login=login,
            answer_bytes_max=ANSWER_BYTES_MAX,
        )
        signals: SourceSignals = self._module("signals").Signals(session)
        return signals

    def signal_specs(self) -> dict[str, SignalSpec]:
        """What this engine's servers can tell about the pressure on them."""
        specs: dict[str, SignalSpec] = self._module("signals").Signals.specs
        return dict(specs)

    def decoder_compiled(self) -> bool:
        """True when the compiled decoder is installed; else the plain reference decoder reads."""
        try:
            self._module(self.decoder)
        except ImportError:
            return False
        return True

    def writing(self) -> Writing:
        """How this engine's SQL is read, and how a value is written in it."""
        writing: Writing = self._module(self.statements).WRITING
        return writing

    def import_reading(self) -> None:
        """What whoever reads a chunk imports, as far as it is installed."""
        for name in ("session", "source", self.decoder):
            with contextlib.suppress(ImportError):
                self._module(name)

    def _module(self, name: str) -> Any:
        if self.import_driver is not None:
            self.import_driver()
        return importlib.import_module(f"{self.folder}.{name}")
