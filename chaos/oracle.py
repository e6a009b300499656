"""The independent reader: judges a destination folder against the frozen source's digest.

Imports nothing of rivet_fleet and never looks at the state: DuckDB, pyarrow and the files alone.

``python -m chaos.oracle --prefix DIR --source-digest FILE`` judges once and prints the verdict
as JSON. With ``--during`` it first watches the folder until its stdin closes. ``--serve`` keeps
one process for many campaigns: JSON lines ``{"op": "watch", "prefix": …}`` and ``{"op": "judge",
"prefix": …, "digest": …}`` on stdin, one JSON verdict per line on stdout.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import json
import struct
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from chaos.watcher import STAGING, Watcher

_READ_BYTES = 1024 * 1024
_SHOWN = 5

CANONICAL = {
    "text": "{0}::varchar",
    "uuid": "lower({0}::varchar)",
    "bytes": "lower(hex({0}))",
    "date": "({0} - date '1970-01-01')::varchar",
    "timestamp": "epoch_us({0})::varchar",
    "array": "to_json({0})::varchar",
    "double": "float_hex({0})",
    "bool": "{0}::varchar",
    "bits": "{0}::varchar",
    "time": "epoch_us({0})::varchar",
    "digits": "float_digits({0})",
}
"""Canonical text of a value by kind, as DuckDB says it. ``chaos/sources`` has each
server's way of saying the same; a NULL is ``-``, anything else ``<bytes>:<text>``."""


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What was found. ``failures`` empty means: every row exactly once, every digest true."""

    prefix: str
    rows: int = 0
    parts: int = 0
    files_watched: int = 0
    failures: list[str] = field(default_factory=list)

    def as_json(self) -> str:
        """One line, with ``ok`` added."""
        return json.dumps({"ok": not self.failures, **asdict(self)})


def judge(prefix: Path, digest: Path) -> Verdict:
    """Read everything under ``prefix`` and compare it with the source's ``digest``."""
    verdict = Verdict(prefix=str(prefix))
    try:
        body = (prefix / "manifest.json").read_bytes()
        manifest = json.loads(body)
        paths = [str(part["path"]) for part in manifest["parts"]]
    except (OSError, ValueError, KeyError) as error:
        verdict.failures.append(f"no readable manifest.json: {error!r}")
        return verdict
    verdict.parts = len(paths)
    verdict.failures += _marker_failures(prefix, body, manifest)
    verdict.failures += _latest_failures(prefix, manifest["run_id"], paths)
    verdict.failures += _listing_failures(prefix, manifest["run_id"], paths)
    verdict.failures += _part_failures(prefix, manifest)
    if not verdict.failures:
        _compare(prefix, paths, json.loads(digest.read_text()), digest, verdict)
    return verdict


def _xxh3(path: Path) -> str:
    hashed = xxhash.xxh3_64()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            hashed.update(block)
    return f"xxh3:{hashed.hexdigest()}"


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode()


def _marker_failures(prefix: Path, body: bytes, manifest: dict[str, Any]) -> list[str]:
    """The manifest's copy and both ``_SUCCESS`` speak of exactly these manifest bytes."""
    run_id = manifest["run_id"]
    line = f"xxh3:{xxhash.xxh3_64_hexdigest(body)}\n".encode()
    wanted = {
        f"manifest-{run_id}.json": body,
        "_SUCCESS": line,
        f"{run_id}/_SUCCESS": line,
    }
    failures = []
    for name, content in wanted.items():
        found = (prefix / name).read_bytes() if (prefix / name).is_file() else None
        if found != content:
            failures.append(f"{name} is {'absent' if found is None else 'not what it must be'}")
    if manifest["status"] != "success":
        failures.append(f"the manifest's status is {manifest['status']}")
    return failures


def _latest_failures(prefix: Path, run_id: str, paths: list[str]) -> list[str]:
    """``latest.json`` names this run, which is the newest complete one, and its files."""
    try:
        latest = json.loads((prefix / "latest.json").read_bytes())
    except (OSError, ValueError) as error:
        return [f"no readable latest.json: {error!r}"]
    wanted = {
        "run_id": run_id,
        "manifest": f"manifest-{run_id}.json",
        "success": f"{run_id}/_SUCCESS",
        "files": paths,
    }
    found = {name: latest.get(name) for name in wanted}
    return [] if found == wanted else [f"latest.json says otherwise: {found}"]


def _listing_failures(prefix: Path, run_id: str, paths: list[str]) -> list[str]:
    """Visible is what the manifest names, its markers, and nothing else."""
    visible = {
        path.relative_to(prefix).as_posix()
        for path in prefix.rglob("*")
        if path.is_file() and STAGING not in path.relative_to(prefix).parts
    }
    marks = {"manifest.json", "_SUCCESS", f"manifest-{run_id}.json", f"{run_id}/_SUCCESS"}
    marks |= {"latest.json"}
    # The report is best effort: it may be there, it need not.
    reports = {f"_reports/{run_id}/summary.json", f"_reports/{run_id}/summary.md"}
    unnamed = sorted(visible - marks - reports - {*paths})
    failures = [f"visible, but nobody names it: {name}" for name in unnamed]
    failures += [f"named, but not visible: {name}" for name in sorted({*paths} - visible)]
    globbed = {path.relative_to(prefix).as_posix() for path in (prefix / run_id).glob("*.parquet")}
    if globbed != set(paths):
        failures.append("globbing the run's folder is not exactly the manifest's parts")
    if len(set(paths)) != len(paths):
        failures.append("the manifest names a part twice")
    return failures


def _part_failures(prefix: Path, manifest: dict[str, Any]) -> list[str]:
    failures = []
    for part in manifest["parts"]:
        path = prefix / part["path"]
        if not path.is_file():
            continue
        try:
            rows = pq.read_metadata(path).num_rows
        except (pa.ArrowException, OSError) as error:
            failures.append(f"{part['path']} is no complete Parquet file: {error}")
            continue
        found = (path.stat().st_size, _xxh3(path), _md5(path), rows)
        told = (
            part["size_bytes"],
            part["content_fingerprint"],
            part["content_md5"],
            part["rows"],
        )
        if found != told:
            failures.append(f"{part['path']} holds {found}, the manifest says {told}")
    if sum(part["rows"] for part in manifest["parts"]) != manifest["row_count"]:
        failures.append("row_count is not the sum of the parts' rows")
    if manifest["checksums"] == "partial":
        failures.append("some parts have lost the checksums of their columns")
    if manifest["part_count"] != len(manifest["parts"]):
        failures.append("part_count is not the number of parts")
    return failures


def _compare(
    prefix: Path, paths: list[str], spec: dict[str, Any], digest: Path, verdict: Verdict
) -> None:
    """Multisets of (key, row hash) are equal, and no key occurs twice."""
    db = duckdb.connect()
    # Two threads leave something for the fleet that may still be at work beside us.
    db.execute("SET threads = 2")
    db.create_function("float_hex", _float_hex, ["DOUBLE"], "VARCHAR")
    db.create_function("float_digits", _float_digits, ["DOUBLE"], "VARCHAR")
    hashes = (digest.parent / spec["hashes"]).as_posix()
    columns = "columns = {'key': 'VARCHAR', 'hash': 'VARCHAR'}, header = false"
    db.execute(f"CREATE TABLE wanted AS SELECT * FROM read_csv('{hashes}', {columns})")
    if paths:
        files = [(prefix / path).as_posix() for path in paths]
        key, row = _cells(spec["columns"], spec["key"]), _cells(spec["columns"], None)
        db.execute(
            f"CREATE TABLE found AS SELECT {key} AS key, md5({row}) AS hash "
            "FROM read_parquet(?, hive_partitioning = false)",
            [files],
        )
    else:
        db.execute("CREATE TABLE found (key VARCHAR, hash VARCHAR)")
    counted = db.execute("SELECT count(*) FROM found").fetchone()
    verdict.rows = counted[0] if counted else 0
    _tell_differences(db, spec, verdict)


def _tell_differences(
    db: duckdb.DuckDBPyConnection, spec: dict[str, Any], verdict: Verdict
) -> None:
    questions = {
        "missing or different": "SELECT * FROM wanted EXCEPT ALL SELECT * FROM found",
        "surplus or different": "SELECT * FROM found EXCEPT ALL SELECT * FROM wanted",
    }
    if spec["key"]:
        questions["key more than once"] = (
            "SELECT key, count(*) FROM found GROUP BY key HAVING count(*) > 1"
        )
    for what, sql in questions.items():
        rows = db.execute(sql).fetchall()
        if rows:
            verdict.failures.append(f"{what}: {len(rows)} rows, such as {rows[:_SHOWN]}")
    if verdict.rows != spec["rows"]:
        verdict.failures.append(f"{verdict.rows} rows, the source has {spec['rows']}")


def _cells(columns: list[dict[str, str]], only: list[str] | None) -> str:
    """The canonical text of a row (or of its key) as a DuckDB expression."""
    wanted = [c for c in columns if only is None or c["name"] in only]
    cells = []
    for column in wanted:
        name = '"' + column["name"] + '"'
        text = CANONICAL[column["kind"]].format(name)
        cells.append(f"coalesce(strlen({text}) || ':' || {text}, '-')")
    return "concat_ws(','" + "".join(f", {cell}" for cell in cells) + ")" if cells else "'keyless'"


def _float_hex(value: float) -> str:
    """The exact bits of a double, as the server's float8send shows them."""
    return struct.pack(">d", value).hex()


def _float_digits(value: float) -> str:
    """The shortest digits that mean exactly this double, as MySQL's servers print it. For what
    is neither tiny nor huge: those have an exponent, spelt differently."""
    return repr(value).removesuffix(".0")


def _serve() -> int:
    """Judge and watch for many campaigns until stdin closes."""
    watcher = Watcher()
    watcher.start()
    for line in sys.stdin:
        asked = json.loads(line)
        prefix = Path(asked["prefix"])
        if asked["op"] == "watch":
            watcher.watch(prefix)
            continue
        verdict = _settle(watcher, prefix, Path(asked["digest"]))
        print(verdict.as_json(), flush=True)
    watcher.close()
    return 0


def _settle(watcher: Watcher, prefix: Path, digest: Path) -> Verdict:
    """The watcher's findings and the final judgement in one verdict."""
    watched = watcher.finish(prefix)
    verdict = judge(prefix, digest)
    verdict.files_watched = watched.files
    verdict.failures = [*watched.failures, *verdict.failures]
    return verdict


def main() -> int:
    """0 when every row is there exactly once; 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m chaos.oracle", description=__doc__)
    parser.add_argument("--prefix", type=Path)
    parser.add_argument("--source-digest", type=Path)
    parser.add_argument("--during", action="store_true", help="watch until stdin closes first")
    parser.add_argument("--verdict", type=Path, help="also write the verdict here")
    parser.add_argument("--serve", action="store_true")
    options = parser.parse_args()
    if options.serve:
        return _serve()
    if options.prefix is None or options.source_digest is None:
        parser.error("--prefix and --source-digest are needed")
    if options.during:
        watcher = Watcher()
        watcher.watch(options.prefix)
        watcher.start()
        with contextlib.suppress(KeyboardInterrupt):
            sys.stdin.read()
        verdict = _settle(watcher, options.prefix, options.source_digest)
        watcher.close()
    else:
        verdict = judge(options.prefix, options.source_digest)
    if options.verdict is not None:
        options.verdict.write_text(verdict.as_json() + "\n")
    print(verdict.as_json())
    return 1 if verdict.failures else 0


if __name__ == "__main__":
    sys.exit(main())
