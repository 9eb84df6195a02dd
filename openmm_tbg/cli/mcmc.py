"""A Markov chain with proposals of a model, kept in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from .angles import ramachandran
from .command import Command
from .formats import FRAMES, OutputFile, OutputFolder, write_frames
from .inputs import energy_platform, read_modelled
from .options import molecule_argument, sampling_options

if TYPE_CHECKING:
    from openmm.app import Topology
    from openmmtools.mcmc import MCMCMove

    from ..arrays import Positions
    from ..tally import MoveSummary


@click.command("mcmc", cls=Command)
@molecule_argument
@click.option("--out", type=OutputFolder(), required=True, help="Folder of the chain.")
@click.option(
    "--iterations",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Length of the whole chain, in whole blocks; a larger one goes on.",
)
@click.option(
    "--block-size",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Iterations between checkpoints.",
)
@click.option(
    "--proposals",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Proposals in each iteration.",
)
@click.option(
    "--local",
    type=click.Choice(["hmc", "ghmc", "langevin"]),
    default="hmc",
    show_default=True,
    help="Local move; langevin has a time-step error.",
)
@click.option("--local-steps", type=click.IntRange(min=1), default=100, show_default=True)
@click.option(
    "--timestep",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    metavar="FS",
    help="Of the local move, in fs.",
)
@click.option("--export", type=OutputFile(*FRAMES), help="File for the states of the chain.")
@sampling_options
def command(
    molecule: str,
    out: Path,
    iterations: int,
    block_size: int,
    proposals: int,
    local: str,
    local_steps: int,
    timestep: float,
    export: Path | None,
    seed: int,
    model: str | None,
    device: str,
    force_field: tuple[str, ...],
    temperature: float | None,
    system: Path | None,
) -> None:
    """Run a Markov chain of MOLECULE: a local move, then proposals of the model, again and again.

    MOLECULE is alanine-dipeptide, a sequence such as KS, or a PDB or CIF file. The same command
    goes on after any end; a block of iterations at most is lost.
    """
    from openmm import unit
    from openmmtools.cache import ContextCache
    from openmmtools.mcmc import SequenceMove
    from openmmtools.states import SamplerState, ThermodynamicState

    from ..move import TBGMove
    from ..run import MCMCRun
    from ..run_store import read_run

    generator, target = read_modelled(molecule, model, device, force_field, temperature, system)
    run = MCMCRun(
        out,
        ThermodynamicState(target.system, target.temperature_K * unit.kelvin),
        SamplerState(target.positions_nm * unit.nanometer),
        SequenceMove(
            [_local_move(local, local_steps, timestep), TBGMove(generator, proposals, seed=seed)]
        ),
        target.topology,
        seed,
        block_size,
    )
    run.run(iterations, ContextCache(platform=energy_platform(target.system)))
    click.echo(f"{out}: {run.n_iterations} iterations")
    positions_nm = read_run(out).positions_nm
    click.echo(_with_round_trips(run.move.move_list[1].summary(), positions_nm, target.topology))
    if export is not None:
        write_frames(export, target.topology, positions_nm)
        click.echo(f"{export} written")
    click.echo(f"next: openmm-tbg free-energy {molecule} {out}")


def _with_round_trips(
    summary: MoveSummary, positions_nm: Positions, topology: Topology
) -> MoveSummary:
    """The summary, which then judges how often phi went to the basin and back, if there is one."""
    from dataclasses import replace

    from ..evaluation.figures import in_basin
    from ..free_energy import round_trips
    from ..torsions import dihedral

    angles = ramachandran(topology)
    if angles is None:
        return summary
    phi = dihedral(positions_nm, angles[0])
    return replace(summary, n_round_trips=round_trips(in_basin(phi)))


def _local_move(name: str, n_steps: int, timestep_fs: float) -> MCMCMove:
    from openmm import unit
    from openmmtools.mcmc import GHMCMove, HMCMove, LangevinDynamicsMove

    kind = {"hmc": HMCMove, "ghmc": GHMCMove, "langevin": LangevinDynamicsMove}[name]
    return kind(timestep=timestep_fs * unit.femtosecond, n_steps=n_steps)
