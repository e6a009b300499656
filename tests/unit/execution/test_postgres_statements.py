"""SQL text and tables of the PostgreSQL source, without a server."""

from __future__ import annotations

import inspect

import psycopg
import psycopg.errors
import pytest
from psycopg.pq import DiagnosticField

from rivet_fleet.contracts.columns import ColumnSpec, ColumnType, Fidelity, TypeKind
from rivet_fleet.contracts.foreign import NOTHING_SAID
from rivet_fleet.contracts.keys import ChunkRange, RangeKind, RelationName
from rivet_fleet.contracts.plan import ReadPlan, TuningPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import (
    ConfigError,
    RelationLocked,
    RetryClass,
    SourceBusy,
    SourceError,
    SourceRefused,
    SourceUnavailable,
    StatementTimeout,
)
from rivet_fleet.execution.chunkreader import hidden_keys
from rivet_fleet.execution.keyset import KeysetPager
from rivet_fleet.execution.paging import Select
from rivet_fleet.execution.source import PageLimit
from rivet_fleet.execution.sources.postgres.border import translate, translate_connect
from rivet_fleet.execution.sources.postgres.dialect import (
    block_range,
    capabilities,
    classify,
    copy_statement,
    from_item,
    numeric_type,
    override_fidelity,
    page_settings,
    parse_override,
    quote_identifier,
    quote_literal,
    select_expression,
)
from rivet_fleet.execution.sources.postgres.keyorder import Keys
from rivet_fleet.execution.sources.postgres.reading import PostgresReading
from rivet_fleet.execution.sources.postgres.session import Session
from tests.postgres_keys import order, text_keys

URL = parse_database_url("postgresql://me:s3cretword@db.example:5433/shop")
LIMIT = PageLimit(rows_max=10, bytes_max=1000)


def spec(name: str, kind: TypeKind, *, wire: str = "", cast: str | None = None) -> ColumnSpec:
    return ColumnSpec(
        name=name, native_type="x", type=ColumnType(kind=kind), wire_type=wire, cast=cast
    )


ANY_TEXT = '"pg_catalog"."text"'


def test_keyset_pages_compare_rows_by_the_operators_that_order_them() -> None:
    chunk = ChunkRange(
        kind=RangeKind.KEYSET, columns=("a", "B"), lower=("1", "x"), upper=("9", "it's")
    )
    keys = {0: ("5", "m")}
    pager = KeysetPager(
        text_keys(), "*", "t AS _rivet", chunk, lambda _, row: keys[row], index_walk=True
    )
    first = copy_statement(pager.select(LIMIT))
    more, less = 'OPERATOR("pg_catalog".>=)', 'OPERATOR("pg_catalog".<)'
    assert first == (
        f"""COPY (SELECT * FROM t AS _rivet WHERE (_rivet."a", _rivet."B") {more} """
        f"""('1'::{ANY_TEXT}, 'x'::{ANY_TEXT}) AND (_rivet."a", _rivet."B") {less} """
        f"""('9'::{ANY_TEXT}, 'it''s'::{ANY_TEXT}) ORDER BY _rivet."a" USING {less}, """
        f"""_rivet."B" USING {less} LIMIT 10) TO STDOUT (FORMAT BINARY)"""
    )
    assert copy_statement(pager.select(LIMIT)) == first
    import pyarrow as pa

    batch = pa.record_batch({"n": [1]})
    assert not pager.accept(batch, 10, cut=True).last
    assert f".>) ('5'::{ANY_TEXT}, 'm'::{ANY_TEXT})" in copy_statement(pager.select(LIMIT))
    keys[0] = ("5", "n")
    assert pager.accept(batch, 10, cut=False).last


def test_columns_of_several_operators_are_compared_behind_the_range_of_the_first() -> None:
    foreign = order('"ext"."citext"', "ext", exact=False)
    keys = text_keys(c=foreign, v=order(cast=True))
    literal = f"'x'::pg_catalog.text::{foreign.type}"
    assert keys.row_comparison(("c", "n"), ">", ("x", "1")) == (
        f"""(_rivet."c" OPERATOR("ext".>=) {literal} AND (_rivet."c" OPERATOR("ext".>) {literal} """
        f"""OR (_rivet."c" OPERATOR("ext".=) {literal} AND _rivet."n" """
        f"""OPERATOR("pg_catalog".>) '1'::{ANY_TEXT})))"""
    )
    led = keys.row_comparison(("a", "b", "c"), "<", ("1", "2", "x"))
    assert led.startswith(
        f"""((_rivet."a", _rivet."b") OPERATOR("pg_catalog".<=) ('1'::{ANY_TEXT}, '2'::"""
    )
    # varchar is compared as the text that its operators take, in name alone.
    assert keys.value("v") == f'_rivet."v"::{ANY_TEXT}'
    with pytest.raises(SourceRefused, match="no order in common"):
        keys.coalesced_comparison("c", "n", ">", "x")
    with pytest.raises(SourceRefused, match="has no order"):
        Keys({}).key_list(("a",))


def test_a_key_travels_as_bytes_where_the_servers_text_is_not_utf8() -> None:
    keys = Keys({"k": order()}, encoding="SQL_ASCII")
    assert keys.arrived(b"plain".hex()) == "plain"
    strange = keys.arrived("e131")
    assert strange == "\0e131"
    assert keys.literal("k", strange) == (
        f"pg_catalog.convert_from(pg_catalog.decode('e131', 'hex'), 'SQL_ASCII')::{ANY_TEXT}"
    )
    assert keys.literal("k", "plain") == f"'plain'::{ANY_TEXT}"
    assert Keys({"k": order()}).arrived("é") == "é"


def test_identifiers_and_literals_cannot_break_out() -> None:
    assert quote_identifier('a"b') == '"a""b"'
    assert quote_literal("a'b") == "'a''b'"
    assert quote_literal("a\\'b") == " E'a\\\\''b'"
    for bad in (quote_identifier, quote_literal):
        with pytest.raises(ConfigError):
            bad("a\0b")
    with pytest.raises(ValueError, match="2 key values for 1"):
        text_keys().row_comparison(("a",), ">", ("1", "2"))


def test_sources_and_blocks() -> None:
    orders = RelationName(schema="S", name="Orders")
    assert from_item(orders, None, only=True) == 'ONLY "S"."Orders" AS _rivet'
    assert from_item(None, "SELECT 1; -- done;") == "(\nSELECT 1\n) AS _rivet"
    assert block_range(3, None) == ("_rivet.ctid OPERATOR(pg_catalog.>=) '(3,0)'::pg_catalog.tid",)
    assert block_range(3, 9)[1] == "_rivet.ctid OPERATOR(pg_catalog.<) '(9,0)'::pg_catalog.tid"
    assert Select(columns="*", source="t").sql() == "SELECT * FROM t"


def test_casts_are_known_types_only() -> None:
    plain = select_expression(spec("a", TypeKind.INT32))
    assert plain == '_rivet."a" AS "a"'
    money = select_expression(spec("m", TypeKind.STRING, wire="25", cast="string"))
    assert money == '_rivet."m"::pg_catalog.text AS "m"'
    padded = select_expression(spec("c", TypeKind.STRING, wire="1042", cast="text"))
    assert padded == '_rivet."c" AS "c"'
    number = select_expression(spec("n", TypeKind.DECIMAL, wire="1700", cast="decimal(9, 2)"))
    assert number == '_rivet."n"::numeric AS "n"'
    for bad in ("text; DROP TABLE t", "decimal(77,2)", "decimal(3,4)", "geometry"):
        with pytest.raises(ConfigError):
            parse_override(bad)
    assert override_fidelity(TypeKind.FLOAT64, TypeKind.INT32) is Fidelity.LOSSY
    assert override_fidelity(TypeKind.INT32, TypeKind.INT64) is Fidelity.EXACT


def test_numeric_typmods() -> None:
    for precision, scale, expected in (
        (12, 2, (12, 2)),
        (5, -2, (7, 0)),
        (3, 5, (5, 5)),
        (76, 0, (76, 0)),
    ):
        found = numeric_type(((precision << 16) | (scale & 0x7FF)) + 4)
        assert isinstance(found, ColumnType) and (found.precision, found.scale) == expected
    assert not isinstance(numeric_type(-1), ColumnType)
    assert not isinstance(numeric_type((77 << 16) + 4), ColumnType)


def test_settings_are_bounded_and_zero_disables() -> None:
    settings = dict(page_settings(TuningPlan(statement_timeout_s=1.5, lock_timeout_s=0)))
    assert settings["statement_timeout"] == "1500" and settings["lock_timeout"] == "0"
    assert settings["TimeZone"] == "'UTC'" and "idle_in_transaction_session_timeout" in settings


def test_keys_without_exact_text_travel_once_more() -> None:
    columns = (
        spec("i", TypeKind.INT64),
        spec("t", TypeKind.TIMESTAMP),
        spec("f", TypeKind.FLOAT64),
    )
    session = Session(URL, tls_mode=None, tls_ca_file=None, application_name="test")
    read = ReadPlan(
        source="shop",
        engine="postgres",
        source_identity=URL.identity,
        relation=RelationName(schema="public", name="t"),
        query=None,
        columns=columns,
    )
    engine = PostgresReading(session, read, TuningPlan(), text_keys())
    assert hidden_keys(engine, columns, ("i", "t", "absent")) == ("t", "absent")
    with pytest.raises(ConfigError, match="floating"):
        hidden_keys(engine, columns, ("f",))


def test_block_ranges_need_version_14() -> None:
    assert not capabilities(130012).block_ranges and capabilities(140000).block_ranges


@pytest.mark.parametrize(
    ("sqlstate", "error", "retry", "extra_delay_s"),
    [
        ("57014", StatementTimeout, RetryClass.PERMANENT, 0),
        ("57P01", SourceUnavailable, RetryClass.RECONNECT, 15),
        ("57P02", SourceUnavailable, RetryClass.RECONNECT, 15),
        ("57P03", SourceUnavailable, RetryClass.RECONNECT, 15),
        ("53300", SourceBusy, RetryClass.RECONNECT, 15),
        ("08006", SourceUnavailable, RetryClass.RECONNECT, 0),
        ("40001", SourceBusy, RetryClass.TRANSIENT, 1),
        ("40P01", SourceBusy, RetryClass.TRANSIENT, 1),
        ("55P03", RelationLocked, RetryClass.TRANSIENT, 0),
        ("53200", SourceBusy, RetryClass.TRANSIENT, 5),
        ("28P01", SourceRefused, RetryClass.PERMANENT, 0),
        ("42P01", SourceRefused, RetryClass.PERMANENT, 0),
        ("XX000", SourceRefused, RetryClass.PERMANENT, 0),
    ],
)
def test_error_classes(sqlstate, error, retry, extra_delay_s) -> None:
    found = classify(sqlstate)
    assert (found.error, found.retry, found.extra_delay_s) == (error, retry, extra_delay_s)


def test_every_error_psycopg_knows_becomes_one_of_ours() -> None:
    classes = [
        value
        for module in (psycopg, psycopg.errors)
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, psycopg.Error)
    ]
    assert len(classes) > 200
    for cls in classes:
        for found in (translate(cls("boom"), URL, "x"), translate_connect(cls("boom"), URL)):
            assert isinstance(found, SourceError)
            assert isinstance(found.retry, RetryClass)
            if issubclass(cls, psycopg.OperationalError) and cls.sqlstate is None:
                assert found.retry is not RetryClass.PERMANENT


@pytest.mark.parametrize(
    ("said", "more", "kept"),
    [
        ("Jane is away", {}, None),
        ("Jane is away", {DiagnosticField.SOURCE_FUNCTION: b"exec_stmt_raise"}, None),
        ("Jane is away", {DiagnosticField.SOURCE_FUNCTION: b"ProcessInterrupts"}, None),
        ("permission denied for table jane", {}, "permission denied for ***"),
        ("permission denied for view orders", {}, "permission denied for ***"),
        ("deadlock detected", {}, "deadlock detected"),
        (
            "permission denied for table jane",
            {DiagnosticField.SOURCE_FUNCTION: b"aclcheck_error"},
            "permission denied for table jane",
        ),
        *(
            (
                "permission denied for table jane",
                {DiagnosticField.SOURCE_FUNCTION: b"aclcheck_error", inner: b"select from jane"},
                "permission denied for ***",
            )
            for inner in (DiagnosticField.CONTEXT, DiagnosticField.INTERNAL_QUERY)
        ),
        (
            'column "jane" does not exist',
            {DiagnosticField.STATEMENT_POSITION: b"8"},
            'column "jane" does not exist',
        ),
        (
            'column "jane" does not exist',
            {DiagnosticField.STATEMENT_POSITION: b"8", DiagnosticField.CONTEXT: b"SQL f"},
            "column *** does not exist",
        ),
    ],
)
@pytest.mark.parametrize("sqlstate", ["40P01", "57014", "42704", "22012"])
def test_words_are_kept_where_no_row_can_be_in_them_under_any_sqlstate(
    sqlstate: str, said: str, more: dict[DiagnosticField, bytes], kept: str | None
) -> None:
    info = {
        DiagnosticField.SQLSTATE: sqlstate.encode(),
        DiagnosticField.MESSAGE_PRIMARY: said.encode(),
        **more,
    }
    error = translate(psycopg.errors.lookup(sqlstate)(said, info=info), URL, "reading")
    assert (NOTHING_SAID if kept is None else f": {kept} (") in error.message
    assert (error.unmasked is None) is (kept == said)


def test_messages_hold_no_secret_and_name_the_target() -> None:
    error = psycopg.OperationalError("FATAL: password authentication failed: s3cretword")
    found = translate_connect(error, URL)
    assert "s3cretword" not in str(found) and "db.example:5433/shop" in str(found)
    assert isinstance(found, SourceRefused) and "password" in (found.hint or "")
