"""Sources before there is a configuration: from the command line to a value, to YAML. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import ConfigError
from rivet_fleet.planning.config_models import FleetConfig, SourceConfig, TlsConfig
from rivet_fleet.planning.connections import (
    known_secrets,
    secrets_in_url,
)
from rivet_fleet.planning.loaded import LoadedConfig
from rivet_fleet.planning.problems import Places, listed

_KEPT = (
    *("type", "url_env", "url_file", "host", "port", "user", "database", "password_env"),
    "environment",
)
_URL_WORDS = re.compile(r"_?(DATABASE|DB)?_?(URL|URI|DSN)$", re.IGNORECASE)


def config_of_urls(
    variables: Sequence[str],
    *,
    tls_mode: str | None,
    tls_ca_file: str | None,
    environ: Mapping[str, str],
    engines: frozenset[str],
    default_ports: Mapping[str, int],
    path: Path,
) -> LoadedConfig:
    """A configuration of nothing but sources, one for each environment variable with a URL.

    The engine is the URL's scheme. ``path`` is where the configuration would be. Raises
    ConfigError for a variable that is not set or holds no URL of an engine that is there.
    """
    tls = _tls(tls_mode, tls_ca_file)
    sources: dict[str, SourceConfig] = {}
    for variable in variables:
        name = _source_name(variable, sources)
        sources[name] = SourceConfig(
            type=_engine_of(variable, environ, engines, protected=tls is not None),
            url_env=variable,
            tls=tls,
        )
    config = FleetConfig(sources=sources, exports=())
    return LoadedConfig(
        config=config,
        path=path,
        digest="",
        sections={},
        warnings=(),
        secrets=known_secrets(config, environ),
        queries={},
        environ={name: environ[name] for name in variables if name in environ},
        places=Places(file="the command line"),
        default_ports=dict(default_ports),
    )


def _engine_of(
    variable: str, environ: Mapping[str, str], engines: frozenset[str], *, protected: bool
) -> str:
    text = environ.get(variable, "").strip()
    if not text:
        raise ConfigError(
            f"the environment variable {variable} is not set",
            hint=f"export {variable}='scheme://user:password@host:port/database'",
        )
    try:
        url = parse_database_url(text)
    except ValueError as problem:
        raise ConfigError(f"{variable}: {problem}") from None
    if url.scheme not in engines:
        raise ConfigError(
            f"{variable} is a {url.scheme}:// URL, which no source of this installation reads",
            hint=f"known: {listed(engines)}",
        )
    if not (protected or url.stays_here or url.tls_decided):
        raise ConfigError(
            f"{variable} names the remote host {url.host}",
            hint="say how the connection is protected: --tls verify-full, or --tls disable",
        )
    return url.scheme


def _source_name(variable: str, taken: Mapping[str, object]) -> str:
    """``SHOP_DB_URL`` → ``shop``; ``DATABASE_URL`` → ``database``."""
    stem = _URL_WORDS.sub("", variable).lower() or "database"
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}_{number}", number + 1
    return name


def _tls(mode: str | None, ca_file: str | None) -> TlsConfig | None:
    if mode is None and ca_file is None:
        return None
    try:
        return TlsConfig.model_validate({"mode": mode, "ca_file": ca_file})
    except ValidationError:
        raise ConfigError(
            f"--tls {mode!r} is no mode", hint="disable, require, verify-ca or verify-full"
        ) from None


def source_block(source: SourceConfig, name: str, *, old: Path, new: Path) -> dict[str, Any]:
    """A source as it stands in a new file: the way to its secret, never the secret itself.

    ``old`` and ``new`` are the folders of the two files: paths are relative to them.
    """
    block = {key: getattr(source, key) for key in _KEPT if getattr(source, key) is not None}
    if source.url is not None:
        text = source.url.get_secret_value()
        if any(secrets_in_url(text)):
            block["url_env"] = f"{re.sub(r'[^A-Za-z0-9]+', '_', name).upper()}_URL"
        else:
            block["url"] = text
    if source.password is not None:
        block["password_env"] = f"{re.sub(r'[^A-Za-z0-9]+', '_', name).upper()}_PASSWORD"
    if source.url_file is not None:
        block["url_file"] = _moved(source.url_file, old, new)
    if source.tls is not None:
        tls = source.tls.model_dump(exclude_defaults=True)
        for key in ("ca_file", "server_public_key_file"):
            if key in tls:
                tls[key] = _moved(tls[key], old, new)
        block["tls"] = tls
    return block


def _moved(name: str, old: Path, new: Path) -> str:
    return os.path.relpath(old.absolute() / name, new.absolute())
