"""What chaos needs once: a place, a server, frozen tables, state templates, an oracle."""

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
from chaos.source_data import TABLES, SourceTable, build
from rivet_fleet.demo.embedded import EmbeddedPostgres, embedded_postgres
from rivet_fleet.persistence.open import open_store

STATES = ("sqlite", "postgres")
_MEMORY_BYTES_MIN = 4 * 1024**3


@dataclass(slots=True, kw_only=True)
class Arena:
    """One PostgreSQL holds the frozen source and, one database each, the states.

    ``state_server``: where PostgreSQL states live; the source's own server by default.
    """

    root: Path
    source_server: EmbeddedPostgres
    state_server: EmbeddedPostgres
    oracle: OracleProcess
    source_url: str
    digests: dict[str, Path]
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def campaign(
        self,
        state: str,
        *,
        tables: Sequence[SourceTable],
        shape: Shape | None = None,
        replay: str = "",
    ) -> Iterator[Campaign]:
        """A fresh campaign with a fresh state. What fails carries the logs of every process."""
        with self._lock:
            name = f"c{next(self._numbers)}"
            state_url = self._new_state(state, name)
        campaign = Campaign(
            folder=self.root / name,
            source_url=self.source_url,
            state_url=state_url,
            tables=tables,
            digests=self.digests,
            oracle=self.oracle,
            shape=shape or Shape(),
            replay=replay,
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
        known = self.state_server.psql("SELECT 1 FROM pg_database WHERE datname = 'state_template'")
        if not known:
            _migrate(self.state_server.create_database("state_template"))
        self.state_server.psql(f'CREATE DATABASE "{name}" TEMPLATE state_template')
        return self.state_server.url(name)


def _migrate(url: str) -> None:
    store = open_store(url)
    store.migrate()
    store.close()


@contextlib.contextmanager
def arena(
    *,
    rows: int,
    tables: Sequence[SourceTable] = TABLES,
    own_state_server: bool = False,
) -> Iterator[Arena]:
    """Everything set up, and everything gone afterwards. Raises EmbeddedPostgresMissing.

    ``own_state_server``: a server that can be restarted without taking the source with it.
    """
    root = Path(tempfile.mkdtemp(prefix="rivet-fleet-chaos-", dir=_fast_folder()))
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(shutil.rmtree, root, ignore_errors=True)
        source = cleanup.enter_context(embedded_postgres(settings={"fsync": "off"}))
        state = source
        if own_state_server:
            # Crash-restarted without mercy: this one has to keep what it promised.
            state = cleanup.enter_context(embedded_postgres())
        url = source.create_database("frozen")
        digests = build(url, root / "digests", rows=rows, tables=tables)
        oracle = OracleProcess()
        cleanup.callback(oracle.close)
        yield Arena(
            root=root,
            source_server=source,
            state_server=state,
            oracle=oracle,
            source_url=url,
            digests=digests,
        )


def _fast_folder() -> str | None:
    """Memory, when there is plenty: kills lose no page cache, so the disk proves nothing here."""
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK):
        free = os.statvfs(memory)
        if free.f_bavail * free.f_frsize > _MEMORY_BYTES_MIN:
            return str(memory)
    return None
