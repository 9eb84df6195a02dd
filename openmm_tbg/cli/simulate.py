"""Molecular dynamics of one molecule, stored with forces: training data."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from .command import Command
from .formats import OutputFolder
from .inputs import read_structure, read_target
from .options import molecule_argument, seed_option, target_options


@click.command("simulate", cls=Command)
@molecule_argument
@click.option("--out", type=OutputFolder(), required=True, help="Folder of the frames.")
@click.option(
    "--frames",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    help="Of all walkers together, a multiple of their number.",
)
@click.option("--walkers", type=click.IntRange(min=1), default=4, show_default=True)
@click.option(
    "--interval",
    default=0.5,
    show_default=True,
    metavar="PS",
    help="Time between frames in ps, a multiple of the time step of 0.002 ps.",
)
@click.option(
    "--equilibration",
    default=100.0,
    show_default=True,
    metavar="PS",
    help="Time of each walker before its first frame, in ps.",
)
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True)
@seed_option
@target_options
def command(
    molecule: str,
    out: Path,
    frames: int,
    walkers: int,
    interval: float,
    equilibration: float,
    processes: int,
    seed: int,
    force_field: tuple[str, ...],
    temperature: float | None,
    system: Path | None,
) -> None:
    """Simulate MOLECULE by Langevin dynamics, and store its frames with their forces.

    MOLECULE is alanine-dipeptide, a sequence such as KS, or a PDB or CIF file. The same command
    goes on where it stopped, bit for bit.
    """
    from ..simulation import Dynamics, simulate

    target = read_target(read_structure(molecule), force_field, temperature, system)
    dynamics = Dynamics(interval_ps=interval, equilibration_ps=equilibration)
    found = simulate(
        target,
        out,
        dynamics=dynamics,
        n_frames=frames,
        n_walkers=walkers,
        seed=seed,
        n_processes=processes,
    )
    click.echo(f"{out}: {len(found)} frames of {molecule}, {found.n_skipped} skipped")
    click.echo(f"next: openmm-tbg train {molecule} {out} --out model.safetensors --minutes 60")
