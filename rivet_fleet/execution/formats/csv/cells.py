"""Columns as CSV cells: one vectorised renderer per Arrow type, exact or refused.

A renderer takes an array and returns ``large_string`` of equal length, NULL where the value is
NULL, not yet quoted.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rivet_fleet.contracts.civil import date_text, time_text, timestamp_text

Renderer = Callable[[pa.Array], pa.Array]

_HEX = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), np.uint8).reshape(256, 2)
_UUID_BYTES = 16
_UUID_DIGITS = [i for i in range(36) if i not in (8, 13, 18, 23)]


def renderer_of(kind: pa.DataType) -> Renderer | None:
    """How to write columns of this type; None when there is no exact text for it."""
    if isinstance(kind, pa.BaseExtensionType):
        if kind.extension_name == "arrow.uuid":
            return lambda column: _uuid(column.storage)
        inner = renderer_of(kind.storage_type)
        return inner and (lambda column: inner(column.storage))
    for test, renderer in _RENDERERS:
        if test(kind):
            return renderer
    return None


def quoted(cells: pa.Array) -> pa.Array:
    """RFC 4180: quote cells with a comma, quote or line end; and the empty cell, so that it is
    not NULL."""
    special = pc.or_(
        pc.match_substring_regex(cells, '[",\r\n]'), pc.equal(pc.binary_length(cells), 0)
    ).fill_null(False)
    if not special.true_count:
        return cells
    doubled = pc.replace_substring(cells.filter(special), '"', '""')
    return pc.replace_with_mask(cells, special, _concat('"', doubled, '"'))


def lines(cells: list[pa.Array]) -> pa.Buffer:
    """Finished rows: cells joined by commas, a line feed after each, as one run of bytes."""
    joined = pc.binary_join_element_wise(
        *cells, _large(","), null_handling="replace", null_replacement=""
    )
    ended = _concat(joined, "\n")
    _, offsets, data = ended.buffers()
    bounds = np.frombuffer(offsets, np.int64)[ended.offset : ended.offset + len(ended) + 1]
    return data.slice(int(bounds[0]), int(bounds[-1] - bounds[0]))


def _large(text: str) -> pa.Scalar:
    return pa.scalar(text, pa.large_string())


def _concat(*pieces: pa.Array | str) -> pa.Array:
    args = [_large(p) if isinstance(p, str) else p for p in pieces]
    return pc.binary_join_element_wise(*args, _large(""))


def _cast(column: pa.Array) -> pa.Array:
    return column.cast(pa.large_string())


def _float(column: pa.Array) -> pa.Array:
    return pc.if_else(pc.is_nan(column), _large("NaN"), _cast(column))


def _decimal(column: pa.Array) -> pa.Array:
    # Small values come in scientific notation; exact digits are what the dialect promises.
    text = _cast(column)
    return _replaced(text, pc.match_substring(text, "E"), column, lambda v: format(v.as_py(), "f"))


def _date(column: pa.Array) -> pa.Array:
    text = _cast(column)
    days = column.cast(pa.int32())
    return _replaced(text, pc.starts_with(text, "<"), days, lambda v: date_text(v.as_py()))


def _time(column: pa.Array) -> pa.Array:
    exact = column.cast(pa.time64("us"))
    text = _cast(exact)
    micros = exact.cast(pa.int64())
    return _replaced(text, pc.starts_with(text, "<"), micros, lambda v: time_text(v.as_py()))


def _timestamp(column: pa.Array) -> pa.Array:
    zone = "Z" if column.type.tz is not None else ""
    exact = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
    text = _cast(exact.cast(pa.timestamp("us")))
    text = pc.replace_substring(text, " ", "T", max_replacements=1)
    text = _replaced(text, pc.starts_with(text, "<"), exact, lambda v: timestamp_text(v.as_py()))
    return _concat(text, zone) if zone else text


def _replaced(
    text: pa.Array, mask: pa.Array, values: pa.Array, render: Callable[[pa.Scalar], str]
) -> pa.Array:
    """``text`` with the masked cells rendered one by one: the few that Arrow cannot print."""
    mask = mask.fill_null(False)
    if not mask.true_count:
        return text
    slow = pa.array([render(v) for v in values.filter(mask)], pa.large_string())
    return pc.replace_with_mask(text, mask, slow)


def _binary(column: pa.Array) -> pa.Array:
    large = column.cast(pa.large_binary())
    _, offsets, data = large.buffers()
    bounds = np.frombuffer(offsets, np.int64)[large.offset : large.offset + len(large) + 1]
    octets = np.frombuffer(data or b"", np.uint8)[bounds[0] : bounds[-1]]
    digits = _HEX[octets]
    return _with_nulls(large, pa.py_buffer((bounds - bounds[0]) * 2), pa.py_buffer(digits))


def _uuid(column: pa.Array) -> pa.Array:
    count = len(column)
    data = column.buffers()[1]
    first = column.offset * _UUID_BYTES
    octets = np.frombuffer(data or b"", np.uint8)[first : first + count * _UUID_BYTES]
    text = np.full((count, 36), ord("-"), np.uint8)
    text[:, _UUID_DIGITS] = _HEX[octets].reshape(count, 32)
    bounds = np.arange(count + 1, dtype=np.int64) * 36
    return _with_nulls(column, pa.py_buffer(bounds), pa.py_buffer(text))


def _with_nulls(column: pa.Array, offsets: pa.Buffer, data: pa.Buffer) -> pa.Array:
    full = pa.Array.from_buffers(pa.large_string(), len(column), [None, offsets, data])
    if not column.null_count:
        return full
    return pc.if_else(column.is_valid(), full, pa.scalar(None, pa.large_string()))


def _is_micro_timestamp(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) and kind.unit != "ns")


def _is_micro_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_time(kind) and kind.unit != "ns")


def _is_decimal(kind: pa.DataType) -> bool:
    return bool(pa.types.is_decimal(kind) and kind.scale >= 0)


_RENDERERS: tuple[tuple[Callable[[pa.DataType], bool], Renderer], ...] = (
    (pa.types.is_boolean, _cast),
    (pa.types.is_integer, _cast),
    (pa.types.is_float32, _float),
    (pa.types.is_float64, _float),
    (_is_decimal, _decimal),
    (pa.types.is_date32, _date),
    (_is_micro_time, _time),
    (_is_micro_timestamp, _timestamp),
    (pa.types.is_string, _cast),
    (pa.types.is_large_string, _cast),
    (pa.types.is_binary, _binary),
    (pa.types.is_large_binary, _binary),
    (pa.types.is_fixed_size_binary, _binary),
)
