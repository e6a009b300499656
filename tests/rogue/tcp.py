"""What rogue servers share: a listener, a client's bytes kept, floods, and the harm they do."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

FLOOD_PIECE = 256 * 1024


class Gone(Exception):
    """The client has left, or the script is over."""


class Peer:
    """One client's connection, seen from the rogue server."""

    def __init__(self, link: socket.socket, closing: threading.Event) -> None:
        self.link, self._closing = link, closing
        self.received = bytearray()
        """Everything the client sent, decrypted."""

    def take(self, count: int) -> bytes:
        """Exactly so many bytes of the client's. Raises Gone."""
        found = bytearray()
        while len(found) < count:
            try:
                more = self.link.recv(count - len(found))
            except OSError:
                raise Gone from None
            if not more:
                raise Gone
            found += more
            self.received += more
        return bytes(found)

    def say(self, data: bytes) -> None:
        """Send it. Raises Gone."""
        try:
            self.link.sendall(data)
        except OSError:
            raise Gone from None

    def flood(self, piece: bytes, before: bytes = b"") -> None:
        """``piece`` again and again until the client has had enough. Raises Gone."""
        self.say(before)
        block = piece * max(1, FLOOD_PIECE // max(1, len(piece)))
        while not self._closing.is_set():
            self.say(block)
        raise Gone

    def trickle(self, data: bytes, every_s: float) -> None:
        """A byte now and then, and again from the beginning. Raises Gone."""
        while True:
            for byte in data:
                self.say(bytes((byte,)))
                if self._closing.wait(every_s):
                    raise Gone

    def silence(self) -> None:
        """Nothing, until the client leaves. Raises Gone."""
        while True:
            self.take(1)

    def reset(self) -> None:
        """RST instead of FIN. Raises Gone."""
        self.link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Gone


Script = Callable[[Peer], None]


class RogueServer:
    """Plays ``script`` for every connection to a loopback port, each in a thread."""

    def __init__(self, script: Script) -> None:
        self.peers: list[Peer] = []
        self.sprung = threading.Event()
        """The script came to the point it is about."""
        self._closing = threading.Event()
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._players: list[threading.Thread] = []
        self._accepter = threading.Thread(target=self._accept, daemon=True)
        self._accepter.start()

    def close(self) -> None:
        """Each thread closes its own socket: a TLS socket that another one closes goes on reading
        from its descriptor's number, which by then is the next connection's."""
        self._closing.set()
        for link in (self._listener, *(peer.link for peer in self.peers)):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        for thread in (self._accepter, *self._players):
            thread.join(timeout=10)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._listener.accept()
                peer = Peer(link, self._closing)
                self.peers.append(peer)
                self._players.append(threading.Thread(target=self._play, args=(peer,), daemon=True))
                self._players[-1].start()

    def _play(self, peer: Peer) -> None:
        with contextlib.suppress(Gone, OSError):
            self._script(peer)
        peer.link.close()


@contextlib.contextmanager
def rogue(script: Script) -> Iterator[RogueServer]:
    """A rogue server for the length of a ``with`` block."""
    made = RogueServer(script)
    try:
        yield made
    finally:
        made.close()


class Memory:
    """The most memory this process held since ``begin`` (Linux)."""

    def begin(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self._before_kb = self._peak_kb()

    @property
    def grown_mb(self) -> float:
        return (self._peak_kb() - self._before_kb) / 1024

    @staticmethod
    def _peak_kb() -> int:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found is not None
        return int(found[1])
