"""A small HTTP server for stores that the tests play themselves: one function answers.

It owns its connections: clients of a whole session keep theirs open, and a server that is closed
or killed ends them.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.waiting import until

_BIND_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    method: str
    path: str
    """As it was sent, quoted, without its query."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in small letters."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What is told."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever has gone, or was killed, is told nothing."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def end_connections(self) -> None:
        """Whatever they are in the middle of."""
        for request in list(self._open):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)


class Listener:
    """One loopback port; each connection has a thread."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self._handler = handler
        self.port = 0
        self._start()

    def restart(self) -> None:
        """As a kill does it: nobody listens, every connection ends, and then there is another
        server on the port. Some of what was asked is done, and nobody was told."""
        self.close()
        self._start()

    def close(self) -> None:
        """And every connection with it."""
        self._server.shutdown()
        self._server.server_close()
        self._server.end_connections()
        self._thread.join()

    def _bound(self) -> _Server | None:
        try:
            return _Server(self.port, self._handler)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return None

    def _start(self) -> None:
        # Of a restart: somebody's connection may have been given the port meanwhile.
        self._server = until(self._bound, limit_s=_BIND_TIMEOUT_S, what="the port is free")
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}
        )
        self._thread.start()


@contextlib.contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[Listener]:
    """A port for the length of a block."""
    listener = Listener(handler)
    try:
        yield listener
    finally:
        listener.close()


@contextlib.contextmanager
def serving(answer: Callable[[Asked], Answer], *, ahead_s: float = 0.0) -> Iterator[Listener]:
    """A server for the length of a block.

    ``ahead_s``: of this machine's clock, in every answer's ``Date``.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Nothing is told twice a second because an answer is two packets.
        wbufsize = -1
        disable_nagle_algorithm = True

        def _answer(self) -> None:
            url = urlsplit(self.path)
            query = dict(parse_qsl(url.query, keep_blank_values=True))
            headers = {name.lower(): text for name, text in self.headers.items()}
            length = int(headers.get("content-length", 0))
            body = self.rfile.read(length)
            if len(body) != length:
                # Half a request is none.
                self.close_connection = True
                return
            said = answer(Asked(self.command, url.path, query, headers, body))
            self.send_response_only(said.status)
            told = {"Date": formatdate(time.time() + ahead_s, usegmt=True), **said.headers}
            told.setdefault("Content-Length", str(len(said.body)))
            for name, text in told.items():
                self.send_header(name, text)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(said.body)
            self.wfile.flush()

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing is told."""

    with listening(Handler) as listener:
        yield listener
