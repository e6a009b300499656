"""The configuration's JSON Schema, for editors: generated from the models."""

from __future__ import annotations

from typing import Any

from rivet_fleet import __version__
from rivet_fleet.planning.config_models import FleetConfig
from rivet_fleet.planning.config_rivet import DROPPED

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_VARIABLE = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*\}"}
_PLAIN_TYPES = ("integer", "number", "boolean")


def config_json_schema() -> dict[str, Any]:
    """Draft 2020-12, the program's version in its title.

    Numbers, flags and choices may also be written as ``${VAR}``.
    """
    generated = FleetConfig.model_json_schema()
    schema: dict[str, Any] = _with_variables(generated)
    for block in (schema, schema["$defs"]["ExportConfig"]):
        for name, why in DROPPED.items():
            block["properties"][name] = {"description": f"Accepted and ignored: {why}."}
    return {
        **schema,
        "$schema": DIALECT,
        "title": f"rivet-fleet configuration {__version__}",
    }


def _with_variables(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_variables(one) for one in node]
    if not isinstance(node, dict):
        return node
    walked = {key: _with_variables(value) for key, value in node.items()}
    if walked.get("type") in _PLAIN_TYPES or isinstance(walked.get("enum"), list):
        outer = {k: walked.pop(k) for k in ("title", "default", "description") if k in walked}
        return {**outer, "anyOf": [walked, dict(_VARIABLE)]}
    return walked
