"""What may keep the library from working here."""

from __future__ import annotations

import rich_click as click

from .command import Command


@click.command("doctor", cls=Command)
def command() -> None:
    """Examine this installation; each failed line says what to do. Paste it into bug reports."""
    from ..doctor import examine

    failed = 0
    for finding in examine():
        click.echo(str(finding))
        failed += not finding.is_well
    if failed:
        raise click.ClickException(f"{failed} failed: do what the lines say, then run it again")
