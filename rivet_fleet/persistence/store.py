"""The seam to the state database: one method is one transaction is one transition.

The methods stand by subject in the modules beside this one; their docstrings are the contract,
which the model of the tests keeps, too. Every method raises StateUnavailable (asking again may
work), StateRefused, or StateTampered where what it reads is not what was sealed; nothing was
changed then. All times are the database's own clock (F3). Events that belong to a transition are
written to the journal inside the same transaction.
"""

from __future__ import annotations

from collections.abc import Callable

from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.seals import Sealer
from rivet_fleet.errors import RivetFleetError
from rivet_fleet.persistence.budgets import Budgets, Governors
from rivet_fleet.persistence.campaigns import Campaigns
from rivet_fleet.persistence.claims import Claims
from rivet_fleet.persistence.commits import Deliveries
from rivet_fleet.persistence.database import Database
from rivet_fleet.persistence.ledger import Ledger, Uniques
from rivet_fleet.persistence.marks import Histories, Marks
from rivet_fleet.persistence.migrate import check_version, migrate, refuse_live
from rivet_fleet.persistence.repairs import Repairs
from rivet_fleet.persistence.reseal import ToSeal, reseal, to_seal
from rivet_fleet.persistence.seals import SealedRun
from rivet_fleet.persistence.views import Counters, Outages, Views


class Store(
    Campaigns,
    Budgets,
    Governors,
    Claims,
    Deliveries,
    Ledger,
    Histories,
    Counters,
    Marks,
    Outages,
    Repairs,
    Uniques,
    Views,
):
    """What the fleet remembers, on SQLite or PostgreSQL. Safe for the threads of one process."""

    def __init__(self, database: Database) -> None:
        """Opens nothing yet: the first call does."""
        self._db = database
        self._budgeted: dict[str, bool] = {}
        self._sealed: dict[str, SealedRun] = {}

    def __repr__(self) -> str:
        return f"Store({self._db.dialect.target})"

    @property
    def namespace(self) -> str:
        """The one it sees and changes: every method is about what is within it, and StateRefused
        for the id of a campaign or run of another (N1). Hosts, schema and clock are shared."""
        return self._db.namespace

    @property
    def shared(self) -> bool:
        """True when other hosts, and so other teams, may use the same database."""
        return not self._db.dialect.one_host

    def on_left_out(self, tell: Callable[[RivetFleetError], None]) -> None:
        """``tell`` is called with each row that what is about many was read without, because it is
        not like anything of ours; outside of any transaction."""
        self._db.on_left_out = tell

    def migrate(self, *, for_all: bool = False) -> None:
        """Bring the schema to this program's version; safe when many start at once. ``for_all``:
        other namespaces' programs, too. Raises StateRefused when the schema is newer than the
        program, and while others live by an older one."""
        migrate(self._db, for_all=for_all)

    def check_version(self) -> None:
        """Raise StateRefused unless the schema is exactly this program's version."""
        check_version(self._db)

    def reseal(self, old_key: bytes | None, *, by: str, shown: str | None = None) -> int:
        """Seal everything of the namespace anew, with the key of this store, where it is sealed
        with the old one now (None: without a key); the number of runs. ``shown``: the fingerprint
        of ``to_seal``, which must be of what is there. Raises StateTampered, and
        StateRefused also while anybody works; then nothing was changed. One transaction, and a
        word in the journal behind it."""
        with self._db.migrating() as connection:
            refuse_live(connection, self._db.dialect, self._db.namespace)
            runs = reseal(
                connection, Sealer(key=old_key), self._db.sealer, self._db.namespace, shown
            )
        self._sealed.clear()
        keyed = f"key {self._db.sealer.key_id}" if self._db.sealer.key else "no key"
        self.write_journal(
            Event(name=EventName.STATE_RESEALED, message=f"by {by}, with {keyed}: {runs} runs")
        )
        return runs

    def to_seal(self) -> ToSeal:
        """What ``reseal`` would seal that has no key's seal yet, by the same reading; nobody waits
        for it. Raises StateTampered, StateRefused."""
        return self._db.read(
            lambda tx: to_seal(tx.connection, Sealer(), self._db.sealer, self._db.namespace)
        )

    def close(self) -> None:
        """Give every connection back. Never raises."""
        self._db.close()
