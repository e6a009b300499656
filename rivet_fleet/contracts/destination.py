"""What a kind of destination asks of the configuration, and one destination that is resolved. Pure.

A kind says by itself which settings it has, which of them tell where it is, and how they become a
prefix: nobody else knows what a prefix is made of.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

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


def _never(_secrets: Settings) -> float | None:
    return None


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
    through: str | None = None
    """Of a stream: the kind that its one file is delivered to before it is given on whole."""
    library: str | None = None
    """What opening one imports; a nursery does that once for all its workers."""
    memory_mb: int = 0
    """What the library takes of a worker's memory, beside ``worker_memory_mb``."""
    redirects: tuple[str, ...] = ()
    """Environment variables that would lead the kind's library elsewhere than its settings say.
    They have no say here; ``doctor`` names those that are set."""

    expires_s: Callable[[Settings], float | None] = _never
    """Setting (``…_env``) → what its variable holds, to when that ends to be good, in seconds since
    1970; None where it does not say so."""

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


# ------------------------------------------------------------------------------------------
# What the kinds of object stores have in common: a bucket, a prefix in it, perhaps an endpoint.

BUCKET_SETTINGS: Mapping[str, DestinationSetting] = {
    "bucket": DestinationSetting(
        meaning="The bucket (of Azure the container); it exists, and is never made.",
        in_prefix=True,
        required="add bucket:",
    ),
    "prefix": DestinationSetting(
        meaning="Where in the bucket the dataset lies; {date}, {export}, {table} and {partition} "
        "are replaced.",
        in_prefix=True,
        required="add prefix: exports/{export}",
    ),
    "endpoint": DestinationSetting(
        meaning="URL of another service that speaks the protocol; http on this machine alone."
    ),
    "allow_anonymous": DestinationSetting(meaning="true: no credentials are sent."),
}
_ENDPOINT = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?/?", re.IGNORECASE)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,220}[A-Za-z0-9]|\$root")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def unsafe_prefix(prefix: str) -> str | None:
    """Why a prefix in a bucket is refused, or None."""
    if not prefix.strip("/ "):
        return "must not be empty: what is below it is one dataset"
    if any(ord(letter) < 32 for letter in prefix) or "\\" in prefix:
        return "must not hold control characters or backslashes"
    segments = prefix.strip("/").split("/")
    if not all(segments) or "." in segments or ".." in segments:
        return "must not hold '.', '..' or nothing between two slashes"
    return None


def bucket_problems(settings: Settings) -> Iterator[SettingProblem]:
    """What is wrong with bucket and endpoint."""
    bucket, endpoint = settings.get("bucket"), settings.get("endpoint")
    if bucket is not None and not _BUCKET.fullmatch(bucket):
        yield SettingProblem(
            setting="bucket",
            reason="must be a bucket's name alone",
            suggestion="put what is behind it into prefix, the service into endpoint",
        )
    if endpoint is None:
        return
    if not _ENDPOINT.fullmatch(endpoint):
        yield SettingProblem(
            setting="endpoint",
            reason="must be https://host or https://host:port, with nothing else in it",
            suggestion="the bucket has a setting of its own, and so have credentials",
        )
    elif urlsplit(endpoint).scheme.lower() == "http" and not is_here(endpoint):
        yield SettingProblem(
            setting="endpoint",
            reason="sends rows and credentials in the open: http is for this machine alone",
            suggestion="use https",
        )


def is_here(endpoint: str) -> bool:
    """True for an endpoint on this machine."""
    host = urlsplit(endpoint).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def store_prefix(scheme: str, settings: Settings, at: str | None = None) -> str:
    """``scheme://bucket/prefix``, with ``@`` and ``at`` behind the bucket: the account, or by
    default the endpoint's host and port."""
    if at is None and "endpoint" in settings:
        at = endpoint_place(settings["endpoint"])
    place = f"{settings['bucket']}@{at}" if at else settings["bucket"]
    return f"{scheme}://{place}/{settings['prefix'].strip('/')}"


def endpoint_place(endpoint: str) -> str:
    """Host, and port where it is not the scheme's own, as the authority of a URI."""
    url = urlsplit(endpoint)
    host = url.hostname or ""
    place = f"[{host}]" if ":" in host else host
    if url.port is None or url.port == _DEFAULT_PORTS.get(url.scheme):
        return place
    return f"{place}:{url.port}"


def bucket_and_key(prefix: str) -> tuple[str, str]:
    """Of what ``store_prefix`` made: the bucket, and the keys' beginning without slashes."""
    authority, _, below = prefix.partition("://")[2].partition("/")
    return authority.partition("@")[0], below.strip("/")


def only_together(settings: Settings, names: tuple[str, ...]) -> Iterator[SettingProblem]:
    """A problem for each of ``names`` that is missing while another one is there."""
    given = [name for name in names if name in settings]
    for name in names:
        if given and name not in settings:
            yield SettingProblem(
                setting=given[0], reason=f"goes with {name}", suggestion=f"add {name}:"
            )


def not_together(settings: Settings, name: str, others: Iterable[str]) -> Iterator[SettingProblem]:
    """A problem where ``name`` stands beside one of ``others``."""
    beside = [other for other in others if other in settings]
    if name in settings and beside:
        yield SettingProblem(
            setting=name, reason=f"excludes {', '.join(beside)}", suggestion="keep one of them"
        )
