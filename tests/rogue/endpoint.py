"""A rogue HTTP endpoint on loopback: it answers every request with given bytes, as fast as told."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

from tests.rogue.tcp import Peer


class Endpoint:
    """Answers every connection with ``answer``: at once, or byte by byte every ``trickle_s``."""

    def __init__(self, answer: bytes, *, trickle_s: float = 0.0) -> None:
        self.asked: list[bytes] = []
        self._answer, self._trickle_s = answer, trickle_s
        self._closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/m"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client, contextlib.suppress(OSError):
                    self.asked.append(client.recv(4096).split(b"\r\n")[0])
                    self._say(client)

    def _say(self, client: socket.socket) -> None:
        if not self._trickle_s:
            client.sendall(self._answer)
            return
        for byte in self._answer:
            client.sendall(bytes((byte,)))
            if self._closed.wait(self._trickle_s):
                return


@contextlib.contextmanager
def endpoint(answer: bytes, *, trickle_s: float = 0.0) -> Iterator[Endpoint]:
    """An endpoint for the length of a ``with`` block."""
    made = Endpoint(answer, trickle_s=trickle_s)
    try:
        yield made
    finally:
        made.close()


def ok(body: bytes) -> bytes:
    """A whole, ordinary answer."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def moved(where: str) -> bytes:
    """A redirect."""
    return f"HTTP/1.1 302 Found\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode()


HEAD = b"HTTP/1.1 200 OK\r\n"
CLOSES = HEAD + b"Connection: close\r\n\r\n"
PHASES: dict[str, bytes] = {
    "connected": b"",
    "status": b"HTTP/1.1 2",
    "head": HEAD,
    "a line of the head": HEAD + b"X-a: ",
    "body": CLOSES,
    "body of a length": HEAD + b"Content-Length: 1000\r\n\r\n4",
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
    "a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\n4",
    "a redirect's head": b"HTTP/1.1 302 Found\r\nLocation: /m\r\n",
}
"""Where an answer can be when the endpoint stops being one; what came until then."""


def _until_gone(peer: Peer) -> None:
    """Something more now and then."""
    peer.trickle(b"1", 0.05)


MESSAGES: dict[str, Callable[[Peer], None]] = {
    "silence": lambda peer: peer.silence(),
    "a trickle": _until_gone,
    "lines that trickle": lambda peer: peer.trickle(b"1\r\n1\r\n", 0.02),
    "end": lambda peer: None,
    "reset": lambda peer: peer.reset(),
    "digits without end": lambda peer: peer.flood(b"1" * 4096),
    "lines without end": lambda peer: peer.flood(b"X-a: b\r\n"),
    "empty lines without end": lambda peer: peer.flood(b"\r\n"),
    "chunks without end": lambda peer: peer.flood(b"1\r\n1\r\n"),
    "a chunk beyond any": lambda peer: peer.flood(b"1" * 1000, b"\r\nffffffffffffffff\r\n"),
    "a chunk below none": lambda peer: peer.flood(b"1" * 1000, b"-1\r\n"),
    "a length beyond any": lambda peer: peer.flood(
        b"1" * 1000, b"\r\nContent-Length: 99999999999999999999\r\n\r\n"
    ),
    "a length below none": lambda peer: peer.flood(b"1" * 1000, b"\r\nContent-Length: -5\r\n\r\n"),
    "another protocol": lambda peer: peer.flood(b"\xff\x00SSH-2.0\r\n"),
}
"""What a rogue endpoint may do from there."""


def answers(phase: str, message: str) -> Callable[[Peer], None]:
    """A script for ``tcp.rogue``."""

    def play(peer: Peer) -> None:
        while b"\r\n\r\n" not in peer.received:
            peer.take(1)
        peer.say(PHASES[phase])
        MESSAGES[message](peer)

    return play
