"""A Markov chain with proposals of a model, kept in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from .angles import ramachandran
from .command import Command
from .formats import FRAMES, OutputFile, OutputFolder, write_frames
from .inputs import read_modelled
from .options import molecule_argument, sampling_options

if TYPE_CHECKING:
    from openmm.app import Topology
    from openmmtools.mcmc import MCMCMove

    from ..run import MCMCRun
    from ..run_record import RunRecord


@click.command("mcmc", cls=Command)
@molecule_argument
@click.option("--out", type=OutputFolder(), required=True, help="Folder of the chain.")
@click.option(
    "--iterations",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Length of the whole chain, rounded up to whole blocks; a larger one goes on.",
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
    from ..potential import energy_platform
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
    length = -(-iterations // block_size) * block_size
    run.run(length, ContextCache(*energy_platform(target.system)))
    record = read_run(out)
    if export is not None:
        write_frames(export, target.topology, record.positions_nm)
        click.echo(f"{export} written")
    _tell(run, record, molecule, target.topology)


def _tell(run: MCMCRun, record: RunRecord, molecule: str, topology: Topology) -> None:
    """What the chain is worth, by its visits to the basin of phi too if there is one, and next."""
    from dataclasses import replace

    from ..report.chain import visits_of_phi
    from ..verdict import Trust

    angles = ramachandran(topology)
    visits = angles and visits_of_phi(record, angles[0])
    summary = replace(run.move.move_list[1].summary(), visits=visits)
    click.echo(f"{run.path.name}: {run.n_iterations} iterations\n{summary}")
    if summary.verdict.trust == Trust.NO:
        click.echo(f"next: the same with --iterations {4 * run.n_iterations}, to go on from here")
    else:
        click.echo(f"next: openmm-tbg free-energy {molecule} {run.path}")


def _local_move(name: str, n_steps: int, timestep_fs: float) -> MCMCMove:
    from openmm import unit
    from openmmtools.mcmc import GHMCMove, HMCMove, LangevinDynamicsMove

    kind = {"hmc": HMCMove, "ghmc": GHMCMove, "langevin": LangevinDynamicsMove}[name]
    return kind(timestep=timestep_fs * unit.femtosecond, n_steps=n_steps)
