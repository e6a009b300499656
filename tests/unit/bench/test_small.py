"""What both programs are given, without a server."""

import yaml

from bench.schema import Engine
from bench.small import CASES, CHUNKED_ROWS, HUNDRED, MANY_CHUNKS, SMALL_ROWS, configured


def _case(name):
    return next(case for case in CASES if case.name == name)


def test_every_table_of_a_case_is_an_export_with_a_place_of_its_own(tmp_path):
    found = yaml.safe_load(configured(tmp_path, Engine.POSTGRES, _case(HUNDRED)).read_text())
    exports = found["exports"]
    assert len({each["destination"]["path"] for each in exports}) == len(exports) == 100
    assert exports[7]["table"] == "small.t007"
    assert _case(HUNDRED).rows == 100 * SMALL_ROWS


def test_a_thousand_chunks_are_asked_for_in_words_that_both_know(tmp_path):
    found = yaml.safe_load(configured(tmp_path, Engine.MARIADB, _case(MANY_CHUNKS)).read_text())
    (export,) = found["exports"]
    assert (export["mode"], CHUNKED_ROWS // export["chunk_size"]) == ("chunked", 1_000)
    assert export["table"] == "bench.small_chunked"


def test_a_command_that_only_asks_delivers_no_rows():
    assert all(case.rows == 0 for case in CASES if case.ask)
