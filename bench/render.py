"""The results as Markdown, and their place in the documentation. Pure but for two files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bench.contenders import FLOOR, FLOOR_NAMES
from bench.goals import chunk_cost, judge, servo_cost
from bench.links import BETWEEN
from bench.parts import ONE, STATEMENT
from bench.rivet_cli import RIVET_CLI
from bench.schema import Engine
from bench.small import FLEET
from bench.stores import LOCAL
from bench.summary import growth_bytes_per_row, median, ratios, summarise
from bench.values import ClaimRate, Fidelity, Results, RunResult, Section, Summary

BEGIN = "<!-- bench: begin -->"
END = "<!-- bench: end -->"
_MB = 1024 * 1024
_TYPES_SHOWN = 6


def render(results: Results) -> str:
    """Goals first, then the machine, then every section with the command that measured it."""
    parts = [_goals(results), _machine(results)]
    renderers: dict[str, Callable[[Section], str]] = {
        "contest": _contest,
        "chunks": _chunks,
        "servo": _servo,
        "stores": _stores,
        "links": _links,
        "small": _small,
        "memory": _memory,
        "startup": _startup,
        "claims": _claims,
    }
    parts += [
        f"{renderers[section.kind](section)}\n\n{_context(section)}"
        for section in results.sections.values()
    ]
    return "\n\n".join(parts) + "\n"


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
    lines = [head, align, *(tuple(_cell(text) for text in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def number(value: float | None, digits: int = 2, prefix: str = "") -> str:
    """A figure with thousands separators; – for none."""
    return "–" if value is None else f"{prefix}{value:,.{digits}f}"


def megabytes(value: float | None) -> str:
    """Bytes as whole MB (2**20)."""
    return "–" if value is None else f"{value / _MB:,.0f}"


def _left(table: str) -> str:
    return table.replace("---:", "---")


def _goals(results: Results) -> str:
    verdicts = {True: "met", False: "**not met**", None: "not measured"}
    rows = [(g.name, g.limit, g.measured, verdicts[g.passed]) for g in judge(results)]
    return "### Goals\n\n" + markdown_table(("goal", "limit", "measured", "verdict"), rows)


def _machine(results: Results) -> str:
    facts = {**results.machine, "scale": f"{results.scale:g}"}
    return "### Machine\n\n" + _left(markdown_table(("machine", "value"), list(facts.items())))


def _context(section: Section) -> str:
    """When, with what, and how to do it again."""
    command = section.context.get("command", "")
    facts = ", ".join(f"{k} {v}" for k, v in section.context.items() if k != "command")
    return f"<sub>{facts}</sub>\n\n    {command}"


def _title(section: Section) -> str:
    table = section.table
    if table is None:
        return section.key
    return (
        f"{table.engine}, {table.name}: {table.rows:,} rows, "
        f"{megabytes(table.source_bytes)} MB in the source"
    )


def _failures(summaries: Sequence[Summary]) -> str:
    """Who could not run or did not finish, and why: a gap is never silent."""
    lines = [f"- {s.contender}: {error}" for s in summaries for error in s.errors]
    return "\n\n" + "\n".join(lines) if lines else ""


_HEAD = (
    *("way of reading", "wall s", "× floor", "client CPU s", "rows per client CPU-second"),
    *("server CPU s", "× floor", "largest process MB", "all processes MB"),
    *("longest statement s", "Parquet MB", "runs"),
)


def _contest(section: Section) -> str:
    engine = Engine(section.key.split("/")[1])
    found = summarise(section.runs, FLOOR_NAMES[engine])
    table = markdown_table(_HEAD, [_contest_row(s) for s in found])
    changes = _fidelity(section.fidelity)
    return f"### {_title(section)}\n\n{table}{_failures(found)}{changes}"


def _contest_row(summary: Summary) -> tuple[str, ...]:
    return (
        summary.contender,
        number(summary.wall_s),
        number(summary.wall_ratio),
        number(summary.client_cpu_s),
        # The floor decodes nothing: its rows per CPU-second would say nothing.
        "–" if summary.group == FLOOR else number(summary.rows_per_cpu_s, 0),
        number(summary.server_cpu_s),
        number(summary.server_cpu_ratio),
        megabytes(summary.peak_rss_bytes),
        megabytes(summary.tree_rss_bytes),
        number(summary.longest_statement_s, 3),
        megabytes(summary.output_bytes) if summary.output_bytes else "–",
        str(summary.rounds) if summary.rounds else "did not finish",
    )


def _fidelity(found: Sequence[Fidelity]) -> str:
    if not found:
        return ""
    head = ("in the files of", "types that are not the source's", "content that differs")
    rows = [(each.contender, _types(each.types), _changed(each)) for each in found]
    return "\n\n" + _left(markdown_table(head, rows))


def _types(types: dict[str, str]) -> str:
    """Columns by the type they became; a few of each are enough."""
    by_type: dict[str, list[str]] = {}
    for column, became in types.items():
        by_type.setdefault(became, []).append(column)
    return "; ".join(f"{_few(columns)} → {became}" for became, columns in by_type.items()) or "none"


def _changed(each: Fidelity) -> str:
    parts = [_few(each.values)] if each.values else []
    parts += [f"not comparable: {_few(each.unreadable)}"] if each.unreadable else []
    return "; ".join(parts) or "none"


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_TYPES_SHOWN])
    return shown if len(names) <= _TYPES_SHOWN else f"{shown} and {len(names) - _TYPES_SHOWN} more"


_VARIANT_HEAD = (
    *("wall s", "×", "client CPU s", "worker MB"),
    *("longest statement s", "statements", "runs"),
)


def _variants(section: Section, reference: str, who: str = "rivet-fleet, 1 worker") -> str:
    found = summarise(section.runs, reference)
    rows = [
        (
            s.contender,
            number(s.wall_s),
            number(s.wall_ratio),
            number(s.client_cpu_s),
            megabytes(s.peak_rss_bytes),
            number(s.longest_statement_s, 3),
            number(s.statements, 0),
            str(s.rounds),
        )
        for s in found
    ]
    return markdown_table((who, *_VARIANT_HEAD), rows) + _failures(found)


def _chunks(section: Section) -> str:
    lines = [f"### One chunk and a hundred: {_title(section)}", _variants(section, ONE)]
    shares = [
        (
            str(count),
            number(median(each.reading_s for each in mine), 3),
            number(median(each.protocol_s for each in mine), 3),
            number(median(100 * each.protocol_s / each.wall_s for each in mine), 1),
        )
        for count in sorted({each.chunks for each in section.lifecycles})
        if (mine := [each for each in section.lifecycles if each.chunks == count])
    ]
    head = ("chunks", "reading and encoding s", "protocol s", "protocol, % of wall")
    lines.append(markdown_table(head, shares))
    cost = chunk_cost(section)
    lines.append(f"All costs of a hundred chunks over one: {number(cost and cost * 100, 1)} %.")
    return "\n\n".join(lines)


def _servo(section: Section) -> str:
    cost = servo_cost(section)
    return (
        f"### Short statements and one: {_title(section)}\n\n{_variants(section, STATEMENT)}\n\n"
        f"What short statements cost: {number(cost and cost * 100, 1)} %."
    )


def _stores(section: Section) -> str:
    table = _variants(section, LOCAL, "rivet-fleet, and peers by their names")
    return f"### Into a local S3 server: {_title(section)}\n\n{table}"


def _links(section: Section) -> str:
    """A line a link, a column a contender: wall."""
    found = {one.contender: one for one in summarise(section.runs, None)}
    links = dict.fromkeys(name.split(BETWEEN)[0] for name in found)
    who = dict.fromkeys(name.split(BETWEEN)[1] for name in found)
    rows = [(link, *(number(found[f"{link}{BETWEEN}{w}"].wall_s) for w in who)) for link in links]
    table = markdown_table(("wall s", *who), rows)
    return f"### Over links: {_title(section)}\n\n{table}{_failures(list(found.values()))}"


def _small(section: Section) -> str:
    """Both programs beside each other, a line a case."""
    engine = section.key.split("/")[1]
    head = (
        *("what", f"{FLEET} wall s", f"{RIVET_CLI} wall s", "×", "CPU s", "CPU s"),
        *("all processes MB", "MB", "statements", "statements", "runs"),
    )
    found, failed = [], []
    for case in dict.fromkeys(run.table for run in section.runs):
        mine, theirs = (
            [r for r in section.runs if (r.table, r.contender) == (case, who)]
            for who in (FLEET, RIVET_CLI)
        )
        (ours,), (peer,) = summarise(mine, None), summarise(theirs, None)
        failed += [f"- {case}, {one.contender}: {e}" for one in (ours, peer) for e in one.errors]
        over = ratios(_good(mine), _good(theirs), lambda run: run.wall_s)
        found.append(
            (
                *(case, number(ours.wall_s), number(peer.wall_s), number(median(over))),
                *(number(ours.client_cpu_s), number(peer.client_cpu_s)),
                *(_whole_tree(ours), _whole_tree(peer)),
                *(number(ours.statements, 0), number(peer.statements, 0), str(ours.rounds)),
            )
        )
    gaps = "\n\n" + "\n".join(failed) if failed else ""
    return (
        f"### Where everything but reading counts: {engine}\n\n{markdown_table(head, found)}{gaps}"
    )


def _good(runs: Sequence[RunResult]) -> list[RunResult]:
    return [run for run in runs if run.error is None]


def _whole_tree(summary: Summary) -> str:
    """Shared pages once where that was reckoned, else once for each process."""
    shared = summary.tree_pss_bytes
    return f"{megabytes(shared)} (PSS)" if shared else megabytes(summary.tree_rss_bytes)


def _memory(section: Section) -> str:
    head = (
        *("rows, one worker, one chunk", "worker MB", "bytes per further row"),
        *("all processes MB", "longest statement s", "wall s"),
    )
    points = section.memory
    rows = [
        (
            f"{point.rows:,}",
            megabytes(point.peak_rss_bytes) if point.error is None else point.error,
            number(growth, 0),
            megabytes(point.tree_rss_bytes),
            number(point.longest_statement_s, 3),
            number(point.wall_s),
        )
        for point, growth in zip(points, growth_bytes_per_row(points), strict=True)
    ]
    return (
        f"### Memory of a worker, everything at its default: {_title(section)}\n\n"
        f"{markdown_table(head, rows)}"
    )


def _startup(section: Section) -> str:
    rows = [
        (
            each.command,
            number(median(each.wall_s), 3),
            number(min(each.wall_s), 3),
            number(max(each.wall_s), 3),
        )
        for each in section.startup
    ]
    return "### Start-up\n\n" + markdown_table(("command", "median s", "least s", "most s"), rows)


def _claims(section: Section) -> str:
    return "### Claims\n\n" + markdown_table(
        ("state", "processes", "claims per s", "p50 ms", "p99 ms", "errors"),
        [_claim_row(rate) for rate in section.claims],
    )


def _claim_row(rate: ClaimRate) -> tuple[str, ...]:
    return (
        rate.state,
        str(rate.processes),
        number(rate.claims_per_s, 0) if rate.error is None else rate.error,
        number(None if rate.p50_s is None else rate.p50_s * 1000.0, 1),
        number(None if rate.p99_s is None else rate.p99_s * 1000.0, 1),
        number(rate.errors, 0),
    )
