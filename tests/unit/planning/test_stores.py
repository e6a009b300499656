"""The settings of stores and streams: what is refused, and what a prefix is made of."""

from __future__ import annotations

import pytest

from rivet_fleet.contracts.destination import bucket_and_key
from rivet_fleet.planning.export_plan import destination_plan
from tests.unit.planning.conftest import HEAD, Loader
from tests.unit.planning.test_config import refusal, said

STREAM = HEAD + "  - {name: o, table: public.o, format: csv, destination: {type: stdout}}\n"
BUCKET = HEAD + (
    "  - {name: o, table: public.o, format: csv, destination: "
    "{type: s3, bucket: lake, prefix: raw/{export}}}\n"
).replace("raw/{export}", "'raw/{export}'")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("format: csv", "format: csv, mode: chunked", "several chunks, which are several files"),
        ("format: csv", "format: csv, max_file_size: 1MB", "makes several files: stdout is one"),
        ("exports:", "state: {url_env: S}\nexports:", "stdout cannot be looked at again"),
        ("type: stdout", "type: stdout, path: out", "path: has no meaning for type stdout"),
    ],
)
def test_a_stream_is_one_file_once(load_text: Loader, old: str, new: str, reason: str) -> None:
    assert old in STREAM
    assert load_text(STREAM).streams
    error = refusal(load_text, STREAM.replace(old, new, 1), environ={"S": "sqlite:///s.db"})
    assert reason in said(error)


def test_a_stream_takes_one_export(load_text: Loader) -> None:
    more = STREAM + STREAM.removeprefix(HEAD).replace("name: o", "name: p")
    assert "takes one export, and there are 2" in said(refusal(load_text, more))


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("bucket: lake/raw", "must be a bucket's name alone"),
        ("bucket: 's3://lake'", "must be a bucket's name alone"),
        ("prefix: /", "must not be empty"),
        ("prefix: raw/../x", "must not hold '.', '..'"),
        ("prefix: 'raw\\x'", "must not hold control characters or backslashes"),
        ("endpoint: minio.example:9000", "must be https://host"),
        ("endpoint: 'https://user:pw@minio.example'", "must be https://host"),
        ("endpoint: 'https://minio.example/lake'", "must be https://host"),
        ("endpoint: 'http://minio.example:9000'", "http is for this machine alone"),
        ("access_key_env: K", "goes with secret_key_env"),
        ("session_token_env: T", "goes with access_key_env"),
        ("access_key_env: K, secret_key_env: S, aws_profile: p", "excludes access_key_env"),
        ("access_key_env: K, secret_key_env: S, allow_anonymous: true", "excludes access_key_env"),
        ("sse_kms_key_id: k", "goes with sse"),
        ("path: lake", "path: has no meaning for type s3"),
    ],
)
def test_what_no_bucket_can_mean_is_refused(load_text: Loader, more: str, reason: str) -> None:
    name = more.partition(":")[0]
    text = BUCKET
    for one in ("bucket: lake, ", ", prefix: 'raw/{export}'"):
        text = text.replace(one, ", " if one.startswith("b") else "") if name in one else text
    text = text.replace("}}\n", f", {more}}}}}\n").replace("s3, ,", "s3,")
    error = refusal(load_text, text)
    assert reason in said(error), said(error)
    assert "pw" not in said(error)


@pytest.mark.parametrize(
    ("more", "prefix"),
    [
        ("", "s3://lake/raw/o"),
        ("endpoint: 'https://MinIO.example:443/'", "s3://lake@minio.example/raw/o"),
        ("endpoint: 'http://127.0.0.1:9000'", "s3://lake@127.0.0.1:9000/raw/o"),
        ("endpoint: 'http://[::1]:9000'", "s3://lake@[::1]:9000/raw/o"),
        ("endpoint: 'https://s3.eu-west-1.amazonaws.com'", "s3://lake/raw/o"),
    ],
)
def test_a_prefix_is_the_whole_place(load_text: Loader, more: str, prefix: str) -> None:
    text = BUCKET.replace("}}\n", f", {more}}}}}\n") if more else BUCKET
    loaded = load_text(text)
    plan = destination_plan(loaded, loaded.config.exports[0], "2026-01-02")
    assert (plan.prefix, bucket_and_key(plan.prefix)) == (prefix, ("lake", "raw/o"))
