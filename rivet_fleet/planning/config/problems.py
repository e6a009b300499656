"""What is wrong with a configuration, as values: all of it is found before anything is said."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rivet_fleet.contracts.url import redact
from rivet_fleet.errors import ConfigError

ConfigKey = tuple[str | int, ...]
"""The way to one setting: ``("exports", 0, "mode")``."""
PROBLEMS_SHOWN_MAX = 20

NO_EXPORTS = "RIVET_CONFIG_NO_EXPORTS"
DUPLICATE_EXPORT = "RIVET_CONFIG_DUPLICATE_EXPORT"
COUNT_INVALID = "RIVET_CONFIG_CHUNK_COUNT_INVALID"
DAYS_INVALID = "RIVET_CONFIG_CHUNK_BY_DAYS_INVALID"
PARTITION_INVALID = "RIVET_CONFIG_PARTITION_INVALID"
MODE_UNSUPPORTED = "RIVET_CONFIG_SOURCE_MODE_UNSUPPORTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong. ``about_key`` points at the key instead of at its value."""

    at: ConfigKey
    what: str
    reason: str
    suggestion: str | None = None
    code: str | None = None
    about_key: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where every key and value stands in the file: 1-based (line, column)."""

    file: str
    keys: Mapping[ConfigKey, tuple[int, int]] = field(default_factory=dict, repr=False)
    values: Mapping[ConfigKey, tuple[int, int]] = field(default_factory=dict, repr=False)

    def where(self, at: ConfigKey, *, about_key: bool = False) -> str:
        """``file:line:column`` of a setting, or of the nearest enclosing one that exists."""
        line, column = self.mark(at, about_key=about_key)
        return f"{self.file}:{line}:{column}"

    def mark(self, at: ConfigKey, *, about_key: bool = False) -> tuple[int, int]:
        """(line, column), both from 1."""
        for end in range(len(at), -1, -1):
            near = at[:end]
            first, second = (
                (self.keys, self.values) if about_key or end < len(at) else (self.values, self.keys)
            )
            mark = first.get(near) or second.get(near)
            if mark:
                return mark
        return 1, 1


def dotted(at: ConfigKey) -> str:
    """``exports[0].mode``."""
    text = ""
    for step in at:
        text += f"[{step}]" if isinstance(step, int) else (f".{step}" if text else step)
    return text or "the configuration"


def close_match(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    found = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A whole sentence, or None."""
    found = close_match(word, known)
    return f"did you mean {found!r}?" if found else None


def listed(words: Iterable[str]) -> str:
    """``a, b, c``, sorted; ``none`` when there is nothing."""
    return ", ".join(sorted(words)) or "none"


def config_error(
    places: Places, problems: Sequence[Problem], secrets: tuple[str, ...] = ()
) -> ConfigError:
    """One error that names every problem with its place, reason and suggestion, redacted.

    A single problem's suggestion is the error's hint; of several each stands in its line.
    """
    first_at = {problem.at: problem for problem in reversed(problems)}
    kept = sorted(
        (problem for problem in problems if first_at[problem.at] is problem),
        key=lambda one: places.mark(one.at, about_key=one.about_key),
    )
    lines = [
        f"{places.where(one.at, about_key=one.about_key)}: {one.what}: {one.reason}" for one in kept
    ]
    code = next((one.code for one in kept if one.code), None)
    if len(kept) == 1:
        hint = kept[0].suggestion
        return ConfigError(
            redact(lines[0], secrets), hint=redact(hint, secrets) if hint else None, code=code
        )
    shown = [
        line + (f"; {one.suggestion}" if one.suggestion else "")
        for line, one in zip(lines, kept, strict=True)
    ][:PROBLEMS_SHOWN_MAX]
    if len(kept) > PROBLEMS_SHOWN_MAX:
        shown.append(f"… and {len(kept) - PROBLEMS_SHOWN_MAX} more")
    text = f"{len(kept)} problems:\n  " + "\n  ".join(shown)
    return ConfigError(redact(text, secrets), code=code)
