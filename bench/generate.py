"""The rows of the narrow and the wide table: pure functions of row number and column seed.

Written as tab-separated text with ``\\N`` for NULL and backslash escapes, which PostgreSQL's COPY
and MariaDB's LOAD DATA both read by default. Every value is a hash, so the tables are the same on
every machine and in both engines.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv

from bench.schema import Engine

Hashes = npt.NDArray[np.uint64]

BLOCK_ROWS = 200_000
_MOMENT_FIRST_US = 1_704_067_200_000_000  # 2024-01-01 00:00:00 UTC
_FRAGMENTS = 4096
_SENTENCE = (
    "the order was sent to customer late parcel and returned with damage invoice paid by card "
    "warehouse north south pending review price changed after delivery address unknown please "
    "call before noon signed"
)
_WORDS = _SENTENCE.split()
_STATES = ("new", "open", "waiting", "closed")


def hashes(rows: npt.NDArray[np.int64], seed: int) -> Hashes:
    """splitmix64 of every row number under ``seed`` (Steele, Lea, Flood 2014)."""
    with np.errstate(over="ignore"):
        z = (rows.astype(np.uint64) + np.uint64(seed) * np.uint64(0xD1B54A32D192ED03)) * np.uint64(
            0x9E3779B97F4A7C15
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _below(rows: npt.NDArray[np.int64], seed: int, limit: int) -> npt.NDArray[np.int64]:
    """A whole number in [0, limit) per row."""
    return (hashes(rows, seed) % np.uint64(limit)).astype(np.int64)


def write_events(rows: int, sink: BinaryIO) -> None:
    """Rows 1 … ``rows`` of the events table."""
    options = pa_csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    for first in range(1, rows + 1, BLOCK_ROWS):
        numbers = np.arange(first, min(first + BLOCK_ROWS, rows + 1), dtype=np.int64)
        pa_csv.write_csv(_events_block(numbers), sink, options)


def _events_block(numbers: npt.NDArray[np.int64]) -> pa.Table:
    # 53 random bits as a fraction: doubles that use their whole mantissa.
    fraction = (hashes(numbers, 4) >> np.uint64(11)).astype(np.float64) / 2.0**53
    moments_us = _MOMENT_FIRST_US + numbers * 2_500_000 + _below(numbers, 5, 2_500_000)
    return pa.table(
        {
            "event_id": numbers,
            "user_id": _below(numbers, 1, 2_000_000).astype(np.int32),
            "device_id": _below(numbers, 2, 50_000).astype(np.int32),
            "kind": _below(numbers, 3, 40).astype(np.int16),
            "reading": fraction * 1000.0,
            "happened_at": pa.array(moments_us, pa.timestamp("us")),
        }
    )


def write_wide(rows: int, sink: BinaryIO, engine: Engine) -> None:
    """Rows 1 … ``rows`` of the wide table; arrays in the form this engine reads."""
    fragments = _fragments()
    for first in range(1, rows + 1, 10_000):
        numbers = np.arange(first, min(first + 10_000, rows + 1), dtype=np.int64)
        lines = (_line(cells) for cells in _wide_rows(numbers, fragments, engine))
        sink.write("".join(lines).encode())


def _line(cells: list[object]) -> str:
    return "\t".join("\\N" if cell is None else _escaped(str(cell)) for cell in cells) + "\n"


def _escaped(text: str) -> str:
    for plain, escaped in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n")):
        text = text.replace(plain, escaped)
    return text


def _fragments() -> list[str]:
    """Texts of about 400 bytes of words; a row's long texts are made of them."""
    return [
        " ".join(
            _WORDS[i] for i in _below(np.arange(n * 100, n * 100 + 68), 99, len(_WORDS)).tolist()
        )
        for n in range(_FRAGMENTS)
    ]


@dataclass(frozen=True, slots=True)
class _Picks:
    """The hashed choices of a block of rows, by seed."""

    numbers: npt.NDArray[np.int64]

    def below(self, seed: int, limit: int) -> list[int]:
        """One whole number in [0, limit) per row."""
        picked: list[int] = _below(self.numbers, seed, limit).tolist()
        return picked

    def nulls(self, seed: int) -> list[bool]:
        """True for one row of five."""
        chosen: list[bool] = (_below(self.numbers, seed, 5) == 0).tolist()
        return chosen


def _wide_rows(
    numbers: npt.NDArray[np.int64], fragments: list[str], engine: Engine
) -> Iterator[list[object]]:
    picks = _Picks(numbers)
    texts = [[fragments[i] for i in picks.below(41 + n, _FRAGMENTS)] for n in range(6)]
    columns: list[list[object]] = [*_plain_columns(picks), *_text_columns(picks, texts)]
    columns += _structured_columns(picks, texts, engine)
    return (list(row) for row in zip(*columns, strict=True))


def _or_null(values: list[object], nulls: list[bool]) -> list[object]:
    return [None if null else value for value, null in zip(values, nulls, strict=True)]


def _plain_columns(picks: _Picks) -> list[list[object]]:
    numbers = picks.numbers
    created = np.datetime_as_string((_MOMENT_FIRST_US + numbers * 7_000_013).astype("M8[us]"))
    updated_us = _MOMENT_FIRST_US + _below(numbers, 6, 31_536_000) * 1_000_000
    due = np.datetime64("2024-01-01", "D") + _below(numbers, 8, 900).astype("m8[D]")
    ids = (
        f"{a:016x}{b:016x}" for a, b in zip(hashes(numbers, 31), hashes(numbers, 32), strict=True)
    )
    return [
        numbers.tolist(),
        list(picks.below(2, 20_000)),
        [str(uuid.UUID(text, version=4)) for text in ids],
        [_STATES[i] for i in picks.below(3, 4)],
        list(picks.below(4, 2)),
        [str(text).replace("T", " ") for text in created],
        _or_null(
            [str(m).replace("T", " ") for m in updated_us.astype("M8[us]").astype("M8[s]")],
            picks.nulls(5),
        ),
        _or_null([str(day) for day in due], picks.nulls(7)),
        _or_null([f"{cents / 100:.2f}" for cents in picks.below(10, 10**8)], picks.nulls(9)),
        _or_null([repr(n / 7.0) for n in picks.below(12, 10**6)], picks.nulls(11)),
        _or_null(list(picks.below(14, 500)), picks.nulls(13)),
    ]


def _text_columns(picks: _Picks, texts: list[list[str]]) -> list[list[object]]:
    a, b, c, d, e, f = texts
    rows = range(len(a))
    return [
        _or_null([f"user{n}@example.org" for n in picks.below(15, 90_000)], picks.nulls(16)),
        _or_null([a[i][:80].strip() for i in rows], picks.nulls(17)),
        _or_null([f"{a[i]}. {b[i]}.\n{c[i]}. {d[i]}" for i in rows], picks.nulls(18)),
        _or_null([f"{e[i]}. {f[i]}" for i in rows], picks.nulls(19)),
        _or_null([f"{f[i]} – „{c[i]}“" for i in rows], picks.nulls(20)),
    ]


def _structured_columns(
    picks: _Picks, texts: list[list[str]], engine: Engine
) -> list[list[object]]:
    a, b, _, d, e, f = texts
    rows = range(len(a))
    tags = [b[i][:60].split() for i in rows]
    regions, tiers = picks.below(23, 12), picks.below(24, 4)
    labels = [[f"region-{regions[i]}", None, f"tier-{tiers[i]}"] for i in rows]
    items, express, price, steps = (
        picks.below(s, n) for s, n in ((26, 40), (27, 2), (28, 9999), (30, 50))
    )
    payload = [
        {
            "order": int(picks.numbers[i]),
            "items": items[i],
            "note": d[i],
            "shipping": {"text": e[i], "express": bool(express[i])},
            "prices": [price[i] / 100, 12.5, None],
        }
        for i in rows
    ]
    attributes = [
        {
            "channel": "web",
            "agent": f[i][:200],
            "referrer": a[i][:150],
            "steps": [1, 2, steps[i]],
            "text": b[i],
        }
        for i in rows
    ]
    return [
        _or_null([_array(words, engine) for words in tags], picks.nulls(21)),
        _or_null([_array(words, engine) for words in labels], picks.nulls(22)),
        _or_null([json.dumps(value) for value in payload], picks.nulls(25)),
        _or_null([json.dumps(value) for value in attributes], picks.nulls(29)),
    ]


def _array(words: list[str] | list[str | None], engine: Engine) -> str:
    """An array literal, or JSON where there are no arrays. The words need no quotes."""
    if engine is Engine.POSTGRES:
        return "{" + ",".join("NULL" if word is None else word for word in words) + "}"
    return json.dumps(words)


def main() -> None:
    """Arguments: table, rows, engine. Writes the rows to standard output."""
    table, rows, engine = sys.argv[1:4]
    if table == "events":
        write_events(int(rows), sys.stdout.buffer)
    else:
        write_wide(int(rows), sys.stdout.buffer, Engine(engine))


if __name__ == "__main__":
    main()
