"""Do the files hold what the source held? Asked of DuckDB, column by column, after a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb

from bench.checks import Dialect, figures, of_column, same
from bench.schema import Column, Engine
from bench.sources.server import LoadedTable
from bench.values import Fidelity


def parquet_files(folder: Path) -> list[Path]:
    """The data files below ``folder``; not those in which a loader keeps its own state."""
    inside = (path.relative_to(folder) for path in folder.rglob("*.parquet"))
    return sorted(
        folder / path for path in inside if not any(part.startswith("_dlt") for part in path.parts)
    )


def compare(contender: str, engine: Engine, table: LoadedTable, files: Sequence[Path]) -> Fidelity:
    """Types and content of every column beside the source's own figures."""
    with duckdb.connect() as connection:
        connection.execute("SET timezone = 'UTC'")
        names = ", ".join(f"'{path}'" for path in files)
        connection.execute(f"CREATE VIEW found AS SELECT * FROM read_parquet([{names}])")
        described = connection.execute("DESCRIBE found").fetchall()
        types = {str(name): str(kind) for name, kind, *_ in described}
        changed, unreadable = [], []
        for position, column in enumerate(table.spec.columns):
            outcome = _same_content(connection, column, engine, of_column(table.checks, position))
            if outcome is None:
                unreadable.append(column.name)
            elif not outcome:
                changed.append(column.name)
    return Fidelity(
        engine=engine.value,
        table=table.spec.name,
        contender=contender,
        types=_other_types(table.spec.columns, engine, types),
        values=tuple(changed),
        unreadable=tuple(unreadable),
    )


def _same_content(
    connection: duckdb.DuckDBPyConnection,
    column: Column,
    engine: Engine,
    wanted: Sequence[str],
) -> bool | None:
    """None when the file's type does not let the question be asked."""
    expressions = ", ".join(figures(column, Dialect.DUCKDB, engine))
    try:
        rows = connection.execute(f"SELECT {expressions} FROM found").fetchall()
    except duckdb.Error:
        return None
    return same(column.kind, wanted, [str(value) for value in rows[0]])


def _other_types(
    columns: Sequence[Column], engine: Engine, found: dict[str, str]
) -> dict[str, str]:
    return {
        column.name: found.get(column.name, "absent")
        for column in columns
        if found.get(column.name) != column.expected(engine)
    }
