"""The results as Markdown, and their place in the documentation. Pure but for two files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.summary import growth_bytes_per_row
from bench.values import ClaimRate, Floor, MemoryPoint, Results, Summary

BEGIN = "<!-- bench: begin -->"
END = "<!-- bench: end -->"
_MB = 1024 * 1024


def render(results: Results) -> str:
    """Everything: machine, one table per source table, memory, claims, floors."""
    sections = [_machine(results.machine)]
    for table in results.tables:
        mine = [s for s in results.summaries if s.table == table["name"]]
        if mine:
            sections.append(_contest(table, mine))
    sections += [_memory(results.memory)] if results.memory else []
    sections += [_claims(results.claims)] if results.claims else []
    sections += [_floors(results.floors)] if results.floors else []
    sections += ["\n".join(f"- {note}" for note in results.notes)] if results.notes else []
    return "\n\n".join(sections) + "\n"


def replace_between_markers(text: str, body: str) -> str:
    """``text`` with everything between the markers replaced. Raises ValueError without them."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the markers {BEGIN} and {END} are not in the document")
    return f"{before}{BEGIN}\n\n{body.strip()}\n\n{END}{after}"


def write_docs(path: Path, results: Results) -> None:
    """Put the rendered results between the document's markers."""
    path.write_text(replace_between_markers(path.read_text(), render(results)))


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table; every column but the first is right-aligned."""
    align = ["---", *("---:" for _ in head[1:])]
    lines = [head, align, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float | None, digits: int = 2, prefix: str = "") -> str:
    """A figure with thousands separators; – for none."""
    return "–" if value is None else f"{prefix}{value:,.{digits}f}"


def megabytes(value: float | None) -> str:
    """Bytes as whole MB (2**20)."""
    return "–" if value is None else f"{value / _MB:,.0f}"


def _machine(machine: dict[str, str]) -> str:
    return markdown_table(("machine", "value"), list(machine.items())).replace("---:", "---")


def _contest(table: dict[str, object], summaries: Sequence[Summary]) -> str:
    head = (
        *("way of reading", "wall s", "× floor", "client CPU s", "rows per client CPU-second"),
        *("server CPU s", "× floor", "peak RSS MB", "longest statement s", "Parquet MB", "runs"),
    )
    body = markdown_table(head, [_contest_row(s) for s in summaries])
    failures = [f"- {s.contender} failed: {error}" for s in summaries for error in set(s.errors)]
    title = f"**{table['name']}**: {table['rows']:,} rows, {megabytes_of(table)} MB in the source"
    return "\n\n".join([title, body, *(["\n".join(failures)] if failures else [])])


def megabytes_of(table: dict[str, object]) -> str:
    """The table's size in the source."""
    size = table["heap_bytes"]
    return megabytes(size if isinstance(size, int) else None)


def _contest_row(summary: Summary) -> tuple[str, ...]:
    return (
        summary.contender.replace("|", "\\|"),
        number(summary.wall_s),
        number(summary.wall_ratio),
        number(summary.client_cpu_s),
        "–" if not summary.output_bytes else number(summary.rows_per_cpu_s, 0),
        number(summary.server_cpu_s),
        number(summary.server_cpu_ratio),
        megabytes(summary.peak_rss_bytes),
        number(summary.longest_statement_s, 3),
        megabytes(summary.output_bytes) if summary.output_bytes else "–",
        str(summary.rounds),
    )


def _memory(points: Sequence[MemoryPoint]) -> str:
    head = (
        *("rows, one worker, one chunk", "peak RSS MB", "bytes per further row"),
        *("longest statement s", "wall s"),
    )
    rows = [
        (
            f"{point.rows:,}",
            megabytes(point.peak_rss_bytes) if point.error is None else point.error,
            number(growth, 0),
            number(point.longest_statement_s, 3),
            number(point.wall_s),
        )
        for point, growth in zip(points, growth_bytes_per_row(points), strict=True)
    ]
    title = "**Memory of a worker** by rows of lineitem, everything at its default"
    return f"{title}\n\n{markdown_table(head, rows)}"


def _claims(rates: Sequence[ClaimRate]) -> str:
    head = ("state", "processes", "claims per s", "p50 ms", "p99 ms", "errors")
    rows = [
        (
            rate.state,
            str(rate.processes),
            number(rate.claims_per_s, 0) if rate.error is None else rate.error,
            number(None if rate.p50_s is None else rate.p50_s * 1000.0, 1),
            number(None if rate.p99_s is None else rate.p99_s * 1000.0, 1),
            number(rate.errors, 0),
        )
        for rate in rates
    ]
    return f"**Claims**\n\n{markdown_table(head, rows)}"


def _floors(floors: Sequence[Floor]) -> str:
    verdicts = {True: "pass", False: "**FAIL**", None: "not measured"}
    rows = [(f.name, f.limit, f.measured, verdicts[f.passed]) for f in floors]
    table = markdown_table(("floor", "limit", "measured", "verdict"), rows)
    return f"**Floors**\n\n{table}"
