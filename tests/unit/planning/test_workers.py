"""How many workers a host gets where nobody named a number, and the line that says why."""

from __future__ import annotations

import pytest

from rivet_fleet.contracts.doctor import HostLimits
from rivet_fleet.planning.config.fields import MIB
from rivet_fleet.planning.config.protection import workers_of
from tests.unit.planning.conftest import HEAD, TAIL, Loader

PLENTY = {"open_files": 1024, "memory_bytes": 8192 * MIB, "cores": 64}
THREE_CORES = "3 workers: this process may use 3 cores"
GROUPS = "source_groups: {few: {max_running_chunks: 2}, fast: {max_rows_per_s: 9}}\n"


def config(*exports: str, campaign: str = "") -> str:
    blocks = [f"  - name: e{n}\n    table: t{n}\n{TAIL}{e}" for n, e in enumerate(exports)]
    return f"{campaign}{GROUPS}{HEAD}{''.join(blocks)}"


@pytest.mark.parametrize(
    ("exports", "host", "chunks", "said"),
    [
        (("",), {}, None, "4 workers: more when -w or campaign.workers asks for them"),
        (("",), {"cores": 2}, 100, "2 workers: this process may use 2 cores"),
        (("",), {"cores": 1}, None, "1 worker: this process may use 1 core"),
        (("",), {}, 1, "1 worker: 1 chunk to do"),
        (("",), {}, 0, "1 worker: 0 chunks to do"),
        (("",), {"memory_bytes": 610 * MIB}, 9, "3 workers: 610 MB are free, 150 for each"),
        (("",), {"memory_bytes": 0}, 9, "1 worker: 0 MB are free, 150 for each"),
        (("    source_group: few\n",), {}, 9, "2 workers: the budgets let 2 of them read at once"),
        (("    source_group: few\n", ""), {"cores": 3}, 9, THREE_CORES),
        (("    source_group: fast\n",), {"cores": 3}, 9, THREE_CORES),
        (("    parallel: 3\n", "    parallel: 6\n"), {"cores": 2}, 1,
         "6 workers: the largest `parallel` of the exports"),
    ],
)  # fmt: skip
def test_what_allows_the_least_decides(
    load_text: Loader,
    exports: tuple[str, ...],
    host: dict[str, int],
    chunks: int | None,
    said: str,
) -> None:
    loaded = load_text(config(*exports))
    limits = HostLimits(**{**PLENTY, **host})
    assert workers_of(loaded, limits, chunks=chunks).sentence == said


def test_a_number_that_the_campaign_names_goes_before_parallel(load_text: Loader) -> None:
    loaded = load_text(config("    parallel: 3\n", campaign="campaign: {workers: 7}\n"))
    assert loaded.workers_asked == loaded.workers_expected == 7
    assert any("exports[0].parallel is ignored" in one for one in loaded.warnings)
    alone = load_text(config("    parallel: 3\n"))
    assert alone.workers_asked == 3 and not alone.warnings
    assert alone.digest == loaded.digest, "how many work is no part of what is planned"
    assert load_text(config("")).workers_expected == 4
