"""The source's counters before a run's first chunk and after its end. Best effort, never fatal:
no delivery waits for it, and whatever fails leaves only a gap in the evidence."""

from __future__ import annotations

from rivet_fleet.contracts.keys import RunId
from rivet_fleet.contracts.state import RunView
from rivet_fleet.coordination.fleet import Fleet
from rivet_fleet.errors import SourceError, StateError
from rivet_fleet.execution.source import Source


def look_before(fleet: Fleet, run_id: RunId, source_name: str, source: Source) -> int:
    """Before the first row that this process reads of a run; only the first look of all counts.
    What was received in vain: bytes."""
    try:
        fleet.store.note_harm_before(run_id, source_name, source.read_harm())
    except SourceError as error:
        return error.received_bytes
    except StateError:
        pass
    return 0


def look_after(fleet: Fleet, run: RunView) -> None:
    """After the run ended, over a connection that is closed again unless it was open; not at all
    without a look before."""
    read = run.plan.read
    opened_here = not fleet.holds_source(read.source)
    try:
        looked = fleet.store.harm(run.campaign_id)
        if all(one.run_id != run.run_id for one in looked):
            return
        reading = fleet.source(read.source, read.source_identity).read_harm()
        fleet.store.note_harm_after(run.run_id, reading)
    except (SourceError, StateError):
        opened_here = True
    finally:
        if opened_here:
            fleet.drop_source(read.source)
