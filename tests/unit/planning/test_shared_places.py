"""Exports of one file that name the same place: each has a folder of its own there."""

from __future__ import annotations

from pathlib import Path

import pytest

from rivet_fleet.planning.config.loaded import LoadedConfig
from rivet_fleet.planning.export_plan import destination_plan
from tests.unit.planning.conftest import HEAD, Loader

EXPORT = "  - {name: %s, table: %s, format: parquet, destination: {type: local, path: '%s'}%s}\n"
BY_DAY = ", partition_by: made"


def file_of(*exports: tuple[str, str, str], more: str = "") -> str:
    """(name, table, path) of each."""
    return HEAD + "".join(EXPORT % (*one, more) for one in exports)


def places(loaded: LoadedConfig, folder: Path) -> list[str]:
    plans = [destination_plan(loaded, one, "2026-01-02") for one in loaded.config.exports]
    return [str(Path(one.prefix).relative_to(folder)) for one in plans]


@pytest.mark.parametrize("other", ["out", "./out", "out//", "out/."])
def test_who_shares_a_folder_has_one_of_its_own_in_it(
    load_text: Loader, tmp_path: Path, other: str
) -> None:
    shared = file_of(("a", "t", "out"), ("b", "t", other), ("c", "t", "elsewhere"))
    loaded = load_text(shared)
    assert places(loaded, tmp_path) == ["out/a", "out/b", "elsewhere"]
    (said,) = [one for one in loaded.warnings if "share" in one]
    assert said.startswith(f"{tmp_path}/fleet.yaml:5:")
    assert "exports a, b share out: each has a folder of its own there, as if out/{export}" in said


def test_links_are_followed_as_far_as_the_folder_is_written_out(
    load_text: Loader, tmp_path: Path
) -> None:
    loaded = load_text(file_of(("a", "t", "out"), ("b", "t", "out")))
    plan = destination_plan(loaded, loaded.config.exports[0], "")
    assert (plan.anchor, plan.prefix) == (f"{tmp_path}/out", f"{tmp_path}/out/a")


def test_a_folder_that_only_one_export_names_stays_and_so_does_what_identifies_it(
    load_text: Loader, tmp_path: Path
) -> None:
    alone = load_text(file_of(("a", "t", "out"), ("b", "t", "out/b")))
    assert places(alone, tmp_path) == ["out", "out/b"]
    assert not [one for one in alone.warnings if "share" in one]
    written = load_text(file_of(("a", "t", "in/{export}"), ("b", "t", "in/{export}")))
    meant = load_text(file_of(("a", "t", "in"), ("b", "t", "in")))
    assert meant.sections == written.sections, "the file that says it is the same one"


def test_placeholders_tell_who_shares(load_text: Loader, tmp_path: Path) -> None:
    by_table = file_of(
        ("a", "t", "out/{table}"), ("b", "s.t", "out/t"), ("c", "u", "out/{table}/{date}")
    )
    assert places(load_text(by_table), tmp_path) == ["out/t/a", "out/t/b", "out/u/2026-01-02"]
    by_day = file_of(("a", "t", "out/{date}"), ("b", "t", "out/{date}"))
    assert places(load_text(by_day), tmp_path) == ["out/2026-01-02/a", "out/2026-01-02/b"]


def test_partitions_are_parts_of_their_export(load_text: Loader) -> None:
    loaded = load_text(
        file_of(("a", "t", "out/{partition}"), ("b", "t", "out/{partition}"), more=BY_DAY)
    )
    paths = [one.destination.path for one in loaded.config.exports]
    assert paths == ["out/{export}/{partition}"] * 2


def test_a_folder_that_is_one_exports_by_its_word_is_not_moved(
    load_text: Loader, tmp_path: Path
) -> None:
    loaded = load_text(file_of(("a", "t", "out/{export}"), ("b", "t", "out/a")))
    assert places(loaded, tmp_path) == ["out/a", "out/a"], "refused when it is planned"
