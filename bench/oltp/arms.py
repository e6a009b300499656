"""The ways to extract that are compared, as configurations of the program."""

from __future__ import annotations

from dataclasses import dataclass

from rivet_fleet.planning.config_protection import SourceGroupConfig

EXPORTS = 24
"""How often the big table is read in one window: more often than any of them gets to."""
_EXPORT = """\
  - {{name: history_{n}, table: history, mode: chunked, chunk_by_key: [id], chunk_size: 10000,
     format: parquet, compression: snappy, source_group: shop,
     destination: {{type: local, path: ./out/history_{n}}}}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way. ``group`` is the budget, ``profile`` the pace of one reader."""

    name: str
    told: str
    profile: str = "fast"
    group: str = "{max_running_chunks: 4}"
    extracts: bool = True

    def config(self, engine: str) -> str:
        """The configuration file."""
        kind = "mysql" if engine == "mariadb" else "postgres"
        exports = "".join(_EXPORT.format(n=n) for n in range(EXPORTS))
        return (
            f"source: {{type: {kind}, url_env: OLTP_URL, tuning: {{profile: {self.profile}}}}}\n"
            f"source_groups:\n  shop: {self.group}\n"
            f"campaign: {{name: oltp, workers: 4}}\n"
            f"exports:\n{exports}"
        )


ALONE = Arm(name="without us", told="the application alone", extracts=False)
UNPROTECTED = Arm(name="unprotected", told="profile fast, 4 workers, no limits")
BUDGET = Arm(
    name="budget",
    told="profile balanced, 4 workers, 1 running chunk, 20,000 rows/s",
    profile="balanced",
    group="{max_running_chunks: 1, max_rows_per_s: 20000}",
)
GOVERNED = Arm(
    name="governor",
    told="profile fast, 4 workers, sheds from 2 running sessions of the application on, pauses "
    "from 4 on",
    group="{max_running_chunks: 4, min_running_chunks: 1, monitor: {interval_s: 0.5, "
    "calm_samples: 4, signals: {running_sessions: {shed_above: 1, pause_above: 3}}}}",
)


def arms() -> tuple[Arm, ...]:
    """Those that this version of the program can do."""
    governed = (GOVERNED,) if "monitor" in SourceGroupConfig.model_fields else ()
    return (ALONE, UNPROTECTED, BUDGET, *governed)
