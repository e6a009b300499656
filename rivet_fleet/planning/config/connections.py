"""From configuration to connection targets: where a source and the state database are.

Every missing piece is a ConfigError with a hint that can be pasted. Secrets stay inside
``DatabaseUrl.password`` and ``DatabaseUrl.options``; nothing here shows them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from rivet_fleet.contracts.destination import DestinationKinds
from rivet_fleet.contracts.identity import CampaignIdentity
from rivet_fleet.contracts.seals import KEY_BYTES_MIN
from rivet_fleet.contracts.url import DatabaseUrl, Login, parse_database_url
from rivet_fleet.errors import ConfigError
from rivet_fleet.planning.config.loaded import LoadedConfig, all_sources
from rivet_fleet.planning.config.models import FleetConfig, SourceConfig, TlsConfig
from rivet_fleet.planning.config.problems import (
    ConfigKey,
    Places,
    Problem,
    did_you_mean,
    dotted,
    listed,
)

STATE_ENV = ("RIVET_FLEET_STATE_URL", "RIVET_STATE_URL")
STATE_FILE = ".rivet_fleet_state.db"
FORMER_STATE_FILE = ".rivet_state.db"
"""Where earlier versions made theirs, and where Rivet makes its own."""
URL_FILE_BYTES_MAX = 65_536
_SECRET_OPTIONS = ("password", "passwd", "pwd", "secret", "token", "key")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConnection:
    """One source, resolved. ``tls_mode`` is None without a tls block (loopback only)."""

    name: str
    engine: str
    url: DatabaseUrl = field(repr=False)
    tls_mode: str | None
    tls_ca_file: str | None
    login: Login
    identity: str


def source_connection(loaded: LoadedConfig, source_name: str) -> SourceConnection:
    """Resolve one source. Raises ConfigError naming the place and the missing variable or file.

    Reads ``url_file`` when there is one; connects to nothing.
    """
    sources = loaded.sources
    at = loaded.source_key(source_name)
    source = sources.get(source_name)
    if source is None:
        raise loaded.error(
            Problem(
                at=at,
                what=f"source {source_name!r}",
                reason=f"is not configured; known: {listed(sources)}",
                suggestion=did_you_mean(source_name, sources),
            )
        )
    url = _source_url(loaded, source, at)
    _check_tls(loaded, source, url, at)
    tls = source.tls or TlsConfig()
    ca_file, key_file = tls.ca_file, tls.server_public_key_file
    return SourceConnection(
        name=source_name,
        engine=source.type,
        url=url,
        tls_mode=_tls_mode(source.tls),
        tls_ca_file=str(_beside(loaded.path, ca_file)) if ca_file else None,
        login=Login(
            cleartext=tls.allow_cleartext_password,
            server_key_file=str(_beside(loaded.path, key_file)) if key_file else None,
        ),
        identity=_identity(source.type, url, loaded.default_ports),
    )


def state_url(loaded: LoadedConfig, environ_override: Mapping[str, str] | None = None) -> str:
    """The state database: ``state:``, else the environment, else SQLite beside the file; what lies
    there under its former name is not looked for here (``coordination.wiring.state_of``).

    The result may hold a password: show it only through ``redact``.
    """
    environ = loaded.environ if environ_override is None else environ_override
    state = loaded.config.state
    if state.url is not None:
        return state.url.get_secret_value()
    if state.url_env is not None:
        if not environ.get(state.url_env):
            raise loaded.error(unset_variable(("state", "url_env"), state.url_env))
        return environ[state.url_env]
    for name in STATE_ENV:
        if environ.get(name) and not _rivets_file(name, environ[name]):
            return environ[name]
    return f"sqlite:///{beside(loaded, STATE_FILE)}"


def _rivets_file(name: str, url: str) -> bool:
    """True for a file that is named as Rivet alone names one: it holds Rivet's state."""
    return name == STATE_ENV[-1] and url.startswith("sqlite:") and not url.startswith("sqlite:///")


def beside(loaded: LoadedConfig, name: str) -> Path:
    """A file in the configuration's folder, absolute."""
    return loaded.path.absolute().parent / name


def seal_key(loaded: LoadedConfig) -> bytes | None:
    """The key that the state is sealed with; None where the configuration names none. Raises
    ConfigError for a variable that is not set or too short.

    Never shown: see ``known_secrets``.
    """
    name = loaded.config.state.key_env
    return None if name is None else key_in(loaded, name, loaded.environ.get(name))


def key_in(loaded: LoadedConfig, name: str, value: str | None) -> bytes:
    """The key that the variable ``name`` holds. Raises ConfigError as ``seal_key``."""
    at = ("state", "key_env")
    if not value:
        raise loaded.error(unset_variable(at, name))
    key = value.encode()
    if len(key) < KEY_BYTES_MIN:
        raise loaded.error(
            Problem(
                at=at,
                what=f"the key in {name}",
                reason=f"has {len(key)} bytes, and a seal needs at least {KEY_BYTES_MIN}",
                suggestion="`openssl rand -hex 32` makes one",
            )
        )
    return key


def named_variables(config: FleetConfig, kinds: DestinationKinds) -> set[str]:
    """Every environment variable the configuration may read after loading, and those that would
    lead a destination's library elsewhere."""
    names = {*STATE_ENV, config.state.url_env, config.state.key_env}
    for source in all_sources(config).values():
        names |= {source.url_env, source.password_env}
    for export in config.exports:
        names |= set(export.destination.variables.values())
        kind = kinds.get(export.destination.type)
        names |= set(kind.redirects if kind is not None else ())
    return {name for name in names if name}


def known_secrets(config: FleetConfig, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Every secret value that is known without reading a file, in each spelling it may take."""
    texts: list[str] = []
    urls = [environ.get(name, "") for name in STATE_ENV]
    if config.state.url is not None:
        urls.append(config.state.url.get_secret_value())
    urls.append(environ.get(config.state.url_env or "", ""))
    texts.append(environ.get(config.state.key_env or "", ""))
    for source in all_sources(config).values():
        if source.url is not None:
            urls.append(source.url.get_secret_value())
        urls.append(environ.get(source.url_env or "", ""))
        if source.password is not None:
            texts.append(source.password.get_secret_value())
        texts.append(environ.get(source.password_env or "", ""))
    for export in config.exports:
        texts += [environ.get(name, "") for name in export.destination.variables.values()]
    for url in urls:
        texts += secrets_in_url(url)
    return spellings(texts)


def secrets_in_files(loaded: LoadedConfig) -> list[str]:
    """What the sources' ``url_file``s hide. One that cannot be read now is nobody's error here."""
    found: list[str] = []
    for source in loaded.sources.values():
        if source.url_file is None:
            continue
        try:
            with _beside(loaded.path, source.url_file).open(encoding="utf-8-sig") as file:
                found += secrets_in_url(file.read(URL_FILE_BYTES_MAX).strip())
        except (OSError, UnicodeDecodeError):
            continue
    return found


def own_names(loaded: LoadedConfig) -> tuple[str, ...]:
    """What the configuration itself calls things and where it puts them: shown as they are."""
    names = [loaded.campaign_name, str(loaded.path.absolute()), *loaded.sources]
    for export in loaded.config.exports:
        names += [export.name, export.table or "", export.query_file or ""]
        names.append(export.destination.below[1])
    return tuple(name for name in names if name)


def secrets_in_url(text: str) -> list[str]:
    """The password of a URL and every option that names a secret; nothing when unreadable."""
    behind = text.partition("://")[2]
    # Wherever a person may have meant the password to end.
    raw = [part.partition(":")[2] for part in (behind.partition("@")[0], behind.rpartition("@")[0])]
    try:
        url = parse_database_url(text)
    except ValueError:
        return raw
    shown = dict(shown_options(url))
    hidden = [value for name, value in url.options if name not in shown]
    return [*raw, url.password or "", *hidden]


def spellings(texts: Iterable[str]) -> tuple[str, ...]:
    """Each secret plain and percent-encoded, longest first, without empty ones."""
    found = {spelled for text in texts if text for spelled in (text, quote(text, safe=""))}
    return tuple(sorted(found, key=lambda one: (-len(one), one)))


def public_url(text: str, ports: Mapping[str, int], engine: str) -> dict[str, object]:
    """What a URL says about the target, without user secrets: for the configuration digest."""
    try:
        url = parse_database_url(text)
    except ValueError:
        return {"identity": "unreadable"}
    return {"identity": _identity(engine, url, ports), "options": dict(shown_options(url))}


def shown_options(url: DatabaseUrl) -> tuple[tuple[str, str], ...]:
    """The options of a URL whose names do not say that they are secrets."""
    return tuple(
        (name, value)
        for name, value in url.options
        if not any(word in name.lower() for word in _SECRET_OPTIONS)
    )


def _source_url(loaded: LoadedConfig, source: SourceConfig, at: ConfigKey) -> DatabaseUrl:
    text = _url_text(loaded, source, at)
    if text is None:
        return DatabaseUrl(
            scheme=source.type,
            host=source.host or "",
            port=source.port or loaded.default_ports.get(source.type),
            database=source.database or "",
            user=source.user or "",
            password=_password(loaded, source, at),
        )
    place = next(n for n in ("url", "url_env", "url_file") if getattr(source, n) is not None)
    try:
        url = parse_database_url(text.strip())
    except ValueError as error:
        raise loaded.error(
            Problem(
                at=(*at, place),
                what=dotted((*at, place)),
                reason=str(error),
                suggestion="write scheme://user@host:port/database; a password goes behind the "
                "user and a colon, its special characters percent-encoded",
            )
        ) from None
    if not _same_engine(url.scheme, source.type, loaded.default_ports):
        raise loaded.error(
            Problem(
                at=(*at, place),
                what=dotted((*at, place)),
                reason=f"is a {url.scheme}:// URL, but the source's type is {source.type}",
                suggestion=f"write {source.type}://user@host:port/database",
            )
        )
    return url.with_default_port(loaded.default_ports.get(source.type))


def _same_engine(scheme: str, engine: str, ports: Mapping[str, int]) -> bool:
    """True when both are names of one engine: the names an engine answers to share its port."""
    return scheme == engine or (scheme in ports and ports[scheme] == ports.get(engine))


def _url_text(loaded: LoadedConfig, source: SourceConfig, at: ConfigKey) -> str | None:
    if source.url is not None:
        return source.url.get_secret_value()
    if source.url_env is not None:
        value = loaded.environ.get(source.url_env)
        if not value:
            raise loaded.error(unset_variable((*at, "url_env"), source.url_env))
        return value
    if source.url_file is not None:
        return _read_url_file(loaded, source.url_file, (*at, "url_file"))
    return None


def _read_url_file(loaded: LoadedConfig, name: str, at: ConfigKey) -> str:
    path = _beside(loaded.path, name)
    reason = "is empty"
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(URL_FILE_BYTES_MAX).strip()
    except (OSError, UnicodeDecodeError) as error:
        text = ""
        reason = f"cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8 text'})"
    if not text:
        raise loaded.error(
            Problem(
                at=at,
                what=f"url_file {path}",
                reason=reason,
                suggestion="put the URL alone into that file, readable for this user",
            )
        )
    return text


def _password(loaded: LoadedConfig, source: SourceConfig, at: ConfigKey) -> str | None:
    if source.password is not None:
        return source.password.get_secret_value()
    if source.password_env is None:
        return None
    value = loaded.environ.get(source.password_env)
    if value is None:
        raise loaded.error(unset_variable((*at, "password_env"), source.password_env))
    return value


def unset_variable(at: ConfigKey, name: str) -> Problem:
    """A setting that names a variable which this process does not have."""
    return Problem(
        at=at,
        what=dotted(at),
        reason=f"the environment variable {name} is not set",
        suggestion=f"export {name}='…'",
    )


def _check_tls(loaded: LoadedConfig, source: SourceConfig, url: DatabaseUrl, at: ConfigKey) -> None:
    """Refuse a way out of this machine that nobody decided about, and two words about one thing."""
    said = url.tls
    mode = _tls_mode(source.tls)
    if mode is not None and said is not None and _same_mode(said[1]) != mode:
        reason = f"the URL says {said[0]}={said[1]} and tls: says {mode}"
        raise loaded.error(
            Problem(at=at, what=dotted(at), reason=reason, suggestion="keep one of the two")
        )
    if mode is not None or url.tls_decided or url.stays_here:
        return
    service = url.option("service")
    where = f"service {service}" if service and not url.host else f"host {url.host}"
    may = "may be remote" if service and not url.host else "is remote"
    also = f", and {said[0]}={said[1]} takes what comes" if said is not None else ""
    raise loaded.error(
        Problem(
            at=at,
            what=dotted(at),
            reason=f"{where} {may} and there is no tls: block{also}",
            suggestion="add tls: {mode: verify-full}, or tls: {mode: disable} to opt out",
        )
    )


def _same_mode(value: str) -> str:
    """A mode by its one name: the engines spell some of them differently."""
    found = value.lower().replace("_", "-")
    found = {"required": "require", "disabled": "disable"}.get(found, found)
    return {"verify-identity": "verify-full"}.get(found, found)


def _tls_mode(tls: TlsConfig | None) -> str | None:
    """The neutral mode (Rivet: Sources): each accepted danger takes one check away."""
    if tls is None or tls.mode is not None:
        return tls.mode if tls else None
    if tls.accept_invalid_certs:
        return "require"
    return "verify-ca" if tls.accept_invalid_hostnames else "verify-full"


def _identity(engine: str, url: DatabaseUrl, ports: Mapping[str, int]) -> str:
    """The same database gives the same text, however its URL was spelled."""
    return replace(url, scheme=engine).with_default_port(ports.get(engine)).identity


def _beside(config_path: Path, name: str) -> Path:
    return config_path.absolute().parent / name


# ------------------------------------------------------------------------------------------
# Sources before there is a configuration: from the command line to a value, to YAML. Pure.

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


# ------------------------------------------------------------------------------------------
# Who a configuration is to its campaigns (ADR 0022). Connects to nothing.


def identity_of(loaded: LoadedConfig, connections: Iterable[SourceConnection]) -> CampaignIdentity:
    """``connections``: every source it reads; none where they are not known. Links in the path
    stay as they are: a mounted configuration is a link that moves with each edit."""
    return CampaignIdentity(
        name=loaded.campaign_name,
        named=loaded.config.campaign.name is not None,
        # Not resolve(): see above.
        path=os.path.normpath(loaded.path.absolute()),
        sources=tuple(sorted({_place(one) for one in connections})),
    )


def present_identity(loaded: LoadedConfig) -> CampaignIdentity:
    """The same, where a source's variable may be missing: many verbs do without it."""
    try:
        known = [source_connection(loaded, name) for name in loaded.used_sources()]
    except ConfigError:
        known = []
    return identity_of(loaded, known)


def _place(connection: SourceConnection) -> str:
    """Whose rights it reads with is another matter."""
    scheme, mark, rest = connection.identity.partition("://")
    return scheme + mark + rest.rpartition("@")[2]
