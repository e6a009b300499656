"""Digests against the algorithms' own tools, counts against Python."""

import base64
import datetime
import hashlib

import pyarrow as pa
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from rivet_fleet.execution.parts import (
    ColumnCounter,
    digest_file,
    fingerprint_bytes,
    fingerprint_file,
)


def test_a_digest_is_that_of_the_exact_bytes(tmp_path):
    body = b"\x00rivet" * 700_000
    path = tmp_path / "part"
    path.write_bytes(body)
    digest = digest_file(path, 7)
    assert digest.rows == 7
    assert digest.size_bytes == len(body)
    assert digest.fingerprint == f"xxh3:{xxhash.xxh3_64(body).intdigest():016x}"
    assert digest.md5_base64 == base64.b64encode(hashlib.md5(body).digest()).decode()
    assert fingerprint_file(path) == fingerprint_bytes(body) == digest.fingerprint


@given(st.lists(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))), max_size=5))
def test_counts_add_up_and_extremes_widen(batches):
    schema = pa.schema([("n", pa.int64())])
    counter = ColumnCounter(schema)
    for values in batches:
        counter.add(pa.record_batch([pa.array(values, pa.int64())], schema=schema))
    (stats,) = counter.finish({"n": 4})
    flat = [v for values in batches for v in values]
    known = [v for v in flat if v is not None]
    assert stats.nulls == len(flat) - len(known)
    assert stats.minimum == (str(min(known)) if known else None)
    assert stats.maximum == (str(max(known)) if known else None)
    assert stats.changed == 4


def test_times_have_extremes_and_text_has_none():
    schema = pa.schema([("at", pa.timestamp("us", "UTC")), ("t", pa.string())])
    counter = ColumnCounter(schema)
    instant = datetime.datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=datetime.UTC)
    counter.add(pa.record_batch([pa.array([instant], schema[0].type), pa.array(["x"])], schema))
    at, text = counter.finish({})
    assert at.minimum == "1969-12-31 23:59:59.999999Z"
    assert (text.minimum, text.changed) == (None, 0)
