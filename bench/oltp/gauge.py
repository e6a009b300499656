"""What the application says of its own latency while it runs: the figure a service would
publish, for the governor to watch."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bench.oltp.figures import percentile

RECENT_S = 2.0
WATCHED = 95
"""Of some two hundred recent transactions the 99th percentile would be the second worst: noise."""


class Gauge:
    """The latencies of the last seconds. Many write, one reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: deque[tuple[float, float]] = deque()
        self._began_s: float | None = None

    def begin(self, now_s: float) -> None:
        """The application begins."""
        with self._lock:
            self._recent.clear()
            self._began_s = now_s

    def end(self) -> None:
        """The application is done: nothing more is waited for."""
        with self._lock:
            self._began_s = None

    def add(self, now_s: float, took_s: float) -> None:
        """One transaction is done."""
        with self._lock:
            self._recent.append((now_s, took_s))

    def recent_ms(self, now_s: float) -> float:
        """The percentile of what ended lately. When nothing did although the application runs,
        everything has been stuck for at least as long."""
        with self._lock:
            while self._recent and self._recent[0][0] < now_s - RECENT_S:
                self._recent.popleft()
            took_s = [took for _, took in self._recent]
            began_s = self._began_s
        if took_s:
            return 1000 * percentile(took_s, WATCHED)
        return 0.0 if began_s is None else 1000 * min(RECENT_S, max(0.0, now_s - began_s))


@contextmanager
def endpoint(gauge: Gauge) -> Iterator[str]:
    """The URL, on loopback, that answers with the figure in milliseconds."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"{gauge.recent_ms(time.monotonic()):.3f}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Silent: it is asked several times a second."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="gauge", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
