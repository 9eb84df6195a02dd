"""Proposals with their exact log q, drawn into a folder."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from .command import Command
from .formats import FRAMES, OutputFile, OutputFolder, write_frames
from .inputs import read_generator, read_structure
from .options import model_options, molecule_argument, seed_option


@click.command("sample", cls=Command)
@molecule_argument
@click.option("--out", type=OutputFolder(), required=True, help="Folder of the proposals.")
@click.option(
    "-n",
    "--proposals",
    "n",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Number of proposals, rounded up to whole batches.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True)
@click.option(
    "--export", type=OutputFile(*FRAMES), help="File for the proposals that pass the filters."
)
@seed_option
@model_options
def command(
    molecule: str,
    out: Path,
    n: int,
    batch_size: int,
    export: Path | None,
    seed: int,
    model: str | None,
    device: str,
) -> None:
    """Draw proposals of MOLECULE with their exact log q.

    MOLECULE is alanine-dipeptide, a sequence such as KS, or a PDB or CIF file. Batches that are
    drawn already are not drawn again; under srun, mpiexec or torchrun each process draws a share.
    """
    from ..arrays import Cause
    from ..ranks import Rank
    from ..store import ProposalStore

    structure = read_structure(molecule)
    generator = read_generator(model, structure, device)
    store = ProposalStore.create(out, generator, -(-n // batch_size), batch_size, seed)
    store.fill(generator, Rank.here().share(store.n_batches))
    drawn = store.read()
    click.echo(f"{out}: {len(drawn)} proposals of {structure.name} from {generator.reference}")
    if n_missing := store.n_batches * batch_size - len(drawn):
        click.echo(f"not drawn yet           {n_missing}, the share of other processes")
    click.echo(f"pass the filters        {drawn.passes.mean():.1%}")
    for cause in (Cause.BOND_GRAPH, Cause.CHIRALITY):
        share = (drawn.cause == cause).mean()
        click.echo(f"{f'fail {cause.label}':23s} {share:.1%}")
    if export is not None:
        write_frames(export, structure.topology, drawn.positions_nm[drawn.passes])
        click.echo(f"{export} written: the proposals that pass, not weighted")
    click.echo(f"next: openmm-tbg reweight {molecule} {out}")
