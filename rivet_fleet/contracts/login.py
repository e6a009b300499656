"""What a login may give away of the password; the engines' own modules know how each method works.

Most methods prove that the password is known and never send it: whoever asks for such a proof
learns nothing he could log in with. Some send the password itself, and whoever asks may be anybody
unless the server has been verified.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


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
