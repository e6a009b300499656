"""By how much a source's own counters rose during each run, for people and programs. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rivet_fleet.contracts.harm import HARM_CAVEAT, HarmReading, RunHarm
from rivet_fleet.contracts.keys import RunId
from rivet_fleet.observability.redaction import Redactor, one_line


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedRun:
    """``risen`` is None until the run has ended, and when the server counted anew meanwhile."""

    run_id: str
    export_name: str
    source: str
    risen: dict[str, int] | None
    before: HarmReading
    after: HarmReading | None
    caveat: str = HARM_CAVEAT


def counted_runs(harms: Sequence[RunHarm], names: Mapping[RunId, str]) -> tuple[CountedRun, ...]:
    """Those of the runs that ``names`` gives an export's name."""
    return tuple(
        CountedRun(
            run_id=one.run_id,
            export_name=names[one.run_id],
            source=one.source,
            risen=one.risen,
            before=one.before,
            after=one.after,
        )
        for one in harms
        if one.run_id in names
    )


def harm_lines(counted: Sequence[CountedRun], redactor: Redactor) -> list[str]:
    """For a terminal; nothing where nothing is known."""
    lines = []
    for one in counted:
        if one.risen is None:
            continue
        said = ", ".join(f"{name} +{value:,}" for name, value in one.risen.items() if value)
        export = one_line(one.export_name, redactor, 40)
        lines.append(f"  {export} on {one_line(one.source, redactor, 40)}: {said or 'nothing'}")
    return [f"the source during each run ({HARM_CAVEAT}):", *lines] if lines else []
