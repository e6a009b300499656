"""A proxy before an HTTP service that goes wrong on purpose: an answer that is lost although the
service acted, one that it did not give, a connection that ends.

Requests and their headers pass as they are, so that signatures hold. Faults that Toxiproxy cannot
make, because it does not know where a request ends.
"""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from enum import Enum
from http.server import BaseHTTPRequestHandler
from typing import ClassVar

from tests.servers.web import listening

_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "proxy-connection"}
_TIMEOUT_S = 30.0

Matches = Callable[[str, str], bool]
"""(method, path with query) → whether the request is meant."""


class Fault(Enum):
    """What is answered instead."""

    LOST = "the service acts, and its answer is lost"
    RESET = "the connection is reset before the service sees the request"
    CUT = "half of the request passes, or of its answer, and the connection is reset"
    SILENT = "nothing is answered, and the connection stays open"
    BUSY = "503"
    THROTTLED = "429"
    BROKEN = "500"
    ERROR_IN_200 = "200 with an error as its body"
    CONFLICT = "409"
    TAKEN = "412"
    UNKNOWN = "501"
    DENIED = "403"
    CLAIMED = "204, and nothing was done"
    EXPIRED = "400 for credentials that were good before"
    EMPTY = "200, and nothing is listed"
    ELSEWHERE = "301 to another region"


_CODES = {
    Fault.BUSY: (503, "SlowDown"),
    Fault.THROTTLED: (429, "SlowDown"),
    Fault.BROKEN: (500, "InternalError"),
    Fault.ERROR_IN_200: (200, "InternalError"),
    Fault.CONFLICT: (409, "ConditionalRequestConflict"),
    Fault.TAKEN: (412, "PreconditionFailed"),
    Fault.UNKNOWN: (501, "NotImplemented"),
    Fault.DENIED: (403, "AccessDenied"),
    Fault.CLAIMED: (204, ""),
    Fault.EXPIRED: (400, "ExpiredToken"),
    Fault.EMPTY: (200, ""),
    Fault.ELSEWHERE: (301, "PermanentRedirect"),
}


@dataclass(slots=True)
class _Injected:
    matches: Matches
    fault: Fault
    times: int
    acts: bool


@dataclass(slots=True)
class FaultProxy:
    """One loopback port before another one."""

    port: int
    seen: list[tuple[str, str]] = field(default_factory=list)
    """Every request: method and path."""
    outwaited: bool = False
    """Whether somebody waited for the answer that was not given until the proxy had enough of
    it."""
    _injected: list[_Injected] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def inject(self, matches: Matches, fault: Fault, *, times: int = 1, acts: bool = False) -> None:
        """The next ``times`` requests that match go wrong. ``acts``: the service has done what was
        asked all the same."""
        with self._lock:
            acted = acts or fault is Fault.LOST
            self._injected.append(_Injected(matches, fault, times, acted))

    def mend(self) -> None:
        """Nothing goes wrong from now on."""
        with self._lock:
            self._injected.clear()
            self.seen.clear()

    def next_fault(self, method: str, path: str, *, conditional: bool) -> _Injected | None:
        """What happens to this request. A condition is unknown where there is one."""
        with self._lock:
            self.seen.append((method, path))
            for one in self._injected:
                unasked = one.fault is Fault.UNKNOWN and not conditional
                if one.times > 0 and not unasked and one.matches(method, path):
                    one.times -= 1
                    return one
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: ClassVar[FaultProxy]
    target_port: ClassVar[int]

    def _pass(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        injected = self.proxy.next_fault(
            self.command, self.path, conditional="If-None-Match" in self.headers
        )
        fault = None if injected is None else injected.fault
        if fault is Fault.CUT and length:
            self._ask(self.rfile.read(length // 2), whole=False)
            self._reset()
            return
        body = self.rfile.read(length) if length else b""
        if injected is None or injected.acts or fault is Fault.CUT:
            status, headers, answer = self._ask(body)
        match fault:
            case None:
                self._answer(status, headers, answer)
            case Fault.CUT:
                self._answer(status, headers, answer, cut=True)
                self._reset()
            case Fault.SILENT:
                self._wait()
                self.close_connection = True
            case Fault.RESET:
                self._reset()
            case Fault.LOST:
                self._end()
            case _:
                self._say(fault)

    def _say(self, fault: Fault) -> None:
        status, code = _CODES[fault]
        xml = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>x</Message></Error>"
        if not code:
            xml = "<?xml version='1.0'?><Nothing/>"
        headers = {"Content-Type": "application/xml", "x-ms-error-code": code}
        if status == 301:
            headers["x-amz-bucket-region"] = "eu-north-1"
        headers["Date"] = formatdate(usegmt=True)
        if status in (429, 503):
            headers["Retry-After"] = "0"
        silent = self.command == "HEAD" or status == 204
        self._answer(status, headers, b"" if silent else xml.encode())

    def _wait(self) -> None:
        """Until whoever asked has had enough of it."""
        leaving = select.poll()  # `select` knows no descriptor above 1023
        leaving.register(self.connection, select.POLLIN)
        if not leaving.poll(_TIMEOUT_S * 1000):
            self.proxy.outwaited = True

    def _reset(self) -> None:
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._end()

    def _end(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass

    def _ask(self, body: bytes, *, whole: bool = True) -> tuple[int, dict[str, str], bytes]:
        """What the service answers; to half a request nothing."""
        onward = http.client.HTTPConnection("127.0.0.1", self.target_port, timeout=_TIMEOUT_S)
        try:
            kept = {name: text for name, text in self.headers.items() if name.lower() not in _HOP}
            onward.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, text in kept.items():
                onward.putheader(name, text)
            onward.endheaders(body or None)
            if not whole:
                return 0, {}, b""
            answer = onward.getresponse()
            found = {n: t for n, t in answer.getheaders() if n.lower() not in _HOP}
            return answer.status, found, answer.read()
        finally:
            onward.close()

    def _answer(
        self, status: int, headers: dict[str, str], body: bytes, *, cut: bool = False
    ) -> None:
        self.send_response_only(status)
        for name, text in headers.items():
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, text)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing is told."""


@contextlib.contextmanager
def fault_proxy(target_port: int) -> Iterator[FaultProxy]:
    """A proxy before a loopback port, for the length of a block."""
    handler = type("Handler", (_Handler,), {"target_port": target_port})
    with listening(handler) as listener:
        proxy = FaultProxy(port=listener.port)
        handler.proxy = proxy  # type: ignore[attr-defined]
        try:
            yield proxy
        finally:
            proxy.mend()
