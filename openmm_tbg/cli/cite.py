"""What to cite."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from .command import Command
from .formats import OutputFile
from .inputs import read_model


@click.command("cite", cls=Command)
@click.argument("model", required=False)
@click.option("--out", type=OutputFile("bib"), help="File to write; else it is printed.")
def command(model: str | None, out: Path | None) -> None:
    """BibTeX of what a result rests on; of the force field of MODEL, too, a name or a file."""
    from ..citations import citations_of

    force_field: tuple[str, ...] = ()
    if model is not None:
        force_field = read_model(model).card.force_field
    text = "\n\n".join(citation.bibtex() for citation in citations_of(force_field))
    if out is None:
        click.echo(text)
    else:
        out.write_text(text + "\n")
        click.echo(f"{out} written")
