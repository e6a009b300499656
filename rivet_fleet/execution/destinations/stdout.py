"""Standard output: the one file of one export, for whoever reads the process's output.

A stream cannot be staged, looked at or taken back, so nothing is delivered to it part by part: a
run delivers into a folder of its own, and the whole file is given on when everything about it is
proven. Until then nothing was written, and a process that is killed has delivered nothing.
"""

from __future__ import annotations

from rivet_fleet.contracts.destination import DestinationConnection, DestinationKind
from rivet_fleet.errors import UsageError
from rivet_fleet.execution.destination import Destination

KIND = DestinationKind(
    name="stdout",
    below="path",
    settings={},
    unsafe=lambda _path: None,
    prefix=lambda _settings, _folder: "stdout://",
    through="local",
)


def open_destination(connection: DestinationConnection, *, create: bool = True) -> Destination:
    """Raises UsageError: there is nothing that could be opened."""
    raise UsageError(
        f"{connection.prefix} cannot be opened as a place",
        hint="`rivet-fleet run` alone delivers to standard output, in one go",
        code="RIVET_STDOUT_NO_PLACE",
    )
