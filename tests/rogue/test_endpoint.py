"""A signal's endpoint that means harm: other places, no end, no number, too much."""

from __future__ import annotations

import itertools
import math
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest

from rivet_fleet.errors import SourceRefused, SourceUnavailable
from rivet_fleet.execution import signals
from rivet_fleet.execution.signals import one_number, read_http
from tests.rogue.endpoint import MESSAGES, PHASES, answers, endpoint, moved, ok
from tests.rogue.tcp import Memory, rogue
from tests.waiting import until

ANSWER_S = 0.5


def test_a_number_is_read_and_found_by_its_pointer() -> None:
    with endpoint(ok(b" 4.5\n")) as good:
        assert read_http(good.url, None) == 4.5
    with endpoint(ok(b'{"a": [{"b~c": 7}]}')) as good:
        assert read_http(good.url, "/a/0/b~0c") == 7.0


@pytest.mark.parametrize("where", ["{other}", "ftp://127.0.0.1:1/x", "file:///etc/hostname"])
def test_a_redirect_to_another_place_is_refused_unseen(where: str) -> None:
    with endpoint(ok(b"42")) as other, endpoint(moved(where.format(other=other.url))) as rogue:
        with pytest.raises(SourceRefused, match="redirects to another place"):
            read_http(rogue.url, None)
        assert not other.asked and len(rogue.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        ok(b"none"),
        moved("http://127.0.0.1:1/x"),
        moved("/m?key=k3y-of-ours"),
        b"HTTP/1.1 403 no k3y-of-ours\r\n\r\n",
        b"k3y-of-ours\r\n\r\n",
        moved("/k3y-of-ours"),
        moved("/k3y-of-ours\x7f"),
    ],
    ids=["no number", "elsewhere", "again", "status", "no answer", "a path", "no path"],
)
def test_no_message_holds_the_key_of_an_endpoint(answer: bytes) -> None:
    """What follows ``?`` may be one, and the endpoint may say it back."""
    with endpoint(answer) as rogue, pytest.raises((SourceRefused, SourceUnavailable)) as caught:
        read_http(f"{rogue.url}?k3y-of-ours", None)
    assert "k3y-of-ours" not in f"{caught.value.message} {caught.value.hint}"
    assert rogue.url.partition("?")[0] in caught.value.message


def test_a_redirect_within_the_endpoint_has_an_end() -> None:
    with endpoint(moved("/again")) as rogue:
        with pytest.raises(SourceUnavailable, match="status 302"):
            read_http(rogue.url, None)
        assert 1 < len(rogue.asked) <= 5


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\n" + b"1" * 1000,
        b"HTTP/1.1 200 OK\r\n" + b"X-a: b\r\n" * 1000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\n1\r\n" * 1000,
    ],
    ids=["body", "head", "chunks"],
)
def test_an_answer_that_trickles_is_given_up(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes well within a socket's timeout; the whole would take minutes."""
    monkeypatch.setattr(signals, "ANSWER_MAX_S", 0.5)
    with (
        endpoint(answer, trickle_s=0.1) as rogue,
        pytest.raises(SourceUnavailable, match="no whole answer within"),
    ):
        read_http(rogue.url, None)


def test_what_the_connection_took_is_part_of_the_answers_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is made in the last moment; from then on bytes come well within any timeout of a read."""
    monkeypatch.setattr(signals, "ANSWER_MAX_S", 0.3)
    connected = signals._connected

    def at_last(host: str, port: int, *, encrypted: bool, ends_s: float) -> socket.socket:
        link = connected(host, port, encrypted=encrypted, ends_s=ends_s)
        until(lambda: time.monotonic() >= ends_s - 0.05, what="the last moment")
        return link

    monkeypatch.setattr(signals, "_connected", at_last)
    with (
        endpoint(b"HTTP/1.1 200 OK\r\n\r\n" + b"1" * 1000, trickle_s=0.02) as rogue,
        pytest.raises(SourceUnavailable, match="no whole answer within"),
    ):
        read_http(rogue.url, None)


def test_addresses_and_encryption_share_the_answers_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of twenty addresses, none of which ever says hello."""
    monkeypatch.setattr(signals, "ANSWER_MAX_S", 0.3)
    with rogue(lambda peer: peer.silence()) as server:
        one = socket.getaddrinfo("127.0.0.1", server.port, 0, socket.SOCK_STREAM)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: one * 20)
        with pytest.raises(SourceUnavailable, match="no whole answer within"):
            read_http(f"https://many.example:{server.port}/m", None)
        assert len(server.peers) == 1, "the first took all the time there was"


@pytest.mark.parametrize("value", [math.nan, math.inf, Decimal("NaN"), Decimal("sNaN"), 10**400])
def test_what_is_not_finite_is_no_number(value: object) -> None:
    """NaN is above no threshold: it would count as calm."""
    with pytest.raises(SourceRefused, match="did not give one number"):
        one_number([(value,)], "the query")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (ok(b"x"), SourceRefused),
        (ok(b"nan"), SourceRefused),
        (ok(b"inf"), SourceRefused),
        (ok(b"1" * 70_000), SourceUnavailable),
        (b"HTTP/1.1 500 no\r\nContent-Length: 1\r\n\r\n1", SourceUnavailable),
        (b"SSH-2.0-x\r\n", SourceUnavailable),
        (b"", SourceUnavailable),
        (ok(b"[" * 60_000), SourceRefused),
    ],
)
def test_what_is_no_number_is_no_signal(answer: bytes, error: type[Exception]) -> None:
    pointer = "/a" if b"[[" in answer else None
    with endpoint(answer) as rogue, pytest.raises(error):
        read_http(rogue.url, pointer)


def meet(phase: str, message: str) -> str:
    """What came of one meeting; empty when it was as it should be."""
    with rogue(answers(phase, message)) as server:
        began_s = time.monotonic()
        try:
            read_http(f"http://127.0.0.1:{server.port}/m", None)
        except (SourceRefused, SourceUnavailable):
            pass
        except Exception as error:
            return f"not ours: {error!r}"
        spent_s, asked = time.monotonic() - began_s, len(server.peers)
    if spent_s > 10 * ANSWER_S:
        return f"it took {spent_s:.1f} s"
    return "" if asked <= 4 else f"{asked} requests"


def test_every_message_ends_in_every_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "ANSWER_MAX_S", ANSWER_S)
    memory = Memory()
    memory.begin()
    pairs = list(itertools.product(PHASES, MESSAGES))
    with ThreadPoolExecutor(24) as pool:
        outcomes = dict(zip(pairs, pool.map(lambda pair: meet(*pair), pairs), strict=True))
    outcomes |= {pair: meet(*pair) for pair, said in outcomes.items() if "it took" in said}
    assert not {pair: said for pair, said in outcomes.items() if said}
    assert memory.grown_mb < 100
