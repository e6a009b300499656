"""Writes docs/reference/configuration.md, cli.md and the catalogues of events.md and error-codes.md
from the program.

``python scripts/write_reference.py`` writes them; a house test fails when they are stale.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import annotated_types
import click
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from rivet_fleet.cli.main import LazyGroup, cli
from rivet_fleet.contracts.codes import CODES, Code
from rivet_fleet.contracts.events import EventName
from rivet_fleet.execution import registry
from rivet_fleet.planning.config import models

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"

BLOCKS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("The file", models.FleetConfig),
    ("source", models.SourceConfig),
    ("tls", models.TlsConfig),
    ("tuning", models.TuningConfig),
    ("export", models.ExportConfig),
    ("quality", models.QualityConfig),
    ("reconcile", models.ReconcileConfig),
    ("destination", models.DestinationConfig),
    ("parquet", models.ParquetConfig),
    ("meta columns", models.MetaColumnsConfig),
    ("defaults", models.DefaultsConfig),
    ("campaign", models.CampaignConfig),
    ("source group", models.SourceGroupConfig),
    ("monitor", models.MonitorConfig),
    ("signal", models.SignalConfig),
    ("hours", models.HoursConfig),
    ("parameter", models.ParameterConfig),
    ("errors", models.ErrorsConfig),
    ("state", models.StateConfig),
)
_CONFIGURATION_HEAD = """\
# The configuration file

Generated from the program's own models by `scripts/write_reference.py`: every key there is, its
type, default and bounds. Unknown and misplaced keys are refused with file, line, reason and a
suggestion. `rivet-fleet schema config` prints the same as JSON Schema, for editors.

- `${NAME}` in any text is replaced by `--param NAME=VALUE`, else by the environment variable.
  `${$}` stands for a dollar sign: `${$}{NAME}` is the text `${NAME}`.
- In SQL (`query`, `query_file`, a signal's `sql`) it is a value, never a piece of SQL: inside
  quotes it is escaped by their rules; without quotes a number, `true`, `false` and `null` are
  themselves and anything else is a text; a name must be declared in `params:`
  ([parameters](../howto/parameters.md)).
- Relations are named as SQL names them: `orders`, `sales.orders`; a part that is no plain word
  stands in double quotes (a quote of its own twice) or in backticks, and the whole in YAML's
  quotes: `table: '"sales.orders"'` is one table with a dot in its name,
  `table: 'sales."odd ""name"'` a table in a schema. Names are exact: case counts.
- Paths are relative to the file. `{date}`, `{export}`, `{table}` and `{partition}` are replaced in
  `destination.path`. `{table}` is the table's name without its schema; what is no letter, digit,
  `_`, `.`, `-`, `~` or `$` in it stands as `%XX`, so that two names never share a folder.
  Exports that name one folder get one each in it, as if `{export}` were written at the path's end.
- Secrets belong into the environment: `url_env`, `password_env`, or a file: `url_file`.
- Environment variables: `RIVET_FLEET_CONFIG` is the configuration where no `-c` names one and no
  `fleet.yaml` lies in the folder that a command is started in (where everybody may write there, it
  must be this user's alone, or be named);
  `RIVET_FLEET_NAMESPACE` is `state.namespace` where that is absent;
  `RIVET_FLEET_STATE_URL`, else `RIVET_STATE_URL`, names the state database
  when neither `--state-url` nor `state:` does.
- `RIVET_FLEET_ALLOW_SOURCE` (patterns of `engine://user@host:port/database`, each alone or as
  `NAME=PATTERN`) and `RIVET_FLEET_ALLOW_DESTINATION` (folders), one a line, bound what any command
  reads and writes, whatever configuration and state say (ADR 0024).
- Settings of Rivet that would change the data and are not supported yet are refused by name;
  those that only advise are accepted with a warning. `notifications` is refused, because nothing
  is sent yet, until `ignored_settings: [notifications]` says that this is known.
"""
_CLI_HEAD = """\
# The command line

Generated from the program's own commands by `scripts/write_reference.py`. Exit codes:
[exit-codes.md](exit-codes.md). Options before the command: `rivet-fleet --log-level debug run …`.
"""


def pages() -> dict[str, str]:
    """File name → the text it must have."""
    return {
        "configuration.md": configuration(),
        "cli.md": command_line(),
        "events.md": events(),
        "error-codes.md": error_codes(),
    }


def configuration() -> str:
    """Every block of the configuration as a table."""
    parts = [_CONFIGURATION_HEAD]
    for title, model in BLOCKS:
        parts.append(f"\n## {title}\n\n{_sentence(model.__doc__)}\n")
        parts.append("| key | type | default | meaning |\n|---|---|---|---|")
        parts += [_key_row(name, info) for name, info in model.model_fields.items()]
        if model is models.DestinationConfig:
            parts += _settings_of_kinds()
    return "\n".join(parts) + "\n"


def _settings_of_kinds() -> list[str]:
    """What single kinds of destinations read, a row each."""
    return [
        f"| `{name}` | text | {'required' if setting.required else ''} | {kind.name}: "
        f"{setting.meaning} |"
        for kind in registry.destination_kinds().values()
        for name, setting in kind.settings.items()
        if name not in models.DestinationConfig.model_fields
    ]


def _key_row(name: str, info: FieldInfo) -> str:
    default = "required" if info.is_required() else _default(info)
    kind = _kind(info.annotation)
    bounds = _bounds(info)
    cells = (f"`{name}`", kind + (f", {bounds}" if bounds else ""), default, info.description or "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(info: FieldInfo) -> str:
    value = info.default
    if value is PydanticUndefined or value is None or isinstance(value, BaseModel):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


_WORDS = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    SecretStr: "text (secret)",
    type(None): "",
}


def _kind(annotation: Any) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(inner[0])
    if origin is typing.Literal:
        return ", ".join(f"`{word}`" for word in inner)
    if origin is dict:
        return f"names, each with {_kind(inner[1])}"
    if origin is tuple:
        return f"list of {_kind(inner[0])}"
    if inner:
        return " or ".join(word for word in map(_kind, inner) if word)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        title = next(title for title, model in BLOCKS if model is annotation)
        return f"[{title}](#{title.replace(' ', '-')})"
    return _WORDS[annotation]


def _bounds(info: FieldInfo) -> str:
    found = [*info.metadata, *_metadata(info.annotation)]
    low = next((str(m.ge) for m in found if isinstance(m, annotated_types.Ge)), "")
    high = next((str(m.le) for m in found if isinstance(m, annotated_types.Le)), "")
    if low and high:
        return f"{low} to {high}"
    return f"at least {low}" if low else ""


def _metadata(annotation: Any) -> Iterator[Any]:
    if typing.get_origin(annotation) is typing.Annotated:
        for one in typing.get_args(annotation)[1:]:
            yield from one.metadata if isinstance(one, FieldInfo) else (one,)
    for inner in typing.get_args(annotation):
        yield from _metadata(inner)


def command_line() -> str:
    """Every command with its options."""
    parts = [_CLI_HEAD]
    parts += _described("rivet-fleet", cli, level=2)
    return "\n".join(parts).rstrip() + "\n"


def _described(path: str, command: click.Command, *, level: int) -> Iterator[str]:
    yield f"\n{'#' * level} {path}\n"
    yield _sentence(command.help)
    rows = [_option_row(p) for p in command.params if not getattr(p, "hidden", False)]
    if rows:
        yield "\n| option | value | default | meaning |\n|---|---|---|---|"
        yield from rows
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            if isinstance(command, LazyGroup) and name == "coordinator":
                continue
            inner = command.get_command(context, name)
            assert inner is not None
            alias = " (alias: `coordinator`)" if name == "run" else ""
            yield from _described(f"{path} {name}{alias}", inner, level=3)


def _option_row(parameter: click.Parameter) -> str:
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    kind = parameter.type
    value = "" if getattr(parameter, "is_flag", False) else _value(kind, parameter)
    default = parameter.default if getattr(parameter, "show_default", False) else None
    shown = f"`{default}`" if default is not None else ""
    shown = "required" if parameter.required else shown
    cells = (names, value, shown, getattr(parameter, "help", None) or "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _value(kind: click.ParamType, parameter: click.Parameter) -> str:
    if isinstance(kind, click.Choice):
        return ", ".join(f"`{word}`" for word in kind.choices)
    word = parameter.metavar or kind.name
    return word.replace(" range", "")


def _sentence(text: str | None) -> str:
    """A docstring as Markdown: click's ``\\b`` blocks become code."""
    lines = [line.strip() for line in (text or "").strip().splitlines()]
    body, _, block = "\n".join(lines).partition("\b\n")
    shown = re.sub(r"(?<=\S)\n(?=\S)", "\n", body).strip()
    return f"{shown}\n\n```\n{block.strip()}\n```" if block else shown


_CATALOGUE_HEAD = "| event | when | by | level | data |\n|---|---|---|---|---|\n"


def events() -> str:
    """The page with every event as a row of its last table; what stands above is kept."""
    above, _, _ = (REFERENCE / "events.md").read_text(encoding="utf-8").partition(_CATALOGUE_HEAD)
    return above + _CATALOGUE_HEAD + "".join(map(_event_row, EventName))


def _event_row(event: EventName) -> str:
    when = event.when if event.journaled else f"{event.when}; not journaled"
    cells = (f"`{event.value}`", when, event.by, event.level, event.data)
    return f"| {' | '.join(cells)} |\n".replace("|  |", "| |")


_CODES_HEAD = "| code | kind | exit | retryable | says | what to do |\n|---|---|---|---|---|---|\n"
_PAGE = re.compile(r"docs/(reference/)?([\w/.-]+\.md)")


def error_codes() -> str:
    """The page with every code as a row of its last table; what stands above is kept."""
    above, _, _ = (REFERENCE / "error-codes.md").read_text(encoding="utf-8").partition(_CODES_HEAD)
    return above + _CODES_HEAD + "".join(map(_code_row, CODES.values()))


def _code_row(code: Code) -> str:
    again = "yes" if code.retryable else "no"
    cells = (code.kind.value, str(int(code.exit_code)), again, code.says, code.action)
    linked = (_PAGE.sub(_link, cell) for cell in cells)
    return f"| `{code.name}` | {' | '.join(linked)} |\n"


def _link(found: re.Match[str]) -> str:
    name = found[2].rpartition("/")[2].removesuffix(".md")
    return f"[{name}]({found[2] if found[1] else f'../{found[2]}'})"


def main() -> None:
    """Write the pages."""
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
