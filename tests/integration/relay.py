"""A TCP relay that can fall silent without closing anything (a half-open link), and one that
delivers an answer together with what the server says unasked behind it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

from rivet_fleet.contracts.url import DatabaseUrl

_QUIET_S = 0.3
"""A server on this machine that has sent nothing for so long has answered."""


class Relay:
    """Leads to one server. While ``silent`` is set, bytes of either side vanish; otherwise each
    block arrives ``delay_s`` late."""

    def __init__(
        self,
        upstream: tuple[str, int],
        *,
        silent_from: bytes | None = None,
        last_words: tuple[bytes, Callable[[], None]] | None = None,
    ) -> None:
        """``silent_from``: fall silent when a client sends this, before it arrives.
        ``last_words``: what a client sends, and what is then done to the server once it has
        answered that; the answer and all that follows arrive together. It happens once."""
        self.silent = threading.Event()
        self.delay_s = 0.0
        self.accepted = 0
        self._upstream = upstream
        self._silent_from = silent_from
        self._last_words = last_words
        self._holding = threading.Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def through(self, url: DatabaseUrl) -> DatabaseUrl:
        """``url`` by way of this relay."""
        return replace(url, host="127.0.0.1", port=self.port)

    def close(self) -> None:
        """Close every connection."""
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.accepted += 1
                far = socket.create_connection(self._upstream)
                self._sockets += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=pair, daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(65536):
                if self._silent_from is not None and self._silent_from in block:
                    self.silent.set()
                if self._last_words is not None and self._last_words[0] in block:
                    self._holding.set()
                elif self._holding.is_set() and self._last_words is not None:
                    block = self._held(source, block, self._last_words[1])
                if not self.silent.wait(self.delay_s):
                    target.sendall(block)
            target.shutdown(socket.SHUT_RDWR)

    def _held(self, server: socket.socket, block: bytes, end: Callable[[], None]) -> bytes:
        """``block`` and all that the server sends until it closes the connection."""
        self._last_words = None
        found = bytearray(block)
        server.settimeout(_QUIET_S)
        with contextlib.suppress(TimeoutError):
            while more := server.recv(65536):
                found += more
        server.settimeout(None)
        end()
        while more := server.recv(65536):
            found += more
        return bytes(found)


@contextlib.contextmanager
def relay(
    url: DatabaseUrl,
    *,
    silent_from: bytes | None = None,
    last_words: tuple[bytes, Callable[[], None]] | None = None,
) -> Iterator[Relay]:
    """A relay to the server that ``url`` names, for the length of a ``with`` block."""
    upstream = (url.host, url.port or 5432)
    made = Relay(upstream, silent_from=silent_from, last_words=last_words)
    try:
        yield made
    finally:
        made.close()
