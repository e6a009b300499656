"""The columns an export adds to every row, decided (ADR 0012). Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rivet_fleet.contracts.columns import ColumnSpec
from rivet_fleet.contracts.plan import EXPORTED_AT, ROW_HASH, MetaPlan
from rivet_fleet.planning.config_models import ExportConfig
from rivet_fleet.planning.problems import ConfigKey, Problem, did_you_mean


def meta_plan(
    export: ExportConfig, columns: Sequence[ColumnSpec], now_s: float | None
) -> MetaPlan | None:
    """What is added, sealed: the moment, and which columns are hashed. None adds nothing."""
    asked = export.meta_columns
    hashed = asked.hashed
    if not asked.exported_at and hashed is None:
        return None
    covered = None
    if hashed is not None:
        covered = tuple(one.name for one in columns if not hashed or one.name in hashed)
    moment = round((now_s or 0.0) * 1_000_000) if asked.exported_at else None
    return MetaPlan(exported_at_us=moment, row_hash=covered)


def meta_problems(export: ExportConfig, names: Sequence[str], at: ConfigKey) -> list[Problem]:
    """Names that are taken, and hashed columns that are not there."""
    asked = export.meta_columns
    taken = [
        (setting, name)
        for setting, name, wanted in (
            ("exported_at", EXPORTED_AT, asked.exported_at),
            ("row_hash", ROW_HASH, asked.hashed is not None),
        )
        if wanted and name in names
    ]
    found = [
        Problem(
            at=(*at, "meta_columns", setting),
            what=f"export {export.name}, meta_columns.{setting}",
            reason=f"the source has a column {name} already",
            suggestion="switch it off, or rename the source's column with query:",
        )
        for setting, name in taken
    ]
    found += [
        Problem(
            at=(*at, "meta_columns", "row_hash"),
            what=f"export {export.name}, meta_columns.row_hash",
            reason=f"names a column that is not there: {name}",
            suggestion=did_you_mean(name, names),
        )
        for name in asked.hashed or ()
        if name not in names
    ]
    return found
