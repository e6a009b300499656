"""Byte sizes as people write them: ``64MB``, ``1.5 GB``, ``1048576``. Units are binary."""

from __future__ import annotations

import re
from fractions import Fraction

MIB = 1024 * 1024
_UNITS = {"": 1, "B": 1, "KB": 1024, "MB": MIB, "GB": 1024 * MIB}
_SIZE = re.compile(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]*)\s*")


def parse_size(text: str) -> int:
    """Bytes. Raises ValueError for anything that is not a positive size (inventory §2.3)."""
    found = _SIZE.fullmatch(text)
    unit = found[2].upper().replace("IB", "B") if found else ""
    if found is None or unit not in _UNITS:
        raise ValueError("must be a size such as 512KB, 64MB or 1.5GB")
    size = int(Fraction(found[1]) * _UNITS[unit])
    if size < 1:
        raise ValueError("must be larger than zero")
    return size
