"""What the configuration's blocks are made of: the block itself, and checked kinds of values."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

# ------------------------------------------------------------------------------------------
# Byte sizes as people write them: ``64MB``, ``1.5 GB``, ``1048576``. Units are binary.

MIB = 1024 * 1024
_UNITS = {"": 1, "B": 1, "KB": 1024, "MB": MIB, "GB": 1024 * MIB}
_SIZE = re.compile(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]*)\s*")


def parse_size(text: str) -> int:
    """Bytes. Raises ValueError for anything that is not a positive size (Rivet: Sizes)."""
    found = _SIZE.fullmatch(text)
    unit = found[2].upper().replace("IB", "B") if found else ""
    if found is None or unit not in _UNITS:
        raise ValueError("must be a size such as 512KB, 64MB or 1.5GB")
    size = int(Fraction(found[1]) * _UNITS[unit])
    if size < 1:
        raise ValueError("must be larger than zero")
    return size


def _not_a_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _one_or_more_columns(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(","))
    return value


def _size(value: Any) -> Any:
    if isinstance(value, str):
        return parse_size(value)
    return _not_a_flag(value)


def _flag_text(value: Any) -> Any:
    return "true" if value is True else value


Count = Annotated[int, BeforeValidator(_not_a_flag)]
Number = Annotated[float, BeforeValidator(_not_a_flag)]
Columns = Annotated[
    tuple[str, ...],
    BeforeValidator(_one_or_more_columns, json_schema_input_type=str | list[str]),
]
SettingText = Annotated[str, BeforeValidator(_flag_text, json_schema_input_type=str | bool)]
"""Text, or ``true``."""
Bytes = Annotated[int, BeforeValidator(_size, json_schema_input_type=int | str)]


class Block(BaseModel):
    """Unknown keys are refused, values are never echoed, nothing changes after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False
    )
