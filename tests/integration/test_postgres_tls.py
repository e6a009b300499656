"""PostgreSQL over TLS. The embedded server speaks none: a front does for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rivet_fleet.contracts.facts import FactsRequest
from rivet_fleet.contracts.keys import ChunkRange, RangeKind
from rivet_fleet.contracts.plan import TuningPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import SourceRefused, StatementTimeout
from rivet_fleet.execution.source import PageLimit, Source
from rivet_fleet.execution.sources.postgres import ENGINE as POSTGRES
from tests.integration.postgres_source_kit import facts_of, read_all, read_plan, sql
from tests.servers.tls import TlsFront, certificate

__all__ = ["sql"]

KEYSET = ChunkRange(kind=RangeKind.KEYSET, columns=("n",))


@pytest.fixture
def encrypted(database: str, tmp_path: Path) -> Iterator[Source]:
    url = parse_database_url(database)
    front = TlsFront((url.host or "", url.port or 0), certificate(tmp_path))
    opened = POSTGRES.open_source(
        replace(url, host="127.0.0.1", port=front.port),
        tls_mode="require",
        application_name="rivet-test",
    )
    yield opened
    opened.close()
    front.close()


def test_rows_arrive_over_tls(sql, encrypted, monkeypatch) -> None:
    monkeypatch.setattr("rivet_fleet.execution.sources.postgres.reading._NEAR_S", 0.0)
    sql.execute("CREATE TABLE t (n int PRIMARY KEY, v text)")
    sql.execute("INSERT INTO t SELECT i, repeat('é', i % 300) FROM generate_series(1, 20000) i")
    got = read_all(encrypted, read_plan(facts_of(encrypted, "t")), KEYSET)
    assert got.column("n").to_pylist() == list(range(1, 20001))
    assert got.column("v").to_pylist() == ["é" * (i % 300) for i in range(1, 20001)]
    assert encrypted._session.connection.pgconn.ssl_in_use  # type: ignore[attr-defined]
    # And pages that are asked for at once.
    at_once = PageLimit(rows_max=3_000, bytes_max=1 << 22, pages_max=4, page_s=1e-9)
    reader = encrypted.open_chunk(read_plan(facts_of(encrypted, "t")), KEYSET, TuningPlan())
    pages = [reader.read_page(at_once)]
    while not pages[-1].last:
        pages.append(reader.read_page(at_once))
    assert any(page.followed for page in pages)
    assert [n for page in pages for n in page.batch.column(0).to_pylist()] == list(range(1, 20001))


def test_a_failed_page_over_tls_is_an_error_and_the_source_stays_usable(sql, encrypted) -> None:
    sql.execute("CREATE TABLE t (n int PRIMARY KEY)")
    sql.execute("INSERT INTO t SELECT generate_series(1, 100)")
    query = "SELECT i, pg_sleep(0.2)::text AS s FROM generate_series(1, 100) i"
    slow = encrypted.introspect(FactsRequest(export_name="q", relation=None, query=query))
    whole = ChunkRange(kind=RangeKind.WHOLE)
    with pytest.raises(StatementTimeout):
        read_all(encrypted, read_plan(slow, query=query), whole, statement_timeout_s=0.3)
    got = read_all(encrypted, read_plan(facts_of(encrypted, "t")), KEYSET)
    assert got.num_rows == 100


def test_who_is_not_vouched_for_gets_no_password(database: str, tmp_path: Path) -> None:
    url = parse_database_url(database)
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.mkdir()
    front = TlsFront((url.host or "", url.port or 0), certificate(own))
    near = replace(url, host="127.0.0.1", port=front.port, password="quay-side-9")
    try:
        trusted = POSTGRES.open_source(
            near,
            tls_mode="verify-ca",
            tls_ca_file=str(own / "server.pem"),
            application_name="rivet-test",
        )
        trusted.ping()
        trusted.close()
        # Somebody else's certificate, and the right one under another name than the host's.
        for mode, authority in (("verify-ca", certificate(other)), ("verify-full", own)):
            file = authority if authority.is_file() else authority / "server.pem"
            with pytest.raises(SourceRefused, match="certificate") as caught:
                POSTGRES.open_source(
                    near, tls_mode=mode, tls_ca_file=str(file), application_name="rivet-test"
                ).ping()
            assert caught.value.hint
            assert "quay-side-9" not in str(caught.value)
    finally:
        front.close()
