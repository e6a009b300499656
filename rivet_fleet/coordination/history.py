"""What a state database knows of former runs, for who decides about the next one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from rivet_fleet.contracts.plan import ExportPlan
from rivet_fleet.contracts.state import MeasuredRun
from rivet_fleet.contracts.window import StoredMark
from rivet_fleet.coordination.fleet import Patience, refuse_other_owner
from rivet_fleet.coordination.wiring import ProcessOptions, state_of
from rivet_fleet.errors import RivetFleetError, StateRefused, StateTampered
from rivet_fleet.persistence.migrate import SCHEMA_NONE, SCHEMA_OLD
from rivet_fleet.persistence.open import open_store, store_exists
from rivet_fleet.persistence.rivet import RivetCursor, cursors_of_file, is_rivets_file
from rivet_fleet.persistence.store import Store
from rivet_fleet.planning.config.connections import FORMER_STATE_FILE, beside, seal_key
from rivet_fleet.planning.config.loaded import LoadedConfig

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a state database knows of former runs; nothing without a store."""

    campaign_name: str = ""
    store: Store | None = None
    patience: Patience | None = None
    """How to wait for a state that is away; None: not at all."""
    rivets: Path | None = None
    """Where Rivet's own state would lie; None is not looked at."""

    def elsewhere(self) -> Mapping[str, RivetCursor]:
        """How far Rivet has read exports of this folder, by name; nothing where it never ran, or
        where that cannot be told."""
        if self.rivets is None or not is_rivets_file(self.rivets):
            return {}
        with contextlib.suppress(StateRefused):
            return {one.export_name: one for one in cursors_of_file(self.rivets)}
        return {}

    def marks(self, names: Sequence[str]) -> Mapping[str, StoredMark]:
        """The stored high-water marks, by export."""
        return self._asked("read the marks", lambda s: s.marks(self.campaign_name, names)) or {}

    def history(self, names: Sequence[str]) -> Mapping[str, Sequence[MeasuredRun]]:
        """What former runs took, newest first, by export."""
        return self._asked("read the history", lambda s: s.history(self.campaign_name, names)) or {}

    def last_plans(self, names: Sequence[str]) -> Mapping[str, ExportPlan]:
        """The plans of the last completed runs, by the names of runs: a partition has its own."""
        asked = self._asked(
            "read the last plans", lambda s: s.last_plans(self.campaign_name, names)
        )
        return asked or {}

    def close(self) -> None:
        """Give the store back."""
        if self.store is not None:
            self.store.close()

    def _asked(self, what: str, question: Callable[[Store], T]) -> T | None:
        store = self.store
        if store is None:
            return None
        if self.patience is None:
            return question(store)
        return self.patience.call(what, lambda: question(store))


def remember(loaded: LoadedConfig, options: ProcessOptions) -> Memory:
    """Open the state database without creating or changing it; closing is the caller's. Raises
    StateUnavailable, and StateRefused for one of another version, or where campaigns of this name
    belong to another configuration."""
    url = options.state_url or state_of(loaded)
    nothing = Memory(rivets=rivets_file(loaded))
    if not store_exists(url):
        return nothing
    store = open_store(url, namespace=options.namespace, pool_size=1, seal_key=seal_key(loaded))
    with contextlib.ExitStack() as opened:
        opened.callback(store.close)
        try:
            store.check_version()
        except StateRefused as refused:
            # An older schema holds marks: a plan without them would read everything anew.
            if refused.code != SCHEMA_NONE:
                raise
            return nothing  # no campaign of this program ever ran there
        refuse_other_owner(store, loaded)
        opened.pop_all()
    return replace(nothing, campaign_name=loaded.campaign_name, store=store)


def rivets_file(loaded: LoadedConfig) -> Path:
    """Where Rivet keeps its state of a configuration, when nothing else is said."""
    return beside(loaded, FORMER_STATE_FILE)


def recollect(
    loaded: LoadedConfig, options: ProcessOptions
) -> tuple[Memory, RivetFleetError | None]:
    """``remember`` for who goes on without: nothing and the reason where it cannot be read."""
    try:
        return remember(loaded, options), None
    except RivetFleetError as error:
        return Memory(), error


def refuses_runs(error: RivetFleetError) -> bool:
    """True for what of a state keeps every run from beginning. An older state is brought to this
    version by a run, and one that is away is waited for."""
    return isinstance(error, StateRefused | StateTampered) and error.code != SCHEMA_OLD
