"""What the tests of the PostgreSQL source share: fixtures, plans from facts, draining."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import psycopg
import pyarrow as pa
import pytest

from rivet_fleet.contracts.columns import ColumnSpec
from rivet_fleet.contracts.facts import FactsRequest, SourceFacts
from rivet_fleet.contracts.keys import ChunkRange, KeyTuple, RangeKind, RelationName
from rivet_fleet.contracts.plan import ReadPlan, SealedHeap, TuningPlan
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.execution.source import ChunkReader, PageLimit, Source
from rivet_fleet.execution.sources.postgres import ENGINE as POSTGRES
from tests.packed import unpacked

LIMIT = PageLimit(rows_max=700, bytes_max=1 << 20)


@pytest.fixture
def sql(database: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def source(database: str) -> Iterator[Source]:
    opened = POSTGRES.open_source(parse_database_url(database), application_name="rivet-test")
    yield opened
    opened.close()


def relation(name: str, schema: str = "public") -> RelationName:
    return RelationName(schema=schema, name=name)


def facts_of(source: Source, name: str, *keys: str, casts=(), boundaries: int = 100) -> SourceFacts:
    return source.introspect(
        FactsRequest(
            export_name=name,
            relation=relation(name),
            query=None,
            key_columns=keys,
            casts=casts,
            boundaries_max=boundaries,
        )
    )


def specs(facts: SourceFacts, casts=()) -> tuple[ColumnSpec, ...]:
    overrides = dict(casts)
    return tuple(
        ColumnSpec(
            name=c.name,
            native_type=c.native_type,
            type=c.type,
            nullable=c.nullable,
            wire_type=c.wire_type,
            cast=overrides.get(c.name),
            comment=c.comment,
        )
        for c in facts.columns
    )


def read_plan(facts: SourceFacts, casts=(), query: str | None = None) -> ReadPlan:
    return ReadPlan(
        source="s",
        engine=facts.engine,
        source_identity="",
        relation=facts.relation,
        query=query,
        columns=specs(facts, casts),
        session=facts.session,
        heaps=tuple(
            SealedHeap(relation=heap.name, identity=heap.identity)
            for heap in facts.heaps
            if heap.identity is not None
        ),
    )


def drain(reader: ChunkReader, limit: PageLimit = LIMIT) -> pa.Table:
    batches = []
    while True:
        page = reader.read_page(limit)
        batches.append(unpacked(page.batch, reader.schema))
        if page.last:
            reader.close()
            return pa.Table.from_batches(batches, schema=reader.schema)


def read_all(source: Source, read: ReadPlan, chunk: ChunkRange, **tuning) -> pa.Table:
    """The chunk in nominal pages, and once more in packed ones: they must not differ."""
    found = drain(source.open_chunk(read, chunk, TuningPlan(**tuning)))
    reader = source.open_chunk(read, chunk, TuningPlan(**tuning))
    reader.pack()
    packed = drain(reader)
    assert packed.schema.equals(found.schema, check_metadata=True)
    for one, other in zip(packed.columns, found.columns, strict=True):
        # NaN is not equal to itself, and is the same value all the same. Only columns that hold
        # one are spelled out: Python has no date for all that the others may hold.
        assert one.equals(other) or repr(one.to_pylist()) == repr(other.to_pylist())
    return found


def random_cuts(points: list[KeyTuple], rng: random.Random) -> list[KeyTuple | None]:
    chosen = sorted(rng.sample(range(len(points)), min(5, len(points))))
    return [None, *(points[i] for i in chosen), None]


def partition_by_key(
    source: Source, read: ReadPlan, kind: RangeKind, columns: tuple[str, ...], cuts
) -> pa.Table:
    tables = [
        read_all(source, read, ChunkRange(kind=kind, columns=columns, lower=low, upper=high))
        for low, high in itertools.pairwise(cuts)
    ]
    return pa.concat_tables(tables)
