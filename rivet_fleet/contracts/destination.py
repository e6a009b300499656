"""What a kind of destination asks of the configuration, and one destination that is resolved. Pure.

A kind says by itself which settings it has, which of them tell where it is, and how they become a
prefix: nobody else knows what a prefix is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rivet_fleet.contracts.plan import DestinationPlan

Settings = Mapping[str, str]
"""A destination's block of the configuration without its ``type``, as texts."""
_VARIABLE = "_env"


def names_variable(setting: str) -> bool:
    """True for a setting that names the environment variable a secret is in. By its name alone, so
    that no kind can forget to say so: whatever such a variable holds is redacted everywhere."""
    return setting.endswith(_VARIABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationSetting:
    """One setting of a kind."""

    meaning: str
    in_prefix: bool = False
    """The prefix tells it. Any other setting stands in the plan's ``options``, by its own text."""
    required: str | None = None
    """What to write where it is missing; None: it may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingProblem:
    """What is wrong with the settings of a destination."""

    setting: str
    reason: str
    suggestion: str | None = None


def _no_problems(_settings: Settings) -> Iterator[SettingProblem]:
    yield from ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationKind:
    """The rules of one kind. Every function is pure: nothing is opened, nothing is looked at."""

    name: str
    below: str
    """The setting whose placeholders are replaced: where in the place the dataset lies."""
    settings: Mapping[str, DestinationSetting]
    unsafe: Callable[[str], str | None]
    """Why a text of ``below`` is refused, or None."""
    prefix: Callable[[Settings, Path], str]
    """(settings without placeholders, folder of the configuration) → the dataset's root.

    It alone tells the place: equal prefixes of one kind are one place, whatever their options. Of
    a store it is a URI whose authority names the bucket, and behind an ``@`` the account or the
    endpoint where that is not the service's own.
    """
    anchored: bool = False
    """True where links may lie on the way to a prefix (``DestinationPlan.anchor``)."""
    problems: Callable[[Settings], Iterator[SettingProblem]] = _no_problems
    """What is wrong although each setting is right."""

    def options(self, settings: Settings) -> dict[str, str]:
        """What a plan holds beside the prefix: names of variables, never what they hold."""
        return {name: text for name, text in settings.items() if not self.settings[name].in_prefix}

    @property
    def has_options(self) -> bool:
        """True when it matters by whose word such a destination is opened."""
        return not all(setting.in_prefix for setting in self.settings.values())


DestinationKinds = Mapping[str, DestinationKind]
"""Those of an installation, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationConnection:
    """One destination, resolved by the process that opens it. No secret in ``repr``."""

    kind: str
    prefix: str
    options: Settings = field(default_factory=dict)
    anchor: str | None = None
    """As in the plan."""
    secrets: Settings = field(default_factory=dict, repr=False)
    """Setting (``…_env``) → what its variable holds in this process."""


def without_secrets(plan: DestinationPlan) -> DestinationConnection:
    """A destination that needs none."""
    return DestinationConnection(
        kind=plan.kind, prefix=plan.prefix, options=plan.options, anchor=plan.anchor
    )


def authority_of(prefix: str) -> str:
    """``scheme://authority`` of a URI; of a path the path itself."""
    scheme, separator, rest = prefix.partition("://")
    return scheme + separator + rest.partition("/")[0] if separator else prefix
