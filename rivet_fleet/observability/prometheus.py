"""Metrics in the Prometheus text format, version 0.0.4 ("Exposition formats" in its manual).

For a textfile collector or a scrape job that runs the command. Labels are the namespace (as
``state_namespace``: a scrape job in Kubernetes brings a ``namespace`` of its own), the campaign's
and the export's names, never ids: a series lives as long as its export. Names and labels may be
added to, never renamed. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rivet_fleet.contracts.codec import to_plain
from rivet_fleet.observability.history import EndedRun
from rivet_fleet.observability.metrics import CampaignMetrics

PREFIX = "rivet_fleet_"
RUN_STATUSES = ("in_progress", "completed", "failed", "cancelled")


@dataclass(slots=True, kw_only=True)
class _Family:
    """One metric: its meaning and its samples."""

    name: str
    meaning: str
    samples: list[tuple[Mapping[str, str], float]] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        if not self.samples:
            return
        yield f"# HELP {PREFIX}{self.name} {self.meaning}"
        yield f"# TYPE {PREFIX}{self.name} gauge"
        for labels, value in self.samples:
            told = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
            yield f"{PREFIX}{self.name}{{{told}}} {value!r}"


def prometheus_text(
    namespace: str, campaign_name: str, now: CampaignMetrics | None, ended: Sequence[EndedRun]
) -> str:
    """The exposition. ``now`` is the active or newest campaign; of ``ended`` the newest run of
    each export counts. Everything is a gauge: a state database can be reset."""
    whose = {"state_namespace": namespace, "campaign": campaign_name}
    families = [*_ended_families(whose, ended)]
    if now is not None:
        families = [*_export_families(whose, now), *_fleet_families(whose, now), *families]
    return "".join(f"{line}\n" for family in families for line in family.lines())


def _export_families(whose: Mapping[str, str], now: CampaignMetrics) -> list[_Family]:
    status = _Family(name="run_status", meaning="1 for the status of the export's current run.")
    chunks = _Family(name="run_chunks", meaning="Chunks of the current run by status.")
    rows = _Family(name="run_rows", meaning="Rows committed in the current run.")
    size = _Family(name="run_bytes", meaning="Bytes of files committed in the current run.")
    changed = _Family(
        name="run_changed_values", meaning="Values a policy changed in the current run."
    )
    age = _Family(
        name="run_age_seconds", meaning="From submission of the current run to its end, or now."
    )
    for export in now.exports:
        labels = {**whose, "export": export.export_name}
        for name in RUN_STATUSES:
            status.samples.append(({**labels, "status": name}, float(export.status == name)))
        for name, count in to_plain(export.chunks).items():
            chunks.samples.append(({**labels, "status": name}, float(count)))
        rows.samples.append((labels, float(export.rows)))
        size.samples.append((labels, float(export.bytes)))
        changed.samples.append((labels, float(export.changed_values)))
        age.samples.append((labels, float(export.age_s)))
    return [status, chunks, rows, size, changed, age]


def _fleet_families(whose: Mapping[str, str], now: CampaignMetrics) -> list[_Family]:
    groups = now.group_running
    allowed = {name: most for name, most in now.group_allowed.items() if most is not None}
    slots = {name: most for name, most in now.group_slots_max.items() if most is not None}
    return [
        _one("workers_alive", "Workers heard from lately.", whose, now.workers_alive),
        _one("workers_busy", "Workers that hold a chunk.", whose, now.workers_busy),
        _one("workers_rss_bytes", "Resident memory of live workers.", whose, now.rss_bytes),
        _Family(
            name="source_group_running_chunks",
            meaning="Chunks of a source group that run now.",
            samples=[({**whose, "group": name}, float(n)) for name, n in groups.items()],
        ),
        _Family(
            name="source_group_slots",
            meaning="Chunks of a source group that may run at once.",
            samples=[({**whose, "group": name}, float(n)) for name, n in slots.items()],
        ),
        _Family(
            name="source_group_permits",
            meaning="Chunks of a source group that the governor lets run now; 0 while it pauses.",
            samples=[({**whose, "group": name}, float(n)) for name, n in allowed.items()],
        ),
        _Family(
            name="source_group_page_share",
            meaning="Size of a source group's pages, as a share of what their targets allow.",
            samples=[({**whose, "group": name}, n) for name, n in now.group_page_share.items()],
        ),
    ]


def _one(name: str, meaning: str, labels: Mapping[str, str], value: float) -> _Family:
    return _Family(name=name, meaning=meaning, samples=[(labels, float(value))])


def _ended_families(whose: Mapping[str, str], ended: Sequence[EndedRun]) -> Iterator[_Family]:
    newest: dict[str, EndedRun] = {}
    for run in ended:
        newest.setdefault(run.export_name, run)
    for name, meaning, value in (
        ("success", "1 when the export's last ended run was delivered, 0 when not.", _success),
        ("timestamp_seconds", "When it ended, seconds since 1970.", lambda r: r.ended_at_s),
        ("rows", "Its rows.", lambda r: r.rows),
        ("bytes", "Bytes of its files.", lambda r: r.bytes),
        ("files", "Its files.", lambda r: r.files),
        ("duration_seconds", "From its submission to its end.", lambda r: r.duration_s),
        ("work_seconds", "What workers spent on its committed attempts.", lambda r: r.work_s),
        ("rows_per_second", "Rows of one worker in a second of work.", lambda r: r.rows_per_s),
        ("attempts", "Attempts at its chunks.", lambda r: r.attempts),
        ("retries", "Attempts beyond the first of each chunk.", lambda r: r.retries),
        (
            "longest_statement_seconds",
            "Its longest statement on the source.",
            lambda r: r.longest_statement_s,
        ),
        ("changed_values", "Values a policy changed.", lambda r: r.changed_values),
    ):
        values = [(export, value(run)) for export, run in newest.items()]
        yield _Family(
            name=f"last_run_{name}",
            meaning=meaning,
            samples=[({**whose, "export": e}, float(v)) for e, v in values if v is not None],
        )


def _success(run: EndedRun) -> float:
    return float(run.status == "success")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
