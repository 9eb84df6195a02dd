"""What to cite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from .command import Command
from .formats import OutputFile
from .inputs import model_file


@click.command("cite", cls=Command)
@click.argument("source", required=False)
@click.option("--out", type=OutputFile("bib"), help="File to write; else it is printed.")
def command(source: str | None, out: Path | None) -> None:
    """BibTeX of what a result rests on, with the force field of SOURCE if it is given.

    SOURCE is a model by name or file, or a folder of `sample` or `mcmc`.
    """
    from ..checkpoint import read_card
    from ..citations import citations_of

    force_field: tuple[str, ...] = ()
    if source is not None:
        model = _model_of(Path(source)) if Path(source).is_dir() else source
        force_field = read_card(model_file(model)).force_field
    text = "\n\n".join(citation.bibtex() for citation in citations_of(force_field))
    if out is None:
        click.echo(text)
    else:
        out.write_text(text + "\n")
        click.echo(f"{out} written")


def _model_of(folder: Path) -> str:
    """The model whose proposals a folder holds, or with which its chain was run."""
    from ..generator import split_reference
    from ..run_store import read_run
    from ..store import ProposalStore

    try:
        reference: Any = ProposalStore(folder).manifest["reference"]
    except FileNotFoundError:
        moves = read_run(folder).metadata["move"]
        reference = next(
            (value for name, value in moves.items() if name.endswith("reference")), None
        )
        if reference is None:
            raise ValueError(f"{folder} is a chain without a model: leave it out") from None
    return split_reference(reference)[0]
