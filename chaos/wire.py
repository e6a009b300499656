"""Faults on the wire: a real Toxiproxy server between the fleet and its databases, and its stores.

Started and stopped here, by its own process handle, on loopback only. ``scripts/install-tools``
builds the program. The client is plain HTTP: the API is six requests (Toxiproxy's README, "HTTP
API"), and the client on PyPI keeps the server's address in a global.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from chaos.processes import until
from rivet_fleet.demo.embedded import free_port

_SERVER = Path(__file__).parent.parent / ".tools" / "bin" / "toxiproxy-server"
_HTTP_TIMEOUT_S = 10.0


class ToxiproxyMissing(RuntimeError):
    """The program is not installed."""


class Toxic(Enum):
    """What is wrong with a wire."""

    LATENCY = "latency"
    """Every answer comes late, and not equally late."""
    RESET = "reset"
    """Requests arrive, and instead of the first answer the connection ends; a new one ends by a
    TCP reset. What was asked may well have been done."""
    HALF_OPEN = "half-open"
    """Requests arrive, answers vanish, and every connection stays open until the wire is mended.
    What was asked may well have been done."""
    DEAF = "deaf"
    """Requests vanish, and every connection stays open until the wire is mended."""
    DOWN = "down"
    """Nobody listens, and every connection is closed."""
    NARROW = "narrow"
    """Few bytes a second, in crumbs."""
    STEEP = "steep"
    """Few bytes a second of what is sent to the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ingredient:
    """One of Toxiproxy's own toxics."""

    type: str
    stream: str
    attributes: Mapping[str, int]


_RECIPES: dict[Toxic, tuple[_Ingredient, ...]] = {
    Toxic.LATENCY: (
        _Ingredient(
            type="latency", stream="downstream", attributes={"latency": 200, "jitter": 150}
        ),
    ),
    Toxic.RESET: (_Ingredient(type="reset_peer", stream="downstream", attributes={"timeout": 0}),),
    Toxic.HALF_OPEN: (_Ingredient(type="timeout", stream="downstream", attributes={"timeout": 0}),),
    Toxic.DEAF: (_Ingredient(type="timeout", stream="upstream", attributes={"timeout": 0}),),
    Toxic.NARROW: (
        _Ingredient(type="bandwidth", stream="downstream", attributes={"rate": 8}),
        _Ingredient(
            type="slicer",
            stream="downstream",
            attributes={"average_size": 300, "size_variation": 200, "delay": 2000},
        ),
    ),
    Toxic.STEEP: (_Ingredient(type="bandwidth", stream="upstream", attributes={"rate": 24}),),
    Toxic.DOWN: (),
}
"""``rate`` is KB/s, ``delay`` microseconds between slices, every other time milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """One proxy: a loopback port that leads to a server, as long as nothing is wrong."""

    name: str
    port: int
    api: str

    def through(self, url: str) -> str:
        """``url`` with this wire's address instead of the server's."""
        parts = urlsplit(url)
        user = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{self.port}"))

    def lengthen(self, *, rtt_ms: int, kilobytes_per_s: int) -> None:
        """From now on the server is so far away, and the wire so wide in each direction."""
        for stream in ("upstream", "downstream"):
            far = {"latency": rtt_ms // 2}
            self._add(f"far-{stream}", _Ingredient(type="latency", stream=stream, attributes=far))
            wide = {"rate": kilobytes_per_s}
            self._add(
                f"wide-{stream}", _Ingredient(type="bandwidth", stream=stream, attributes=wide)
            )

    def break_with(self, toxic: Toxic) -> None:
        """From now on the wire has this fault, open connections included."""
        if toxic is Toxic.DOWN:
            self._enable(False)
        for number, ingredient in enumerate(_RECIPES[toxic]):
            self._add(f"{toxic.value}-{number}", ingredient)

    def mend(self, toxic: Toxic) -> None:
        """The fault is over. What a connection lost meanwhile stays lost."""
        if toxic is Toxic.DOWN:
            self._enable(True)
        for number in range(len(_RECIPES[toxic])):
            name = f"{toxic.value}-{number}"
            _request(f"{self.api}/proxies/{self.name}/toxics/{name}", method="DELETE")

    def _add(self, name: str, ingredient: _Ingredient) -> None:
        _request(
            f"{self.api}/proxies/{self.name}/toxics",
            {
                "name": name,
                "type": ingredient.type,
                "stream": ingredient.stream,
                "attributes": dict(ingredient.attributes),
            },
        )

    def _enable(self, enabled: bool) -> None:
        _request(f"{self.api}/proxies/{self.name}", {"enabled": enabled})


class Toxiproxy:
    """A running server."""

    def __init__(self, log: Path) -> None:
        """Raises ToxiproxyMissing. ``log`` gets what the server says."""
        if not _SERVER.exists():
            raise ToxiproxyMissing(f"{_SERVER} is not there: run scripts/install-tools")
        port = free_port()
        self._api = f"http://127.0.0.1:{port}"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(_SERVER), "-host", "127.0.0.1", "-port", str(port)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        until(self._answers, what="Toxiproxy answers")

    def wire(self, name: str, url: str) -> Wire:
        """A new proxy to the server that ``url`` names."""
        upstream = urlsplit(url)
        made = _request(
            f"{self._api}/proxies",
            {
                "name": name,
                "listen": "127.0.0.1:0",
                "upstream": f"{upstream.hostname}:{upstream.port}",
                "enabled": True,
            },
        )
        return Wire(name=name, port=int(made["listen"].rpartition(":")[2]), api=self._api)

    def close(self) -> None:
        """End the server, and with it every wire."""
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        try:
            return bool(_request(f"{self._api}/version"))
        except urllib.error.URLError:
            return False


@contextlib.contextmanager
def toxiproxy(log: Path) -> Iterator[Toxiproxy]:
    """A server for the length of a ``with`` block. Raises ToxiproxyMissing."""
    server = Toxiproxy(log)
    try:
        yield server
    finally:
        server.close()


def _request(url: str, body: dict[str, Any] | None = None, *, method: str | None = None) -> Any:
    """One call of the HTTP API; its decoded answer."""
    request = urllib.request.Request(
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=_HTTP_TIMEOUT_S) as answer:
        said = answer.read()
    return json.loads(said) if said else None
