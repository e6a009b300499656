"""PyMySQL comes without its RSA library, and gets it when a password must be encrypted."""

from __future__ import annotations

import subprocess
import sys

_LEAN = """
import sys
from rivet_fleet.execution.sources.mysql.driver import import_driver
import_driver()
import pymysql, pymysql._auth as auth
assert "cryptography" not in sys.modules, "it is loaded with PyMySQL"
"""
_ENCRYPTS = """
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
public = key.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
salt = bytes(range(1, 21))
sent = auth.sha2_rsa_encrypt(b"a password", salt, public)
sha1 = padding.OAEP(mgf=padding.MGF1(hashes.SHA1()), algorithm=hashes.SHA1(), label=None)
shown = key.decrypt(sent, sha1)
assert auth._xor_password(b"a password" + bytes(1), salt) == shown
"""
_ABSENT = """
sys.modules["cryptography"] = None
try:
    auth.sha2_rsa_encrypt(b"a password", bytes(20), b"")
except RuntimeError as error:
    assert "cryptography" in str(error), error
else:
    raise AssertionError("it encrypted without its library")
"""


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return done.stderr


def test_the_password_is_encrypted_by_the_library_that_was_left_out() -> None:
    assert run(_LEAN + _ENCRYPTS) == ""


def test_without_the_library_the_driver_says_so() -> None:
    assert run(_LEAN + _ABSENT) == ""
