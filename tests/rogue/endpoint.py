"""A rogue HTTP endpoint on loopback: it answers every request with given bytes, as fast as told."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


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
