"""A wait that nothing else would end is ended."""

from __future__ import annotations

import socket

from rivet_fleet.persistence.postgres_dialect import Watchdog


def test_an_overdue_socket_is_shut_down() -> None:
    near, far = socket.socketpair()
    watchdog = Watchdog(tick_s=0.01)
    with near, far, watchdog.limit(near.fileno(), 0.05):
        near.settimeout(30)
        assert near.recv(1) == b""  # nobody ever wrote: only the watchdog can end this
    watchdog.close()


def test_a_socket_in_time_is_left_alone() -> None:
    near, far = socket.socketpair()
    watchdog = Watchdog(tick_s=0.01)
    with near, far:
        with watchdog.limit(near.fileno(), 30):
            far.send(b"x")
            assert near.recv(1) == b"x"
        watchdog._end_overdue(float("inf"))
        far.send(b"y")
        assert near.recv(1) == b"y"
    watchdog.close()
