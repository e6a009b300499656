"""Who gets the password of a MySQL login: nobody who only asks for it."""

from __future__ import annotations

import contextlib
import itertools
import ssl
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from rivet_fleet.contracts.url import CAREFUL, Link, Login, parse_database_url
from rivet_fleet.errors import ConfigError, SourceRefused
from rivet_fleet.execution.sources.mysql.login import Way, handing_over
from rivet_fleet.execution.sources.mysql.session import Session
from tests.integration.fleet_cli import Desk
from tests.integration.test_postgres_tls import certificate
from tests.rogue.mysql_server import SALT, Script, Wire, greeting
from tests.rogue.tcp import Peer, rogue

PASSWORD = b"S3cretPassw0rd"
OPT_IN = Login(cleartext=True)
METHODS = (b"caching_sha2_password", b"sha256_password", b"mysql_clear_password", b"dialog")


def test_the_table_of_what_is_handed_over() -> None:
    ways = {
        (method, link, login): handing_over(method, link, login)
        for method, link, login in itertools.product(
            (*METHODS, b"mysql_old_password", b"anything"), Link, (CAREFUL, OPT_IN)
        )
    }
    sent = {key for key, way in ways.items() if way is not Way.NEVER}
    hashed, clear = METHODS[:2], METHODS[2:]
    assert sent == {
        *((method, Link.VERIFIED, login) for method in hashed for login in (CAREFUL, OPT_IN)),
        *((method, Link.ENCRYPTED, OPT_IN) for method in hashed),
        *((method, Link.VERIFIED, OPT_IN) for method in clear),
    }
    keyed = Login(server_key_file="key.pem", cleartext=True)
    by_key = {m for m in (*METHODS, b"x") if handing_over(m, Link.PLAIN, keyed) is Way.BY_KEY}
    assert by_key == set(hashed)


class Place(NamedTuple):
    """A certificate that vouches for itself, the RSA key of an honest server and a rogue's own."""

    certificate: Path
    known: rsa.RSAPrivateKey
    own: rsa.RSAPrivateKey
    key_file: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("keys")
    known, own = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    key_file = folder / "public_key.pem"
    key_file.write_bytes(_pem(known))
    return Place(certificate(folder), known, own, key_file)


def _pem(key: rsa.RSAPrivateKey) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form)


class Thief:
    """Asks for the password by ``method``, greeting with ``greets``; ``learned`` is what it got."""

    def __init__(
        self, place: Place, method: bytes, *, tls: bool, greets: bytes = b"mysql_native_password"
    ) -> None:
        self.learned: list[bytes] = []
        self._place, self._method, self._tls, self._greets = place, method, tls, greets

    def __call__(self, peer: Peer) -> None:
        wire = Wire(peer)
        wire.say(greeting(self._greets, tls=self._tls))
        asked = wire.hear()
        if self._tls and len(asked) == 32:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._place.certificate)
            peer.link = context.wrap_socket(peer.link, server_side=True)
            asked = wire.hear()
        self._learn(asked)
        prompt = b"\x04Password: " if self._method == b"dialog" else SALT + b"\0"
        wire.say(b"\xfe" + self._method + b"\0" + prompt)
        self._learn(wire.hear())
        if self._method == b"caching_sha2_password":
            wire.say(b"\x01\x04")
            self._learn(heard := wire.hear())
            if heard in (b"\x01", b"\x02"):
                wire.say(b"\x01" + _pem(self._place.own))
                self._learn(wire.hear())
        Script("never", lambda _: None).serve(wire)

    def _learn(self, heard: bytes) -> None:
        if PASSWORD in heard:
            self.learned.append(heard)
        for key in (self._place.own, self._place.known):
            if len(heard) == 256:
                try:
                    sha1 = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
                    opened = key.decrypt(heard, sha1)
                except ValueError:
                    continue
                plain = bytes(a ^ b for a, b in zip(opened, itertools.cycle(SALT)))
                self.learned.append(plain)


def meet(
    thief: Thief, mode: str, place: Place, login: Login = CAREFUL, *, given: bool = True
) -> None:
    ca_file = str(place.certificate) if given and mode.startswith("verify") else None
    with rogue(thief) as server:
        password = PASSWORD.decode()
        url = parse_database_url(f"mysql://reader:{password}@localhost:{server.port}/shop")
        opened = Session(url, tls_mode=mode, tls_ca_file=ca_file, application_name="t", login=login)
        with closing(opened):
            assert opened.server.version == (8, 0, 99)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", ["disable", "prefer", "require"])
def test_nobody_unverified_gets_the_password(method: bytes, mode: str, place: Place) -> None:
    """Neither by a clear-text method nor by a key of its own, whatever it greets with."""
    for greets in (b"mysql_native_password", method):
        thief = Thief(place, method, tls=mode != "disable", greets=greets)
        with pytest.raises(SourceRefused, match="it was not sent") as caught:
            meet(thief, mode, place)
        assert caught.value.code == "MYSQL_2061"
        for way in ("verify-full", "ca_file", "server_public_key_file", "allow_cleartext_password"):
            assert way in (caught.value.hint or "")
        assert not thief.learned


def test_an_opt_in_opens_clear_text_to_a_verified_server_alone(place: Place) -> None:
    for method in METHODS[2:]:
        for mode in ("disable", "require"):
            thief = Thief(place, method, tls=mode != "disable")
            with pytest.raises(SourceRefused, match="it was not sent"):
                meet(thief, mode, place, OPT_IN)
            assert not thief.learned
        thief = Thief(place, method, tls=True)
        meet(thief, "verify-full", place, OPT_IN)
        assert thief.learned == [PASSWORD + b"\0"]


def test_any_public_authority_is_nobodys_proof(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``verify-ca`` without a ``ca_file``: whoever has a certificate of any name gets this far."""
    monkeypatch.setenv("SSL_CERT_FILE", str(place.certificate))
    for mode, told in (("verify-ca", False), ("verify-full", True)):
        thief = Thief(place, b"sha256_password", tls=True)
        with pytest.raises(SourceRefused) if not told else contextlib.nullcontext():
            meet(thief, mode, place, given=False)
        assert bool(thief.learned) is told


def test_a_verified_server_is_told_by_its_hashed_methods(place: Place) -> None:
    for method in METHODS[:2]:
        thief = Thief(place, method, tls=True)
        meet(thief, "verify-full", place)
        assert thief.learned == [PASSWORD + b"\0"]


def test_a_given_key_is_the_only_one_used(place: Place) -> None:
    login = Login(server_key_file=str(place.key_file))
    for method in METHODS[:2]:
        honest = Thief(place, method, tls=False)
        meet(honest, "disable", place, login)
        assert honest.learned == [PASSWORD + b"\0"]
        rogue_place = place._replace(known=place.own)
        thief = Thief(rogue_place, method, tls=False)
        meet(thief, "disable", place, login)
        assert not thief.learned, "what it got it cannot read"


def test_the_program_says_what_was_asked_and_what_to_do(place: Place, tmp_path: Path) -> None:
    thief = Thief(place, METHODS[2], tls=True)
    with rogue(thief) as server:
        desk = Desk(folder=tmp_path, environment={"SHOP_PASSWORD": PASSWORD.decode()})
        desk.write(
            "source: {type: mysql, host: localhost, user: reader, database: shop, "
            f"port: {server.port}, password_env: SHOP_PASSWORD, tls: {{mode: require}}}}\n"
            "exports:\n  - {name: o, table: t, mode: full, format: parquet, "
            "destination: {type: local, path: ./out}}\n",
        )
        said = desk.cli("check", code=1).said
    assert "(mysql_clear_password)" in said and "it was not sent" in said
    assert "tls.allow_cleartext_password" in said and "Traceback" not in said
    assert PASSWORD.decode() not in said and not thief.learned and len(server.peers) <= 2


@pytest.mark.parametrize("method", [b"mysql_old_password", b"no_such_plugin", b"\xff\xfe"])
def test_other_methods_are_refused(method: bytes, place: Place) -> None:
    thief = Thief(place, method, tls=False)
    with pytest.raises(SourceRefused, match="asks for a login by"):
        meet(thief, "disable", place)
    assert not thief.learned


def test_a_key_that_is_none_is_refused(tmp_path: Path) -> None:
    url = parse_database_url("mysql://reader@localhost/shop")
    (tmp_path / "private.pem").write_text("-----BEGIN RSA PRIVATE KEY-----")
    for name, said in (("absent.pem", "No such file"), ("private.pem", "is no public key")):
        with pytest.raises(ConfigError, match=said):
            Session(
                url,
                tls_mode="disable",
                tls_ca_file=None,
                application_name="t",
                login=Login(server_key_file=str(tmp_path / name)),
            )
