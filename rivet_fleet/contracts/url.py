"""Database URLs: taken apart once, shown without secrets everywhere else."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, quote, unquote, urlsplit

MASK = "***"
_LOOPBACK = {"localhost", ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseUrl:
    """One connection target. The password never appears in ``repr`` or ``str``."""

    scheme: str
    host: str
    port: int | None
    database: str
    user: str
    password: str | None = field(default=None, repr=False)
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return self.identity

    @property
    def identity(self) -> str:
        """``scheme://user@host:port/database``: names the target, holds no secret."""
        port = f":{self.port}" if self.port else ""
        return f"{self.scheme}://{quote(self.user)}@{self.host}{port}/{quote(self.database)}"

    @property
    def loopback(self) -> bool:
        """True for this machine: names, addresses and socket directories."""
        if self.host in _LOOPBACK or self.host.startswith("/"):
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def with_option(self, name: str, value: str) -> DatabaseUrl:
        """The same target with one more option."""
        kept = tuple(o for o in self.options if o[0] != name)
        return replace(self, options=(*kept, (name, value)))


def parse_database_url(text: str) -> DatabaseUrl:
    """Take a URL apart. Passwords may hold any delimiter when percent-encoded.

    Raises ValueError with a message that does not repeat the URL (it may hold a secret).
    """
    if "://" not in text:
        raise ValueError("not a URL: expected scheme://user@host:port/database")
    # A raw '#', '?' or '/' inside the password would end the authority early: take the
    # userinfo off first, up to the last '@' before the path.
    scheme, rest = text.split("://", 1)
    head, at, tail = rest.rpartition("@")
    if at and ("/" in head or "?" in head or "#" in head):
        user, _, password = head.partition(":")
        rest, head = tail, f"{quote(unquote(user), safe='')}:{quote(unquote(password), safe='')}"
        text = f"{scheme}://{head}@{rest}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("the port or host of the URL cannot be read") from None
    options = tuple(parse_qsl(parts.query, keep_blank_values=True))
    host = unquote(parts.hostname or "")
    extra = dict(options)
    return DatabaseUrl(
        scheme=parts.scheme.split("+", 1)[0],
        host=extra.get("host", host),
        port=port,
        database=unquote(parts.path.lstrip("/")),
        user=unquote(parts.username or ""),
        password=unquote(parts.password) if parts.password is not None else None,
        options=tuple(o for o in options if o[0] != "host"),
    )


_USERINFO = re.compile(r"([a-zA-Z][a-zA-Z0-9+.\-]*://)([^\s'\"]*)@")
_KEYWORD = re.compile(
    r"((?:password|passwd|pwd|secret|token|sig|signature|access_key|account_key)\s*[=:]\s*)"
    r"('[^']*'|\"[^\"]*\"|[^\s&;,'\"]+)",
    re.IGNORECASE,
)


def redact(text: str, secrets: tuple[str, ...] = ()) -> str:
    """``text`` without userinfo passwords, ``password=…`` values and the given secrets."""
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= 3:
            text = text.replace(secret, MASK)
    text = _USERINFO.sub(
        lambda m: f"{m[1]}{m[2].split(':', 1)[0]}:{MASK}@" if ":" in m[2] else m[0], text
    )
    return _KEYWORD.sub(lambda m: m[1] + MASK, text)
