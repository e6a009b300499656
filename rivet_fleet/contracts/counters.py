"""What the source's own counters said before a run and after it: evidence, not a verdict.

The counters are the server's or the database's: they hold everybody's work, ours among it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rivet_fleet.contracts.keys import RunId

COUNTERS_CAVEAT = "counted by the server for everybody who was at work meanwhile, not for us alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterReading:
    """One look. ``counters`` only rise until the server forgets them; ``context`` is what the
    server was like: its version and the limits it sets to sessions."""

    engine: str
    taken_at_s: float
    counters: dict[str, int] = field(default_factory=dict)
    context: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCounters:
    """The looks at the source of one run; ``after`` is None until the run has ended."""

    run_id: RunId
    source: str
    before: CounterReading
    after: CounterReading | None = None

    @property
    def risen(self) -> dict[str, int] | None:
        """By how much each counter rose; None when it is not known: the run has not ended, or
        the server counted anew meanwhile."""
        if self.after is None:
            return None
        known = self.before.counters.keys() & self.after.counters.keys()
        risen = {
            name: self.after.counters[name] - self.before.counters[name] for name in sorted(known)
        }
        return None if not risen or min(risen.values()) < 0 else risen
