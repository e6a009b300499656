"""Digests against the algorithms' own tools, counts against Python."""

import base64
import hashlib

import pyarrow as pa
import xxhash

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


def test_counts_add_up_and_extremes_are_the_writer_s():
    schema = pa.schema([("n", pa.int64()), ("t", pa.string())])
    counter = ColumnCounter(schema)
    for values in ([1, None], [None, None, 3]):
        rows = [pa.array(values, pa.int64()), pa.array(["x"] * len(values))]
        counter.add(pa.record_batch(rows, schema=schema))
    n, t = counter.finish({"n": 4}, {"n": ("1", "3")}, {"t": "value64:00000000000000ff"})
    assert (n.nulls, n.minimum, n.maximum, n.changed) == (3, "1", "3", 4)
    assert (t.nulls, t.minimum, t.maximum, t.changed) == (0, None, None, 0)
    assert (n.checksum, t.checksum) == (None, "value64:00000000000000ff")
