"""Database URLs and logins: taken apart once, shown without secrets everywhere else.

One grammar, which is libpq's (manual, "Connection URIs")::

    scheme://[user[:password]@][host[:port][,host[:port]…]][/database][?name=value[&name=value]…]

The user and password end at the first ``@`` that comes before the first ``/``; every part may be
percent-encoded, and nothing else is decoded (``+`` and ``#`` are themselves). The options
``host``, ``port``, ``user``, ``password`` and ``dbname`` say the same as the parts, and win. An
``@`` anywhere in hosts or database, and a ``?`` before the user's ``@``, are refused: they are a
password's or an option's that was not encoded, and what stands behind would be taken for a host.
So is a host that holds, once decoded, what libpq would divide or what no host has.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace
from enum import Enum
from urllib.parse import quote, unquote_to_bytes

MASK = "***"
_LOOPBACK = {"localhost", ""}
_HOST_OPTIONS = frozenset({"hostaddr", "service", "servicefile"})
_TLS_OPTIONS = ("sslmode", "ssl-mode", "ssl_mode")
_TLS_DECIDED = {"require", "required", "verify-ca", "verify_ca", "verify-full", "verify_identity"}
_TLS_DECIDED |= {"disable", "disabled"}
"""Values of these options that decide something; ``prefer`` and ``allow`` take what comes."""
_PARTS = ("host", "port", "user", "password", "dbname")
_ENCODED = "percent-encode it (@ is %40, / is %2F, ? is %3F)"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseUrl:
    """One connection target. The password never appears in ``repr`` or ``str``.

    ``more_hosts``: further (host, port) to try, in their order.
    """

    scheme: str
    host: str
    port: int | None
    database: str
    user: str
    password: str | None = field(default=None, repr=False)
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    more_hosts: tuple[tuple[str, int | None], ...] = ()

    def __str__(self) -> str:
        return self.identity

    @property
    def identity(self) -> str:
        """``scheme://user@host:port/database``: names the target, holds no secret."""
        named = ",".join(f"{host}:{port}" if port else host for host, port in self.hosts)
        service = self.option("service")
        if service and not self.host:
            named = f"service={quote(service)}"
        return f"{self.scheme}://{quote(self.user)}@{named}/{quote(self.database)}"

    @property
    def hosts(self) -> tuple[tuple[str, int | None], ...]:
        """Every (host, port), the first one first."""
        return ((self.host, self.port), *self.more_hosts)

    @property
    def target(self) -> dict[str, str]:
        """``host``, ``port``, ``dbname``, ``user``, ``password``, as far as they are given: lists
        with commas where there are several hosts. Holds the password."""
        ports = [str(port or "") for _, port in self.hosts]
        found = {
            "host": ",".join(host for host, _ in self.hosts),
            "port": ",".join(ports) if any(ports) else "",
            "dbname": self.database,
            "user": self.user,
            "password": self.password or "",
        }
        return {name: value for name, value in found.items() if value}

    def place(self, default_port: int) -> dict[str, str]:
        """``target`` with all that says where it is, for libpq: what a URL leaves out it would
        take from its variables (PGHOST, PGHOSTADDR, PGPORT, PGDATABASE, and what PGSERVICE names),
        and so lead away from what was looked at. An option ``service`` brings its own."""
        found = self.target
        if self.option("service"):
            return found
        if self.option("hostaddr"):
            found = {"host": "", **found}
        else:
            found = {"host": "localhost", **found, "hostaddr": ""}
        if self.user:
            found = {"dbname": self.user, **found}
        return {"port": str(default_port), **found}

    def option(self, name: str) -> str | None:
        """The value of one option; None when it is not given."""
        return dict(self.options).get(name)

    @property
    def loopback(self) -> bool:
        """True for this machine: names, addresses and socket directories."""
        return all(_is_loopback(host) for host, _ in self.hosts)

    @property
    def stays_here(self) -> bool:
        """True when the connection cannot leave this machine: an option may name another host."""
        if any(name in _HOST_OPTIONS for name, _ in self.options):
            return False
        for host, _ in self.hosts:
            if host.startswith("127.") and not re.fullmatch(r"127(\.\d{1,3}){3}", host):
                return False
        return self.loopback

    @property
    def tls(self) -> tuple[str, str] | None:
        """The URL's own word about TLS, as (option, value); None where it says nothing."""
        return next(((n, v) for n, v in self.options if n.lower() in _TLS_OPTIONS), None)

    @property
    def tls_decided(self) -> bool:
        """True when that word settles whether the connection is encrypted."""
        return self.tls is not None and self.tls[1].lower() in _TLS_DECIDED

    def with_default_port(self, port: int | None) -> DatabaseUrl:
        """The same target with ``port`` where none is given; a service brings its own."""
        if self.option("service") and not self.host:
            return self
        more = tuple((host, own or port) for host, own in self.more_hosts)
        return replace(self, port=self.port or port, more_hosts=more)


def _is_loopback(host: str) -> bool:
    if host in _LOOPBACK or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_database_url(text: str) -> DatabaseUrl:
    """Take a URL apart (the module's grammar). A byte order mark before it is none of it.

    Raises ValueError with a message that does not repeat the URL (it may hold a secret).
    """
    scheme, found, rest = text.removeprefix("\ufeff").partition("://")
    if not found:
        raise ValueError("not a URL: expected scheme://user@host:port/database")
    head, at, behind = rest.partition("@")
    if not at or "/" in head:
        head, behind = "", rest
    if "?" in head:
        raise ValueError(f"a ? stands before an @: in a password, or in an option, {_ENCODED}")
    user, colon, password = head.partition(":")
    place = re.match(r"[^/?]*", behind)
    authority = place[0] if place else ""
    path, _, query = behind[len(authority) :].partition("?")
    if "@" in authority or "@" in path:
        raise ValueError(
            f"an @ stands where a host or a database should: in a password, {_ENCODED}"
        )
    options = _options(query)
    named = dict(options)
    hosts = _hosts(authority)
    if "host" in named:
        hosts = [(host, None) for host in named["host"].split(",")]
        # libpq: a port behind a host that the option replaces counts for the option's.
        ports = authority and ",".join(str(port or "") for _, port in _hosts(authority))
        hosts = _with_ports(hosts, ports) if ports else hosts
    if "port" in named:
        hosts = _with_ports(hosts, named["port"])
    for host, _ in hosts:
        _check_host(host)
    (host, port), *more = hosts
    return DatabaseUrl(
        scheme=scheme.split("+", 1)[0],
        host=host,
        port=port,
        database=named.get("dbname", _decoded(path.removeprefix("/"))),
        user=named.get("user", _decoded(user)),
        password=named.get("password", _decoded(password) if colon else None),
        options=tuple((name, value) for name, value in options if name not in _PARTS),
        more_hosts=tuple(more),
    )


def _options(query: str) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for one in query.split("&") if query else ():
        name, equals, value = one.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_-]+", name) or "=" in value:
            raise ValueError("an option of the URL is not name=value (= in a value is %3D)")
        name, value = _decoded(name), _decoded(value)
        if (name, value) == ("ssl", "true"):  # libpq takes JDBC's word for it
            name, value = "sslmode", "require"
        found[name] = value
    return tuple(found.items())


def _hosts(authority: str) -> list[tuple[str, int | None]]:
    found: list[tuple[str, int | None]] = []
    for one in authority.split(","):
        whole = re.fullmatch(r"(\[[^\[\]]+\]|[^:\[\]]*)(?::(.*))?", one)
        if whole is None:
            raise ValueError(f"the port or host of the URL cannot be read: {_ENCODED}")
        found.append((_decoded(whole[1].strip("[]")), _port(_decoded(whole[2] or ""))))
    return found


def _check_host(host: str) -> None:
    """Raises ValueError for one that libpq would take for several (a comma, encoded), or that names
    another place than it seems to. A socket's folder may hold blanks, an abstract one begins
    with @.
    """
    held = host[1:] if host[:1] == "@" else host
    if re.search(r"[,@\x00-\x1f\x7f-\x9f]", held) or (host[:1] != "/" and re.search(r"\s", held)):
        raise ValueError("a host of the URL holds a comma, an @, a blank or a control character")


def _with_ports(hosts: list[tuple[str, int | None]], ports: str) -> list[tuple[str, int | None]]:
    """One port is every host's, else each host has its own."""
    given = [_port(one) for one in ports.split(",")]
    if len(given) == 1:
        given *= len(hosts)
    if len(given) != len(hosts):
        raise ValueError(f"the URL has {len(hosts)} hosts and {len(given)} ports")
    return [(host, port) for (host, _), port in zip(hosts, given, strict=True)]


def _port(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 65536):
        raise ValueError(f"the port or host of the URL cannot be read: {_ENCODED}")
    return int(text)


def _decoded(text: str) -> str:
    """``text`` with its percent-encoded bytes. Raises ValueError for what is none."""
    if re.search(r"%(?![0-9A-Fa-f]{2})|%00", text):
        raise ValueError("a % of the URL begins no percent-encoded byte: a plain % is %25")
    if re.search(r"\s", text):
        raise ValueError("the URL holds a blank: write %20")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise ValueError("the URL's percent-encoded bytes are not UTF-8") from None


_WORD = re.compile(r"[^\s'\"]+")
_KEYWORD = re.compile(
    r"((?:password|passwd|pwd|secret|token|sig|signature|access_key|account_key)\s{0,8}[=:]\s{0,8})"
    r"('[^']{0,1000}'|\"[^\"]{0,1000}\"|[^\s&;,'\"]+)",
    re.IGNORECASE,
)


_ORDINARY = re.compile(r"[a-z]{3,8}|[a-z]+(?:_[a-z]+)+|[0-9]{3,4}")
"""A secret that might as well be a word, a name or a number of ours: hidden wherever it stands, it
would take ``orders`` out of names, paths and the keys of JSON."""
_TELLING_CHARS_MIN = 6


def redact(text: str, secrets: tuple[str, ...] = (), *, foreign: bool = False) -> str:
    """``text`` without userinfo passwords, ``password=…`` values and the given secrets. Takes time
    in proportion to the text, whatever it holds.

    Ordinary words are hidden by their place alone, unless the text is ``foreign``: there they go
    as whole words, as short secrets always do. What has fewer than three characters is hidden by
    its place."""
    text = hide_secrets(text, secrets, foreign=foreign)
    if "://" in text and "@" in text:
        text = _WORD.sub(_without_password, text)
    return _KEYWORD.sub(lambda m: m[1] + MASK, text)


def hide_secrets(text: str, secrets: tuple[str, ...], *, foreign: bool = False) -> str:
    """``text`` without the given secrets, as ``redact`` hides them, and with all else as it is."""
    for secret in sorted(set(secrets), key=len, reverse=True):
        ordinary = _ORDINARY.fullmatch(secret) is not None
        if len(secret) < 3 or (ordinary and not foreign):
            continue
        if ordinary or len(secret) < _TELLING_CHARS_MIN:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MASK, text)
        else:
            text = text.replace(secret, MASK)
    return text


def _without_password(word: re.Match[str]) -> str:
    """One word; when it is a URL with userinfo, its password goes, up to the last ``@``."""
    scheme, found, rest = word[0].partition("://")
    userinfo, at, behind = rest.rpartition("@")
    if not (found and at and scheme[-1:].isalnum()):
        return word[0]
    user, colon, _ = userinfo.partition(":")
    return f"{scheme}://{user}:{MASK}@{behind}" if colon else word[0]


# ------------------------------------------------------------------------------------------
# What a login may give away of the password; the engines' own modules know how each method works.
#
# Most methods prove that the password is known and never send it: whoever asks for such a proof
# learns nothing he could log in with. Some send the password itself, and whoever asks may be
# anybody unless the server has been verified.


class Link(Enum):
    """Who may be at the other end of a connection, and who may read along."""

    PLAIN = "an unencrypted link"
    ENCRYPTED = "an encrypted link to a server whose certificate was not verified"
    VERIFIED = "a verified link"
    """TLS with a verified certificate, or a socket of this machine's file system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """What the configuration allows beyond proofs (``tls:``)."""

    cleartext: bool = False
    """``allow_cleartext_password``"""
    server_key_file: str | None = None
    """``server_public_key_file``: the server's RSA key, by which a password may be encrypted."""


CAREFUL = Login()
"""What holds where nothing is said."""
