"""What chaos needs once: a place, servers, frozen tables, state templates, an oracle."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chaos.judge import OracleProcess
from chaos.scenario import Campaign, Shape
from chaos.source_data import ALL, Frozen, SourceServer
from chaos.sources import ENGINES
from chaos.stores import ChaosStore
from rivet_fleet.demo.embedded import EmbeddedPostgres, embedded_postgres
from rivet_fleet.persistence.open import open_store

STATES = ("sqlite", "postgres")
_TEMPLATE = "state_template"
_making_state = threading.Lock()
"""Arenas share a state server, and the migrations' library is no friend of threads."""
_MEMORY_BYTES_MIN = 4 * 1024**3


@dataclass(slots=True, kw_only=True)
class Arena:
    """One server holds the frozen source, one PostgreSQL the states, one database each.

    ``state_server``: None where every state is SQLite.
    """

    root: Path
    engine: str
    source_server: SourceServer
    state_server: EmbeddedPostgres | None
    oracle: OracleProcess
    frozen: Frozen
    store: ChaosStore | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @contextlib.contextmanager
    def campaign(
        self,
        state: str,
        *,
        tables: Sequence[str],
        shape: Shape | None = None,
        replay: str = "",
        source_url: str | None = None,
    ) -> Iterator[Campaign]:
        """A fresh campaign with a fresh state. What fails carries the logs of every process.

        ``source_url``: another way to the same source, such as through a wire that can break.
        """
        with _making_state:
            name = f"c{next(self._numbers)}"
            state_url = self._new_state(state, name)
        campaign = Campaign(
            folder=self.root / name,
            engine=self.engine,
            source_url=source_url or self.frozen.url,
            state_url=state_url,
            tables=[self.frozen.tables[table] for table in tables],
            digests=self.frozen.digests,
            oracle=self.oracle,
            shape=shape or Shape(),
            replay=replay,
            store=self.store,
        )
        try:
            yield campaign
        except Exception as error:
            campaign.close()
            error.add_note(campaign.logs())
            raise
        else:
            campaign.close()
            campaign.remove()
        finally:
            campaign.close()

    def _new_state(self, state: str, name: str) -> str:
        """A migrated, empty state database, copied from a template that is made once."""
        if state == "sqlite":
            template = self.root / "template.db"
            if not template.exists():
                _migrate(f"sqlite:///{template}")
            (self.root / name).mkdir()
            shutil.copyfile(template, self.root / name / "state.db")
            return f"sqlite:///{self.root / name / 'state.db'}"
        server = self.state_server
        assert server is not None, "this arena has SQLite states alone"
        if not server.psql(f"SELECT 1 FROM pg_database WHERE datname = '{_TEMPLATE}'"):
            _migrate(server.create_database(_TEMPLATE))
        database = f"{self.engine}_{name}"
        server.psql(f'CREATE DATABASE "{database}" TEMPLATE {_TEMPLATE}')
        return server.url(database)


def _migrate(url: str) -> None:
    store = open_store(url)
    store.migrate()
    store.close()


@contextlib.contextmanager
def arena(
    engine: str,
    *,
    rows: int,
    tables: Sequence[str] = ALL,
    state_server: EmbeddedPostgres | None = None,
    store: ChaosStore | None = None,
) -> Iterator[Arena]:
    """Everything set up, and everything but ``state_server`` gone afterwards.

    Raises what ``chaos.sources.MISSING`` lists.
    """
    root = Path(tempfile.mkdtemp(prefix="rivet-fleet-chaos-", dir=_fast_folder()))
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(shutil.rmtree, root, ignore_errors=True)
        source = cleanup.enter_context(ENGINES[engine].server())
        frozen = ENGINES[engine].build(source, root / "digests", rows=rows, tables=tables)
        oracle = OracleProcess()
        cleanup.callback(oracle.close)
        yield Arena(
            root=root,
            engine=engine,
            source_server=source,
            state_server=state_server,
            oracle=oracle,
            frozen=frozen,
            store=store,
        )


def merciless_state_server(
    state: str,
) -> contextlib.AbstractContextManager[EmbeddedPostgres | None]:
    """A PostgreSQL that keeps what it promised through any crash; nothing for SQLite."""
    return embedded_postgres() if state == "postgres" else contextlib.nullcontext()


def _fast_folder() -> str | None:
    """Memory, when there is plenty: kills lose no page cache, so the disk proves nothing here."""
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK):
        free = os.statvfs(memory)
        if free.f_bavail * free.f_frsize > _MEMORY_BYTES_MIN:
            return str(memory)
    return None
