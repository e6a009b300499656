"""The stores under test, each with the same few hooks that make time pass without waiting."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path

from sqlalchemy import text

from rivet_fleet.contracts.keys import RunId, TaskId, WorkerId
from rivet_fleet.contracts.state import WorkerIdentity
from rivet_fleet.persistence.open import open_store
from rivet_fleet.persistence.store import Store
from tests.model.store import MemoryStore
from tests.mutants import apply_mutant, prepare_mutant

MUTANT = os.environ.get("RIVET_FLEET_TEST_MUTANT", "")
_TABLES = (
    *("file_log", "chunk_task", "chunk_run", "source_budget", "source_pace", "campaign", "worker"),
    "source_retry",
    *(
        "run_journal",
        "export_metrics",
        "export_harm",
        "export_state",
        "export_progression",
        "fleet_meta",
    ),
)


def identity(name: str = "w1", *, host_id: str = "host") -> WorkerIdentity:
    return WorkerIdentity(
        worker_id=WorkerId(name), name=name, host_id=host_id, pid=4711, pid_started_at_s=12.5
    )


class Backend(ABC):
    """One store, and the hooks."""

    store: Store
    durable = True

    @abstractmethod
    def wipe(self) -> None: ...

    @abstractmethod
    def expire(self, task_id: TaskId) -> None:
        """The task's lease ran out ten seconds ago, by the database's clock."""

    @abstractmethod
    def expire_finalizer(self, run_id: RunId) -> None: ...

    @abstractmethod
    def make_due(self, task_id: TaskId) -> None:
        """The backoff of a failed task is over."""

    @abstractmethod
    def beside(self, namespace: str) -> Store:
        """The same state, seen from another namespace; close it."""


class MemoryBackend(Backend):
    durable = False

    def __init__(self) -> None:
        self.wipe()

    def wipe(self) -> None:
        self._ticks = 1_700_000_000.0
        self.store = self._memory = MemoryStore(self._clock)

    def _clock(self) -> float:
        self._ticks += 0.001
        return self._ticks

    def expire(self, task_id: TaskId) -> None:
        self._memory._tasks[task_id].lease_expires_at_s = self._ticks - 10

    def expire_finalizer(self, run_id: RunId) -> None:
        self._memory._runs[run_id].finalize_lease_expires_at_s = self._ticks - 10

    def make_due(self, task_id: TaskId) -> None:
        self._memory._tasks[task_id].not_before_s = None

    def beside(self, namespace: str) -> Store:
        return MemoryStore(self._clock, namespace=namespace)


class SqlBackend(Backend):
    def __init__(self, url: str) -> None:
        self.url = url
        apply_mutant(MUTANT)
        store = open_store(url, pool_size=4)
        self.store = self.sql = store
        store.migrate()
        prepare_mutant(MUTANT, self)

    def execute(self, sql: str, **values: object) -> None:
        for name, fragment in self.sql._db.dialect.fragments.items():
            sql = sql.replace(name, fragment.replace("::", r"\:\:"))
        with self.sql._db.migrating() as connection:
            connection.execute(text(sql), values)

    def wipe(self) -> None:
        self.sql._budgeted.clear()
        with self.sql._db.migrating() as connection:
            for table in _TABLES:
                connection.execute(text(f"DELETE FROM {table}"))

    def expire(self, task_id: TaskId) -> None:
        self.execute(
            "UPDATE chunk_task SET lease_expires_at_s = NOW_S - 10 WHERE task_id = :id", id=task_id
        )

    def expire_finalizer(self, run_id: RunId) -> None:
        self.execute(
            "UPDATE chunk_run SET finalize_lease_expires_at_s = NOW_S - 10 WHERE run_id = :id",
            id=run_id,
        )

    def make_due(self, task_id: TaskId) -> None:
        self.execute("UPDATE chunk_task SET not_before_s = NULL WHERE task_id = :id", id=task_id)

    def beside(self, namespace: str) -> Store:
        return open_store(self.url, namespace=namespace)


def sqlite_backend(directory: Path) -> SqlBackend:
    return SqlBackend(f"sqlite:///{directory / 'state.db'}")
