"""The judgement ``check`` gives: the verdict, every number behind it, and who says it. Pure.

Metadata is a signal, not truth: a number always comes with its origin, and what a former run
counted goes before what a catalogue guesses (inventory §5.6, §5.7).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rivet_fleet.contracts.facts import KeyFacts, SourceFacts
from rivet_fleet.contracts.keys import RangeKind
from rivet_fleet.contracts.listing import ServerFacts
from rivet_fleet.contracts.plan import PlannedRun
from rivet_fleet.contracts.priority import Preflight, PreflightWarning, Recommendation, Severity
from rivet_fleet.contracts.state import MeasuredRun
from rivet_fleet.contracts.typereport import Evidence, Judgement, Origin
from rivet_fleet.planning.config_models import CHUNK_SIZE_DEFAULT, ExportConfig
from rivet_fleet.planning.sizes import MIB
from rivet_fleet.planning.verdicts import peak_mb

CONNECTIONS_SPARE = 3
HEAVY_CHUNK_BYTES = 512 * MIB
_MEASURED = "measured"
_BY_KEY = (RangeKind.KEYSET, RangeKind.SPAN)
_ROUGH = {
    "size": Origin.SIZE,
    "explain": Origin.EXPLAIN,
    "sample": Origin.SAMPLE,
    "statistics": Origin.STATISTICS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Everything that is known of one export. ``server`` is None when it could not be asked;
    ``history`` is newest first; ``readers``: how many of its chunks may be read at once."""

    export: ExportConfig
    facts: SourceFacts
    run: PlannedRun
    server: ServerFacts | None
    history: Sequence[MeasuredRun]
    readers: int


def judge(
    seen: Seen, preflight: Preflight, recommendation: Recommendation, *, profile: str
) -> Judgement:
    """The verdict with its warnings, most severe first, and its evidence."""
    order = (Severity.HIGH, Severity.MEDIUM, Severity.LOW)
    warnings = sorted(
        (*preflight.warnings, *_warnings(seen)), key=lambda one: order.index(one.severity)
    )
    return Judgement(
        preflight=replace(preflight, warnings=tuple(warnings)),
        profile=profile,
        confidence=recommendation.confidence,
        caveats=recommendation.caveats,
        evidence=tuple(_evidence(seen, preflight)),
    )


# ---------------------------------------------------------------- evidence


def _evidence(seen: Seen, preflight: Preflight) -> Iterator[Evidence]:
    yield from _rows(seen, preflight)
    facts = seen.facts
    if facts.row_width_bytes is not None:
        yield Evidence(
            what="row_width_bytes", value=facts.row_width_bytes, origin=_origin_of_rows(facts)
        )
        yield Evidence(
            what="peak_memory_mb",
            value=round(peak_mb(seen.readers, facts.row_width_bytes)),
            origin=Origin.MODEL,
            note=f"16 MB and a share for each of {seen.readers} reader(s)",
        )
    yield from _key(seen)
    server = seen.server
    if server is not None and server.connections_max is not None:
        yield Evidence(what="connections_max", value=server.connections_max, origin=Origin.SERVER)
    if server is not None and server.connections_used is not None:
        yield Evidence(what="connections_used", value=server.connections_used, origin=Origin.SERVER)
    yield from _work(seen.history)


def _rows(seen: Seen, preflight: Preflight) -> Iterator[Evidence]:
    facts = seen.facts
    measured = preflight.rows_from.startswith(_MEASURED)
    if facts.row_estimate is not None:
        yield Evidence(
            what="rows",
            value=facts.row_estimate,
            origin=_origin_of_rows(facts),
            used=not measured,
        )
    success = next((run for run in seen.history if run.succeeded), None)
    if success is not None:
        note = f"run {success.run_id}"
        if measured:
            note += f", {preflight.rows_from}"
        yield Evidence(
            what="rows", value=success.rows, origin=Origin.MEASURED, used=measured, note=note
        )


def _origin_of_rows(facts: SourceFacts) -> Origin:
    return _ROUGH.get(facts.row_estimate_provenance, Origin.EXPLAIN)


def _key(seen: Seen) -> Iterator[Evidence]:
    key = key_of(seen)
    if key is None:
        return
    name = ", ".join(key.columns)
    if key.minimum is not None and key.maximum is not None:
        extremes = f"{', '.join(key.minimum)} … {', '.join(key.maximum)}"
        yield Evidence(what=f"extremes of {name}", value=extremes, origin=Origin.INDEX)
    density = _density(seen, key)
    if density is not None:
        yield Evidence(
            what=f"rows per value of {name}", value=round(density, 4), origin=Origin.MODEL
        )
    if key.probed is not None:
        yield Evidence(
            what=f"rows counted among {key.probed.keys:,} values of {name}",
            value=key.probed.rows,
            origin=Origin.SAMPLE,
        )
    if key.boundaries:
        sampled = key.provenance != "histogram"
        yield Evidence(
            what=f"boundaries of {name}",
            value=len(key.boundaries),
            origin=Origin.SAMPLE if sampled else Origin.STATISTICS,
        )


def key_of(seen: Seen) -> KeyFacts | None:
    """The key the export is read by, with what is known of it."""
    columns = next(
        (c.chunk_range.columns for c in seen.run.chunks if c.chunk_range.kind in _BY_KEY), ()
    )
    return next((key for key in seen.facts.keys if columns and key.columns == columns), None)


def _density(seen: Seen, key: KeyFacts) -> float | None:
    rows = seen.facts.row_estimate
    if rows is None or key.minimum is None or key.maximum is None or len(key.columns) != 1:
        return None
    try:
        span = int(key.maximum[0]) - int(key.minimum[0]) + 1
    except ValueError:
        return None
    return rows / span if span > 0 else None


def _work(history: Sequence[MeasuredRun]) -> Iterator[Evidence]:
    last = next((run for run in history if run.succeeded and run.work_s is not None), None)
    if last is None or last.work_s is None:
        return
    yield Evidence(
        what="work_s", value=round(last.work_s, 3), origin=Origin.MEASURED, note="of one worker"
    )


# ---------------------------------------------------------------- warnings


def _warnings(seen: Seen) -> Iterator[PreflightWarning]:
    yield from _connection_warnings(seen)
    yield from _estimate_warnings(seen)
    width = seen.facts.row_width_bytes or 0
    chunk_bytes = (seen.export.chunk_size or CHUNK_SIZE_DEFAULT) * width
    chunked = seen.export.mode == "chunked" and seen.export.chunk_count is None
    if chunked and chunk_bytes >= HEAVY_CHUNK_BYTES and seen.export.chunk_size_memory_mb is None:
        yield _warning(
            "heavy_chunk",
            Severity.MEDIUM,
            f"chunk_size makes chunks of about {chunk_bytes // MIB:,} MiB (row width by the "
            f"source's {_origin_of_rows(seen.facts).value}); chunk_size_memory_mb bounds them",
        )


def _connection_warnings(seen: Seen) -> Iterator[PreflightWarning]:
    most = seen.server.connections_max if seen.server else None
    used = seen.server.connections_used if seen.server else None
    if most is None:
        if seen.readers > 1:
            yield _warning(
                "connection_limit",
                Severity.HIGH,
                f"{seen.readers} readers, and the source's limit of connections is not known",
            )
    elif seen.readers >= most:
        yield _warning(
            "connection_limit",
            Severity.HIGH,
            f"{seen.readers} readers reach the source's limit of {most} connections (its own "
            f"setting); use at most {max(most - CONNECTIONS_SPARE, 1)}",
        )
    elif used is not None and seen.readers > most - used:
        yield _warning(
            "connections_busy",
            Severity.MEDIUM,
            f"{seen.readers} readers, but {used} of {most} connections are in use now (asked of "
            "the server)",
        )


def _estimate_warnings(seen: Seen) -> Iterator[PreflightWarning]:
    facts, key = seen.facts, key_of(seen)
    if facts.row_estimate == 0 and key is not None and key.minimum is not None:
        yield _warning(
            "zero_estimate",
            Severity.MEDIUM,
            f"the source's {_origin_of_rows(facts).value} say 0 rows, but its index holds values: "
            "let it collect statistics",
        )
    if facts.relation is not None and facts.row_estimate_provenance == "size":
        yield _warning(
            "unanalysed",
            Severity.LOW,
            "the table was never analysed: its rows are reckoned from its size; let the source "
            "collect statistics",
        )


def _warning(code: str, severity: Severity, message: str) -> PreflightWarning:
    return PreflightWarning(code=code, severity=severity, message=message)
