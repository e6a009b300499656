"""The one door to the terminal: nothing that others wrote reaches it as a command to it."""

from __future__ import annotations

import click

from rivet_fleet.contracts.foreign import flat, printable, printable_json


def say(text: str, *, err: bool = False, nl: bool = True, as_json: bool = False) -> None:
    """Print lines for people without control and direction characters, or one JSON document, in
    which they stand escaped."""
    click.echo(printable_json(text) if as_json else printable(text), err=err, nl=nl)


def say_line(text: str, *, err: bool = False) -> None:
    """One line that holds names or values of others: none of them begins another line."""
    click.echo(flat(text), err=err)
