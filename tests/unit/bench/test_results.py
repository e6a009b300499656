from bench.results import merged, read_results, results_path, write_results
from bench.values import Fidelity
from tests.unit.bench.samples import help_times, lifecycle, point, rate, results, run, section

ALL = results(
    section(
        "contest/postgres/wide",
        runs=(run("x", error="died"),),
        fidelity=(
            Fidelity(
                engine="postgres",
                table="wide",
                contender="x",
                types={"a": "DOUBLE"},
                values=("b",),
            ),
        ),
    ),
    section("chunks/postgres/lineitem", lifecycles=(lifecycle(100, 0.1),)),
    section("memory/mariadb/wide", memory=(point(10, 1),)),
    help_times(0.1, 0.2),
    section("claims", claims=(rate("sqlite", None, error="no answer"),)),
)


def test_what_is_written_is_read_back(tmp_path):
    path = results_path(tmp_path, 1.0)
    write_results(path, ALL)
    assert read_results(path, 1.0) == ALL


def test_a_quick_look_never_replaces_a_measurement(tmp_path):
    assert results_path(tmp_path, 0.01) != results_path(tmp_path, 1.0)


def test_a_new_section_replaces_the_old_one_and_leaves_the_others():
    new = section("contest/postgres/wide", runs=(run("y"),))
    found = merged(ALL, {"cpu": "another"}, [new])
    assert found.sections["contest/postgres/wide"] == new
    assert found.sections.keys() == ALL.sections.keys()
    assert found.machine["cpu"] == "another"


def test_sections_stand_in_the_order_of_the_report():
    found = merged(results(help_times(0.1)), {}, [section("contest/postgres/lineitem")])
    assert list(found.sections) == ["contest/postgres/lineitem", "startup"]


def test_nothing_known_and_another_version_are_the_same(tmp_path):
    path = results_path(tmp_path, 1.0)
    assert read_results(path, 1.0).sections == {}
    path.write_text('{"version": 1, "runs": []}')
    assert read_results(path, 1.0).sections == {}
