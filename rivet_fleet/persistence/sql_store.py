"""The store over SQLAlchemy Core: one class, two dialects, every method one transaction."""

from __future__ import annotations

from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.seals import Sealer
from rivet_fleet.persistence.budgets import Budgets, Governing
from rivet_fleet.persistence.campaigns import Campaigns
from rivet_fleet.persistence.claims import Claims
from rivet_fleet.persistence.database import Database
from rivet_fleet.persistence.finalizing import Accepting, Finalizing
from rivet_fleet.persistence.ledger import Ledger, Uniques
from rivet_fleet.persistence.marks import Histories, Marks
from rivet_fleet.persistence.migrate import check_version, migrate, refuse_live
from rivet_fleet.persistence.seals import SealedRun, reseal
from rivet_fleet.persistence.views import Counters, Outages, Views


class SqlStore(
    Accepting,
    Campaigns,
    Budgets,
    Governing,
    Claims,
    Ledger,
    Finalizing,
    Histories,
    Counters,
    Marks,
    Outages,
    Uniques,
    Views,
):
    """``Store`` on SQLite or PostgreSQL. Safe for the threads of one process."""

    def __init__(self, database: Database) -> None:
        """Opens nothing yet: the first call does."""
        self._db = database
        self._budgeted: dict[str, bool] = {}
        self._sealed: dict[str, SealedRun] = {}

    def __repr__(self) -> str:
        return f"SqlStore({self._db.dialect.target})"

    @property
    def namespace(self) -> str:
        """See ``Store.namespace``."""
        return self._db.namespace

    @property
    def shared(self) -> bool:
        """See ``Store.shared``."""
        return not self._db.dialect.one_host

    def migrate(self, *, for_all: bool = False) -> None:
        """See ``Store.migrate``."""
        migrate(self._db, for_all=for_all)

    def check_version(self) -> None:
        """See ``Store.check_version``."""
        check_version(self._db)

    def reseal(self, old_key: bytes | None, *, by: str) -> int:
        """See ``Store.reseal``. One transaction."""
        with self._db.migrating() as connection:
            refuse_live(connection, self._db.dialect, self._db.namespace)
            runs = reseal(connection, Sealer(key=old_key), self._db.sealer, self._db.namespace)
        self._sealed.clear()
        keyed = f"key {self._db.sealer.key_id}" if self._db.sealer.key else "no key"
        self.write_journal(
            Event(name=EventName.STATE_RESEALED, message=f"by {by}, with {keyed}: {runs} runs")
        )
        return runs

    def close(self) -> None:
        """See ``Store.close``."""
        self._db.close()
