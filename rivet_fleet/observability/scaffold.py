"""A discovery as a commented configuration that loads, and as JSON. Facts stand in comments, so
that whoever reviews it sees why."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rivet_fleet.contracts.codec import to_plain
from rivet_fleet.contracts.discovery import DiscoveredExport, Discovery
from rivet_fleet.contracts.foreign import printable

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./\-]*")
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaffoldOptions:
    """What the file is for. ``blocks``: each source as it is written; ``meta_columns``: whether
    this version can add them; ``file``: the name to show in the next steps."""

    blocks: Mapping[str, Mapping[str, Any]]
    meta_columns: bool
    file: str


def discovery_json(discovery: Discovery) -> str:
    """One JSON object; its shape is in docs/reference/discovery.md."""
    return json.dumps(to_plain(discovery), ensure_ascii=False, indent=2)


def render_scaffold(discovery: Discovery, options: ScaffoldOptions) -> str:
    """The YAML. It loads as it is, as long as every variable it names is set."""
    lines = [*_head(discovery, options), ""]
    lines.append("sources:")
    for name, block in options.blocks.items():
        lines.append(f"  {_scalar(name)}: {_flow(block)}")
    lines += ["", "source_groups:", *_groups(discovery, options)]
    lines += ["", "campaign:", f"  workers: {discovery.workers}  # worker processes on this host"]
    lines += [
        "  # waves: true      small and certain tables first; `rivet-fleet plan` shows the waves"
    ]
    lines += ["  # order: priority  within a wave: the higher score first", "", "exports:"]
    for export in discovery.exports:
        lines += [*_export(export, options), ""]
    if not discovery.exports:
        lines[-1] = "exports: []"
    if discovery.skipped:
        lines.append("# Left out:")
        lines += [
            _comment(f"  {one.source}: {one.relation}: {one.reason}") for one in discovery.skipped
        ]
    return "\n".join(lines).rstrip() + "\n"


def _groups(discovery: Discovery, options: ScaffoldOptions) -> Iterator[str]:
    for name in options.blocks:
        budget = f"  {_scalar(name)}: {{max_running_chunks: {max(discovery.workers, 1)}}}"
        yield f"{budget}  # at once, however many workers and hosts there are"


def _head(discovery: Discovery, options: ScaffoldOptions) -> Iterator[str]:
    yield "# Scaffolded by rivet-fleet init. Every number is an estimate of the source's own."
    for source in discovery.sources:
        yield _comment(f"{source.name}: {source.engine} {source.server_version}, {source.identity}")
    yield "# Next:"
    for verb, why in (
        ("doctor", "credentials, privileges, destinations, limits"),
        ("check", "what a run would do, and how gently"),
        ("plan", "in which order, and why"),
        ("run", "do it"),
    ):
        yield _comment(f"  rivet-fleet {verb} -c {options.file}".ljust(48) + why)


def _export(export: DiscoveredExport, options: ScaffoldOptions) -> Iterator[str]:
    yield "  " + _comment(_facts(export))
    for candidate in export.cursor_candidates[:3]:
        reasons = ", ".join(reason.value for reason in candidate.reasons)
        yield "  " + _comment(f"cursor candidate {candidate.column}: {candidate.score} ({reasons})")
    for warning in export.warnings:
        yield "  " + _comment(f"note: {warning}")
    yield f"  - name: {_scalar(export.export_name)}"
    yield f"    source: {_scalar(export.source)}"
    yield f"    source_group: {_scalar(export.source)}"
    if export.table is not None:
        yield f"    table: {_scalar(export.table)}"
    else:
        yield f"    query: {_scalar(export.query or '')}"
    yield from _mode(export)
    yield "    format: parquet"
    if options.meta_columns:
        yield "    meta_columns: {exported_at: true, row_hash: true}"
    yield '    destination: {type: local, path: "exports/{export}"}'
    yield from _columns(export)


def _facts(export: DiscoveredExport) -> str:
    rows = "an unknown number of rows"
    if export.row_estimate is not None:
        rows = f"about {export.row_estimate:,} rows ({export.row_estimate_from})"
    width = f", {export.row_width_bytes:,} bytes a row" if export.row_width_bytes else ""
    return f"{export.relation}: {export.kind.value.replace('_', ' ')}, {rows}{width}"


def _mode(export: DiscoveredExport) -> Iterator[str]:
    yield f"    mode: {export.mode_now}  " + _comment(export.mode_reason)
    if export.mode != export.mode_now:
        yield "    " + _comment(
            f"{export.mode} would fit better; this version reads the whole table each time"
        )
    if export.cursor_column is not None:
        yield from _cursor(export, export.cursor_column)
    if export.mode_now == "chunked":
        if export.chunk_by_key:
            yield f"    chunk_by_key: [{', '.join(map(_scalar, export.chunk_by_key))}]"
        if export.chunk_column is not None:
            yield f"    chunk_column: {_scalar(export.chunk_column)}"
        yield f"    chunk_size: {export.chunk_size}"
        yield "    chunk_checkpoint: true"
        yield "    " + _comment(
            f"parquet: {{target_row_group_mb: {export.target_row_group_mb}}}"
            "  with a larger campaign.worker_memory_mb"
        )


def _cursor(export: DiscoveredExport, name: str) -> Iterator[str]:
    """The cursor of an incremental export; of any other one as a comment, with its doubt."""
    settings = [f"cursor_column: {_scalar(name)}"]
    if export.cursor_fallback is not None:
        settings.append("incremental_cursor_mode: coalesce")
        settings.append(f"cursor_fallback_column: {_scalar(export.cursor_fallback)}")
    if export.mode_now == "incremental":
        yield from (f"    {one}" for one in settings)
        return
    yield "    " + _comment(f"mode: incremental would read only what is new by {name}.")
    if export.cursor_doubt is not None:
        yield "    " + _comment(f"  {export.cursor_doubt}")
    yield from ("    " + _comment(one) for one in settings)


def _columns(export: DiscoveredExport) -> Iterator[str]:
    if not export.overrides:
        return
    yield "    columns:"
    for one in export.overrides:
        dotted = "." in one.column and export.table is not None
        key = f"{export.table}.{one.column}" if dotted else one.column
        review = "REVIEW: a value that does not fit stops its chunk; " if one.review else ""
        why = _comment(f"{review}{one.native_type}: {one.reason}")
        yield f"      {_text(key)}: {_scalar(one.override)}  {why}"


def _comment(text: str) -> str:
    """One line, whatever a name holds: nothing of it may become YAML."""
    shown = "".join(one if _is_seen(one) else "?" for one in text)
    return f"# {shown.rstrip()}"


def _flow(block: Mapping[str, Any]) -> str:
    found = []
    for key, value in block.items():
        text = _flow(value) if isinstance(value, Mapping) else _scalar(value)
        found.append(f"{key}: {text}")
    return "{" + ", ".join(found) + "}"


def _scalar(value: Any) -> str:
    """A value as YAML. A dollar sign that would begin a variable is written as one."""
    if not isinstance(value, str):
        return json.dumps(value)
    return _text(value.replace("${", "${$}{"))


def _text(value: str) -> str:
    """Text as YAML's own rules say it: bare where it is plainly a word, in single quotes where
    that spares doubling others, else in double quotes. Keys are written so as they are: nothing
    is replaced in them."""
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    if _is_seen(value) and ('"' in value or "\\" in value):
        return "'" + value.replace("'", "''") + "'"
    return '"' + "".join(map(_escaped, value)) + '"'


def _is_seen(text: str) -> bool:
    """True where nothing of it is hidden: of two names that look alike each is written so that it
    can be told from the other."""
    return text.isprintable() and printable(text) == text


def _escaped(letter: str) -> str:
    """One character between double quotes (YAML 1.2, 5.7): JSON's pairs of halves are none."""
    if letter in ('"', "\\"):
        return "\\" + letter
    if _is_seen(letter):
        return letter
    number = ord(letter)
    if number <= 0xFF:
        return f"\\x{number:02X}"
    return f"\\u{number:04X}" if number <= 0xFFFF else f"\\U{number:08X}"
