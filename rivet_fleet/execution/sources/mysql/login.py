"""Logging in without handing the password to whoever asks for it.

The server chooses the method. Proofs (``mysql_native_password``, ``client_ed25519``, the fast path
of ``caching_sha2_password``) are always given. The password itself is sent as ``handing_over``
says; the server's own RSA key is worth nothing, because a rogue one has a key, too. Formats: MySQL
internals manual, "Authentication Methods"; MariaDB, "Authentication Plugin - dialog".
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, NoReturn

import pymysql
from pymysql import _auth
from pymysql.constants import CR

from rivet_fleet.contracts.url import Link, Login

if TYPE_CHECKING:
    from rivet_fleet.execution.sources.mysql.liveness import WatchedConnection

_CACHING, _SHA256 = b"caching_sha2_password", b"sha256_password"
_PROOFS = (b"mysql_native_password", b"client_ed25519")
_HASHED = (_CACHING, _SHA256)
_CLEAR = (b"mysql_clear_password", b"dialog")
_FAST_PATH_TAKEN, _WHOLE_PASSWORD = b"\x01\x03", b"\x01\x04"
_PROMPTS_MAX = 8


class Way(Enum):
    """How the password itself may travel."""

    AS_IT_IS = "as it is"
    BY_KEY = "encrypted by the key that the configuration gave"
    NEVER = "never"


def handing_over(method: bytes, link: Link, login: Login) -> Way:
    """How ``method`` may send the password itself over ``link``. Pure.

    | | plain | encrypted | verified |
    |---|---|---|---|
    | caching_sha2_password in full, sha256_password | by a given key | opt-in | yes |
    | mysql_clear_password, dialog | never | never | opt-in |
    """
    if method in _HASHED:
        if link is Link.PLAIN:
            return Way.BY_KEY if login.server_key_file else Way.NEVER
        return Way.AS_IT_IS if link is Link.VERIFIED or login.cleartext else Way.NEVER
    allowed = method in _CLEAR and link is Link.VERIFIED and login.cleartext
    return Way.AS_IT_IS if allowed else Way.NEVER


class Handler:
    """PyMySQL's plug-in for one method of one connection: asked at every turn the server takes."""

    def __init__(self, connection: WatchedConnection, method: bytes) -> None:
        # Beyond its public face: _read_packet, write_packet, _process_auth, salt, password.
        self._connection: Any = connection
        self._method = method

    def authenticate(self, packet: Any) -> Any:
        """Answer an authentication switch or further data; the server's next packet. Raises
        PyMySQL's OperationalError for what is refused."""
        switched = packet.is_auth_switch_request()
        if self._method in _PROOFS and switched:
            return self._connection.answer_as_pymysql(self._method, packet)
        if self._method == _CACHING:
            return self._cached(packet, switched=switched)
        if self._method in (_SHA256, *_CLEAR):
            return self._in_full(packet, switched=switched)
        if not switched:
            _refuse(CR.CR_AUTH_PLUGIN_ERR, "the server's login took an unknown turn")
        name = self._method.decode("ascii", "replace")
        _refuse(CR.CR_AUTH_PLUGIN_CANNOT_LOAD, f"the server asks for a login by {name}")

    def _cached(self, packet: Any, *, switched: bool) -> Any:
        """Proof first; the password itself where the server does not know it by heart."""
        connection = self._connection
        if not connection.password:
            return self._round_trip(b"")
        if switched:
            self._take_salt(packet)
            packet = self._round_trip(
                _auth.scramble_caching_sha2(connection.password, connection.salt)
            )
        said = packet.get_all_data()
        if said == _FAST_PATH_TAKEN:
            return connection._read_packet()
        if said != _WHOLE_PASSWORD:
            _refuse(CR.CR_AUTH_PLUGIN_ERR, "the server's login took an unknown turn")
        return self._hand_over()

    def _in_full(self, packet: Any, *, switched: bool) -> Any:
        """Methods that have no proof."""
        connection = self._connection
        if switched and self._method == _SHA256:
            self._take_salt(packet)
        if self._method != b"dialog" or not connection.password:
            return self._hand_over()
        self.check()
        for _ in range(_PROMPTS_MAX):
            # One flag byte and the prompt; what was prompted for is not looked at, as there is
            # one password.
            packet = self._round_trip(connection.password + b"\0")
            if packet.is_ok_packet() or packet.is_auth_switch_request():
                return packet
        _refuse(CR.CR_AUTH_PLUGIN_ERR, f"the server prompted more than {_PROMPTS_MAX} times")

    def check(self) -> Way:
        """How the password may be sent. Raises OperationalError where it may not."""
        link, login = self._connection.link, self._connection.login
        way = handing_over(self._method, link, login)
        if way is Way.NEVER:
            name = self._method.decode("ascii", "replace")
            what = f"the server asks for the password itself ({name}) over {link.value}"
            _refuse(CR.CR_AUTH_PLUGIN_ERR, f"{what}; it was not sent")
        return way

    def _hand_over(self) -> Any:
        connection = self._connection
        if not connection.password:
            return self._round_trip(b"\0")
        if self.check() is Way.AS_IT_IS:
            return self._round_trip(connection.password + b"\0")
        # The server's own offer of a key is not even asked for.
        return self._round_trip(
            _auth.sha2_rsa_encrypt(
                connection.password, connection.salt, connection.server_public_key
            )
        )

    def _take_salt(self, packet: Any) -> None:
        self._connection.salt = packet.read_all().removesuffix(b"\0")

    def _round_trip(self, data: bytes) -> Any:
        self._connection.write_packet(data)
        return self._connection._read_packet()


def first_method(named: str) -> str:
    """The method to begin with where a greeting names ``named``, the server's default: a proof.
    PyMySQL would send the password at once to one that names ``sha256_password``; a server whose
    account has another method than the one we began with asks for it."""
    return named if named.encode("ascii", "replace") in (b"", _CACHING) else "mysql_native_password"


def _refuse(errno: int, what: str) -> NoReturn:
    raise pymysql.OperationalError(errno, what)
