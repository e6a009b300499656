"""Options that many commands share, and that need nothing of the program."""

from __future__ import annotations

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
exports_option = click.option(
    "-e",
    "--export",
    "exports",
    multiple=True,
    help="Only this export; may be given several times.",
)
yes_option = click.option("--yes", is_flag=True, help="Do it without asking.")
details_option = click.option(
    "--details", is_flag=True, help="Several lines for each table, however many there are."
)
