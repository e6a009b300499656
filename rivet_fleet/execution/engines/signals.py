"""Signals of a source, as far as they are every engine's: its own numbers, and a user's query."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

from rivet_fleet.errors import SourceRefused
from rivet_fleet.execution.engines.session import EngineSession, verbs_are_answered
from rivet_fleet.execution.signals import SignalSpec, unknown_signal

S = TypeVar("S", bound=EngineSession[Any, Any])


@verbs_are_answered
class EngineSignals(ABC, Generic[S]):
    """``SourceSignals`` over one session."""

    specs: ClassVar[dict[str, SignalSpec]]
    privilege: ClassVar[str]
    """Without it a number reads too low, and the server does not say so: it is asked for once.
    Of a signal that ``needs`` another one, the server refuses the question itself."""
    grant: ClassVar[str]
    """What gives it."""

    def __init__(self, session: S) -> None:
        self._session = session
        self._may: bool | None = None

    def read(self, name: str) -> float:
        """One of ``specs``. Raises SourceRefused where ``privilege`` is missing: without it others'
        work would not be counted; ConfigError for an unknown name."""
        self._session.undoing = False
        spec = self.specs.get(name)
        if spec is None:
            raise unknown_signal(name, self.specs)
        if spec.needs == self.privilege and not self._privileged():
            raise SourceRefused(
                f"{self._session.url.identity}: {name} needs {spec.needs}",
                hint=f"{self.grant} TO {self._session.url.user or 'the user'}",
            )
        return self._number(name)

    def query(self, sql: str) -> float:
        """The one number of a query, read as part of a SELECT of ours. Raises SourceError."""
        self._session.undoing = True
        return self._of_query(sql)

    @property
    def usable(self) -> bool:
        """True when there is a connection, and nothing is known to have ended it."""
        return self._session.usable

    def close(self) -> None:
        """Close the session. Never raises."""
        self._session.close()

    def _privileged(self) -> bool:
        if self._may is None:
            self._may = self._ask_privilege()
        return self._may

    @abstractmethod
    def _number(self, name: str) -> float:
        """The number of a signal of ``specs``. Raises SourceError."""

    @abstractmethod
    def _of_query(self, sql: str) -> float:
        """The one number of a user's query, as part of a SELECT of ours. Raises SourceError."""

    @abstractmethod
    def _ask_privilege(self) -> bool:
        """Whether our user has ``privilege``. Raises SourceError."""
