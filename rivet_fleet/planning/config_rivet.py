"""Settings a Rivet YAML may hold that do nothing here yet: a table, each with its answer.

What would change the data is refused in a sentence; what only advises is dropped with a
warning. A setting that is switched off (``false``, null, empty) asks for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rivet_fleet.planning.problems import MODE_UNSUPPORTED, ConfigKey, Problem, dotted

_EXPORT_REFUSED = {
    "tables": "several tables in one export",
    "cdc": "change capture",
}
_MODES_REFUSED = ("cdc",)
_DESTINATION_REFUSED = (
    "bucket",
    "prefix",
    "region",
    "endpoint",
    "access_key_env",
    "secret_key_env",
    "session_token_env",
    "aws_profile",
    "credentials_file",
    "account_name",
    "account_key_env",
    "sas_token_env",
    "allow_anonymous",
)
_DESTINATION_TYPES = ("s3", "gcs", "azure", "stdout")
DROPPED = {
    "notifications": "nothing is sent yet",
    "load": "files are written, no warehouse is loaded",
}


@dataclass(slots=True, kw_only=True)
class Screened:
    """What is left of the file, what is refused, and what was dropped with a word."""

    plain: dict[str, Any] = field(repr=False)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[tuple[ConfigKey, str]] = field(default_factory=list)

    def refuse(self, at: ConfigKey, what: str, code: str | None = None) -> None:
        """Known, not supported yet: said in one sentence."""
        self.problems.append(
            Problem(
                at=at,
                what=dotted(at),
                reason=f"known in Rivet, not supported yet: {what}",
                suggestion="remove it, or extract this export with Rivet",
                about_key=True,
                code=code,
            )
        )


def screen(plain: dict[str, Any], destinations: frozenset[str]) -> Screened:
    """Take Rivet's other settings out of the parsed file. ``plain`` itself stays as it is."""
    screened = Screened(plain=dict(plain))
    _drop(screened, screened.plain, ())
    exports = plain.get("exports")
    if isinstance(exports, list):
        screened.plain["exports"] = [
            _screen_export(screened, one, ("exports", i), destinations)
            for i, one in enumerate(exports)
        ]
    return screened


def _drop(screened: Screened, block: dict[str, Any], at: ConfigKey) -> None:
    for name, why in DROPPED.items():
        if name in block:
            if _asks_for_something(block[name]):
                screened.warnings.append(((*at, name), f"{dotted((*at, name))} is ignored: {why}"))
            del block[name]


def _screen_export(
    screened: Screened, export: Any, at: ConfigKey, destinations: frozenset[str]
) -> Any:
    if not isinstance(export, dict):
        return export
    kept = dict(export)
    _drop(screened, kept, at)
    for name, what in _EXPORT_REFUSED.items():
        if name in kept:
            if _asks_for_something(kept[name]):
                screened.refuse((*at, name), what)
            del kept[name]
    if kept.get("mode") in _MODES_REFUSED:
        screened.refuse(
            (*at, "mode"),
            f"mode {kept['mode']}; use full, chunked or incremental",
            MODE_UNSUPPORTED,
        )
        del kept["mode"]
    if isinstance(kept.get("destination"), dict):
        kept["destination"] = _screen_destination(
            screened, kept["destination"], (*at, "destination"), destinations
        )
    return kept


def _screen_destination(
    screened: Screened, block: dict[str, Any], at: ConfigKey, destinations: frozenset[str]
) -> dict[str, Any]:
    kept = dict(block)
    kind = kept.get("type")
    elsewhere = kind in _DESTINATION_TYPES and kind not in destinations
    if elsewhere:
        screened.refuse((*at, "type"), f"destination type {kind}; use local")
        kept["type"] = next(iter(sorted(destinations)), kind)
        kept.setdefault("path", ".")
    for name in _DESTINATION_REFUSED:
        if name in kept:
            if not elsewhere and _asks_for_something(kept[name]):
                screened.refuse((*at, name), "a setting of an object store")
            del kept[name]
    return kept


def _asks_for_something(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_asks_for_something(one) for one in value.values())
    return value not in (None, False, [], "")
