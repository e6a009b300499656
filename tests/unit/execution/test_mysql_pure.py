"""The decisions of the MySQL and MariaDB source that need no server."""

from __future__ import annotations

import itertools

import pymysql
import pytest

from rivet_fleet.contracts.columns import Fidelity
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import ConfigError, RetryClass, SourceBusy, SourceRefused, SourceUnavailable
from rivet_fleet.execution.engines.session import TIMED_OUT, maybe_swapped
from rivet_fleet.execution.sources.mysql.border import (
    ERRNOS,
    SWAPPED,
    SWAPPED_CODES,
    classify,
    mysql_errors,
)
from rivet_fleet.execution.sources.mysql.dialect import (
    cast_expression,
    override_fidelity,
    parse_override,
    quote_identifier,
    quote_text,
)
from rivet_fleet.execution.sources.mysql.estimates import RANGES_MAX, cut, refine, scale_of
from rivet_fleet.execution.sources.mysql.introspect import (
    BOUNDARIES_ANYWAY,
    ROWS_PER_BOUNDARY,
    STEP_ROWS_MAX,
    STEPS_MIN,
    WHOLE_ROWS_MAX,
    walk,
)
from rivet_fleet.execution.sources.mysql.keytext import TextForm
from rivet_fleet.execution.sources.mysql.session import Proxy, Server, judge, parse_version
from rivet_fleet.execution.sources.mysql.statements import (
    Keys,
    from_item,
    literal,
    page_settings,
    statement_limit,
)

MARIADB = Server(mariadb=True, version=(10, 11, 19), version_text="10.11.19-MariaDB")
MYSQL = Server(mariadb=False, version=(8, 4, 2), version_text="8.4.2")


# ---------------------------------------------------------------- SQL


def test_row_comparisons_are_written_out() -> None:
    keys = Keys(native_types={"a": "int(11)", "b`": "varchar(9)", "c": "varbinary(4)"})
    assert keys.row_comparison(("a",), ">=", ("5",)) == "_rivet.`a` >= 5"
    assert keys.row_comparison(("a", "b`", "c"), ">=", ("5", "x", "00ff")) == (
        "(_rivet.`a` > 5 OR (_rivet.`a` = 5 AND (_rivet.`b``` > 'x' OR "
        "(_rivet.`b``` = 'x' AND _rivet.`c` >= X'00ff'))))"
    )
    assert keys.row_comparison(("a", "c"), "<", ("5", "")) == (
        "(_rivet.`a` < 5 OR (_rivet.`a` = 5 AND _rivet.`c` < X''))"
    )
    with pytest.raises(ValueError, match="1 key values for 2"):
        keys.row_comparison(("a", "c"), "<", ("5",))


@pytest.mark.parametrize(
    ("text", "native_type"),
    [("1 OR 1=1", "bigint(20)"), ("1e5", "decimal(9,2)"), ("xyz", "binary(2)"), ("a", "bit(3)")],
)
def test_a_key_value_that_is_none_never_becomes_sql(text, native_type) -> None:
    with pytest.raises(ConfigError):
        literal(text, native_type)


def test_a_cut_between_no_year_and_the_first_is_not_read_as_a_short_form() -> None:
    written = {text: literal(text, "year(4)") for text in ("0", "0000", "1", "69", "70", "99")}
    assert written == {"0": "0", "0000": "0000", **dict.fromkeys(("1", "69", "70", "99"), "100")}
    assert [literal(text, "year(4)") for text in ("100", "1901", "2155")] == ["100", "1901", "2155"]
    assert literal("50", "smallint(6)") == "50"


def test_text_is_the_same_under_every_sql_mode() -> None:
    assert quote_text("plain text (1)") == "'plain text (1)'"
    for hostile in ("it's", "back\\slash", 'quo"te', "nul\0", "ü", "😀", "new\nline"):
        assert quote_text(hostile) == f"_utf8mb4 X'{hostile.encode().hex()}'"
    assert quote_identifier("a`b") == "`a``b`"


def test_a_query_may_end_in_a_comment_or_a_semicolon() -> None:
    assert from_item(None, "SELECT 1; ") == "(\nSELECT 1\n) AS _rivet"
    assert from_item(None, "SELECT 1 -- one") == "(\nSELECT 1 -- one\n) AS _rivet"


def test_limits_are_in_each_servers_own_unit() -> None:
    assert statement_limit(MARIADB, 1.5) == (("max_statement_time", "1.500"),)
    assert statement_limit(MYSQL, 1.5) == (("max_execution_time", "1500"),)
    old = Server(mariadb=False, version=(5, 6, 51), version_text="5.6.51")
    assert statement_limit(old, 1.5) == ()
    settings = dict(page_settings(MYSQL, TuningPlan(lock_timeout_s=0.0)))
    assert settings["lock_wait_timeout"] == "31536000" and settings["sql_mode"] == "''"


# ---------------------------------------------------------------- servers and errors


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("5.5.5-10.11.19-MariaDB-0+deb12u1", (10, 11, 19)),
        ("8.0.39-30", (8, 0, 39)),
        ("9.7.4-2", (9, 7, 4)),
        ("", ()),
    ],
)
def test_versions(text, version) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize(
    ("answers", "proxy"),
    [
        ({}, Proxy.DIRECT),
        ({"proxysql": True}, Proxy.PROXYSQL),
        ({"comment": "(ProxySQL)"}, Proxy.PROXYSQL),
        ({"version_text": "10.5.9 6.4.1-maxscale"}, Proxy.MAXSCALE),
        ({"proxy_version": True}, Proxy.MULTIPLEXED),
        ({"ids": (7, 7, 8)}, Proxy.MULTIPLEXED),
        ({"ids": (7, 9, 9)}, Proxy.MULTIPLEXED),
    ],
)
def test_who_answers(answers, proxy) -> None:
    known = {
        "comment": "Debian 12",
        "version_text": "10.11.19-MariaDB",
        "proxysql": False,
        "proxy_version": False,
        "ids": (7, 7, 7),
    }
    assert judge(**{**known, **answers}) is proxy
    server = Server(mariadb=True, version=(10,), version_text="", proxy=proxy)
    assert bool(server.warnings) is (proxy is not Proxy.DIRECT)


def test_errors_by_number() -> None:
    assert classify(2013).error is SourceUnavailable
    assert classify(1053).extra_delay_s == 15.0
    assert classify(1146).error is SourceRefused
    assert classify(1146).retry is RetryClass.PERMANENT
    for errno in (1317, 1969, 3024):
        assert classify(errno) is TIMED_OUT and TIMED_OUT.retry is RetryClass.PERMANENT
    for errno in (1040, 1047, 1129, 1836, 3032, 3118, 3955, 4150, 4151):
        assert classify(errno).retry is RetryClass.RECONNECT, errno
    for errno in (1020, 1105, 1114, 1205, 1213, 1412, 1461, 1615):
        assert classify(errno).retry is RetryClass.TRANSIENT, errno
    for errno in (1044, 1045, 1049, 1054, 1064, 1142, 1290, 1345, 1792, 1820, 1862):
        assert classify(errno).retry is RetryClass.PERMANENT, errno
    for errno, found in ERRNOS.items():
        reconnects = found.retry is RetryClass.RECONNECT
        assert reconnects or found.error is not SourceUnavailable, errno


@pytest.mark.parametrize("errno", sorted(SWAPPED))
def test_what_may_be_swapped_is_tried_again_by_a_chunk_alone(errno) -> None:
    """A wrong name says the same: whoever plans is told at once."""
    url = parse_database_url("mysql://u:secret@h/d")
    said = pymysql.err.ProgrammingError(errno, "Key 'u' doesn't exist in table '_rivet'")
    with pytest.raises(SourceRefused) as planning, mysql_errors(url, "planning", subject="d.t"):
        raise said
    assert planning.value.retry is RetryClass.PERMANENT
    assert "in table 'd.t'" in planning.value.message
    swapping = maybe_swapped(SWAPPED_CODES)
    with pytest.raises(SourceBusy) as reading, swapping, mysql_errors(url, "reading"):
        raise said
    assert reading.value.retry is RetryClass.TRANSIENT
    assert reading.value.code == planning.value.code


def test_a_vector_as_text_is_what_each_server_calls_it() -> None:
    text = parse_override("text")
    assert cast_expression("v", "vector(3)", text) == "VECTOR_TO_STRING(v)"
    assert cast_expression("v", "vector(3)", text, mariadb=True) == "VEC_ToText(v)"
    assert cast_expression("v", "vector(3)", parse_override("binary")) == "CAST(v AS BINARY)"
    assert override_fidelity("vector(3)", None, text) is Fidelity.LOSSY


# ---------------------------------------------------------------- cuts


@pytest.mark.parametrize(
    ("native_type", "lowest", "highest", "inside"),
    [
        ("bigint(20) unsigned", "5", str(2**64 - 1), str(2**63)),
        ("decimal(12,3)", "-10.500", "900.125", "7"),
        ("date", "1999-01-01", "2024-06-30", "2010-03-04"),
        ("datetime(6)", "1999-01-01 00:00:00.000001", "9999-12-31 23:59:59.999999",
         "2010-03-04 05:06:07"),
        ("char(32)", "0a" * 16, "ff" * 16, "7b0000"),
        ("binary(16)", "AB00" * 8, "ABFF" * 8, "AB7B0000"),
    ],
)  # fmt: skip
def test_scales_rise_and_give_back_what_they_took(native_type, lowest, highest, inside) -> None:
    scale = scale_of(native_type, lowest, highest)
    assert scale is not None
    positions = [scale.position(text) for text in (lowest, inside, highest)]
    assert positions == sorted(positions) and positions[0] < positions[2]
    assert scale.position(scale.text(positions[1])) == positions[1]
    assert scale.text(positions[1]).startswith(inside[:4])
    literal(scale.text(positions[2] + 1), native_type)


def test_text_that_is_written_as_its_bytes_is_cut_behind_its_ascii() -> None:
    form = TextForm(charset="sjis", collation="sjis_bin")
    ends = "_sjis X'433A5C30'", "_sjis X'433A5CB1B1'"
    scale = scale_of("varchar(9)", *ends, form)
    assert scale is not None
    low, middle, high = (scale.position(one) for one in (ends[0], "_sjis X'433A5C6B'", ends[1]))
    assert low < middle < high
    assert scale.text(middle).startswith("_sjis X'433A5C6B")
    assert literal(scale.text(middle), "varchar(9)", form).endswith(" COLLATE sjis_bin")
    wide = TextForm(charset="ucs2")
    assert scale_of("varchar(9)", "_ucs2 X'0041'", "_ucs2 X'0042'", wide) is None


def test_a_literal_has_its_columns_character_set_and_collation() -> None:
    texts = {
        "u": TextForm(charset="utf8mb4", collation="utf8mb4_bin"),
        "l": TextForm(charset="latin1", collation="latin1_german1_ci"),
        "a": TextForm(charset="ascii"),
        "s": TextForm(charset="sjis", collation="sjis_bin"),
    }
    keys = Keys(native_types=dict.fromkeys(texts, "varchar(9)"), texts=texts)
    assert keys.literal("u", "a") == "'a' COLLATE utf8mb4_bin"
    assert keys.literal("u", "\\") == "_utf8mb4 X'5c' COLLATE utf8mb4_bin"
    assert keys.literal("l", "ä€\x81") == "_latin1 X'E48081' COLLATE latin1_german1_ci"
    assert keys.literal("a", "aÃ") == "_ascii X'61C3'"
    assert keys.literal("s", "_sjis X'5C'") == "_sjis X'5C' COLLATE sjis_bin"
    for name, other in (("s", "\\"), ("s", "_cp932 X'5C'"), ("l", "一"), ("s", "_sjis X'5C' OR 1")):
        with pytest.raises(ConfigError, match="is no key of a column in the character set"):
            keys.literal(name, other)
    with pytest.raises(ConfigError, match="no name of a character set"):
        TextForm(charset="utf8mb4", collation="x y")
    with pytest.raises(ConfigError, match="different character sets or collations"):
        keys.coalesced_comparison("u", "l", ">", "a")


def test_what_has_no_scale() -> None:
    assert scale_of("date", "0000-00-00", "2024-01-01") is None
    assert scale_of("time", "-01:00:00", "10:00:00") is None


def test_heavy_pieces_are_split_until_the_shares_are_even() -> None:
    # A billion positions; all rows lie in two narrow places.
    rows = [*range(1000, 6000), *range(10**9 - 5000, 10**9)]
    asked = 0

    def estimate(ranges: list[tuple[int, int]]) -> list[int]:
        nonlocal asked
        asked += len(ranges)
        return [sum(low <= row < high for row in rows) for low, high in ranges]

    pieces = refine(estimate, 0, 10**9, 9)
    assert pieces[0].low == 0 and pieces[-1].high == 10**9
    assert all(one.high == other.low for one, other in itertools.pairwise(pieces))
    cuts = cut(pieces, 9)
    assert len(cuts) == 9 and cuts == sorted(set(cuts)) and asked <= RANGES_MAX
    edges = [0, *cuts, 10**9]
    shares = [sum(low <= row < high for row in rows) for low, high in itertools.pairwise(edges)]
    assert max(shares) <= 2100 and sum(shares) == 10_000


def test_a_single_value_that_holds_everything_is_no_endless_task() -> None:
    pieces = refine(lambda ranges: [10**6 * (low <= 77 < high) for low, high in ranges], 0, 99, 50)
    assert len(cut(pieces, 50)) <= 2


# ---------------------------------------------------------------- the walk along a key


class _Walked:
    """A key of whole numbers from 1, and how often it was looked at."""

    texts = item = not_null = ""
    keys = Keys(native_types={})

    def __init__(self, rows: int) -> None:
        self.rows, self.asked = rows, 0
        self.columns = ("id",)

    def ask(self, sql: str) -> list[tuple[str]]:
        self.asked += 1
        most = int(sql.rpartition(" ")[2])
        return [(str(key),) for key in range(1, min(self.rows, most) + 1)]

    def key_at(self, key: tuple[str], operator: str, skip: int) -> tuple[str] | None:
        assert operator == ">" and skip < STEP_ROWS_MAX
        self.asked += 1
        found = int(key[0]) + 1 + skip
        return (str(found),) if found <= self.rows else None


@pytest.mark.parametrize("wanted", [1, 3, 15, 99, 999])
@pytest.mark.parametrize("rows", [30_000, 100_000, 1_500_000])
@pytest.mark.parametrize("off", [0.25, 1.0, 4.0])
def test_a_walk_takes_as_many_steps_as_the_cuts_need(wanted: int, rows: int, off: float) -> None:
    """However far off the server's estimate is, as long as it is walked at all."""
    probe = _Walked(rows)
    estimate = max(int(rows * off), WHOLE_ROWS_MAX + 1)
    found = [int(key[0]) for key in walk(probe, estimate, ("1",), wanted)]
    steps = max(STEPS_MIN, 2 * min(wanted, max(BOUNDARIES_ANYWAY, estimate // ROWS_PER_BOUNDARY)))
    assert probe.asked <= 3 * steps + rows // (STEP_ROWS_MAX // 2) + 10
    assert found == sorted(set(found))
    if wanted <= 15:
        chunks = [b - a for a, b in itertools.pairwise([1, *found, rows + 1])]
        assert len(chunks) == wanted + 1 and max(chunks) <= 1.6 * rows / len(chunks)
