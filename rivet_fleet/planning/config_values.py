"""What the configuration's blocks are made of: the block itself, and checked kinds of values."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from rivet_fleet.planning.sizes import parse_size


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


Count = Annotated[int, BeforeValidator(_not_a_flag)]
Number = Annotated[float, BeforeValidator(_not_a_flag)]
Columns = Annotated[
    tuple[str, ...],
    BeforeValidator(_one_or_more_columns, json_schema_input_type=str | list[str]),
]
Bytes = Annotated[int, BeforeValidator(_size, json_schema_input_type=int | str)]


class Block(BaseModel):
    """Unknown keys are refused, values are never echoed, nothing changes after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False
    )
