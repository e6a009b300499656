"""When a statement whose rows still come should long have ended. Pure.

A server that was given a limit ends the statement itself, its rows included. One that goes on
sends a little now and then for ever: bytes that move, and no end.
"""

from __future__ import annotations

from rivet_fleet.errors import SourceUnavailable

_LOOKS_MAX = 64


class Overdue:
    """The limit of one statement. ``limit_s``: the server's own and some grace; 0: none."""

    def __init__(self, identity: str, limit_s: float) -> None:
        self._identity, self._limit_s = identity, limit_s
        self._looks_left = _LOOKS_MAX

    def check(self, spent_s: float) -> None:
        """``spent_s``: how long this statement was received for, the time that its rows waited
        for us not counted. Raises SourceUnavailable.

        This process may have been stopped meanwhile: what is there already is still looked at.
        """
        if not self._limit_s or spent_s <= self._limit_s:
            return
        self._looks_left -= 1
        if self._looks_left < 0 or spent_s > 2.0 * self._limit_s:
            raise SourceUnavailable(
                f"{self._identity}: the server sends rows for {spent_s:.0f} s and brings the "
                f"statement to no end, though it may take {self._limit_s:.0f} s",
                hint="something between holds its answers up, or it is no honest server; "
                "`statement_timeout_s` is the limit",
            )
