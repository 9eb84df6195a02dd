"""A model of one molecule, trained on its simulated frames."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from .command import Command
from .formats import OutputFile
from .inputs import read_structure
from .options import ExistingFolder, molecule_argument, seed_option
from .simulated import read_simulated

if TYPE_CHECKING:
    from ..checkpoint import TrainedModel
    from ..fields.architecture import DenoiserArchitecture
    from ..training import MoleculeFrames
    from .inputs import Structure


@click.command("train", cls=Command)
@molecule_argument
@click.argument("frames", type=ExistingFolder)
@click.option("--out", type=OutputFile("safetensors"), required=True, help="File of the model.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Fit the number of steps to this time, over all runs of the command.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=80_000,
    show_default=True,
    help="Of the optimiser; --minutes goes before.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True)
@click.option(
    "--hidden", type=click.IntRange(min=1), default=48, show_default=True, help="Channels."
)
@click.option("--layers", type=click.IntRange(min=1), default=6, show_default=True)
@click.option(
    "--every",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    help="Steps between checkpoints.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1.")
@click.option("--compile", "compiled", is_flag=True, help="Faster; needs a C++ compiler on a CPU.")
@seed_option
def command(
    molecule: str,
    frames: Path,
    out: Path,
    minutes: float | None,
    steps: int,
    batch_size: int,
    hidden: int,
    layers: int,
    every: int,
    device: str,
    compiled: bool,
    seed: int,
) -> None:
    """Train a model of MOLECULE on FRAMES, a folder of `simulate`.

    The state of the training is kept beside the model, in a file that ends in .pt; the same command
    goes on from there.
    """
    from ..fields.architecture import DenoiserArchitecture
    from ..training import Trainer, TrainingSettings, task_of, trained_model, training_columns

    structure = read_structure(molecule)
    stored = read_simulated(frames, structure.name, structure.topology)
    columns, stiff = training_columns(stored, seed)
    architecture = DenoiserArchitecture(hidden, layers)
    model = _untrained(structure, stored.metadata, columns, architecture, out.stem, seed)
    settings = TrainingSettings(n_steps=steps, batch_size=batch_size, seed=seed)
    task = task_of(model, columns, stiff, device)
    trainer = Trainer([task], settings, out.with_suffix(".pt"), compiled)
    trainer.run(lambda progress: click.echo(str(progress)), every, minutes)
    digest = trained_model(model, trainer).save(out)
    click.echo(f"{out}: {trainer.step} steps, sha256 {digest}")
    click.echo(f"next: openmm-tbg sample {molecule} --model {out} --out proposals")


def _untrained(
    structure: Structure,
    metadata: dict[str, Any],
    columns: MoleculeFrames,
    architecture: DenoiserArchitecture,
    name: str,
    seed: int,
) -> TrainedModel:
    from ..checkpoint import ModelCard
    from ..encoding import encode_full
    from ..molecule import Molecule
    from ..training import untrained

    card = ModelCard(
        name=name,
        description=f"{structure.name}, trained with openmm-tbg train",
        force_field=tuple(metadata["force_field"]),
        temperature_K=metadata["temperature_K"],
        training_data=f"{len(columns)} frames of {structure.name}",
        training={},
        measured={},
        commit="none",
        licence="of whoever trained it",
    )
    molecule = Molecule.from_topology(structure.topology, structure.starts_nm[0])
    return untrained(card, molecule, encode_full(molecule), architecture, columns, seed)
