"""The judgement ``check`` gives: the verdict, every number behind it, and who says it. Pure.

Metadata is a signal, not truth: a number always comes with its origin, and what a former run
counted goes before what a catalogue guesses (Rivet: Verdicts).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rivet_fleet.contracts.facts import KeyFacts, ServerFacts, SourceFacts
from rivet_fleet.contracts.keys import RangeKind
from rivet_fleet.contracts.plan import PlannedRun
from rivet_fleet.contracts.priority import (
    Preflight,
    PreflightWarning,
    Recommendation,
    Severity,
    Verdict,
)
from rivet_fleet.contracts.state import MeasuredRun
from rivet_fleet.contracts.typereport import Evidence, Judgement, Origin
from rivet_fleet.planning.config.fields import MIB
from rivet_fleet.planning.config.models import CHUNK_SIZE_DEFAULT, ExportConfig

# ------------------------------------------------------------------------------------------
# What metadata says about reading one export, before it is read. Pure (Rivet: Verdicts).
#
# A verdict and its warnings advise: they never block a run, and never make a weak estimate
# sound like knowledge.

ACCEPTABLE_UNINDEXED_ROWS = 100_000
DEGRADED_ROWS = 1_000_000
EFFICIENT_ROWS_MAX = 10_000_000
CURSOR_DEGRADED_ROWS_MAX = 50_000_000
PEAK_MB_MAX = 2048
SPARSE_DENSITY = 0.1
SPARSE_WINDOWS = 10
CHUNK_BYTES_MAX = 256 * MIB
PARALLEL_MEMORY_ROWS = 5_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What is known of one export's reading.

    ``uses_index``: each statement reads only its own rows; None when nobody knows. ``cursor``:
    the columns it moves along are known. ``key_span``: greatest minus least value of a
    whole-number range, plus one; None for every other way of reading. ``rows_per_chunk`` and
    ``connections_max`` are None when unknown.
    """

    uses_index: bool | None
    cursor: bool
    rows: int | None
    rows_from: str = "estimate"
    row_bytes: int | None = None
    chunked: bool = False
    keyset: bool = False
    parallel: int = 1
    key_span: int | None = None
    rows_per_chunk: int | None = None
    connections_max: int | None = None


def peak_mb(parallel: int, row_bytes: int) -> float:
    """The model of Rivet's resident memory: 16 MB and a clamped share for each reader."""
    return 16 + parallel * min(max(18 + row_bytes * 87 / 4096, 18), 128)


def verdict(access: Access) -> Verdict:
    """One of four. Unknown access counts as no index: weak metadata never strengthens."""
    rows = access.rows
    if access.uses_index:
        if not access.cursor:
            return Verdict.ACCEPTABLE
        # Unknown is no proof of few: only a known number makes it efficient.
        small = rows is not None and rows <= EFFICIENT_ROWS_MAX
        return Verdict.EFFICIENT if small else Verdict.ACCEPTABLE
    if rows is not None and rows < ACCEPTABLE_UNINDEXED_ROWS:
        return Verdict.ACCEPTABLE
    if rows is None or rows <= DEGRADED_ROWS:
        return Verdict.DEGRADED
    if access.cursor and rows <= CURSOR_DEGRADED_ROWS_MAX:
        return Verdict.DEGRADED
    fits = access.row_bytes is not None
    if fits and peak_mb(access.parallel, access.row_bytes or 0) <= PEAK_MB_MAX:
        return Verdict.DEGRADED
    return Verdict.UNSAFE


def recommended_profile(access: Access) -> str:
    """fast, balanced or safe (Rivet: Warnings)."""
    rows = access.rows
    if access.uses_index:
        if rows is None:
            return "balanced"
        return "fast" if rows <= 1_000_000 else "balanced" if rows <= 10_000_000 else "safe"
    if rows is None:
        return "safe"
    if rows <= 100_000:
        return "safe" if access.parallel > 1 else "balanced"
    return "balanced" if rows <= 1_000_000 else "safe"


def recommended_parallel(access: Access) -> int:
    """How many chunks of it at once; only chunked exports can use more than one."""
    rows = access.rows
    if not access.chunked:
        return 1
    if access.keyset:
        return max(access.parallel, 1)
    if rows is not None and rows < 50_000:
        return 1
    if not access.uses_index:
        return 1 if rows is None or rows > 5_000_000 else 2
    if rows is None or rows < 500_000:
        return 2
    return 4


def sparse_range(access: Access) -> bool:
    """True when the span of a whole-number range is mostly empty."""
    rows, span = access.rows, access.key_span
    if rows is None or rows <= 0 or span is None or span <= 0:
        return False
    windows = -(-span // max(access.rows_per_chunk or 1, 1))
    return rows / span < SPARSE_DENSITY and windows > SPARSE_WINDOWS


def preflight(access: Access) -> Preflight:
    """Verdict, recommendations and warnings of one export."""
    return Preflight(
        verdict=verdict(access),
        rows=access.rows,
        rows_from=access.rows_from if access.rows is not None else "none",
        recommended_profile=recommended_profile(access),
        recommended_parallel=recommended_parallel(access),
        warnings=tuple(_access_warnings(access)),
    )


def _access_warnings(access: Access) -> list[PreflightWarning]:
    found: list[PreflightWarning] = []
    limit = access.connections_max
    # Unknown is no warning here: workers and source_groups bound connections, not the export.
    if access.parallel > 1 and limit is not None and access.parallel >= limit:
        said = (
            f"{access.parallel} readers reach the source's limit of {limit} connections; "
            f"use at most {max(limit - 3, 1)}"
        )
        found.append(_warning("connection_limit", Severity.HIGH, said))
    if sparse_range(access):
        assert access.rows is not None and access.key_span is not None
        said = (
            f"sparse key range: about {access.rows:,} rows over {access.key_span:,} values "
            f"({access.rows / access.key_span:.2%}); a unique key would find them directly"
        )
        found.append(_warning("sparse_range", Severity.MEDIUM, said))
    rows_per_chunk = access.rows_per_chunk or 0
    if access.rows is not None:
        rows_per_chunk = min(rows_per_chunk, access.rows)
    chunk_bytes = rows_per_chunk * (access.row_bytes or 0)
    if chunk_bytes > CHUNK_BYTES_MAX:
        wanted = CHUNK_BYTES_MAX // max(access.row_bytes or 1, 1)
        said = (
            f"a chunk holds about {chunk_bytes // MIB:,} MiB, which one failure repeats; "
            f"chunk_size: {wanted} makes it 256 MiB"
        )
        found.append(_warning("oversized_chunk", Severity.MEDIUM, said))
    if access.parallel > 1 and (access.rows or 0) > PARALLEL_MEMORY_ROWS:
        said = (
            f"{access.parallel} readers of about {access.rows:,} rows: about "
            f"{peak_mb(access.parallel, access.row_bytes or 0):.0f} MB of memory together"
        )
        found.append(_warning("parallel_memory", Severity.HIGH, said))
    if access.uses_index is False and (access.rows or 0) >= ACCEPTABLE_UNINDEXED_ROWS:
        said = (
            f"no index serves the way it is read, and there are about {access.rows:,} rows: "
            "each statement searches the table"
        )
        found.append(_warning("missing_index", Severity.MEDIUM, said))
    return found


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
