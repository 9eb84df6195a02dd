"""A model fitted to one molecule and target from its own weighted proposals."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from .command import Command
from .formats import OutputFolder
from .inputs import read_modelled, reduced_potential
from .options import molecule_argument, sampling_options


@click.command("adapt", cls=Command)
@molecule_argument
@click.option(
    "--out", type=OutputFolder(), required=True, help="Folder of the proposals and models."
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Times that proposals are drawn and the model is trained on.",
)
@click.option(
    "-n",
    "--proposals",
    "n",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    help="Of each model, rounded up to whole batches.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    help="Steps of training in each round.",
)
@sampling_options
def command(
    molecule: str,
    out: Path,
    rounds: int,
    n: int,
    batch_size: int,
    steps: int,
    seed: int,
    model: str | None,
    device: str,
    force_field: tuple[str, ...],
    temperature: float | None,
    system: Path | None,
) -> None:
    """Fit a model to MOLECULE and its target from weighted proposals, without a simulation.

    MOLECULE is alanine-dipeptide, a sequence such as KS, or a PDB or CIF file. The gain in
    effective sample size is measured by proposals drawn after the training. The same command goes
    on where it stopped.
    """
    from dataclasses import replace

    from ..adaptation import AdaptationSettings, adapt

    generator, target = read_modelled(molecule, model, device, force_field, temperature, system)
    settings = AdaptationSettings(
        n_rounds=rounds,
        n_proposals=-(-n // batch_size) * batch_size,
        batch_size=batch_size,
        training=replace(AdaptationSettings().training, n_steps=steps),
        seed=seed,
    )
    found = adapt(generator, reduced_potential(target), out, settings, click.echo)
    click.echo(found)
    click.echo(
        f"next: openmm-tbg sample {molecule} --model {found.generator.reference} --out DRAWN"
    )
