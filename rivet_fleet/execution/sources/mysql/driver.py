"""PyMySQL without what few connections need: its RSA library is loaded by the one that does.

PyMySQL imports ``cryptography`` wherever it is installed, to encrypt a password for a server that
asks for it over an unencrypted connection. That costs every worker 10 MB of its memory ceiling.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

_RSA = "cryptography"


def import_driver() -> None:
    """Import PyMySQL, unless it is there, so that ``cryptography`` is imported when it is used."""
    if "pymysql" in sys.modules or _RSA in sys.modules:
        return
    # None makes an import fail like that of a missing module (importlib's manual).
    sys.modules[_RSA] = None  # type: ignore[assignment]
    try:
        auth: Any = importlib.import_module("pymysql._auth")
    finally:
        del sys.modules[_RSA]
    encrypt = auth.sha2_rsa_encrypt

    def sha2_rsa_encrypt(password: bytes, salt: bytes, public_key: bytes) -> bytes:
        """PyMySQL's own, with its library. Raises RuntimeError where that is not installed."""
        if not auth._have_cryptography:
            _load(auth)
        encrypted: bytes = encrypt(password, salt, public_key)
        return encrypted

    auth.sha2_rsa_encrypt = sha2_rsa_encrypt


def _load(auth: Any) -> None:
    """Give PyMySQL what its own import would have found; nothing where it is not installed."""
    try:
        backends = importlib.import_module("cryptography.hazmat.backends")
        primitives = "cryptography.hazmat.primitives"
        auth.padding = importlib.import_module(f"{primitives}.asymmetric.padding")
        auth.hashes = importlib.import_module(f"{primitives}.hashes")
        auth.serialization = importlib.import_module(f"{primitives}.serialization")
    except ImportError:
        return
    auth.default_backend = backends.default_backend
    auth._have_cryptography = True
